"""From samples to batches: a split's images, augmentation, the batches of a run.

A training batch is a function of (seed, epoch, step) alone, so that a resumed run and any number of
worker processes see what an uninterrupted one sees.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fervor.data.augmentation.occlusion import part_boxes
from fervor.data.cropping import CROP
from fervor.data.datasets import Sample
from fervor.data.image_cache import Reading, decoded
from fervor.errors import DataError, counted


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet:
    """A split; its images may be mapped from a file of any size, and must not be written to.

    Attributes:
        images: stored images, uint8 [m k h w]; k is 1 where every image is grey, 3 otherwise.
        label: class numbers [n].
        votes: shares of the classes [n c], each row summing to 1; one-hot without votes.
        sources: the images' files, for reports.
        rows: which stored images are the split's [n]; None for all.
        groups: what must not be torn apart (see `Sample.group`); empty where there are none.
        labels: names of the classes, in the order of `votes`; empty where nobody asks for them.
    """

    images: UInt8[Tensor, "m k h w"]
    label: Int[Tensor, " n"]
    votes: Float[Tensor, "n c"]
    sources: tuple[str, ...]
    rows: Int[Tensor, " n"] | None = None
    groups: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def counts(self) -> list[int]:
        """Images per class."""
        return torch.bincount(self.label, minlength=self.votes.shape[1]).tolist()

    def take(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b _ h w"]:
        """The images with the given numbers, in memory."""
        return self.images[indices if self.rows is None else self.rows[indices]]

    def boxes(self, cache: str = "") -> Float[Tensor, "n p 4"]:
        """Where the parts of each face lie, as `occlusion.part_boxes` finds them."""
        boxes = part_boxes(self.images, cache)
        return boxes if self.rows is None else boxes[self.rows]

    def blocks(self, count: int = 4096) -> Iterator[UInt8[Tensor, "b _ h w"]]:
        """All images in order, so many at a time."""
        for indices in torch.arange(len(self)).split(count):
            yield self.take(indices)

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images with the given numbers, in that order; nothing is copied."""
        places = indices.tolist()
        return ImageSet(
            self.images,
            self.label[indices],
            self.votes[indices],
            tuple(self.sources[index] for index in places),
            indices if self.rows is None else self.rows[indices],
            tuple(self.groups[index] for index in places) if self.groups else (),
            self.labels,
        )


def read_images(
    samples: Sequence[Sample],
    labels: Sequence[str],
    *,
    size: int,
    faces: str = "precropped",
    margin: float = 0.0,
    crop: int = 0,
    cache: str = "",
) -> ImageSet:
    """The images of a split, decoded or from the cache; see `fervor.data.image_cache.decoded`.

    Raises:
        DataError: no samples, a class outside `labels`, or an image that cannot be read.
    """
    if not samples:
        raise DataError("the split holds no pictures: choose another split or protocol")
    numbers = {name: number for number, name in enumerate(labels)}
    unknown = sorted({sample.label for sample in samples} - set(labels))
    if unknown:
        raise DataError(f"the data set holds {unknown}, the model knows {list(labels)}")
    cached = decoded(samples, Reading(size, faces, margin, crop or CROP), cache)
    votes = np.zeros((len(samples), len(labels)))  # counts may leave single precision
    for row, sample in enumerate(samples):
        for name, fraction in (sample.votes or {sample.label: 1.0}).items():
            if name in numbers:  # seven classes of eight votes
                votes[row, numbers[name]] = fraction
    votes /= votes.sum(1, keepdims=True)
    groups = tuple(sample.group for sample in samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a map is not writable, and nothing writes to it
        pixels = torch.from_numpy(cached.images)
    images = ImageSet(
        pixels,
        torch.tensor([numbers[sample.label] for sample in samples]),
        torch.from_numpy(votes.astype(np.float32)),
        tuple(sample.path for sample in samples),
        groups=groups if any(groups) else (),
        labels=tuple(labels),
    )
    return images if not cached.missing else _without(images, cached.missing)


def _without(images: ImageSet, missing: Sequence[int]) -> ImageSet:
    """The split without the images that hold no face; they are counted and named."""
    if len(missing) == len(images):
        raise DataError(f"no face was found in any of {counted(len(images), 'picture')}")
    logger.warning(
        "left out, without a face: %d of %s", len(missing), counted(len(images), "picture")
    )
    for row in missing:
        logger.info("no face: %s", images.sources[row])
    mask = torch.ones(len(images), dtype=torch.bool)
    mask[list(missing)] = False
    return images.subset(torch.nonzero(mask).flatten())


def hold_out(
    samples: Sequence[Sample], labels: Sequence[str], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split off a validation share, class by class; at least one image of a class stays.

    Images of one group stay together, and so do faces of one photograph; their share of a class is
    then only nearly the one asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    unknown = sorted({sample.label for sample in samples} - set(labels))
    if unknown:
        raise DataError(f"the data set holds {unknown}, the model knows {list(labels)}")
    number = torch.tensor([labels.index(sample.label) for sample in samples])
    groups = [sample.group or sample.photograph for sample in samples]
    grouped = any(sample.group for sample in samples)
    if grouped or len({*groups} - {""}) < sum(map(bool, groups)):  # else each is by itself
        mask = _validation_groups(number, groups, len(labels), fraction, generator)
    else:
        mask = _validation_images(number, len(labels), fraction, generator)
    if not mask.any():
        raise DataError(
            f"{counted(len(samples), 'picture')}: too few to hold {fraction:.0%} out for validation"
        )
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, away in zip(samples, mask.tolist(), strict=True):
        parts[away].append(sample)
    return parts


def _validation_images(
    label: Tensor, classes: int, fraction: float, generator: torch.Generator
) -> Tensor:
    mask = torch.zeros(len(label), dtype=torch.bool)
    for number in range(classes):
        members = torch.nonzero(label == number).flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        mask[order[: max(0, min(len(members) - 1, round(fraction * len(members))))]] = True
    return mask


def _validation_groups(
    label: Tensor, groups: Sequence[str], classes: int, fraction: float, generator: torch.Generator
) -> Tensor:
    """Groups in random order, each held where that brings the classes nearer to their shares."""
    names = [name or f"\0{row}" for row, name in enumerate(groups)]  # none: by itself
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    group = torch.tensor([number[name] for name in names])
    table = torch.zeros(len(number), classes, dtype=torch.int64)
    table.index_put_((group, label), torch.ones(len(group), dtype=torch.int64), True)
    total = table.sum(0)
    taken, mask = torch.zeros_like(total), torch.zeros(len(number), dtype=torch.bool)
    for place in torch.randperm(len(number), generator=generator).tolist():
        more = taken + table[place]
        nearer = (more - fraction * total).abs().sum() < (taken - fraction * total).abs().sum()
        if nearer and bool(((more < total) | (total == 0)).all()):
            taken, mask[place] = more, True
    return mask[group]
