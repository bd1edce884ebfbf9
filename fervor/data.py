"""From samples to batches: pictures in memory, augmentation, sampling.

A training batch is a function of (seed, epoch, step) alone, so that a resumed run and any number of
worker processes see what an uninterrupted one sees.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import kornia.augmentation as kornia
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from fervor.config import Augment, Run, Target
from fervor.datasets import Sample
from fervor.errors import DataError
from fervor.faces import FaceDetector, crop, select
from fervor.losses import soft_target
from fervor.methods import Batch
from fervor.preprocess import to_input, to_rgb


logger = logging.getLogger(__name__)

CROP = 48
"""Pixels of a found face's crop: FERPlus's resolution, so that photographs look alike."""


@dataclass(frozen=True)
class Pictures:
    """A split in memory.

    Attributes:
        images: uint8 [n k h w]; k is 1 where every picture is grey, 3 otherwise.
        label: class numbers [n].
        votes: shares of the classes [n c], each row summing to 1; one-hot without votes.
        sources: the pictures' files, for reports.
    """

    images: UInt8[Tensor, "n k h w"]
    label: Int[Tensor, " n"]
    votes: Float[Tensor, "n c"]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    def counts(self) -> list[int]:
        """Pictures per class."""
        return torch.bincount(self.label, minlength=self.votes.shape[1]).tolist()

    def subset(self, indices: Tensor) -> "Pictures":
        """The pictures with the given numbers, in that order."""
        sources = tuple(self.sources[index] for index in indices.tolist())
        return Pictures(self.images[indices], self.label[indices], self.votes[indices], sources)


def read_pictures(
    samples: Sequence[Sample], labels: Sequence[str], *, size: int, faces: str = "precropped"
) -> Pictures:
    """Decode a split; samples of classes that are not asked for raise.

    Pictures of one common size up to `size` are kept as they are (FERPlus: 48); others are resized
    to `size` by the project's one resize.

    Raises:
        DataError: no samples, a class outside `labels`, or a picture that cannot be read.
    """
    if not samples:
        raise DataError("the split holds no pictures: choose another split or protocol")
    numbers = {name: number for number, name in enumerate(labels)}
    unknown = sorted({sample.label for sample in samples} - set(labels))
    if unknown:
        raise DataError(f"the data set holds {unknown}, the model knows {list(labels)}")
    arrays = _face_crops(samples) if faces == "largest" else [_pixels(sample) for sample in samples]
    kept = [(s, a) for s, a in zip(samples, arrays, strict=True) if a is not None]
    if not kept:
        raise DataError(f"no face was found in any of {len(samples)} pictures")
    votes = np.zeros((len(kept), len(labels)), np.float32)
    for row, (sample, _) in enumerate(kept):
        for name, share in (sample.votes or {sample.label: 1.0}).items():
            if name in numbers:  # seven classes of eight votes
                votes[row, numbers[name]] = share
    votes /= votes.sum(1, keepdims=True)
    return Pictures(
        _stacked([array for _, array in kept], size),
        torch.tensor([numbers[sample.label] for sample, _ in kept]),
        torch.from_numpy(votes),
        tuple(sample.path for sample, _ in kept),
    )


def _pixels(sample: Sample) -> NDArray[np.uint8]:
    """A sample's picture, [h w] where its file is grey, RGB [h w 3] otherwise."""
    if sample.pixels:
        side = sample.side
        return np.frombuffer(sample.pixels, np.uint8).reshape(side, side)
    try:
        with Image.open(sample.path) as image:
            return np.asarray(image) if image.mode == "L" else to_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{sample.path} cannot be read as a picture: {error}") from None


def _face_crops(samples: Sequence[Sample]) -> list[NDArray[np.uint8] | None]:
    """The largest face of each picture, cut out as predict does; None where there is none."""
    detector = FaceDetector()
    crops: list[NDArray[np.uint8] | None] = []
    for sample in samples:
        pixels = to_rgb(_pixels(sample))
        found = select(detector.detect([pixels])[0], "largest")
        crops.append(crop(pixels, found[0], CROP) if found else None)
    lost = [sample.path for sample, array in zip(samples, crops, strict=True) if array is None]
    if lost:
        logger.warning("%d of %d pictures hold no face and are left out", len(lost), len(samples))
        for path in lost:
            logger.info("no face: %s", path)
    return crops


def _stacked(arrays: Sequence[NDArray[np.uint8]], size: int) -> UInt8[Tensor, "n k h w"]:
    shapes = {array.shape[:2] for array in arrays}
    if len(shapes) > 1 or max(max(shape) for shape in shapes) > size:
        arrays = [_resized(array, size) for array in arrays]
    if any(array.ndim == 3 for array in arrays):
        arrays = [to_rgb(array) for array in arrays]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return torch.from_numpy(np.stack(arrays)[:, None])


