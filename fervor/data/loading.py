"""Batches of images, for training and for evaluation."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fervor.config import Data, Pipeline
from fervor.data.augmentation import Augmentation
from fervor.data.batch import Batch, soft_target, targets
from fervor.data.distillation import name_of, read_logits, teachers_targets
from fervor.data.image_set import ImageSet
from fervor.data.samplers import EpochSampler, Key, Partners, mixed_seed, seeded
from fervor.errors import UsageError
from fervor.io.image import to_input


def evaluation_batches(images: ImageSet, *, size: int, batch_size: int = 128) -> Iterator[Batch]:
    """The split in order, resized as `predict` does it."""
    for indices in torch.arange(len(images)).split(batch_size):
        pixels = images.take(indices)
        yield Batch(_inputs(pixels, size), images.label[indices], images.votes[indices])


def _inputs(images: UInt8[Tensor, "b _ h w"], size: int) -> Float[Tensor, "b 3 i j"]:
    if images.shape[2:] == (size, size):  # what to_input does, without its loop over images
        return (images.float() / 255).expand(-1, 3, -1, -1)
    arrays = images.permute(0, 2, 3, 1).numpy()
    inputs = [to_input(a[:, :, 0] if a.shape[2] == 1 else a, size) for a in arrays]
    return torch.from_numpy(np.stack(inputs))


class TrainingBatches(Dataset[Batch]):
    """Batches by key: images chosen, augmented and resized to the encoder's input.

    With `pairs` a batch also holds a partner of each image, augmented by draws of its own. Each
    of several processes draws for the whole batch and keeps its share, so that together they see
    what one process sees, augmented alike.

    Raises:
        UsageError: pairs shall be mixed.
    """

    def __init__(self, images: ImageSet, pipeline: Pipeline, *, pairs: bool = False) -> None:
        data, augment = pipeline.data, pipeline.augment
        if pairs and augment.mixup:
            raise UsageError("the method pairs images: set augment.mixup to 0")
        self.images = images
        self.data, self.seed, self.mixup = data, pipeline.seed, augment.mixup
        self.augmentation = Augmentation(augment, pipeline.encoder.size)
        self.boxes = images.boxes(data.cache) if augment.occlude else None
        self.teachers = teachers_of(images, data)
        self.partners = Partners(images.label) if pairs else None

    def __getitem__(self, key: Key) -> Batch:
        indices = torch.tensor(key.indices)
        label, votes = self.images.label[indices], self.images.votes[indices]
        positive = mixture = None
        with seeded(mixed_seed(self.seed, key.epoch, key.step)):
            target = targets(label, votes, self.data.target)
            if self.teachers is not None:
                target = torch.lerp(target, self.teachers[indices], self.data.teachers_weight)
            image = self._augmented(indices)
            if self.mixup:
                classes = soft_target(label, votes.shape[1])
                image, target, mixture = _mixed_pairs(image, target, classes, self.mixup)
                label, mixture = mixture.argmax(1), mixture[key.own]
            if self.partners is not None:
                partners = self.partners.draw(indices, pair_generator(self.seed, key))
                positive = self._augmented(partners)
                positive = positive[key.own].expand(-1, 3, -1, -1)
        image = image[key.own].expand(-1, 3, -1, -1)
        return Batch(image, label[key.own], target[key.own], positive, mixture=mixture)

    def _augmented(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b k i j"]:
        boxes = None if self.boxes is None else self.boxes[indices]
        return self.augmentation(self.images.take(indices), boxes)


def teachers_of(images: ImageSet, data: Data) -> Float[Tensor, "n c"] | None:
    """What the stored logits of `data.teachers` say of each image; None where none is named.

    Raises:
        UsageError: a share or temperature out of its range.
        DataError: a file that cannot be read or lacks images.
    """
    if not data.teachers:
        return None
    if not 0 < data.teachers_weight <= 1:
        raise UsageError(f"--data.teachers_weight {data.teachers_weight}: expected above 0 up to 1")
    if not 0 < data.teachers_temperature < math.inf:
        raise UsageError(
            f"--data.teachers_temperature {data.teachers_temperature}: expected above 0"
        )
    names = [name_of(source, data.aligned or data.root) for source in images.sources]
    labels = images.labels
    stored = read_logits(Path(data.teachers))
    return teachers_targets(stored, names, labels, temperature=data.teachers_temperature)


def pair_generator(seed: int, key: Key) -> torch.Generator:
    """What a batch's partners are drawn from; the batch's other draws do not depend on it."""
    return torch.Generator().manual_seed(mixed_seed(seed, key.epoch, key.step, 1))


def _mixed_pairs(
    image: Tensor, target: Tensor, classes: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup (Zhang et al., 2018): each image with another of the batch, and what it is of."""
    fraction = torch.distributions.Beta(alpha, alpha).sample((len(image), 1))
    fraction = torch.maximum(fraction, 1 - fraction)
    order = torch.randperm(len(image))

    def mixed(part: Tensor) -> Tensor:
        own = fraction.reshape(-1, *[1] * (part.ndim - 1))
        return own * part + (1 - own) * part[order]

    return mixed(image), mixed(target), mixed(classes)


def training_loader(
    batches: Dataset[Batch],
    images: ImageSet,
    pipeline: Pipeline,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Batch]:
    """Batches in a run's order; process `rank` of `world` gets its part of each."""
    sampler = EpochSampler(
        images.label,
        batch_size,
        seed=pipeline.seed,
        sampling=pipeline.data.sampling,
        epoch_fraction=pipeline.data.epoch_fraction,
        rank=rank,
        world=world,
    )
    return DataLoader(
        batches,
        batch_size=None,
        sampler=sampler,  # a whole batch by its key
        num_workers=workers,
        persistent_workers=workers > 0,
    )
