"""Which pictures a batch takes: orders, class counts, partners, processes; against slow loops."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fervor.config import Sampling
from fervor.data.samplers import EpochSampler, Key, Partners, balanced, mixed_seed
from fervor.errors import DataError, UsageError


CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=80)
KINDS: tuple[Sampling, ...] = ("plain", "imbalance", "balanced")


def taken(sampler: EpochSampler) -> list[int]:
    return [index for key in sampler for index in key.indices]


@given(st.integers(4, 60), st.integers(1, 4), st.integers(0, 9), st.integers(0, 99))
def test_an_epoch_takes_every_picture_at_most_once(
    count: int, batch_size: int, epoch: int, seed: int
) -> None:
    sampler = EpochSampler(torch.zeros(count, dtype=torch.int64), batch_size, seed=seed)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler) == count // batch_size
    assert [(key.epoch, key.step) for key in keys] == [(epoch, step) for step in range(len(keys))]
    found = [index for key in keys for index in key.indices]
    assert len(found) == len(set(found)) == len(keys) * batch_size
    assert all(0 <= index < count for index in found)
    assert keys == list(sampler)


@pytest.mark.parametrize("sampling", KINDS)
def test_epochs_and_seeds_give_other_orders(sampling: Sampling) -> None:
    def order(seed: int, epoch: int) -> list[Key]:
        label = torch.arange(50) % 3
        sampler = EpochSampler(label, 5, seed=seed, sampling=sampling)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        return list(sampler)

    orders = [
        tuple(key.indices for key in order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_imbalance_draws_classes_alike_and_pictures_again() -> None:
    label = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    found = taken(EpochSampler(label, 10, seed=0, sampling="imbalance"))
    counts = torch.bincount(label[found], minlength=3)
    assert counts.sum() == 1000
    assert all(abs(int(count) - 333) < 60 for count in counts)  # 4 deviations
    assert max(Counter(found).values()) > 10  # the ten pictures of the last class
    alone = [times for index, times in Counter(found).items() if label[index] == 2]
    assert len(alone) == 10 and all(10 < times < 60 for times in alone)


@settings(max_examples=200)
@given(CLASSES, st.integers(1, 120), st.integers(0, 99))
def test_balanced_takes_equally_many_of_each_class(
    classes: list[int], count: int, seed: int
) -> None:
    label = torch.tensor(classes)
    found = balanced(label, count, torch.Generator().manual_seed(seed)).tolist()
    assert len(found) == count
    times = Counter(classes[index] for index in found)
    for number in set(classes):
        assert count // len(set(classes)) <= times[number] <= -(-count // len(set(classes)))
        members = [index for index, other in enumerate(classes) if other == number]
        each = [found.count(index) for index in members]
        assert max(each) - min(each) <= 1  # nobody again before all have come


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 4), min_size=24, max_size=80),
    st.integers(1, 6),
    st.sampled_from([0.3, 0.5, 1.0]),
)
def test_an_epoch_of_balanced_batches_is_balanced(
    classes: list[int], batch_size: int, fraction: float
) -> None:
    length = round(fraction * len(classes))
    label = torch.tensor(classes)
    sampler = EpochSampler(label, batch_size, seed=3, sampling="balanced", epoch_fraction=fraction)
    times = Counter(label[taken(sampler)].tolist())
    assert len(sampler) == length // batch_size
    assert sum(times.values()) == len(sampler) * batch_size
    spread = [times[number] for number in set(classes)]
    assert max(spread) - min(spread) <= 1
    if not len(sampler) * batch_size % len(spread):
        assert len(set(spread)) == 1


def test_balanced_order_is_not_class_by_class() -> None:
    label = torch.arange(6).repeat_interleave(200)
    found = label[balanced(label, 1200, torch.Generator().manual_seed(0))]
    halves = torch.bincount(found[:600], minlength=6)
    assert all(60 < int(count) < 140 for count in halves)  # 100 expected, 4 deviations


@pytest.mark.parametrize("sampling", KINDS)
def test_an_epoch_may_be_a_share_of_the_split(sampling: Sampling) -> None:
    label = torch.arange(100) % 4
    sampler = EpochSampler(label, 4, seed=0, sampling=sampling, epoch_fraction=0.125)
    assert len(sampler) == 3  # round(12.5) = 12 pictures
    assert len(taken(sampler)) == 12
    first = taken(sampler)
    sampler.set_epoch(1)
    assert taken(sampler) != first
    if sampling == "plain":
        assert len(set(first)) == 12


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_share_outside_its_range(fraction: float) -> None:
    with pytest.raises(UsageError, match=r"--data\.epoch_fraction .*: expected above 0 up to 1"):
        EpochSampler(torch.zeros(9, dtype=torch.int64), 2, seed=0, epoch_fraction=fraction)


def test_too_few_pictures_for_a_batch() -> None:
    with pytest.raises(DataError, match=r"3 training pictures cannot fill a batch of 4: lower"):
        EpochSampler(torch.zeros(3, dtype=torch.int64), 4, seed=0)
    share = r"--data.epoch_fraction 0.25 of 9 training pictures cannot fill a batch of 4: lower"
    with pytest.raises(DataError, match=share):
        EpochSampler(torch.zeros(9, dtype=torch.int64), 4, seed=0, epoch_fraction=0.25)


# Processes


@given(
    st.integers(8, 70),
    st.sampled_from([(4, 1), (4, 2), (6, 3), (8, 4), (8, 8)]),
    st.sampled_from(KINDS),
    st.integers(0, 5),
)
def test_the_shares_of_all_processes_are_the_batch(
    count: int, shape: tuple[int, int], sampling: Sampling, epoch: int
) -> None:
    batch_size, world = shape
    label = torch.arange(count) % 3

    def keys(rank: int, world: int) -> list[Key]:
        sampler = EpochSampler(label, batch_size, seed=7, sampling=sampling, rank=rank, world=world)
        sampler.set_epoch(epoch)
        return list(sampler)

    shards = [keys(rank, world) for rank in range(world)]
    for alone, *parts in zip(keys(0, 1), *shards, strict=True):
        assert alone.indices[alone.own] == alone.indices
        union = [index for part in parts for index in part.indices[part.own]]
        assert tuple(union) == alone.indices
        assert len({len(part.indices[part.own]) for part in parts}) == 1


def test_a_batch_that_processes_cannot_share() -> None:
    with pytest.raises(UsageError, match=r"batch_size 8: expected a multiple of 3 processes"):
        EpochSampler(torch.zeros(30, dtype=torch.int64), 8, seed=0, rank=0, world=3)


# Partners


@settings(max_examples=100)
@given(CLASSES, st.integers(0, 99))
def test_partners_are_other_pictures_of_the_class(classes: list[int], seed: int) -> None:
    label = torch.tensor(classes)
    partners = Partners(label)
    indices = torch.arange(len(classes)).repeat(3)
    found = partners.draw(indices, torch.Generator().manual_seed(seed))
    assert torch.equal(found, partners.draw(indices, torch.Generator().manual_seed(seed)))
    for index, partner in zip(indices.tolist(), found.tolist(), strict=True):
        assert classes[partner] == classes[index]
        alone = classes.count(classes[index]) == 1
        assert (partner == index) == alone


def test_partners_are_uniform_over_the_others() -> None:
    """Against the loop that lists the others of each picture."""
    classes = [0, 1, 0, 2, 1, 0, 0, 2, 0]
    partners = Partners(torch.tensor(classes))
    draws = 4000
    for index, number in enumerate(classes):
        others = [i for i, c in enumerate(classes) if c == number and i != index]
        indices = torch.full((draws,), index)
        found = partners.draw(indices, torch.Generator().manual_seed(index)).tolist()
        expected = draws / len(others)
        times = Counter(found)
        assert times.keys() == set(others)
        assert all(abs(times[o] - expected) < 4 * expected**0.5 for o in others)


def test_seeds_are_spread() -> None:
    seeds = {mixed_seed(*numbers) for numbers in np.ndindex(4, 5, 6)}
    assert len(seeds) == 4 * 5 * 6
    assert mixed_seed(1, 2, 3, 1) not in seeds