def _resized(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """By the project's one resize; a grey picture [h w] stays grey."""
    inputs = np.rint(to_input(array, size) * 255).astype(np.uint8)
    return inputs[0] if array.ndim == 2 else inputs.transpose(1, 2, 0)


def evaluation_batches(pictures: Pictures, *, size: int, batch_size: int = 128) -> Iterator[Batch]:
    """The split in order, resized as `predict` does it."""
    for start in range(0, len(pictures), batch_size):
        chunk = pictures.images[start : start + batch_size].permute(0, 2, 3, 1).numpy()
        grey = chunk.shape[3] == 1
        inputs = [to_input(picture[:, :, 0] if grey else picture, size) for picture in chunk]
        label = pictures.label[start : start + batch_size]
        votes = pictures.votes[start : start + batch_size]
        yield Batch(torch.from_numpy(np.stack(inputs)), label, votes)


def hold_out(pictures: Pictures, share: float, seed: int) -> tuple[Pictures, Pictures]:
    """Split off a validation share, class by class; at least one picture of a class stays."""
    generator = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    for number in range(pictures.votes.shape[1]):
        members = torch.nonzero(pictures.label == number).flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        held.append(order[: max(0, min(len(members) - 1, round(share * len(members))))])
    chosen = torch.zeros(len(pictures), dtype=torch.bool)
    chosen[torch.cat(held)] = True
    if not chosen.any():
        raise DataError(
            f"{len(pictures)} pictures are too few to hold {share:.0%} out for validation"
        )
    return (
        pictures.subset(torch.nonzero(~chosen).flatten()),
        pictures.subset(torch.nonzero(chosen).flatten()),
    )


class Key(NamedTuple):
    """Which batch: its place in the run, and the pictures it takes."""

    epoch: int
    step: int
    indices: tuple[int, ...]


class EpochSampler(Sampler[Key]):
    """The batches of one epoch in an order that seed and epoch alone decide.

    With `balance` every class is drawn equally often, with replacement.
    """

    def __init__(
        self, label: Int[Tensor, " n"], batch_size: int, *, seed: int, balance: bool = False
    ) -> None:
        if len(label) < batch_size:
            raise DataError(
                f"{len(label)} training pictures do not fill a batch of {batch_size}: "
                "lower --optim.batch_size"
            )
        self.label = label
        self.batch_size = batch_size
        self.seed = seed
        self.balance = balance
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.label) // self.batch_size

    def __iter__(self) -> Iterator[Key]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        if self.balance:
            weight = 1.0 / torch.bincount(self.label).clamp(min=1)[self.label].double()
            order = torch.multinomial(weight, len(self.label), True, generator=generator)
        else:
            order = torch.randperm(len(self.label), generator=generator)
        for step in range(len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Key(self.epoch, step, tuple(chosen.tolist()))


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers, well spread."""
    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1)[0])


class TrainingBatches(Dataset[Batch]):
    """Batches by key: pictures chosen, augmented and resized to the encoder's input."""

    def __init__(self, pictures: Pictures, run: Run) -> None:
        self.pictures = pictures
        self.run = run
        self.augmentation = Augmentation(run.augment, run.encoder.size)

    def __getitem__(self, key: Key) -> Batch:
        indices = torch.tensor(key.indices)
        label, votes = self.pictures.label[indices], self.pictures.votes[indices]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.run.seed, key.epoch, key.step))
            target = targets(label, votes, self.run.data.target)
            image = self.augmentation(self.pictures.images[indices])
            if self.run.augment.mixup:
                image, target = _mixed_pairs(image, target, self.run.augment.mixup)
                label = target.argmax(1)
        return Batch(image.expand(-1, 3, -1, -1), label, target)


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
        image = self._geometry(images.float() / 255)
        for change in self.changes:
            image = change(image)
        return image.clamp(0, 1)

    def _geometry(self, image: Tensor) -> Tensor:
        """Flip, rotate, scale and shift about the centre, the border replicated."""
        config, batch = self.config, len(image)
        angle = _uniform(batch, config.rotation) * math.pi / 180
        zoom = torch.exp(_uniform(batch, math.log1p(config.scale)))
        mirror = 1 - 2 * (torch.rand(batch) < config.flip).float()
        shift = 2 * _uniform(batch, config.shift), 2 * _uniform(batch, config.shift)
        cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        rows = (
            torch.stack([cosine * mirror, -sine, shift[0]], 1),
            torch.stack([sine * mirror, cosine, shift[1]], 1),
        )
        shape = [batch, image.shape[1], self.size, self.size]
        grid = F.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _uniform(count: int, bound: float) -> Tensor:
    return (2 * torch.rand(count) - 1) * bound


def training_loader(batches: Dataset[Batch], pictures: Pictures, run: Run) -> DataLoader[Batch]:
    """The run's batches in their order, the last and smaller one of an epoch dropped."""
    sampler = EpochSampler(
        pictures.label, run.optim.batch_size, seed=run.seed, balance=run.data.balance
    )
    return DataLoader(
        batches,
        batch_size=None,
        sampler=sampler,  # a whole batch by its key
        num_workers=run.workers,
        persistent_workers=run.workers > 0,
    )
