"""Parts of a data set on which a method's priors should show: few images, wrong labels, few
classes, other proportions. Pure functions on samples, drawn by a seed.

A draw depends on the samples and the seed alone, so that every method sees the same images.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fervor.data.datasets import Sample
from fervor.data.datasets.rafdb import COUNTS as RAFDB_COUNTS
from fervor.errors import DataError, UsageError
from fervor.labels import canonical, ordered


FEW_SHOT = "few-shot:"
VALID_SHOTS = 4
"""Validation images of a class, at most, beside few training images (CoOp)."""

PRIORS: dict[str, Mapping[str, int]] = {"rafdb": RAFDB_COUNTS["train"]}
"""Data sets whose proportions can be drawn, with their training images by class."""


def shots(subset: str) -> int:
    """Training images of each class; 0 for all.

    Raises:
        UsageError: another form than few-shot:4.
    """
    if not subset:
        return 0
    count = subset.removeprefix(FEW_SHOT)
    if not subset.startswith(FEW_SHOT) or not count.isdecimal() or int(count) < 1:
        raise UsageError(f"--data.subset {subset}: expected {FEW_SHOT}K, such as {FEW_SHOT}4")
    return int(count)


def class_names(classes: str) -> tuple[str, ...]:
    """Expressions from words separated by commas, in the project's order; () for all.

    Raises:
        UsageError: an unknown expression, or one alone.
    """
    words = [word.strip() for word in classes.split(",") if word.strip()]
    try:
        names = ordered([canonical(word) for word in words])
    except DataError as error:
        raise UsageError(f"--data.classes {classes}: {error}") from None
    if len(names) == 1:
        raise UsageError(f"--data.classes {classes}: expected two or more")
    return tuple(names)


def of_classes(samples: Sequence[Sample], classes: Sequence[str]) -> list[Sample]:
    """The samples of some classes, their votes for other classes left out."""
    if not classes:
        return list(samples)
    return [
        replace(sample, votes={name: n for name, n in sample.votes.items() if name in classes})
        for sample in samples
        if sample.label in classes
    ]


def few(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """`count` samples of each class, drawn by the seed, in their order; all where there are fewer.

    A class's draw does not depend on the other classes, and `few(s, 4)` is part of `few(s, 16)`.
    """
    places: set[int] = set()
    for name, rows in _by_class(samples).items():
        order = _generator(seed, name).permutation(len(rows))
        places |= {rows[place] for place in order[:count]}
    return [sample for row, sample in enumerate(samples) if row in places]


def noisy(
    samples: Sequence[Sample], fraction: float, classes: Sequence[str], seed: int
) -> list[Sample]:
    """The samples with a share of each class's labels replaced by the other classes, evenly.

    Of a class of n samples round(share * n) get another label; how many get each of the others
    differs by one at most. A sample with a new label has no votes.

    Raises:
        UsageError: a share outside 0 to 1.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"--data.label_noise {fraction}: expected a share from 0 to below 1")
    noisy_samples = list(samples)
    for name, rows in _by_class(samples).items():
        random = _generator(seed, name)
        others = random.permutation([other for other in classes if other != name])
        for place, row in enumerate(random.permutation(rows)[: round(fraction * len(rows))]):
            other = str(others[place % len(others)])
            noisy_samples[row] = replace(noisy_samples[row], label=other, votes={})
    return noisy_samples


def in_proportion(samples: Sequence[Sample], priors: str, seed: int) -> list[Sample]:
    """As many samples as can be had in another data set's proportions, drawn by the seed.

    The class that is scarcest beside its proportion keeps all of its samples, and others are
    rounded down, to one at least. Classes that the other data set does not have are left out.

    Raises:
        UsageError: an unknown data set.
        DataError: a class of it has no samples.
    """
    if priors not in PRIORS:
        raise UsageError(f"--data.priors {priors}: expected one of {', '.join(PRIORS)}")
    proportions, rows = PRIORS[priors], _by_class(samples)
    if missing := [name for name in proportions if name not in rows]:
        raise DataError(f"--data.priors {priors}: there are no pictures of {', '.join(missing)}")
    scarcest = min(proportions, key=lambda name: Fraction(len(rows[name]), proportions[name]))
    places: set[int] = set()
    for name, count in proportions.items():
        order = _generator(seed, name).permutation(len(rows[name]))
        size = len(rows[scarcest]) * count // proportions[scarcest]  # exact, unlike a quotient
        places |= {rows[name][place] for place in order[: max(1, size)]}
    return [sample for row, sample in enumerate(samples) if row in places]


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Samples of each class, in the project's order."""
    counter = Counter(sample.label for sample in samples)
    return {name: counter[name] for name in ordered(list(counter))}


def _by_class(samples: Sequence[Sample]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows.setdefault(sample.label, []).append(row)
    return rows


def _generator(seed: int, name: str) -> np.random.Generator:
    """Draws of a class, which are the same whatever other classes there are."""
    return np.random.default_rng([seed, *name.encode()])
