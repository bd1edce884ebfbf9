"""Intervals that hold what they promise, and tests of differences against other implementations."""

import math
import tracemalloc
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from fervor.evaluation import significance
from fervor.evaluation.metrics import confusion, per_class
from fervor.evaluation.significance import (
    accuracy_estimate,
    accuracy_interval,
    accuracy_interval_of_persons,
    bootstrap_intervals,
    equal_proportions,
    equal_proportions_of_persons,
    estimate,
    gain,
    grouped_intervals,
    holm,
    interval_of_alike,
    mcnemar,
    mean_variance,
    sign_flips,
    units,
)


# Wilson's interval


@settings(max_examples=30)
@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_is_wilsons(count: int, fraction: float) -> None:
    correct = round(fraction * count)
    z, p = 1.959963984540054, correct / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    low, high = accuracy_interval(correct, count)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert 0 <= low <= p <= high <= 1
    wider = accuracy_interval(correct, count)
    narrower = accuracy_interval(4 * correct, 4 * count)
    assert narrower[1] - narrower[0] < wider[1] - wider[0]


# Bootstrap


def drawn(random: np.random.Generator, count: int, accuracy: float) -> np.ndarray:
    """The confusion [3 3] of pictures of three unequal classes, answered with one accuracy."""
    label = random.choice(3, count, p=[0.5, 0.3, 0.2])
    wrong = (label + random.integers(1, 3, count)) % 3
    return confusion(label, np.where(random.random(count) < accuracy, label, wrong), 3)


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 simulated evaluations, the interval misses the true figure in about one of twenty."""
    random = np.random.default_rng(0)
    held = {"accuracy": 0, "mean_class_accuracy": 0}
    for trial in range(300):
        found = bootstrap_intervals(drawn(random, 300, 0.8), resamples=400, seed=trial)
        for name in held:
            held[name] += found[name][0] <= 0.8 <= found[name][1]
    for name, count in held.items():
        assert 0.91 <= count / 300 <= 0.98, (name, count)


def test_the_multinomial_is_the_bootstrap_of_pictures() -> None:
    """Quantiles are those of drawing the pictures themselves with replacement."""
    random = np.random.default_rng(1)
    table = drawn(random, 200, 0.7)
    label, predicted = np.repeat(
        np.array(np.unravel_index(np.arange(9), (3, 3))), table.ravel(), axis=1
    )
    scores: dict[str, list[float]] = {"accuracy": [], "mean_class_accuracy": [], "macro_f1": []}
    for _ in range(600):
        rows = random.integers(0, 200, 200)
        figures = per_class(label[rows], predicted[rows], 3)
        scores["accuracy"].append(float((label[rows] == predicted[rows]).mean()))
        scores["mean_class_accuracy"].append(figures.mean_class_accuracy())
        scores["macro_f1"].append(figures.macro_f1())
    found = bootstrap_intervals(table, resamples=5000)
    for name, values in scores.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02), name


def test_the_seed_decides_the_interval() -> None:
    table = drawn(np.random.default_rng(2), 100, 0.6)
    assert bootstrap_intervals(table, seed=3) == bootstrap_intervals(table, seed=3)
    assert bootstrap_intervals(table, seed=3) != bootstrap_intervals(table, seed=4)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=9, max_size=9).filter(any))
def test_the_intervals_are_ordered_shares(cells: list[int]) -> None:
    found = bootstrap_intervals(np.array(cells).reshape(3, 3), resamples=50)
    for low, high in found.values():
        assert 0 <= low <= high <= 1


# Differences


def binomial(count: int, k: int) -> float:
    return math.comb(count, k) / 2**count


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_against_its_sum(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    found = mcnemar(first, second)
    b, c = pairs.count((True, False)), pairs.count((False, True))
    assert (found.first_only, found.second_only) == (b, c)
    tail = sum(binomial(b + c, k) for k in range(min(b, c) + 1))
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(second, first).p_value == pytest.approx(found.p_value)


def test_mcnemar_rejects_a_true_hypothesis_rarely() -> None:
    random = np.random.default_rng(0)
    p_values = [
        mcnemar(random.random(400) < 0.8, random.random(400) < 0.8).p_value for _ in range(300)
    ]
    assert np.mean(np.array(p_values) < 0.05) <= 0.07


def pearson(correct: list[int], counts: list[int]) -> float:
    """The chi-square statistic, cell by cell."""
    fraction = sum(correct) / sum(counts)
    total = 0.0
    for hits, count in zip(correct, counts, strict=True):
        for seen, expected in ((hits, count * fraction), (count - hits, count * (1 - fraction))):
            total += (seen - expected) ** 2 / expected
    return total


def test_equal_shares_against_pearson_and_fisher() -> None:
    correct, counts = [80, 60, 45], [100, 90, 50]
    name, p_value = equal_proportions(correct, counts)
    assert name == "chi-square"
    assert p_value == pytest.approx(stats.chi2.sf(pearson(correct, counts), 2))
    name, p_value = equal_proportions([3, 9], [10, 10])
    ways = math.comb(20, 12)
    chances = [math.comb(10, k) * math.comb(10, 12 - k) / ways for k in range(2, 11)]
    expected = sum(chance for chance in chances if chance <= chances[1] * (1 + 1e-9))
    assert (name, p_value) == ("fisher", pytest.approx(expected))


@pytest.mark.parametrize(("correct", "counts"), [([5, 7], [5, 7]), ([0, 0], [5, 7]), ([3], [7])])
def test_nothing_to_compare(correct: list[int], counts: list[int]) -> None:
    assert equal_proportions(correct, counts) == ("none", 1.0)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_against_its_definition(p_values: list[float]) -> None:
    """Step down: reject the smallest while it is below level / hypotheses left."""
    adjusted = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, place in enumerate(order):
            if (len(order) - rank) * p_values[place] > level:
                break
            rejected.add(place)
        assert {place for place, value in enumerate(adjusted) if value <= level} == rejected
    assert all(a <= b for a, b in pairwise(adjusted[place] for place in order))


# Persons


def frames(random: np.random.Generator, persons: int) -> tuple[np.ndarray, ...]:
    """Ten frames a person that are mostly right or mostly wrong together: 0.5 on the whole."""
    unit = np.repeat(np.arange(persons), 10)
    ability = np.where(random.random(persons) < 0.5, 0.9, 0.1)
    label = random.integers(0, 2, persons * 10)
    right = random.random(persons * 10) < ability[unit]
    return label, np.where(right, label, 1 - label), unit


def test_the_intervals_of_persons_hold_the_truth_and_those_of_pictures_do_not() -> None:
    random = np.random.default_rng(0)
    of_persons = of_pictures = of_means = analytic = 0
    for _ in range(200):
        label, answer, unit = frames(random, 40)
        right = (label == answer).astype(float)
        low, high = grouped_intervals(label, answer, unit, 2)["accuracy"]
        of_persons += low <= 0.5 <= high
        low, high = bootstrap_intervals(confusion(label, answer, 2), resamples=400)["accuracy"]
        of_pictures += low <= 0.5 <= high
        low, high = accuracy_interval_of_persons(label == answer, unit)
        of_means += low <= 0.5 <= high
        analytic += abs(right.mean() - 0.5) <= 1.96 * math.sqrt(mean_variance(right, unit))
    assert 0.88 <= of_persons / 200 <= 0.99
    assert 0.88 <= of_means / 200 <= 0.99
    assert 0.88 <= analytic / 200 <= 0.99
    assert of_pictures / 200 < 0.75


@pytest.mark.parametrize("persons", [3, 5, 12, 30])
def test_the_intervals_of_few_persons_hold_the_truth(persons: int) -> None:
    """Abilities differ between persons, who have one to nine pictures of three unequal classes."""
    random = np.random.default_rng(11)
    shares, chance = np.array([0.5, 0.3, 0.2]), 0.8
    truth = shares[:, None] * np.where(np.eye(3), chance, (1 - chance) / 2)
    figures = per_class(
        *np.indices((3, 3)).reshape(2, -1).repeat(np.rint(1000 * truth).ravel().astype(int), 1), 3
    )
    expected = {"accuracy": chance, "mean_class_accuracy": chance, "macro_f1": figures.macro_f1()}
    held, seeds = dict.fromkeys(expected, 0), 0
    for _ in range(400):
        unit = np.repeat(np.arange(persons), random.integers(1, 10, persons))
        label = random.choice(3, len(unit), p=shares)
        right = random.random(len(unit)) < random.beta(6.4, 1.6, persons)[unit]
        answer = np.where(right, label, (label + random.integers(1, 3, len(unit))) % 3)
        intervals = grouped_intervals(label, answer, unit, 3)
        for name, (low, high) in intervals.items():
            assert 0 <= low <= high <= 1
            held[name] += low <= expected[name] <= high
        interval = accuracy_interval_of_persons(right, unit)
        assert interval == pytest.approx(intervals["accuracy"])
        low, high = accuracy_estimate([(right.astype(float), unit)])[1:3]
        seeds += low <= chance <= high
    assert min(*held.values(), seeds) / 400 >= 0.93, (held, seeds)


def test_an_interval_of_persons_by_a_slow_loop() -> None:
    """Wilson's equation with the variance between four persons, its ends found by bisection."""
    unit = np.repeat(np.arange(4), [2, 3, 4, 6])
    right = np.array([1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 0, 1])
    mean, squares = right.mean(), 0.0
    for person in range(4):
        own = right[unit == person]
        squares += (own.sum() - mean * len(own)) ** 2
    variance = squares * 4 / 3 / len(right) ** 2
    assert mean_variance(right.astype(float), unit) == pytest.approx(variance)
    size, quantile = mean * (1 - mean) / variance, 3.182446  # of independent pictures; t of 3

    def apart(p: float) -> float:
        return abs(mean - p) - quantile * math.sqrt(p * (1 - p) / size)

    low, high = accuracy_interval_of_persons(right > 0, unit)
    assert low == pytest.approx(optimize.brentq(apart, 1e-9, mean), abs=1e-6)
    assert high == pytest.approx(optimize.brentq(apart, mean, 1 - 1e-9), abs=1e-6)


