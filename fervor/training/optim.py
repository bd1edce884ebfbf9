"""How weights move: the optimiser, its rates over time, and the moving average of the weights."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fervor.config import Optim


def learning_rate(step: int, steps_per_epoch: int, optim: Optim) -> float:
    """The rate of a step (from 0) as a fraction of `optim.learning_rate`."""
    warmup = optim.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (
            optim.warmup_learning_rate / optim.learning_rate
            if optim.warmup_learning_rate
            else (step + 1) / warmup
        )
    total = optim.epochs * steps_per_epoch
    if optim.schedule == "exponential":
        return optim.gamma ** ((step - warmup) // steps_per_epoch)
    if optim.schedule == "epoch":
        # the released code runs the cosine over all epochs, the warm-up's included
        return (1 + math.cos(math.pi * (step // steps_per_epoch) / optim.epochs)) / 2
    return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def optimizer_of(groups: Sequence[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over the groups; with `sam`, inside sharpness-aware minimisation.

    SAM (Foret et al., 2021, https://arxiv.org/abs/2010.01412), not adaptive.
    """
    split = [part for group in groups for part in decayed(group, optim)]
    settings: dict[str, Any] = {"lr": optim.learning_rate}
    kind: type[torch.optim.Optimizer] = torch.optim.Adam
    if optim.name == "sgd":
        kind = torch.optim.SGD
        settings |= {"momentum": optim.momentum, "nesterov": optim.nesterov}
    elif optim.name == "adamw":
        kind = torch.optim.AdamW
        settings |= {"betas": (optim.momentum, 0.98)}
    if not optim.sam:
        return kind(split, **settings)
    from pytorch_optimizer import SAM  # slow to import, and few runs need it

    sharpness_aware: torch.optim.Optimizer = SAM(split, kind, rho=optim.sam, **settings)
    return sharpness_aware


def decayed(group: dict[str, Any], optim: Optim) -> list[dict[str, Any]]:
    """One group, or two where biases and normalisation go without weight decay."""
    if optim.decay_all:
        return [{**group, "weight_decay": optim.weight_decay}]
    return [
        {
            **group,
            "params": [p for p in group["params"] if (p.ndim > 1) == matrices],
            "weight_decay": optim.weight_decay if matrices else 0.0,
        }
        for matrices in (True, False)
    ]


def moving_average(decay: float) -> Any:
    """An exponential moving average that starts fast: its decay is at most (1 + n) / (10 + n)."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        fraction = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, fraction)
        else:
            torch._foreach_copy_(averaged, current)

    return update
