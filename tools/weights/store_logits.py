"""Store what teachers answer to FERPlus's training images, for the targets of a student.

    python tools/weights/store_logits.py FERPLUS RUN [RUN ...] --output FILE [--views 8]

Every model looks at each image in eight fixed views (fervor.data.distillation), its logits are
divided by its temperature, and the mean over the models is stored for each view. With --views 2 an
image and its mirror image are all. `data.teachers` of a run takes the file.
"""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fervor.artifacts.model_info import ModelInfo
from fervor.data import datasets
from fervor.data.augmentation import warped
from fervor.data.distillation import StoredLogits, name_of, view_placements, write_logits
from fervor.data.image_set import ImageSet, read_images
from fervor.methods.build import build


BATCH = 64


@torch.no_grad()
def answers(info: ModelInfo, pictures: ImageSet, views: int) -> Float[Tensor, "n v c"]:
    """Calibrated logits of each picture in the first of the fixed views."""
    method = build(info).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = info.input.size
    rows = []
    for indices in torch.arange(len(pictures)).split(BATCH):
        image = pictures.take(indices).float() / 255
        logits = [
            method(warped(image, placement.expand(len(image), -1, -1), size).expand(-1, 3, -1, -1))
            for placement in islice(view_placements(), views)
        ]
        rows.append(torch.stack(logits, 1))
    return torch.cat(rows) / info.temperature


def stored(models: Sequence[ModelInfo], root: Path, protocol: str, views: int) -> StoredLogits:
    """The mean of the models' answers to FERPlus's training images under a protocol."""
    labels = models[0].labels
    samples = datasets.load("ferplus", root, "train", protocol=protocol)
    total = None
    for model in models:
        assert model.labels == labels, "teachers answer with the same classes"
        pictures = read_images(samples, labels, size=model.input.size)
        found = answers(model, pictures, views)
        total = found if total is None else total + found
    assert total is not None, "one model at least"
    keys = ("name", "seed", "commit", "sha256", "licence", "data_terms")
    return StoredLogits(
        tuple(name_of(sample.path, str(root)) for sample in samples),
        labels,
        total / len(models),
        tuple({key: model.content()[key] for key in keys} for model in models),
    )


def main() -> None:
    """Read, answer, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the FERPlus folder")
    parser.add_argument("runs", nargs="+", help="run folders, or embedded")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--protocol", default="argmax8")
    parser.add_argument("--views", type=int, default=8, choices=range(1, 9))
    given = parser.parse_args()
    models = [ModelInfo.read(run) for run in given.runs]
    found = stored(models, given.root, given.protocol, given.views)
    write_logits(given.output, found)
    print(f"{given.output}: {tuple(found.logits.shape)}, sha256 {found.checksum()}")


if __name__ == "__main__":
    main()
