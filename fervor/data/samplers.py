"""Which images a training batch takes: a function of seed, epoch and step alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from fervor.config import Sampling
from fervor.errors import DataError, UsageError, counted


class Key(NamedTuple):
    """Which batch: its place in the run, the images it takes, and the part that is wanted.

    `rank` of `world` processes gets its equal share of the batch; the shares in order are the batch
    that a single process would get.
    """

    epoch: int
    step: int
    indices: tuple[int, ...]
    rank: int = 0
    world: int = 1

    @property
    def own(self) -> slice:
        """The part of the batch's rows that this process gets."""
        shard = len(self.indices) // self.world
        return slice(self.rank * shard, (self.rank + 1) * shard)


class EpochSampler(Sampler[Key]):
    """The batches of one epoch; a last and smaller one is left out.

    Args:
        label: class numbers of the training split.
        batch_size: images of a batch, over all processes.
        sampling: see `config.Data.sampling`.
        epoch_fraction: length of an epoch as a share of the split, above 0 up to 1.
        rank: number of this process among `world`.

    Raises:
        DataError: the epoch does not fill a batch.
        UsageError: a share outside its range, or a batch that the processes cannot share equally.
    """

    def __init__(
        self,
        label: Int[Tensor, " n"],
        batch_size: int,
        *,
        seed: int,
        sampling: Sampling = "plain",
        epoch_fraction: float = 1.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 < epoch_fraction <= 1:
            raise UsageError(f"--data.epoch_fraction {epoch_fraction}: expected above 0 up to 1")
        self.length = round(epoch_fraction * len(label))
        if self.length < batch_size:
            of = "" if epoch_fraction == 1 else f"--data.epoch_fraction {epoch_fraction} of "
            raise DataError(
                f"{of}{counted(len(label), 'training picture')} cannot fill a batch of "
                f"{batch_size}: lower --optim.batch_size"
            )
        if batch_size % world:
            raise UsageError(
                f"--optim.batch_size {batch_size}: expected a multiple of "
                f"{counted(world, 'process')}"
            )
        self.label = label
        self.batch_size = batch_size
        self.seed = seed
        self.sampling = sampling
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[Key]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = self._order(generator)
        for step in range(len(self)):
            places = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Key(self.epoch, step, tuple(places.tolist()), self.rank, self.world)

    def _order(self, generator: torch.Generator) -> Int[Tensor, " m"]:
        if self.sampling == "imbalance":
            weight = 1.0 / torch.bincount(self.label).clamp(min=1)[self.label].double()
            return torch.multinomial(weight, self.length, True, generator=generator)
        if self.sampling == "balanced":
            return balanced(self.label, len(self) * self.batch_size, generator)
        return torch.randperm(len(self.label), generator=generator)[: self.length]


def balanced(label: Int[Tensor, " n"], count: int, generator: torch.Generator) -> Int[Tensor, " m"]:
    """`count` images in random order, equally many of each class that occurs.

    Where `count` is no multiple of the classes, those that get one more are drawn. Within a class
    no image comes again before all others have come.
    """
    classes = torch.unique(label)
    counts = torch.full_like(classes, count // len(classes))
    counts[torch.randperm(len(classes), generator=generator)[: count % len(classes)]] += 1
    places = []
    for number, many in zip(classes, counts.tolist(), strict=True):
        members = torch.nonzero(label == number).flatten()
        for start in range(0, many, len(members)):
            order = torch.randperm(len(members), generator=generator)
            places.append(members[order[: many - start]])
    taken = torch.cat(places)
    return taken[torch.randperm(len(taken), generator=generator)]


class Partners:
    """For each image another one of its class, drawn uniformly.

    A class with a single image has no other: that image is its own partner.
    """

    def __init__(self, label: Int[Tensor, " n"]) -> None:
        self.members = torch.argsort(label, stable=True)  # class by class
        counts = torch.bincount(label)
        self.first = (counts.cumsum(0) - counts)[label]  # where an image's class begins
        self.count = counts[label]
        self.place = torch.empty_like(label)
        self.place[self.members] = torch.arange(len(label))
        self.place -= self.first

    def draw(self, indices: Int[Tensor, " b"], generator: torch.Generator) -> Int[Tensor, " b"]:
        """The partners' numbers."""
        others = self.count[indices] - 1
        drawn = torch.rand(len(indices), generator=generator, dtype=torch.float64)
        place = (self.place[indices] + 1 + (drawn * others).long()) % self.count[indices]
        return self.members[self.first[indices] + place]


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers, well spread."""
    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's draws on the processor follow the seed within, and go on afterwards as before.

    Generators of graphics cards are left alone: `torch.manual_seed` would seed these, too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
