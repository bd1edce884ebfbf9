"""Training batches, and the distributions over classes that losses aim at."""

from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fervor.config import Target


class Batch(NamedTuple):
    """Images or the maps that a frozen stage made of them, their classes, and what a loss aims at.

    Attributes:
        image: RGB in 0..1; None where the batch holds `maps`.
        label: numbers of the classes; of a mixed image (mixup) the largest one's.
        target: fractions of the classes.
        positive: another image of each one's class, where the method asks for pairs.
        maps: in place of images, what `Method.frozen_stage` made of them.
        positive_maps: the same in place of `positive`.
        frozen: what frozen networks made of images and partners, for two passes over one batch.
        mixture: how much of each class is in a mixed image.
    """

    image: Float[Tensor, "b 3 h w"] | None
    label: Int[Tensor, " b"]
    target: Float[Tensor, "b c"]
    positive: Float[Tensor, "b 3 h w"] | None = None
    maps: Float[Tensor, "b d i j"] | None = None
    positive_maps: Float[Tensor, "b d i j"] | None = None
    frozen: tuple[Tensor, ...] | None = None
    mixture: Float[Tensor, "b c"] | None = None

    def images(self) -> Float[Tensor, "b 3 h w"]:
        """The images of a batch that must hold some."""
        assert self.image is not None, "the batch holds maps of a frozen stage, no images"
        return self.image

    def to(self, device: torch.device) -> Self:
        """The batch on a device, its images and maps with channels last."""
        places = {
            name: value.to(device, memory_format=torch.channels_last)
            for name in ("image", "positive", "maps", "positive_maps")
            if (value := getattr(self, name)) is not None
        }
        return self._replace(label=self.label.to(device), target=self.target.to(device), **places)

    def classes(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Images, classes and shares of a mixed batch, a row of each that occurs; else None.

        A loss that takes one class of an image is taken of each, and weighted by its share.
        """
        if self.mixture is None:
            return None
        rows, numbers = torch.nonzero(self.mixture, as_tuple=True)
        return rows, numbers, self.mixture[rows, numbers]


def soft_target(label: Tensor, classes: int) -> Float[Tensor, "b c"]:
    """One-hot shares of class numbers [b]."""
    return F.one_hot(label, classes).to(torch.float32)


def targets(label: Tensor, votes: Tensor, target: Target) -> Float[Tensor, "b c"]:
    """What the loss aims at; see `config.Data.target`."""
    if target == "majority":
        return soft_target(label, votes.shape[1])
    if target == "probability":
        return soft_target(torch.multinomial(votes, 1).flatten(), votes.shape[1])
    return votes
