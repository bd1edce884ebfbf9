"""How sure a figure is: intervals, and tests of whether two figures differ; pure functions.

Images of one person are no independent observations. Where they are known, a unit [n] numbers
each image's person, and units are the sample, not images.

Where all units are alike, as where every answer is right, they show no spread: the interval is
then that of what n units say of others; see `interval_of_alike`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats


__all__ = [
    "Discordant",
    "Estimate",
    "accuracy_estimate",
    "accuracy_interval",
    "accuracy_interval_of_persons",
    "bootstrap_intervals",
    "equal_proportions",
    "equal_proportions_of_persons",
    "estimate",
    "gain",
    "grouped_intervals",
    "holm",
    "interval_of_alike",
    "mcnemar",
    "mean_variance",
    "sign_flips",
    "units",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

RESAMPLES = 2000
BLOCK = 2_000_000
"""Numbers that a test draws at once: some 32 MB."""
LEVEL = 0.95
ALIKE = 1e-9
"""Width below which an interval is one of units that are all alike, but for rounding."""
SMALLEST_EXPECTED = 5
"""Expected images of a cell from which on the chi-square test is trusted (Cochran's rule)."""


class Discordant(NamedTuple):
    """Images that one model alone gets right, and the probability of so unequal a division."""

    first_only: int
    second_only: int
    p_value: float


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy."""
    interval = stats.binomtest(correct, count).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def interval_of_alike(
    mean: float, count: int, limits: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """95 % interval of a mean that each of n units has: others may have any in `limits`.

    Of such others there may be a fraction 1 - 0.025^(1 / n) (Clopper and Pearson, 1934). Of 12
    units that are all right it is 73.5 % to 100 %; of one unit it is nearly all of `limits`.
    """
    others = 1 - ((1 - LEVEL) / 2) ** (1 / count)
    return mean - others * (mean - limits[0]), mean + others * (limits[1] - mean)


def bootstrap_intervals(
    confusion: Ints, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of accuracy, mean class accuracy and macro F1.

    Drawing images with replacement draws the cells of their confusion [c c] from a multinomial,
    which is what is done: these figures depend on nothing else. In each resample a class that was
    not drawn does not enter a mean. Where drawing shows no spread: see `_reach_of_alike`.
    """
    count, by_class = int(confusion.sum()), confusion.sum(1)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, confusion.ravel() / count, size=resamples)
    intervals, own = {}, _parts(confusion[None])
    for name, (values, counted) in _parts(drawn.reshape(resamples, *confusion.shape)).items():
        means = values.sum(1) / counted.sum(1)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        intervals[name] = float(low), float(high)
        if np.ptp(means) < ALIKE:
            parts = np.array([count]) if name == "accuracy" else by_class[by_class > 0]
            figures = own[name][0][own[name][1]]
            down, up = _reach_of_alike(figures, parts) / len(figures)
            intervals[name] = float(figures.mean() - down), float(figures.mean() + up)
    return intervals


