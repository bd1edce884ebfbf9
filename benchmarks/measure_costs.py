"""What MPA-FER costs beside full fine-tuning of the same towers: a table in Markdown.

    python benchmarks/measure_costs.py --encoder clip --text FOLDER_OR_HUB_NAME
    python benchmarks/measure_costs.py --encoder vlm --text vlm --size 144

Each row runs in a process of its own, so that its peak memory is its own. Operations are those that
torch's counter sees (matrix products, convolutions and attention) of a step, forward and backward,
the text tower's share with them, divided by its pictures; time and memory are of steps of --batch
pictures on this machine's processor.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fervor.config import Encoder
from fervor.data.batch import Batch
from fervor.labels import EXPRESSIONS
from fervor.methods.base import Method
from fervor.methods.build import sizes
from fervor.methods.classifier import Classifier
from fervor.methods.ke import KE
from fervor.methods.losses import text_similarity_loss
from fervor.methods.mpa import MPA
from fervor.models.image import build_image_encoder
from fervor.models.text.encoders import build_text_encoder


SOFT = MPA.Options(visual_depth=0, prototype_weight=0, alignment_weight=0, top_k=0)


def tuned(method: MPA) -> MPA:
    """The same towers with every number of theirs trained, and no prompts: full fine-tuning."""
    method.image.requires_grad_(True)
    assert isinstance(method.text, nn.Module)
    method.text.requires_grad_(True)
    method.soft.requires_grad_(False)
    return method


ROWS: dict[str, Callable[..., Method]] = {
    "full fine-tuning of both towers": lambda image, text: tuned(
        MPA(image, text, EXPRESSIONS, SOFT)
    ),
    "full fine-tuning of the image tower, fixed texts": lambda image, text: KE(
        image,
        text,
        EXPRESSIONS,
        KE.Options(transformation_weight=0, contrast_weight=0),
    ),
    "linear probe": lambda image, text: Classifier(
        image, text, EXPRESSIONS, Classifier.Options(probe=True)
    ),
    "soft prompts alone (CoOp)": lambda image, text: MPA(image, text, EXPRESSIONS, SOFT),
    "MPA-FER": lambda image, text: MPA(image, text, EXPRESSIONS, MPA.Options()),
}


def measured(row: str, given: argparse.Namespace) -> dict[str, float]:
    """One row's figures; memory is what the steps added to the process's peak."""
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    config = Encoder(name=given.encoder, weights=given.weights, size=given.size)
    method = ROWS[row](build_image_encoder(config), build_text_encoder(given.text)).train()
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(method, KE):  # G takes no part without its losses
        method.to_neutral.requires_grad_(False)
    label = torch.arange(given.batch) % len(EXPRESSIONS)
    target = torch.eye(len(EXPRESSIONS))[label]
    image = torch.rand(given.batch, 3, given.size, given.size)
    batch = Batch(image.contiguous(memory_format=torch.channels_last), label, target)
    method.prepare([_first(batch, 8)])

    def step(batch: Batch) -> None:
        if isinstance(method, KE):
            loss = text_similarity_loss(method(batch.images()), batch.target)
        else:
            loss = method.losses(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-6, momentum=0.9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FlopCounterMode(display=False) as counted:
        step(batch)
    times = []
    for _ in range(given.steps):
        start = time.perf_counter()
        step(batch)
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "bytes": sizes(method)["trainable_bytes"],
        "operations": counted.get_total_flops() / given.batch,
        "seconds": sorted(times)[len(times) // 2],
        "memory": (after - before) * 1024,
    }


def _first(batch: Batch, count: int) -> Batch:
    return Batch(batch.images()[:count], batch.label[:count], batch.target[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--encoder", default="vlm")
    parser.add_argument("--weights", default="")
    parser.add_argument("--text", default="vlm")
    parser.add_argument("--size", type=int, default=144)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(measured(given.row, given)))
        return
    print("| | trained bytes | operations a picture | seconds a step | memory of a step |")
    print("|---|---|---|---|---|")
    for row in ROWS:
        command = [sys.executable, __file__, *sys.argv[1:], "--row", row]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(answer.stdout.splitlines()[-1])
        print(
            f"| {row} | {found['bytes']:,} | {found['operations'] / 1e9:.2f} G | "
            f"{found['seconds']:.2f} | {found['memory'] / 2**20:,.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
