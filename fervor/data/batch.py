"""Training batches, and the distributions over classes that losses aim at."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fervor.config import Target


class Batch(NamedTuple):
    """Pictures in RGB 0..1, their classes, and the shares of the classes that a loss aims at.

    `positive` holds another picture of each one's class where the method asks for pairs; `frozen`
    what the method's frozen networks made of both, where that was computed before. Where pictures
    were mixed (mixup), `mixture` holds how much of each class is in them, and `label` the largest.
    """

    image: Float[Tensor, "b 3 h w"]
    label: Int[Tensor, " b"]
    target: Float[Tensor, "b c"]
    positive: Float[Tensor, "b 3 h w"] | None = None
    frozen: tuple[Tensor, ...] | None = None
    mixture: Float[Tensor, "b c"] | None = None

    def classes(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Pictures, classes and shares of a mixed batch, a row of each that occurs; else None.

        A loss that takes one class of a picture is taken of each, and weighted by its share.
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