def test_a_class_that_persons_have_alike_leaves_others_open() -> None:
    """One wrong answer in a frequent class says nothing of a rare one that two persons have."""
    label = np.array([0, 0, 0, 1] * 2 + [0, 0, 0, 0] * 6)
    unit, answer = np.arange(32) // 4, label.copy()
    answer[0] = 1
    low, high = grouped_intervals(label, answer, unit, 2)["mean_class_accuracy"]
    mean = (25 / 26 + 1) / 2
    assert low < 1 - 0.5 * (1 - interval_of_alike(1, 2)[0]) and mean < high


def test_the_intervals_of_many_persons_take_little_memory() -> None:
    """Pictures without a person are each their own; 2,000 resamples of them were 320 MB."""
    unit, label = np.arange(20_000), np.arange(20_000) % 7
    answer = np.where(unit % 5, label, 0)
    tracemalloc.start()
    grouped_intervals(label, answer, unit, 7)
    accuracy_interval_of_persons(label == answer, unit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_alone_in_their_groups_pictures_are_pictures() -> None:
    random = np.random.default_rng(1)
    label, answer, _ = frames(random, 30)
    unit = units((), len(label))
    assert unit.tolist() == list(range(len(label)))
    assert units(["a", "", "b", "a", ""], 5).tolist() == [0, 1, 2, 0, 3]
    alone = grouped_intervals(label, answer, unit, 2)
    plain = bootstrap_intervals(confusion(label, answer, 2), resamples=4000)
    for name, interval in plain.items():
        assert alone[name] == pytest.approx(interval, abs=0.01), name
    assert alone["accuracy"] == pytest.approx(
        accuracy_interval(int((label == answer).sum()), len(label)), abs=2e-3
    )
    right = (label == answer).astype(float)
    fraction = right.mean()
    assert mean_variance(right, unit) == pytest.approx(fraction * (1 - fraction) / (len(right) - 1))


def test_flips_of_single_pictures_are_mcnemars_test() -> None:
    first, second = np.zeros(200, bool), np.zeros(200, bool)
    first[:30], second[30:42] = True, True
    difference = first.astype(float) - second
    found = sign_flips(difference, np.arange(200), resamples=40_000)
    assert found == pytest.approx(mcnemar(first, second).p_value, abs=0.004)
    together = sign_flips(difference, np.repeat(np.arange(20), 10))
    assert together > 5 * found  # six units differ, not forty-two


def test_flips_that_none_reaches_have_the_p_value_of_the_data_alone() -> None:
    """The signs as they are count too: of 999 draws that are all less, p is 1 in 1,000, not 0."""
    assert sign_flips(np.ones(60), np.arange(60), resamples=999) == 1 / 1000


def test_blocks_of_flips_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    difference, unit = random.integers(-1, 2, 90).astype(float), np.arange(90) // 3
    at_once = sign_flips(difference, unit, resamples=1001)
    monkeypatch.setattr(significance, "BLOCK", 333)
    assert sign_flips(difference, unit, resamples=1001) == at_once
    assert 0.01 < at_once < 1


def test_flips_of_many_persons_take_little_memory() -> None:
    difference = np.where(np.arange(2000) % 3, 1.0, -1.0)
    tracemalloc.start()
    sign_flips(difference, np.arange(2000), resamples=5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6  # 16 bytes for each of ten million signs, drawn at once


def test_an_estimate_over_seeds_is_students() -> None:
    values = [0.80, 0.82, 0.85]
    found = estimate(values, 0.0)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.p_value == pytest.approx(2 * stats.t.sf(np.mean(values) / stats.sem(values), 2))
    assert estimate(values, 0.0004, count=3000).high == found.high  # never surer than the seeds
    assert estimate([0.0], 0.0).p_value == 1 and estimate([0.5], 0.0).p_value == 0


def test_an_estimate_over_few_units_is_students_too() -> None:
    """Satterthwaite's degrees by hand, and those of the units where they are the less sure."""
    alone = estimate([0.8], 0.0004, count=12)
    assert alone.high - 0.8 == pytest.approx(2.200985 * 0.02)  # 11 degrees of freedom
    assert estimate([0.8], 0.0004, count=100_000).high - 0.8 == pytest.approx(
        1.95999 * 0.02, rel=1e-5
    )
    seeds = [-0.01, 0.01, 0.03, 0.05]  # s^2 / k = 0.02^2 * 5 / 3 / 4
    between, sampling = 0.02**2 / 2.4, 0.0002
    freedom = (between + sampling) ** 2 / (between**2 / 3 + sampling**2 / 11)
    assert freedom == pytest.approx(10.4, abs=0.1)
    both = estimate(seeds, sampling, count=12)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(between + sampling)
    assert both[:3] == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    assert both.p_value == pytest.approx(
        2 * stats.t.sf(0.02 / math.sqrt(between + sampling), freedom)
    )
    three = estimate(seeds, 0.04, count=3)
    assert three.high - 0.02 == pytest.approx(4.302653 * 0.2)  # never surer than the units alone
    bounded = estimate(seeds, 0.04, count=3, limits=(-0.5, 0.5))
    assert bounded == (three.mean, -0.5, 0.5, three.p_value)
    assert estimate([0.5], 0.01, limits=(0, 1)) == (0.5, 0, 1, 1)  # of one unit


@pytest.mark.parametrize("persons", [3, 5, 12])
def test_few_persons_make_a_gain_no_surer_than_it_is(persons: int) -> None:
    """Of 600 gains that are 0 by truth the interval misses one in twenty, as do the flips."""
    random = np.random.default_rng(10)
    unit, held, agree = np.repeat(np.arange(persons), 20), 0, 0
    for _ in range(600):
        better = random.normal(0, 0.15, persons)
        first, second = (
            random.random(len(unit)) < np.clip(0.8 + sign * better, 0, 1)[unit] for sign in (1, -1)
        )
        result = gain(first[None], second[None], unit)
        assert -1 <= result.low <= result.mean <= result.high <= 1
        assert (result.low <= 0 <= result.high) == (result.p_value >= 0.05)
        held += result.low <= 0 <= result.high
        flips = sign_flips(first.astype(float) - second, unit, resamples=1000)
        agree += (result.low <= 0 <= result.high) == (flips > 0.05)
    assert 0.93 <= held / 600 <= 0.98
    assert agree / 600 > (0.98 if persons > 5 else 0.92)  # five signs alike have p = 1 / 16


def test_a_gain_is_paired() -> None:
    """The same pictures are hard for both: a small difference is seen all the same."""
    random = np.random.default_rng(2)
    hard = random.random(1000) < 0.5
    second = np.array([~hard, ~hard, ~hard])
    first = second.copy()
    first[:, np.flatnonzero(hard)[:20]] = True
    found = gain(first, second, np.arange(1000))
    assert found.mean == pytest.approx(0.02)
    assert 0 < found.low < 0.02 < found.high and found.p_value < 0.001
    assert gain(second, first, np.arange(1000)).mean == pytest.approx(-0.02)
    persons = np.arange(1000) // 500
    assert gain(first, second, persons).p_value > 0.05


def test_one_person_says_nothing_of_others() -> None:
    first, second = np.ones((1, 20)), np.repeat([1.0, 0.0], [15, 5])[None]
    unit = np.zeros(20, np.int64)
    assert gain(first, second, unit) == (0.25, -1, 1, 1)
    assert gain(first, first, unit) == (0, -1, 1, 1)
    assert gain(first.repeat(3, 0), second.repeat(3, 0), unit) == (0.25, -1, 1, 1)
    label = np.arange(20) % 2
    intervals = grouped_intervals(label, label, unit, 2)
    assert list(intervals) == ["accuracy", "mean_class_accuracy", "macro_f1"]
    assert set(intervals.values()) == {(0.0, 1.0)}
    assert accuracy_interval_of_persons(second[0] > 0, unit) == (0, 1)
    assert estimate([0.5], mean_variance(second[0], unit)) == (0.5, -math.inf, math.inf, 1)


@pytest.mark.parametrize("count", [2, 3, 5, 6, 40])
def test_a_constant_difference_is_as_sure_as_the_exact_test(count: int) -> None:
    first, second = np.ones((1, count)), np.zeros((1, count))
    result = gain(first, second, np.arange(count))
    assert result.mean == 1 == pytest.approx(result.high)
    assert result.p_value == mcnemar(first[0] > 0, second[0] > 0).p_value
    assert (result.low > 0) == (result.p_value < 0.05)
    # persons of two images, one of which both get right
    half = gain(np.ones((1, 2 * count)), np.arange(2 * count)[None] % 2, np.arange(2 * count) // 2)
    assert half.low < half.mean == 0.5 < half.high < 1
    assert half.p_value == result.p_value


def test_models_with_the_same_answers_may_differ_on_other_persons() -> None:
    first, unit = np.repeat([[1.0, 0.0]], [70, 50], axis=1), np.arange(120) // 10
    others = 1 - 0.025 ** (1 / 12)  # of twelve persons
    for seeds in (1, 3):
        result = gain(first.repeat(seeds, 0), first.repeat(seeds, 0), unit)
        assert result == (0, pytest.approx(-others), pytest.approx(others), 1)


@pytest.mark.parametrize("count", [2, 3, 12, 40, 1000])
def test_persons_who_are_all_right_leave_others_open(count: int) -> None:
    """The lower end is the accuracy that all n persons have with a probability of 2.5 %."""
    exact = stats.binomtest(count, count).proportion_ci(0.95, method="exact")
    unit = np.repeat(np.arange(count), 6)
    label = np.arange(6 * count) % 3
    expected = pytest.approx((exact.low, 1))
    assert interval_of_alike(1, count) == expected
    intervals = grouped_intervals(label, label, unit, 3)
    assert intervals["accuracy"] == expected
    right = np.ones(len(unit))
    assert accuracy_interval_of_persons(right > 0, unit) == expected
    assert accuracy_estimate([(right, unit)] * 2)[1:3] == expected
    low, high = accuracy_interval_of_persons(right < 0, unit)
    assert (1 - high, 1 - low) == expected
    table = np.diag([count, 0])
    assert set(bootstrap_intervals(table, resamples=50).values()) == {intervals["accuracy"]}
    # three classes, each seen in all persons
    assert intervals["macro_f1"] == intervals["mean_class_accuracy"]
    low, high = intervals["mean_class_accuracy"]
    assert (high, 1 - low) == (1, pytest.approx((1 - exact.low) / math.sqrt(3)))


def test_persons_who_are_alike_but_not_right_leave_others_open() -> None:
    unit = np.repeat(np.arange(5), 4)
    right = np.tile([1.0, 1, 1, 0], 5)
    others = 1 - 0.025 ** (1 / 5)
    expected = pytest.approx((0.75 - 0.75 * others, 0.75 + 0.25 * others))
    assert accuracy_interval_of_persons(right > 0, unit) == expected
    label = np.zeros(20, np.int64)
    assert grouped_intervals(label, 1 - right.astype(int), unit, 2)["accuracy"] == expected
    assert accuracy_estimate([(right, unit)])[1:3] == expected


def test_a_class_of_one_image_is_wide_by_its_part_in_the_mean() -> None:
    intervals = bootstrap_intervals(np.diag([1000, 1000, 1000, 1]), resamples=50)
    low, high = intervals["mean_class_accuracy"]
    assert (low, high) == (pytest.approx(1 - 0.975 / 4, abs=1e-4), 1)
    assert intervals["accuracy"][0] > 0.998
    wrong = bootstrap_intervals(np.array([[0, 50], [50, 0]]), resamples=50)
    assert wrong["mean_class_accuracy"][0] == 0 < wrong["mean_class_accuracy"][1] < 0.06


def test_intervals_of_few_persons_who_are_mostly_right_hold_the_truth() -> None:
    """Seven of ten samples have no error; without an interval there they would all miss."""
    random = np.random.default_rng(9)
    unit, label = np.repeat(np.arange(10), 4), np.arange(40) % 2
    caught = {"accuracy": 0, "mean_class_accuracy": 0, "macro_f1": 0}
    alone = analytic = errorless = 0
    for _ in range(200):
        right = (random.random(10) < 0.965)[unit]
        intervals = grouped_intervals(label, np.where(right, label, 1 - label), unit, 2)
        for name in caught:
            low, high = intervals[name]
            caught[name] += low <= 0.965 <= high
        low, high = accuracy_interval_of_persons(right, unit)
        alone += low <= 0.965 <= high
        low, high = accuracy_estimate([(right.astype(float), unit)])[1:3]
        analytic += low <= 0.965 <= high
        errorless += right.all()
    assert 0.6 < errorless / 200 < 0.8
    assert min(*caught.values(), alone, analytic) / 200 >= 0.95


def test_an_estimate_of_accuracy_is_that_of_its_seeds_and_persons() -> None:
    random = np.random.default_rng(4)
    unit = np.arange(300) // 3
    runs = [((random.random(300) < 0.8).astype(float), unit) for _ in range(3)]
    sampling = np.mean([mean_variance(*run) for run in runs])
    means = [run[0].mean() for run in runs]
    assert accuracy_estimate(runs) == estimate(means, sampling, count=100, limits=(0, 1))
    alone = accuracy_estimate(runs[:1])[1:3]
    assert alone == pytest.approx(accuracy_interval_of_persons(runs[0][0] > 0, unit))
    again = accuracy_estimate(runs[:1] * 3)[1:3]
    assert again[0] <= alone[0] < alone[1] <= again[1]  # seeds that are alike make nothing surer
    one = np.zeros(300, np.int64)
    assert accuracy_estimate([(runs[0][0], one)])[1:3] == (0, 1)


def test_groups_of_persons_differ_less_surely_than_of_pictures() -> None:
    random = np.random.default_rng(3)
    rejected = {"persons": 0, "pictures": 0}
    for _ in range(200):
        label, answer, unit = frames(random, 40)
        correct, number = label == answer, unit % 2
        rejected["persons"] += (
            equal_proportions_of_persons(correct, number, unit, resamples=400)[1] < 0.05
        )
        hits = [int(correct[number == group].sum()) for group in (0, 1)]
        rejected["pictures"] += equal_proportions(hits, [200, 200])[1] < 0.05
    assert rejected["persons"] / 200 < 0.1 < 0.3 < rejected["pictures"] / 200
    ones = np.ones(8, bool)
    assert equal_proportions_of_persons(ones, np.arange(8) % 2, np.arange(8)) == ("none", 1.0)


def test_persons_all_right_and_persons_all_wrong_differ() -> None:
    """The most extreme difference has no spread within a group."""
    unit = np.repeat(np.arange(50), 2)
    test, p_value = equal_proportions_of_persons(unit < 25, (unit >= 25).astype(int), unit)
    assert (test, p_value) == ("permutation of persons", pytest.approx(1 / 10_001))


def test_the_permutation_of_persons_against_every_division() -> None:
    """Seven persons with two, three or four images; all 35 divisions into three and four."""
    hits, counts = np.array([2, 2, 3, 1, 0, 1, 2]), np.array([2, 3, 4, 2, 3, 4, 2])
    unit = np.repeat(np.arange(7), counts)
    correct = np.concatenate([np.arange(n) < h for h, n in zip(hits, counts, strict=True)])

    def apart(members: tuple[int, ...]) -> float:
        rows, total = list(members), 0.0
        others = [person for person in range(7) if person not in members]
        for group in (rows, others):
            accuracy = hits[group].sum() / counts[group].sum()
            total += counts[group].sum() * (accuracy - hits.sum() / counts.sum()) ** 2
        return total

    divisions = [apart(members) for members in combinations(range(7), 3)]
    expected = np.mean(np.array(divisions) >= apart((0, 1, 2)) - 1e-9)
    _, p_value = equal_proportions_of_persons(correct, (unit > 2).astype(int), unit)
    assert p_value == pytest.approx(expected, abs=0.01) and p_value < 0.2


def test_a_group_of_one_person_rejects_a_true_hypothesis_rarely() -> None:
    random = np.random.default_rng(7)
    unit, rejected = np.repeat(np.arange(8), 20), 0
    for _ in range(200):
        correct = random.random(160) < random.beta(2, 1, 8)[unit]
        _, p_value = equal_proportions_of_persons(
            correct, (unit == 0).astype(int), unit, resamples=200
        )
        rejected += p_value < 0.05
    assert rejected / 200 <= 0.08


def test_persons_in_several_groups_need_spread_in_each() -> None:
    random = np.random.default_rng(8)
    unit, number = np.repeat(np.arange(30), 8), np.arange(240) % 2
    correct = random.random(240) < np.where(number, 0.9, 0.4)
    test, p_value = equal_proportions_of_persons(correct, number, unit)
    assert test == "Wald, by person" and p_value < 0.001
    assert equal_proportions_of_persons(number == 0, number, unit) == ("none", 1.0)


def test_wald_of_four_persons_by_hand() -> None:
    """Two images of each person in each group: 6 of 8 right against 3 of 8.

    The persons' parts of the difference are (1, 1, 1, -3) / 32. Their squares' sum times 4 / 3 is
    1 / 64, so that (3 / 8)^2 is nine times the variance: Student's t is 3, with three degrees of
    freedom, of which the p value is 1 / 3 - sqrt(3) / (2 pi).
    """
    unit, number = np.repeat(np.arange(4), 4), np.tile([0, 0, 1, 1], 4)
    hits = ((2, 1), (1, 0), (2, 1), (1, 1))
    correct = np.array([image < many for person in hits for many in person for image in (0, 1)])
    test, p_value = equal_proportions_of_persons(correct, number, unit)
    assert test == "Wald, by person"
    assert p_value == pytest.approx(1 / 3 - math.sqrt(3) / (2 * math.pi))


def test_permutations_of_many_persons_take_little_memory() -> None:
    unit = np.arange(4000)
    tracemalloc.start()
    equal_proportions_of_persons(unit % 3 > 0, unit % 2, unit, resamples=1500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
