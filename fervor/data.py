"""From samples to batches: a split's pictures, augmentation, the batches of a run.

A training batch is a function of (seed, epoch, step) alone, so that a resumed run and any number of
worker processes see what an uninterrupted one sees.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import kornia.augmentation as kornia
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from fervor.cache import Reading, decoded
from fervor.config import Augment, Run, Target
from fervor.datasets import Sample
from fervor.errors import DataError, UsageError
from fervor.losses import soft_target
from fervor.methods import Batch
from fervor.preprocess import to_input
from fervor.sampling import EpochSampler, Key, Partners, mixed_seed


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """A split; its pictures may be mapped from a file of any size, and must not be written to.

    Attributes:
        images: stored pictures, uint8 [m k h w]; k is 1 where every picture is grey, 3 otherwise.
        label: class numbers [n].
        votes: shares of the classes [n c], each row summing to 1; one-hot without votes.
        sources: the pictures' files, for reports.
        rows: which stored pictures are the split's [n]; None for all.
        groups: what must not be torn apart (see `Sample.group`); empty where there are none.
    """

    images: UInt8[Tensor, "m k h w"]
    label: Int[Tensor, " n"]
    votes: Float[Tensor, "n c"]
    sources: tuple[str, ...]
    rows: Int[Tensor, " n"] | None = None
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def counts(self) -> list[int]:
        """Pictures per class."""
        return torch.bincount(self.label, minlength=self.votes.shape[1]).tolist()

    def take(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b k h w"]:
        """The pictures with the given numbers, in memory."""
        return self.images[indices if self.rows is None else self.rows[indices]]

    def blocks(self, count: int = 4096) -> Iterator[UInt8[Tensor, "b k h w"]]:
        """All pictures in order, so many at a time."""
        for indices in torch.arange(len(self)).split(count):
            yield self.take(indices)

    def subset(self, indices: Tensor) -> "Pictures":
        """The pictures with the given numbers, in that order; nothing is copied."""
        chosen = indices.tolist()
        return Pictures(
            self.images,
            self.label[indices],
            self.votes[indices],
            tuple(self.sources[index] for index in chosen),
            indices if self.rows is None else self.rows[indices],
            tuple(self.groups[index] for index in chosen) if self.groups else (),
        )


def read_pictures(
    samples: Sequence[Sample],
    labels: Sequence[str],
    *,
    size: int,
    faces: str = "precropped",
    margin: float = 0.0,
    cache: str = "",
) -> Pictures:
    """The pictures of a split, decoded or from the cache; see `fervor.cache.decoded`.

    Raises:
        DataError: no samples, a class outside `labels`, or a picture that cannot be read.
    """
    if not samples:
        raise DataError("the split holds no pictures: choose another split or protocol")
    numbers = {name: number for number, name in enumerate(labels)}
    unknown = sorted({sample.label for sample in samples} - set(labels))
    if unknown:
        raise DataError(f"the data set holds {unknown}, the model knows {list(labels)}")
    found = decoded(samples, Reading(size, faces, margin), cache)
    votes = np.zeros((len(samples), len(labels)), np.float32)
    for row, sample in enumerate(samples):
        for name, share in (sample.votes or {sample.label: 1.0}).items():
            if name in numbers:  # seven classes of eight votes
                votes[row, numbers[name]] = share
    votes /= votes.sum(1, keepdims=True)
    groups = tuple(sample.group for sample in samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a map is not writable, and nothing writes to it
        images = torch.from_numpy(found.images)
    pictures = Pictures(
        images,
        torch.tensor([numbers[sample.label] for sample in samples]),
        torch.from_numpy(votes),
        tuple(sample.path for sample in samples),
        groups=groups if any(groups) else (),
    )
    return pictures if not found.missing else _without(pictures, found.missing)


def _without(pictures: Pictures, missing: Sequence[int]) -> Pictures:
    """The split without the pictures that hold no face; they are counted and named."""
    if len(missing) == len(pictures):
        raise DataError(f"no face was found in any of {len(pictures)} pictures")
    logger.warning("%d of %d pictures hold no face and are left out", len(missing), len(pictures))
    for row in missing:
        logger.info("no face: %s", pictures.sources[row])
    kept = torch.ones(len(pictures), dtype=torch.bool)
    kept[list(missing)] = False
    return pictures.subset(torch.nonzero(kept).flatten())


def evaluation_batches(pictures: Pictures, *, size: int, batch_size: int = 128) -> Iterator[Batch]:
    """The split in order, resized as `predict` does it."""
    for indices in torch.arange(len(pictures)).split(batch_size):
        images = pictures.take(indices)
        yield Batch(_inputs(images, size), pictures.label[indices], pictures.votes[indices])


def _inputs(images: UInt8[Tensor, "b k h w"], size: int) -> Float[Tensor, "b 3 i j"]:
    if images.shape[2:] == (size, size):  # what to_input does, without its loop over pictures
        return (images.float() / 255).expand(-1, 3, -1, -1)
    arrays = images.permute(0, 2, 3, 1).numpy()
    inputs = [to_input(a[:, :, 0] if a.shape[2] == 1 else a, size) for a in arrays]
    return torch.from_numpy(np.stack(inputs))


def hold_out(
    samples: Sequence[Sample], labels: Sequence[str], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split off a validation share, class by class; at least one picture of a class stays.

    Pictures of one group stay together, so that their share of a class is only nearly the one asked
    for.
    """
    generator = torch.Generator().manual_seed(seed)
    unknown = sorted({sample.label for sample in samples} - set(labels))
    if unknown:
        raise DataError(f"the data set holds {unknown}, the model knows {list(labels)}")
    number = torch.tensor([labels.index(sample.label) for sample in samples])
    grouped = any(sample.group for sample in samples)
    if grouped:
        groups = [sample.group for sample in samples]
        held = _held_groups(number, groups, len(labels), share, generator)
    else:
        held = _held_pictures(number, len(labels), share, generator)
    if not held.any():
        raise DataError(
            f"{len(samples)} pictures are too few to hold {share:.0%} out for validation"
        )
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, away in zip(samples, held.tolist(), strict=True):
        parts[away].append(sample)
    return parts


