"""How sure a figure is: intervals, and tests of whether two figures differ; pure functions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats


__all__ = [
    "Discordant",
    "accuracy_interval",
    "bootstrap_intervals",
    "bootstrap_mean_interval",
    "equal_shares",
    "holm",
    "mcnemar",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

RESAMPLES = 2000
LEVEL = 0.95
SMALLEST_EXPECTED = 5
"""Expected pictures of a cell from which on the chi-square test is trusted (Cochran's rule)."""


class Discordant(NamedTuple):
    """Pictures that one model alone gets right, and the probability of so unequal a division."""

    first_only: int
    second_only: int
    p_value: float


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy."""
    interval = stats.binomtest(correct, count).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_intervals(
    confusion: Ints, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of accuracy, mean class accuracy and macro F1.

    Drawing pictures with replacement draws the cells of their confusion [c c] from a multinomial,
    which is what is done: these figures depend on nothing else. In each resample a class that was
    not drawn does not enter a mean.
    """
    count = int(confusion.sum())
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, confusion.ravel() / count, size=resamples)
    drawn = drawn.reshape(resamples, *confusion.shape)
    hits, true, answered = np.einsum("rcc->rc", drawn), drawn.sum(2), drawn.sum(1)
    present = true > 0
    recall = np.divide(hits, true, out=np.zeros(hits.shape), where=present)
    f1 = np.divide(2 * hits, true + answered, out=np.zeros(hits.shape), where=true + answered > 0)
    figures = {
        "accuracy": hits.sum(1) / count,
        "mean_class_accuracy": recall.sum(1) / present.sum(1),
        "macro_f1": (f1 * present).sum(1) / present.sum(1),
    }
    return {name: _percentiles(values) for name, values in figures.items()}


def bootstrap_mean_interval(
    values: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean of values [n], such as the pictures' Brier scores."""
    random = np.random.default_rng(seed)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    return _percentiles(np.array(means))


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Discordant:
    """McNemar's exact test of two models on the same pictures.

    Args:
        first: whether the first model is right [n].
        second: whether the second is.
    """
    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    return Discordant(ours, theirs, float(p_value))


def equal_shares(correct: Sequence[int], counts: Sequence[int]) -> tuple[str, float]:
    """Test of whether groups have one accuracy: the test's name and its p value.

    Fisher's exact test for two groups with fewer than five expected right or wrong answers,
    Pearson's chi-square test without a correction otherwise; it is approximate where more than two
    groups are so small. 1 where all answers are right, or none.
    """
    table = np.array([correct, np.subtract(counts, correct)])
    if len(counts) < 2 or not table.any(axis=1).all():
        return "none", 1.0
    smallest = stats.contingency.expected_freq(table).min()
    if table.shape[1] == 2 and smallest < SMALLEST_EXPECTED:
        return "fisher", float(stats.fisher_exact(table).pvalue)
    return "chi-square", float(stats.chi2_contingency(table, correction=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, corrected for their number (Holm, 1979); in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(
        [(len(p_values) - rank) * p_values[place] for rank, place in enumerate(order)]
    )
    return [min(1.0, float(value)) for value in adjusted]