def grouped_intervals(
    label: Ints, answer: Ints, unit: Ints, classes: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals of accuracy, mean class accuracy and macro F1 where persons are the sample.

    See `_interval_of_ratios`. Resampling persons would be too sure where they are few, and would
    draw 2,000 times as many numbers as there are persons. One person says nothing of others: the
    intervals are then 0 to 1.

    Args:
        label: class numbers [n].
        answer: the answered classes [n].
        unit: each image's person [n]; see `units`.
        classes: how many classes there are.
    """
    count = int(unit.max()) + 1
    if count < 2:
        return dict.fromkeys(("accuracy", "mean_class_accuracy", "macro_f1"), (0.0, 1.0))
    true, hits, answered = (np.zeros((count, classes)) for _ in range(3))
    np.add.at(true, (unit, label), 1)
    np.add.at(hits, (unit, label), label == answer)
    np.add.at(answered, (unit, answer), 1)
    present = true.any(0)
    true, hits, answered = true[:, present], hits[:, present], answered[:, present]
    every, right, persons = true.sum(1), hits.sum(1), (true > 0).sum(0)
    return {
        "accuracy": _interval_of_ratios(right[:, None], every[:, None], np.array([count])),
        "mean_class_accuracy": _interval_of_ratios(hits, true, persons),
        "macro_f1": _interval_of_ratios(2 * hits, true + answered, persons),
    }


def accuracy_interval_of_persons(correct: NDArray[np.bool_], unit: Ints) -> tuple[float, float]:
    """95 % interval of an accuracy where persons are the sample; see `_interval_of_ratios`.

    One person says nothing of others: 0 to 1.

    Args:
        correct: whether each image is answered rightly [n].
        unit: each image's person, from 0 on [n].
    """
    counts = np.bincount(unit).astype(float)[:, None]
    hits = np.bincount(unit, correct).astype(float)[:, None]
    if len(counts) < 2:
        return 0.0, 1.0
    return _interval_of_ratios(hits, counts, np.array([len(counts)]))


def _interval_of_ratios(
    numerator: Floats, denominator: Floats, counts: Ints
) -> tuple[float, float]:
    """95 % interval of a mean over parts (classes) of ratios of sums over persons.

    Wilson's interval with the variance between persons, of the ratios' linear form, in place of
    the binomial one, which Franco, Little, Louis and Slud recommend for clustered samples (2019,
    https://pmc.ncbi.nlm.nih.gov/articles/PMC6690503). With the normal quantile it is too sure where
    clusters are few: it takes Student's, with m - 1 degrees of freedom for m persons.

    A part whose persons are all alike shows no spread: its own interval, that of
    `interval_of_alike`, is added; see `_reach_of_alike`.

    Args:
        numerator: each person's part of each sum [m p], m at least 2.
        denominator: the same of what it is divided by; no sum is 0, no ratio above 1.
        counts: how many persons each part has [p].
    """
    (persons, parts), total = numerator.shape, denominator.sum(0)
    ratios = numerator.sum(0) / total
    spread = (numerator - ratios * denominator) / total
    alike, mean = (abs(spread) < ALIKE).all(0), float(ratios.mean())
    half = _half_width(_variance_of_sum(spread.mean(1)), persons - 1)
    low, high = _wilson(mean, half)
    reach = _reach_of_alike(ratios[alike], counts[alike])
    down, up = (float(end) / parts for end in reach)
    low, high = mean - math.hypot(mean - low, down), mean + math.hypot(high - mean, up)
    return max(0.0, low), min(1.0, high)


def _wilson(mean: float, half: float) -> tuple[float, float]:
    """The interval of p with |mean - p| at most half sqrt(p (1 - p) / (mean (1 - mean))) (1927).

    So it is wider towards the middle than towards 0 or 1, where it ends.
    """
    if half < ALIKE or not 0 < mean < 1:
        return mean, mean
    ratio = half**2 / (mean * (1 - mean))
    root = math.sqrt(ratio**2 / 4 + half**2)
    middle = mean + ratio / 2
    return (middle - root) / (1 + ratio), (middle + root) / (1 + ratio)


def _variance_of_sum(spread: Floats) -> float:
    """The variance of a sum over units [m], from each one's distance from its mean."""
    return float((spread**2).sum() * len(spread) / (len(spread) - 1))


def _parts(confusions: Ints) -> dict[str, tuple[Floats, NDArray[np.bool_]]]:
    """Figures of confusions [r c c] by class, whose mean counts, and whether a class enters it.

    [r c] each, and [r 1] of accuracy, which has no classes; 0 where a class does not enter.
    """
    hits, true, answered = np.einsum("rcc->rc", confusions), confusions.sum(2), confusions.sum(1)
    present = true > 0
    recall = np.divide(hits, true, out=np.zeros(hits.shape), where=present)
    f1 = np.divide(2 * hits, true + answered, out=np.zeros(hits.shape), where=present)
    accuracy = hits.sum(1, keepdims=True) / true.sum(1, keepdims=True)
    return {
        "accuracy": (accuracy, np.ones(accuracy.shape, bool)),
        "mean_class_accuracy": (recall, present),
        "macro_f1": (f1, present),
    }


def _reach_of_alike(values: Floats, counts: Ints) -> Floats:
    """How far down and up [2] the interval of a sum over classes goes whose units are all alike.

    The classes' own intervals, put together as those of independent figures: the square of its
    distance from the sum is that of theirs, added (Zou and Donner, 2008). So a class of few units
    makes a mean wide by its part in the mean only.

    Args:
        values: each class's figure [c].
        counts: each class's units [c], at least 1.
    """
    ends = [
        interval_of_alike(value, count)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
    ]
    distances = np.array(ends).reshape(-1, 2) - values[:, None]
    reach: Floats = np.sqrt((distances**2).sum(0))
    return reach


def units(groups: Sequence[str], count: int) -> Ints:
    """A number for each image's person, from 0 on [count]; an image without one is its own."""
    names = [name or f"\0{row}" for row, name in enumerate(groups or [""] * count)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


class Estimate(NamedTuple):
    """A mean over seeds on a sample of images, with its 95 % interval.

    `p_value` is that of the mean being 0; of a figure that cannot be 0 it says nothing.
    """

    mean: float
    low: float
    high: float
    p_value: float


def estimate(
    seeds: Sequence[float],
    sampling: float,
    *,
    count: int = 1,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """The interval of a mean over k seeds whose test images are a sample of m units.

    Its variance is s^2 / k of the seeds, with k - 1 degrees of freedom, and `sampling`, with
    m - 1; the degrees of both together are Satterthwaite's (1946, Biometrics Bulletin 2, 110 to
    114). It is never surer than either part alone is (Student's t). One seed says nothing of
    others: its interval is that of the images. One unit does not either: the interval is `limits`.

    Args:
        seeds: the figure of each seed [k].
        sampling: the variance that drawing other units would give, 0 where nothing is known of it.
        count: the units, m, which are persons or images; of no weight where `sampling` is 0.
        limits: the least and the greatest mean that are possible.
    """
    values = np.asarray(seeds, float)
    between = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    variance, mean = between + sampling, float(values.mean())
    if not variance:
        return Estimate(mean, mean, mean, float(mean == 0))
    if sampling and (count < 2 or not math.isfinite(sampling)):
        return Estimate(mean, *limits, 1.0)
    parts = ((between, len(values) - 1), (sampling, count - 1))
    sources: list[tuple[float, float]] = [(part, freedom) for part, freedom in parts if part]
    freedom = variance**2 / sum(part**2 / freedom for part, freedom in sources)
    sources.append((variance, freedom))
    half = max(_half_width(part, freedom) for part, freedom in sources)
    tails = [2 * stats.t.sf(abs(mean) / np.sqrt(part), freedom) for part, freedom in sources]
    low, high = max(limits[0], mean - half), min(limits[1], mean + half)
    return Estimate(mean, low, high, float(max(tails)))


def _half_width(variance: float, freedom: float) -> float:
    """Half of Student's 95 % interval of a mean."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))


def mean_variance(values: Floats, unit: Ints) -> float:
    """The variance that the mean of values [n] has because their units are a sample.

    The linear form of the ratio of sums over units, with the correction of a sample variance.
    Infinite for a single unit, which says nothing of others.
    """
    sums, counts = np.bincount(unit, values), np.bincount(unit)
    if len(counts) < 2:
        return math.inf
    return _variance_of_sum((sums - values.mean() * counts) / len(values))


def accuracy_estimate(runs: Sequence[tuple[Floats, Ints]]) -> Estimate:
    """The mean accuracy over seeds on a sample of images, with its interval.

    That of `estimate`, and never surer than images or persons alone are, which is all of it for one
    seed: see `_wilson`. Where seeds and persons are all alike it is that of `interval_of_alike`,
    and 0 to 1 of one person.

    Args:
        runs: of each seed, whether each image is right [n], and its person [n]; see `units`.
    """
    sampling = float(np.mean([mean_variance(*run) for run in runs]))
    count = min(len(np.unique(unit)) for _, unit in runs)
    means = [float(right.mean()) for right, _ in runs]
    result = estimate(means, sampling, count=count, limits=(0.0, 1.0))
    low, high = 0.0, 1.0
    if result.high - result.low <= ALIKE:
        low, high = interval_of_alike(result.mean, count)
    elif count > 1:
        low, high = _wilson(result.mean, _half_width(sampling, count - 1))
        if len(runs) > 1:
            low, high = min(low, result.low), max(high, result.high)
    return Estimate(result.mean, low, high, result.p_value)


def gain(first: Floats, second: Floats, unit: Ints) -> Estimate:
    """How much more often one method is right than another, on the same images and seeds.

    The interval and p are those of `estimate`, Student's t over seeds and persons. They say of 0
    nearly always the same as `sign_flips`, which of fewer than six persons never gives p < 0.05.

    A single person says nothing of others: from -1 to 1, p = 1. Where n persons all differ alike,
    p is at least 2^(1 - n), that of the exact sign test, and the interval is that of
    `interval_of_alike`; so is that of two models whose answers are the same, where p is 1.

    Args:
        first: whether each seed of the first is right on each image [s n].
        second: the same of the second [s n].
        unit: each image's person [n]; see `units`.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    persons, mean = len(np.unique(unit)), float(difference.mean())
    if persons < 2:
        return Estimate(mean, -1.0, 1.0, 1.0)
    sampling = mean_variance(difference.mean(0), unit)
    result = estimate(difference.mean(1).tolist(), sampling, count=persons, limits=(-1.0, 1.0))
    if result.high - result.low > ALIKE:
        return result
    low, high = interval_of_alike(mean, persons, (-1.0, 1.0))
    return Estimate(mean, low, high, 2.0 ** (1 - persons) if abs(mean) > ALIKE else 1.0)


def sign_flips(
    difference: Floats, unit: Ints, *, resamples: int = 10 * RESAMPLES, seed: int = 0
) -> float:
    """The p value of a mean difference [n] of 0: persons' signs are as likely the other way.

    Where every image is a unit of its own, this is McNemar's test by drawing.
    """
    sums = np.bincount(unit, difference)
    sums = sums[sums != 0]
    random = np.random.default_rng(seed)
    beyond = 0
    for rows in _blocks(resamples, len(sums)):
        signs = random.choice((-1.0, 1.0), size=(rows, len(sums)))
        beyond += int((abs(signs @ sums) >= abs(sums.sum()) - 1e-9).sum())
    return (beyond + 1) / (resamples + 1)


def _blocks(resamples: int, width: int) -> list[int]:
    """How many resamples of `width` numbers are drawn at once: at most `BLOCK` numbers."""
    rows = max(1, BLOCK // max(1, width))
    return [min(rows, resamples - start) for start in range(0, resamples, rows)]


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Discordant:
    """McNemar's exact test of two models on the same images.

    Args:
        first: whether the first model is right [n].
        second: whether the second is.
    """
    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    return Discordant(ours, theirs, float(p_value))


def equal_proportions(correct: Sequence[int], counts: Sequence[int]) -> tuple[str, float]:
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


def equal_proportions_of_persons(
    correct: NDArray[np.bool_],
    number: Ints,
    unit: Ints,
    *,
    resamples: int = 5 * RESAMPLES,
    seed: int = 0,
) -> tuple[str, float]:
    """Test of whether groups of images have one accuracy: the test's name and its p value.

    Where each person is in one group, the persons' groups are permuted, all images of a person
    together; the statistic is the groups' squared distance from the common accuracy, weighted by
    their images, and p is (permutations as far apart + 1) / (resamples + 1). Where persons are in
    several groups, Wald's test takes the covariance between persons; it needs two persons whose
    images are not as right as their group's on average, in each group. ("none", 1.0) where there
    is one group, fewer than three persons, no such spread, or all answers are right, or none.

    Args:
        correct: whether each image is answered rightly [n].
        number: each image's group, from 0 on [n].
        unit: each image's person [n].
        resamples: how many permutations are drawn.
        seed: of the draws.
    """
    groups = int(number.max()) + 1
    rows = np.unique(unit, return_inverse=True)[1]
    persons = int(rows.max()) + 1
    if groups < 2 or persons < 3 or correct.all() or not correct.any():
        return "none", 1.0
    hits, counts = np.zeros((persons, groups)), np.zeros((persons, groups))
    np.add.at(hits, (rows, number), correct)
    np.add.at(counts, (rows, number), 1)
    if ((counts > 0).sum(1) > 1).any():
        return _wald(hits, counts)
    p_value = _permuted_groups(hits.sum(1), counts.sum(1), counts.argmax(1), resamples, seed)
    return "permutation of persons", p_value


def _permuted_groups(hits: Floats, counts: Floats, group: Ints, resamples: int, seed: int) -> float:
    """The p value of so unequal groups; of each person [u] the right images, all, and the group."""
    accuracy = hits.sum() / counts.sum()
    excess = hits - accuracy * counts
    random = np.random.default_rng(seed)

    def spread(labels: Ints) -> Floats:
        """Of each row of labels [r u], the sum of n (accuracy - common accuracy)^2 over groups."""
        total = np.zeros(len(labels))
        for number in range(int(group.max()) + 1):
            own = (labels == number).astype(float)
            total += (own @ excess) ** 2 / (own @ counts)
        return total

    least = float(spread(group[None])[0]) * (1 - 1e-9) - 1e-9  # equal but for rounding
    beyond = 0
    for size in _blocks(resamples, len(group)):
        labels = random.permuted(np.tile(group, (size, 1)), axis=1)
        beyond += int((spread(labels) >= least).sum())
    return (beyond + 1) / (resamples + 1)


def _wald(hits: Floats, counts: Floats) -> tuple[str, float]:
    """Wald's test, from each person's right images and all images in each group [u g]."""
    persons, groups = counts.shape
    total = counts.sum(0)
    proportions = hits.sum(0) / total
    spread = (hits - proportions * counts) / total
    if persons <= groups or ((abs(spread) > 1e-12).sum(0) < 2).any():
        return "none", 1.0
    covariance = spread.T @ spread * persons / (persons - 1)
    contrast = np.hstack([np.eye(groups - 1), -np.ones((groups - 1, 1))])
    apart = contrast @ proportions
    wald = apart @ np.linalg.pinv(contrast @ covariance @ contrast.T) @ apart / (groups - 1)
    return "Wald, by person", float(stats.f.sf(wald, groups - 1, persons - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, corrected for their number (Holm, 1979); in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(
        [(len(p_values) - rank) * p_values[place] for rank, place in enumerate(order)]
    )
    return [min(1.0, float(value)) for value in adjusted]
