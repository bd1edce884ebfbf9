"""How redundant and how steady the attention of LaCoVL-FER is, on validation pictures.

Usage: python benchmarks/measure_attention.py RUN --root FERPLUS [--count 200] [--maps FILE.png]

For each scale and each kind of attention (dense, sparse, and mixed by the gate's mean over a head's
channels), it prints as JSON

    similarity  mean cosine of the weights of two queries of one head: 1 where all look alike
    entropy     of a query's weights, as a share of that of even weights
    shifted     half the absolute difference of a query's weights, summed over the keys, between
                a picture and the same picture one pixel (of 112) to the side: 0 to 1
    noisy       the same between a picture and one with noise of deviation 0.02

--maps draws where the attention goes and what the gate says, for a few pictures.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fervor.data import datasets
from fervor.data.batch import Batch
from fervor.data.image_set import ImageSet, read_images
from fervor.data.loading import evaluation_batches
from fervor.methods.build import load_model
from fervor.methods.lacovl.gated_attention import Mixture
from fervor.methods.lacovl.method import LaCoVL


NOISE = 0.02
DRAWN = 6
"""Pictures on the map."""
SIDE = 96
"""Pixels of a tile."""


def kinds(mixture: Mixture) -> dict[str, Tensor]:
    """Weights [b h n n] by kind; rows of `sparse` may be all zero."""
    if mixture.second is None or mixture.gate is None:
        return {"dense": mixture.first}
    heads = mixture.first.shape[1]
    gate = mixture.gate.unflatten(2, (heads, -1)).mean(-1).transpose(1, 2)[..., None]
    mixed = gate * mixture.first + (1 - gate) * mixture.second
    return {"dense": mixture.first, "sparse": mixture.second, "mixed": mixed}


def similarity(weights: Tensor) -> Tensor:
    """Mean cosine of two different rows [b h]."""
    rows = F.normalize(weights, dim=-1)
    alive = (rows.norm(dim=-1) > 0).sum(-1)
    cosines: Tensor = rows.sum(-2).square().sum(-1) - alive
    pairs: Tensor = alive * (alive - 1)
    return cosines / pairs.clamp_min(1)


def entropy(weights: Tensor) -> Tensor:
    """Of the rows, as a share of the largest [b h]."""
    found: Tensor = torch.special.entr(weights).sum(-1)
    return found.mean(-1) / math.log(weights.shape[-1])


def mixtures(method: LaCoVL, image: Tensor) -> list[Mixture]:
    """Attention and gate at the three scales."""
    size = method.options.resolution
    batch = Batch(image, torch.zeros(len(image), dtype=torch.long), torch.zeros(len(image), 1))
    frozen = method.with_frozen(batch).frozen or ()
    guides = [part[: len(image)] for part in frozen[:3]] if method.landmarks is not None else []
    seen = image if image.shape[2] == size else F.interpolate(image, size, mode="nearest")
    return method.guided.mixtures(method.image.scales(seen), guides)


def changed(image: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The picture one pixel to the side, and with noise."""
    yield "shifted", torch.cat([image[..., :1], image[..., :-1]], dim=-1)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    yield "noisy", (image + NOISE * noise).clamp(0, 1)


@torch.no_grad()
def measure(method: LaCoVL, pictures: ImageSet) -> dict[str, dict[str, dict[str, float]]]:
    """The mean of every measure over the pictures, by scale and kind."""
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for batch in evaluation_batches(pictures, size=112, batch_size=20):
        plain = [kinds(mixture) for mixture in mixtures(method, batch.images())]
        for scale, found in zip(("fine", "middle", "coarse"), plain, strict=True):
            for kind, weights in found.items():
                sums[scale, kind, "similarity"] += similarity(weights).mean(1).tolist()
                sums[scale, kind, "entropy"] += entropy(weights).mean(1).tolist()
        for name, image in changed(batch.images()):
            again = [kinds(mixture) for mixture in mixtures(method, image)]
            for scale, first, second in zip(
                ("fine", "middle", "coarse"), plain, again, strict=True
            ):
                for kind in first:
                    moved = (first[kind] - second[kind]).abs().sum(-1).mean((1, 2)) / 2
                    sums[scale, kind, name] += moved.tolist()
    answer: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for (scale, kind, name), values in sums.items():
        answer[scale][kind][name] = round(float(np.mean(values)), 4)
    return answer


@torch.no_grad()
def draw(method: LaCoVL, pictures: ImageSet, path: Path) -> None:
    """A row for each picture: itself, and at each scale the gate and what is attended to."""
    batch = next(evaluation_batches(pictures.subset(torch.arange(DRAWN)), size=112))
    tiles = [[_grey(image.mean(0)) for image in batch.images()]]
    for mixture in mixtures(method, batch.images()):
        for kind, weights in kinds(mixture).items():
            if kind != "mixed":
                tiles.append([_grey(_square(row)) for row in weights.mean((1, 2))])
        if mixture.gate is not None:
            tiles.append([_grey(_square(row), low=0, high=1) for row in mixture.gate.mean(-1)])
    columns = [np.concatenate(column) for column in tiles]
    Image.fromarray(np.concatenate(columns, axis=1)).save(path, optimize=True)


def _square(row: Tensor) -> Tensor:
    side = round(len(row) ** 0.5)
    return row.reshape(side, side)


def _grey(values: Tensor, *, low: float | None = None, high: float | None = None) -> np.ndarray:
    """A tile; without limits from the smallest value in black to the largest in white."""
    first = float(values.min()) if low is None else low
    last = float(values.max()) if high is None else high
    scaled = ((values - first) / max(last - first, 1e-9) * 255).round().byte().numpy()
    return np.asarray(Image.fromarray(scaled).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run folder of method lacovl")
    parser.add_argument("--root", required=True, help="folder of FERPlus")
    parser.add_argument("--count", type=int, default=200, help="validation pictures, evenly taken")
    parser.add_argument("--maps", type=Path, help="PNG to draw")
    arguments = parser.parse_args()
    method = load_model(arguments.run)
    if not isinstance(method, LaCoVL):
        parser.error(f"{arguments.run} is no run of method lacovl")
    samples = datasets.load("ferplus", arguments.root, "valid", protocol="majority")
    step = max(1, len(samples) // arguments.count)
    pictures = read_images(samples[::step][: arguments.count], method.labels, size=112)
    print(json.dumps({"pictures": len(pictures), **measure(method, pictures)}, indent=1))
    if arguments.maps:
        draw(method, pictures, arguments.maps)


if __name__ == "__main__":
    main()