def _held_pictures(label: Tensor, classes: int, share: float, generator: torch.Generator) -> Tensor:
    held = torch.zeros(len(label), dtype=torch.bool)
    for number in range(classes):
        members = torch.nonzero(label == number).flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        held[order[: max(0, min(len(members) - 1, round(share * len(members))))]] = True
    return held


def _held_groups(
    label: Tensor, groups: Sequence[str], classes: int, share: float, generator: torch.Generator
) -> Tensor:
    """Groups in random order, each held where that brings the classes nearer to their shares."""
    names = [name or f"\0{row}" for row, name in enumerate(groups)]  # none: by itself
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    group = torch.tensor([number[name] for name in names])
    table = torch.zeros(len(number), classes, dtype=torch.int64)
    table.index_put_((group, label), torch.ones(len(group), dtype=torch.int64), True)
    total = table.sum(0)
    taken, chosen = torch.zeros_like(total), torch.zeros(len(number), dtype=torch.bool)
    for place in torch.randperm(len(number), generator=generator).tolist():
        more = taken + table[place]
        nearer = (more - share * total).abs().sum() < (taken - share * total).abs().sum()
        if nearer and bool(((more < total) | (total == 0)).all()):
            taken, chosen[place] = more, True
    return chosen[group]


class TrainingBatches(Dataset[Batch]):
    """Batches by key: pictures chosen, augmented and resized to the encoder's input.

    With `pairs` a batch also holds a partner of each picture, augmented by draws of its own. Each
    of several processes draws for the whole batch and keeps its share, so that together they see
    what one process sees, augmented alike.

    Raises:
        UsageError: pairs shall be mixed.
    """

    def __init__(self, pictures: Pictures, run: Run, *, pairs: bool = False) -> None:
        if pairs and run.augment.mixup:
            raise UsageError(f"method {run.method} pairs pictures: set augment.mixup to 0")
        self.pictures = pictures
        self.run = run
        self.augmentation = Augmentation(run.augment, run.encoder.size)
        self.partners = Partners(pictures.label) if pairs else None

    def __getitem__(self, key: Key) -> Batch:
        indices = torch.tensor(key.indices)
        label, votes = self.pictures.label[indices], self.pictures.votes[indices]
        positive = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.run.seed, key.epoch, key.step))
            target = targets(label, votes, self.run.data.target)
            image = self.augmentation(self.pictures.take(indices))
            if self.run.augment.mixup:
                image, target = _mixed_pairs(image, target, self.run.augment.mixup)
                label = target.argmax(1)
            if self.partners is not None:
                partners = self.partners.draw(indices, pair_generator(self.run.seed, key))
                positive = self.augmentation(self.pictures.take(partners))
                positive = positive[key.own].expand(-1, 3, -1, -1)
        image = image[key.own].expand(-1, 3, -1, -1)
        return Batch(image, label[key.own], target[key.own], positive)


