"""Metrics against slow restatements and other implementations on random inputs."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import optimize
from sklearn import metrics as sklearn_metrics

from fervor.evaluation.metrics import (
    brier_score,
    confusion,
    coverage_risk,
    expected_calibration_error,
    fitted_temperature,
    negative_log_likelihood,
    per_class,
    reliability,
    softmax,
    summary,
    top_k_accuracy,
)


Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Case = tuple[Floats, Ints]

LABELS = ("neutral", "happiness", "sadness", "anger")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Probabilities [n 4] and labels [n]; ties and absent classes occur."""
    count = draw(st.integers(1, 40))
    logits = draw(
        arrays.arrays(np.float64, (count, 4), elements=st.sampled_from([0.0, 0.5, 1.0, 3.0, 8.0]))
    )
    label = draw(arrays.arrays(np.int64, count, elements=st.integers(0, 3)))
    return softmax(logits), label


def answer(row: Floats) -> int:
    """The first of the most probable classes."""
    best = 0
    for number, probability in enumerate(row):
        if probability > row[best]:
            best = number
    return best


@settings(max_examples=20)
@given(cases())
def test_figures_against_counting(case: Case) -> None:
    probabilities, label = case
    found = summary(probabilities, label, LABELS)
    answers = [answer(row) for row in probabilities]
    pairs = list(zip(label.tolist(), answers, strict=True))
    assert found["count"] == len(pairs)
    assert found["correct"] == sum(a == b for a, b in pairs)
    assert found["accuracy"] == pytest.approx(found["correct"] / len(pairs))
    recalls, scores = [], []
    for number, name in enumerate(LABELS):
        hit = pairs.count((number, number))
        true, given_ = (sum(pair[side] == number for pair in pairs) for side in (0, 1))
        precision, recall = hit / max(given_, 1), hit / max(true, 1)
        score = 2 * hit / max(true + given_, 1)
        figures = found["classes"][name]
        assert figures["count"] == true
        expected = (precision, recall, score)
        assert (figures["precision"], figures["recall"], figures["f1"]) == pytest.approx(expected)
        assert found["confusion"][number] == [pairs.count((number, other)) for other in range(4)]
        if true:
            recalls.append(recall)
            scores.append(score)
    assert found["mean_class_accuracy"] == pytest.approx(sum(recalls) / len(recalls))
    assert found["macro_f1"] == pytest.approx(sum(scores) / len(scores))
    surprise = [-math.log(row[k]) for row, k in zip(probabilities.tolist(), label, strict=True)]
    assert found["negative_log_likelihood"] == pytest.approx(sum(surprise) / len(surprise))
    json.dumps(found)


@settings(max_examples=20)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_pictures_changes_nothing(case: Case, random: Any) -> None:
    probabilities, label = case
    order = list(range(len(label)))
    random.shuffle(order)
    first = summary(probabilities, label, LABELS)
    second = summary(probabilities[order], label[order], LABELS)
    for name in ("accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood"):
        assert second[name] == pytest.approx(first[name])


def test_a_certain_mistake_stays_finite() -> None:
    found = summary(np.array([[1.0, 0.0]]), np.array([1]), ("neutral", "anger"))
    assert found["negative_log_likelihood"] == pytest.approx(-math.log(1e-12))


