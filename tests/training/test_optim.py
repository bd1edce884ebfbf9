"""The optimiser, its rates, SAM and the moving average against slow loops."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fervor.config import Optim
from fervor.training.optim import decayed, learning_rate, moving_average, optimizer_of


def test_the_rate_is_the_papers() -> None:
    """50 epochs: the first at 1e-4, then a cosine over all of them, stepped each epoch."""
    optim, steps = Optim(), 7
    rates = [optim.learning_rate * learning_rate(step, steps, optim) for step in range(50 * steps)]
    for step, rate in enumerate(rates):
        epoch = step // steps
        cosine = 2e-3 * (1 + math.cos(math.pi * epoch / 50)) / 2
        assert rate == pytest.approx(1e-4 if epoch == 0 else cosine)
    assert rates[-1] > 0


def test_a_rate_can_rise_linearly_and_follow_every_step() -> None:
    optim = Optim(epochs=5, schedule="step", warmup_epochs=2, warmup_learning_rate=0)
    probabilities = [learning_rate(step, 10, optim) for step in range(50)]
    assert probabilities[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    falling = probabilities[19:]
    assert all(later <= earlier for earlier, later in pairwise(falling))
    assert probabilities[20] == pytest.approx(1)
    assert probabilities[35] == pytest.approx(0.5)
    assert 0 < probabilities[-1] < 0.01
    assert learning_rate(0, 10, replace(optim, warmup_epochs=0)) == pytest.approx(1)


def test_a_rate_can_fall_by_a_factor_each_epoch() -> None:
    optim = Optim(epochs=4, schedule="exponential", gamma=0.9, warmup_epochs=0)
    for step in range(20):
        assert learning_rate(step, 5, optim) == pytest.approx(0.9 ** (step // 5))
    late = replace(optim, warmup_epochs=1, warmup_learning_rate=0)
    assert learning_rate(4, 5, late) == pytest.approx(1)
    assert [learning_rate(step, 5, late) for step in (5, 9, 10)] == pytest.approx([1, 1, 0.9])


def quadratic() -> tuple[torch.nn.Linear, torch.nn.Linear, Callable[[], Tensor]]:
    """Two layers and a loss that is far from quadratic in both."""
    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    inputs, target = torch.randn(6, 3), torch.randn(6, 2)

    def loss() -> Tensor:
        return (second(torch.tanh(first(inputs))) - target).pow(4).mean()

    return first, second, loss


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_sam_against_a_slow_loop(name: str) -> None:
    """w' = w + rho g / |g| over all groups together; the base optimiser steps from w with g(w')."""
    optim = Optim(name=name, learning_rate=0.02, sam=0.05, weight_decay=0.0)  # type: ignore[arg-type]
    first, second, loss = quadratic()
    groups = [
        {"params": list(first.parameters()), "lr": 0.02},
        {"params": list(second.parameters()), "lr": 0.05},
    ]
    optimizer = optimizer_of(groups, optim)

    slow_first, slow_second, slow_loss = quadratic()
    slow = [*slow_first.parameters(), *slow_second.parameters()]
    rates, memory = (
        [0.02, 0.02, 0.05, 0.05],
        [(torch.zeros_like(p), torch.zeros_like(p)) for p in slow],
    )
    for step in range(1, 4):
        optimizer.zero_grad()
        loss().backward()

        def again() -> None:
            loss().backward()

        optimizer.step(again)  # type: ignore[arg-type]

        gradients = torch.autograd.grad(slow_loss(), slow)
        length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        with torch.no_grad():
            before = [p.clone() for p in slow]
            for p, g in zip(slow, gradients, strict=True):
                p += 0.05 * g / length
        gradients = torch.autograd.grad(slow_loss(), slow)
        with torch.no_grad():
            for p, old, g, rate, (mean, square) in zip(
                slow, before, gradients, rates, memory, strict=True
            ):
                if name == "sgd":
                    mean.copy_(g if step == 1 else 0.9 * mean + g)
                    p.copy_(old - rate * mean)
                    continue
                mean.copy_(0.9 * mean + 0.1 * g)
                square.copy_(0.999 * square + 0.001 * g**2)
                scale = (square / (1 - 0.999**step)).sqrt() + 1e-8
                p.copy_(old - rate * mean / (1 - 0.9**step) / scale)
        for found, expected in zip([*first.parameters(), *second.parameters()], slow, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_first_beta_of_adamw_is_the_momentum() -> None:
    """The step of AdamW: p -= rate * (decay * p + m / (sqrt(v) + eps)), both without bias."""
    optim = Optim(name="adamw", learning_rate=0.02, momentum=0.8, weight_decay=0.3, decay_all=True)
    first, second, loss = quadratic()
    parameters = [*first.parameters(), *second.parameters()]
    optimizer = optimizer_of([{"params": parameters, "lr": 0.02}], optim)
    slow = [p.detach().clone() for p in parameters]
    memory = [(torch.zeros_like(p), torch.zeros_like(p)) for p in slow]
    for step in range(1, 4):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        for p, now, (mean, square) in zip(slow, parameters, memory, strict=True):
            assert now.grad is not None
            mean.copy_(0.8 * mean + 0.2 * now.grad)
            square.copy_(0.98 * square + 0.02 * now.grad**2)
            scale = (square / (1 - 0.98**step)).sqrt() + 1e-8
            p.copy_(p - 0.02 * (0.3 * p + mean / (1 - 0.8**step) / scale))
    for found, expected in zip(parameters, slow, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_groups_keep_their_rates_and_decay(sam: float) -> None:
    first, second, _ = quadratic()
    groups = [
        {"params": list(first.parameters()), "lr": 0.02},
        {"params": list(second.parameters()), "lr": 0.2},
    ]
    optim = Optim(name="adam", learning_rate=0.02, sam=sam, weight_decay=0.3, decay_all=False)
    optimizer = optimizer_of(groups, optim)
    found = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [(0.02, 0.3), (0.02, 0.0), (0.2, 0.3), (0.2, 0.0)]


@pytest.mark.parametrize("decay_all", [True, False])
def test_weight_decay_may_leave_biases_and_normalisation_out(decay_all: bool) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optim = Optim(weight_decay=0.3, decay_all=decay_all)
    groups = decayed({"params": list(net.parameters()), "lr": 0.5}, optim)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decay[id(p)] for p in net.parameters()] == [0.3] + [0.3 if decay_all else 0.0] * 3
    assert all(group["lr"] == 0.5 for group in groups)


def test_the_moving_average_against_a_slow_loop() -> None:
    update: Callable[..., None] = moving_average(0.6)
    values = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    averaged, expected = [torch.zeros(3)], [0.0, 0.0, 0.0]
    counted = [torch.tensor(0)]
    for count, value in enumerate(values):
        update(averaged, [value], torch.tensor(count))
        update(counted, [torch.tensor(count)], torch.tensor(count))
        decay = min(0.6, (1 + count) / (10 + count))
        expected = [
            decay * e + (1 - decay) * float(v) for e, v in zip(expected, value, strict=True)
        ]
    assert averaged[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert int(counted[0]) == 7  # counters are copied
