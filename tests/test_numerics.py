"""No finite input makes a loss or its gradient anything but finite."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fervor.methods import losses
from fervor.methods.lacovl.cross_similarity import distances, place_weights, similarity_of


EXTREMES = (0.0, -0.0, 1e-45, 1e-30, -1e-12, 1.0, -3.0, 1e4, -1e12, 1e18, -1e30, 3e38)
"""Zeros, numbers below the smallest normal one, and numbers whose squares are no numbers."""

Rows = st.lists(
    st.lists(
        st.one_of(st.sampled_from(EXTREMES), st.floats(-1e6, 1e6, width=32)), min_size=3, max_size=3
    ),
    min_size=2,
    max_size=2,
)
TARGET = torch.tensor([[1.0, 0.0], [0.25, 0.75]])


def cross_similarity(a: Tensor, b: Tensor) -> Tensor:
    distance = distances(a[None], b[None])
    return place_weights(similarity_of(distance), distance, 1).square().sum()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "similarity": lambda a, b, c: losses.text_similarity_loss(
        losses.similarities(a, b) / 0.01, TARGET
    ),
    "transformation": lambda a, b, c: losses.transformation_loss(a, b, c, c[0] * 0.5),
    "self contrast": lambda a, b, c: losses.self_contrast_loss(a, b, c),
    "self contrast, all pairs": lambda a, b, c: losses.self_contrast_loss(a, b, c, all_pairs=True),
    "simclr": lambda a, b, c: losses.contrastive_loss(a, b, c, temperature=0.01),
    "soft and hard, contrast": lambda a, b, c: losses.soft_hard_contrast(a, b, temperature=0.01),
    "soft and hard, distance": lambda a, b, c: losses.soft_hard_distance(a, b),
    "prototype, cosine": lambda a, b, c: losses.prototype_loss(a, b),
    "prototype, l1": lambda a, b, c: losses.prototype_loss(a, b, distance="l1"),
    "patches": lambda a, b, c: losses.local_similarities(torch.stack([a, c]), b, 1).sum(),
    "soft contrast": lambda a, b, c: losses.soft_contrastive_loss(
        losses.similarities(a, b) * 100, losses.agreement(TARGET, TARGET)
    ),
    "class means": lambda a, b, c: losses.class_means(
        F.normalize(a, dim=-1), torch.tensor([0, 2]), 3
    ).sum(),
    "cross similarity": lambda a, b, c: cross_similarity(F.normalize(a), F.normalize(b)),
}


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=60, deadline=None)
@given(first=Rows, second=Rows, third=Rows)
@example(first=[[0.0] * 3] * 2, second=[[0.0] * 3] * 2, third=[[0.0] * 3] * 2)
@example(first=[[1.0] * 3] * 2, second=[[1.0] * 3] * 2, third=[[1.0] * 3] * 2)
@example(first=[[3e38] * 3] * 2, second=[[-3e38] * 3] * 2, third=[[3e38] * 3] * 2)
def test_losses_and_gradients_stay_finite(
    name: str, first: list[list[float]], second: list[list[float]], third: list[list[float]]
) -> None:
    inputs = [torch.tensor(rows, requires_grad=True) for rows in (first, second, third)]
    loss = LOSSES[name](*inputs)
    assert loss.ndim == 0 and torch.isfinite(loss)
    loss.backward()
    for tensor in inputs:
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()