def test_confusion_keeps_absent_classes() -> None:
    found = confusion(np.array([0, 0]), np.array([0, 2]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


# Calibration


def calibration_by_hand(probabilities: Floats, label: Ints, bins: int) -> float:
    """Pictures in order of confidence, dealt out to bins whose sizes differ by one at most."""
    ranked = sorted(
        (max(row), float(answer(np.array(row)) == k))
        for row, k in zip(probabilities.tolist(), label.tolist(), strict=True)
    )
    total, start = 0.0, 0
    for number in range(bins):
        size = len(ranked) // bins + (number < len(ranked) % bins)
        chunk = ranked[start : start + size]
        start += size
        if chunk:
            confidence = sum(pair[0] for pair in chunk) / size
            total += size * abs(sum(pair[1] for pair in chunk) / size - confidence)
    assert start == len(ranked)
    return total / len(ranked)


@pytest.mark.parametrize(("count", "bins"), [(1, 15), (14, 15), (15, 15), (100, 15), (97, 4)])
def test_calibration_error_against_a_slow_loop(count: int, bins: int) -> None:
    random = np.random.default_rng(count)
    probabilities = softmax(random.normal(size=(count, 4)) * 2)  # confidences without ties
    label = random.integers(0, 4, count)
    found = expected_calibration_error(probabilities, label, bins=bins)
    assert found == pytest.approx(calibration_by_hand(probabilities, label, bins))
    assert 0 <= found <= 1


def test_the_order_of_images_of_equal_confidence_changes_no_bin() -> None:
    sixty = np.tile([0.4, 0.6], (100, 1))
    label = (np.arange(100) < 60).astype(np.int64)
    assert expected_calibration_error(sixty, label) == pytest.approx(0)
    random = np.random.default_rng(0)
    coarse = np.round(random.uniform(0.5, 1, 200), 1)
    probabilities = np.stack([1 - coarse, coarse], 1)
    label = random.integers(0, 2, 200)
    order = random.permutation(200)
    accuracy = reliability(probabilities, label).accuracy
    assert reliability(probabilities[order], label[order]).accuracy == pytest.approx(accuracy)


def test_calibration_error_without_ties_is_that_of_the_plain_bins() -> None:
    """To the bit: the mean of one image is the image."""
    random = np.random.default_rng(1)
    probabilities = softmax(random.normal(size=(500, 4)))
    correct, order = probabilities.argmax(1) == 0, np.argsort(probabilities.max(1))
    expected = [correct[chunk].mean() for chunk in np.array_split(order, 15)]
    label = np.zeros(500, np.int64)
    assert reliability(probabilities, label).accuracy.tolist() == expected


def test_calibration_error_at_its_ends() -> None:
    sure = np.tile([0.0, 1.0], (30, 1))
    assert expected_calibration_error(sure, np.ones(30, np.int64)) == 0
    assert expected_calibration_error(sure, np.zeros(30, np.int64)) == 1
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 60_000)
    label = (random.uniform(size=60_000) < confidence).astype(np.int64)
    honest = np.stack([1 - confidence, confidence], 1)
    assert expected_calibration_error(honest, label) < 0.01


def overconfident(count: int = 400, *, factor: float = 5.0) -> Case:
    """Logits that are `factor` times as large as the labels deserve."""
    random = np.random.default_rng(1)
    logits = 2 * random.normal(size=(count, 4))
    label = np.array([random.choice(4, p=row) for row in softmax(logits)])
    return factor * logits, label


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_the_fitted_temperature_is_the_best_of_a_scan(factor: float) -> None:
    logits, label = overconfident(factor=factor)

    def loss(temperature: float) -> float:
        own = softmax(logits, temperature)[np.arange(len(label)), label]
        prior = math.log2(temperature) ** 2 / 2
        return float(-np.log(own).mean() + prior / len(label))

    found = fitted_temperature(logits, label)
    scan = np.exp(np.linspace(math.log(0.05), math.log(20), 400))
    best = min(scan, key=loss)
    assert loss(found) <= loss(best) + 1e-6
    assert found == pytest.approx(best, rel=0.03)
    assert found == pytest.approx(factor, rel=0.25)
    assert (softmax(logits, found).argmax(1) == logits.argmax(1)).all()


def all_right(count: int, margin: float) -> Case:
    """Logits of three classes whose true one is ahead by `margin` on average, and always ahead."""
    random = np.random.default_rng(2)
    label = np.arange(count) % 3
    ahead = margin * random.uniform(0.5, 1.5, count)
    return ahead[:, None] * np.eye(3)[label], label


@pytest.mark.parametrize("margin", [0.5, 2.0, 8.0])
def test_few_images_without_an_error_do_not_make_a_model_sure(margin: float) -> None:
    """The likelihood alone leads to the bound, where each probability is 0 or 1."""
    temperatures = []
    for count in (1, 3, 12, 30, 100):
        logits, label = all_right(count, margin)
        temperatures.append(fitted_temperature(logits, label))
        sure = softmax(logits, temperatures[-1]).max(1)
        if margin < 8:  # a model that is not sure already: Laplace's chance of an error, about
            assert 1 - sure.mean() > 0.5 / (count + 2)
    assert all(0.05 < found < 1 for found in temperatures)
    repeated = [
        fitted_temperature(np.tile(logits, (times, 1)), np.tile(label, times))
        for logits, label in [all_right(6, margin)]
        for times in (1, 2, 4, 8, 16, 64)
    ]
    assert repeated == sorted(repeated, reverse=True)  # more images say more
    logits, label = all_right(6, margin)
    wrong = fitted_temperature(logits, (label + 1) % 3)
    assert 1 < wrong < 15
    factors = [fitted_temperature(factor * logits, label) for factor in (0.3, 1, 3, 10, 30)]
    assert factors[-1] == pytest.approx(1, abs=0.01) and factors[-1] > factors[1]


@pytest.mark.parametrize("factor", [0.3, 0.7, 1.0, 5.0])
def test_thousands_of_images_fit_as_their_likelihood_does(factor: float) -> None:
    logits, label = overconfident(4000, factor=factor)

    def slope(temperature: float) -> float:
        """Of the negative log likelihood, by the inverse temperature."""
        probabilities = softmax(logits, temperature)
        expected = (probabilities * logits).sum(1)
        return float((expected - logits[np.arange(len(label)), label]).mean())

    alone = optimize.brentq(slope, 0.05, 20, xtol=1e-9)
    assert fitted_temperature(logits, label) == pytest.approx(alone, rel=2e-3)


@settings(max_examples=20)
@given(cases(), st.floats(0.05, 20))
def test_probabilities_sum_to_one_at_any_temperature(case: Case, temperature: float) -> None:
    logits = 100 * np.log(case[0])
    found = softmax(logits, temperature)
    np.testing.assert_allclose(found.sum(1), 1)
    direct = [math.exp((x - max(logits[0])) / temperature) for x in logits[0]]
    np.testing.assert_allclose(found[0], np.array(direct) / sum(direct), atol=1e-12)


@settings(max_examples=20)
@given(cases(), st.integers(1, 20))
def test_bins_of_equal_width_against_a_loop(case: Case, bins: int) -> None:
    probabilities, label = case
    total, filled = 0.0, 0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        members = [
            (max(row), float(answer(np.array(row)) == k))
            for row, k in zip(probabilities.tolist(), label.tolist(), strict=True)
            if low < max(row) <= high or (number == bins - 1 and max(row) > high)
        ]
        if members:
            filled += 1
            total += abs(sum(pair[1] - pair[0] for pair in members))
    found = expected_calibration_error(probabilities, label, bins=bins, spacing="width")
    assert found == pytest.approx(total / len(label), abs=1e-9)
    assert len(reliability(probabilities, label, bins=bins, spacing="width").support) == filled


@settings(max_examples=20)
@given(cases(), st.integers(1, 20), st.sampled_from(["mass", "width"]))
def test_bins_hold_every_picture_once(case: Case, bins: int, spacing: Any) -> None:
    probabilities, label = case
    found = reliability(probabilities, label, bins=bins, spacing=spacing)
    assert found.support.sum() == len(label) and (found.support > 0).all()
    assert (found.low <= found.confidence + 1e-12).all()
    assert (found.confidence <= found.high + 1e-12).all()
    assert (found.support * found.accuracy).sum() == pytest.approx(
        (probabilities.argmax(1) == label).sum()
    )
    if spacing == "mass":
        assert found.support.max() - found.support.min() <= 1


# Scores of probabilities


@settings(max_examples=20)
@given(cases())
def test_scores_against_scikit_learn(case: Case) -> None:
    probabilities, label = case
    expected = sklearn_metrics.brier_score_loss(
        label, probabilities, labels=range(4), scale_by_half=False
    )
    assert brier_score(probabilities, label) == pytest.approx(expected)
    assert 0 <= brier_score(probabilities, label) <= 2
    expected = sklearn_metrics.log_loss(label, probabilities, labels=range(4))
    assert negative_log_likelihood(probabilities, label) == pytest.approx(expected)


def test_scores_at_their_ends() -> None:
    sure = np.eye(4)
    assert brier_score(sure, np.arange(4)) == 0
    assert brier_score(sure, np.roll(np.arange(4), 1)) == 2
    assert brier_score(np.full((4, 4), 0.25), np.arange(4)) == pytest.approx(0.75)


@settings(max_examples=20)
@given(cases(), st.integers(1, 4))
def test_the_k_most_probable_against_sorting(case: Case, k: int) -> None:
    probabilities, label = case
    hits = [
        own in sorted(range(4), key=lambda number: (-row[number], number))[:k]
        for row, own in zip(probabilities.tolist(), label.tolist(), strict=True)
    ]
    assert top_k_accuracy(probabilities, label, k) == pytest.approx(sum(hits) / len(hits))


def test_the_k_most_probable_against_scikit_learn() -> None:
    random = np.random.default_rng(2)
    probabilities = softmax(random.normal(size=(200, 4)))  # without ties
    label = random.integers(0, 4, 200)
    for k in (1, 2, 3):
        expected = sklearn_metrics.top_k_accuracy_score(label, probabilities, k=k, labels=range(4))
        assert top_k_accuracy(probabilities, label, k) == pytest.approx(expected)
    assert top_k_accuracy(probabilities, label, 4) == 1


@settings(max_examples=20)
@given(cases())
def test_one_most_probable_class_is_the_answer(case: Case) -> None:
    probabilities, label = case
    figures = summary(probabilities, label, LABELS)
    assert top_k_accuracy(probabilities, label, 1) == pytest.approx(figures["accuracy"])
    assert figures["top_2_accuracy"] >= figures["accuracy"]


@settings(max_examples=20)
@given(cases())
def test_mean_class_accuracy_against_scikit_learn(case: Case) -> None:
    probabilities, label = case
    predicted = probabilities.argmax(1)
    found = per_class(label, predicted, 4)
    present = sorted(set(label.tolist()))
    recall = sklearn_metrics.recall_score(
        label, predicted, labels=present, average="macro", zero_division=0
    )
    assert found.mean_class_accuracy() == pytest.approx(recall)
    f1 = sklearn_metrics.f1_score(
        label, predicted, labels=present, average="macro", zero_division=0
    )
    assert found.macro_f1() == pytest.approx(f1)


# Answering only the surest


def test_coverage_and_risk_against_a_loop() -> None:
    random = np.random.default_rng(3)
    probabilities = softmax(random.normal(size=(60, 4)) * 2)  # confidences without ties
    label = random.integers(0, 4, 60)
    found = coverage_risk(probabilities, label)
    ranked = sorted(range(60), key=lambda row: -max(probabilities[row]))
    wrong = 0
    for rank, row in enumerate(ranked, start=1):
        wrong += answer(probabilities[row]) != label[row]
        assert found.coverage[rank - 1] == pytest.approx(rank / 60)
        assert found.risk[rank - 1] == pytest.approx(wrong / rank)
    assert found.area() == pytest.approx(found.risk.mean())


@settings(max_examples=20)
@given(cases(), st.randoms(use_true_random=False))
def test_coverage_ends_at_the_error_and_heeds_no_order(case: Case, random: Any) -> None:
    probabilities, label = case
    found = coverage_risk(probabilities, label)
    error = (probabilities.argmax(1) != label).mean()
    assert found.coverage[-1] == 1 and found.risk[-1] == pytest.approx(error)
    assert (found.risk >= -1e-12).all() and (found.risk <= 1 + 1e-12).all()
    order = list(range(len(label)))
    random.shuffle(order)
    np.testing.assert_allclose(coverage_risk(probabilities[order], label[order]).risk, found.risk)


def test_equal_confidences_carry_no_order() -> None:
    probabilities = np.tile([0.75, 0.25], (8, 1))
    found = coverage_risk(probabilities, np.array([0, 0, 0, 0, 0, 0, 1, 1]))
    np.testing.assert_allclose(found.risk, 0.25)


def test_sorting_by_confidence_lowers_the_area() -> None:
    """A ranking by true confidence beats one by noise, and mistakes first are the worst."""
    correct = np.arange(100) < 80
    label = np.where(correct, 0, 1)

    def area(confidence: Floats) -> float:
        return coverage_risk(np.stack([confidence, 1 - confidence], 1), label).area()

    good = np.linspace(0.99, 0.51, 100)
    shuffled = np.random.default_rng(0).permutation(good)
    assert area(good) < area(shuffled) < area(good[::-1])