def pair_generator(seed: int, key: Key) -> torch.Generator:
    """What a batch's partners are drawn from; the batch's other draws do not depend on it."""
    return torch.Generator().manual_seed(mixed_seed(seed, key.epoch, key.step, 1))


def targets(label: Tensor, votes: Tensor, target: Target) -> Float[Tensor, "b c"]:
    """What the loss aims at; see `config.Data.target`."""
    if target == "majority":
        return soft_target(label, votes.shape[1])
    if target == "probability":
        return soft_target(torch.multinomial(votes, 1).flatten(), votes.shape[1])
    return votes


def _mixed_pairs(image: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., 2018): each picture with another of the batch, targets alike."""
    share = torch.distributions.Beta(alpha, alpha).sample((len(image), 1))
    share = torch.maximum(share, 1 - share)
    order = torch.randperm(len(image))
    mixed = share[..., None, None] * image + (1 - share[..., None, None]) * image[order]
    return mixed, share * target + (1 - share) * target[order]


class Augmentation:
    """Random changes of a batch: uint8 [b k h w] -> float [b k size size] in 0..1.

    Geometry (flip, rotation, scale, shift) and the resize are one interpolation; the rest is
    kornia's. It draws from torch's global generator.
    """

    def __init__(self, config: Augment, size: int) -> None:
        self.config = config
        self.size = size
        changes: list[torch.nn.Module] = []
        if config.crop_padding:
            changes.append(kornia.RandomCrop((size, size), padding=config.crop_padding, p=0.5))
        if config.crop_area:
            kept = (1 - config.crop_area, 1.0)
            changes.append(kornia.RandomResizedCrop((size, size), kept, (3 / 4, 4 / 3), p=1.0))
        if config.brightness:
            low, high = 1 - config.brightness, 1 + config.brightness
            changes.append(kornia.RandomBrightness((low, high), p=1.0))
        if config.contrast:
            low, high = 1 - config.contrast, 1 + config.contrast
            changes.append(kornia.RandomContrast((low, high), p=1.0))
        if config.gamma:
            changes.append(kornia.RandomGamma((1 / (1 + config.gamma), 1 + config.gamma), p=1.0))
        if config.blur:
            changes.append(kornia.RandomGaussianBlur((7, 7), (0.3, 2.5), p=config.blur))
        if config.erase:
            changes.append(kornia.RandomErasing((0.02, config.erase_area), p=config.erase))
        self.changes = changes

    def __call__(self, images: UInt8[Tensor, "b k h w"]) -> Float[Tensor, "b k i j"]:
        return self.changed(warped(images.float() / 255, self.placements(len(images)), self.size))

    def changed(self, image: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        """All but the geometry."""
        for change in self.changes:
            image = change(image)
        return image.clamp(0, 1)

    def placements(self, batch: int) -> Float[Tensor, "b 2 3"]:
        """Flips, rotations, scales and shifts about the centre, for `warped`."""
        config = self.config
        angle = _uniform(batch, config.rotation) * math.pi / 180
        zoom = torch.exp(_uniform(batch, math.log1p(config.scale)))
        mirror = 1 - 2 * (torch.rand(batch) < config.flip).float()
        shift = 2 * _uniform(batch, config.shift), 2 * _uniform(batch, config.shift)
        cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        rows = (
            torch.stack([cosine * mirror, -sine, shift[0]], 1),
            torch.stack([sine * mirror, cosine, shift[1]], 1),
        )
        return torch.stack(rows, 1)


def warped(
    image: Float[Tensor, "b k h w"], placements: Float[Tensor, "b 2 3"], size: int
) -> Float[Tensor, "b k i j"]:
    """Square pictures: each place takes what its placement points at; the border is replicated.

    Places are pairs (x, y) in -1..1 from edge to edge.
    """
    shape = [*image.shape[:2], size, size]
    grid = F.affine_grid(placements, shape, align_corners=False)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _uniform(count: int, bound: float) -> Tensor:
    return (2 * torch.rand(count) - 1) * bound


def training_loader(
    batches: Dataset[Batch], pictures: Pictures, run: Run, *, rank: int = 0, world: int = 1
) -> DataLoader[Batch]:
    """The run's batches in their order; process `rank` of `world` gets its share of each."""
    sampler = EpochSampler(
        pictures.label,
        run.optim.batch_size,
        seed=run.seed,
        sampling=run.data.sampling,
        epoch_share=run.data.epoch_share,
        rank=rank,
        world=world,
    )
    return DataLoader(
        batches,
        batch_size=None,
        sampler=sampler,  # a whole batch by its key
        num_workers=run.workers,
        persistent_workers=run.workers > 0,
    )
