"""Both operating points against slow readings, and what evaluation says of them."""

from dataclasses import asdict

import numpy as np
import pytest

from fervor.evaluation.metrics import softmax
from fervor.evaluation.operating_points import (
    GIVEN,
    PRIOR_FRACTIONS,
    figures_at_points,
    fitted_points,
    log_prior,
    threshold,
)


COUNTS = (800, 150, 50)


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that leans to what is frequent, and classes in the training's shares."""
    random = np.random.default_rng(0)
    label = random.choice(3, 1500, p=np.array(COUNTS) / 1000)
    evidence = 1.6 * np.eye(3)[label] + random.normal(0, 0.9, (1500, 3))
    return 2 * evidence + log_prior(COUNTS), label


def test_the_log_prior_is_finite() -> None:
    np.testing.assert_allclose(np.exp(log_prior(COUNTS)), [0.8, 0.15, 0.05])
    assert np.isfinite(log_prior((10, 0))).all()


def test_the_share_is_the_best_that_can_be_afforded(
    answers: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, label = answers
    points = fitted_points(logits, label, COUNTS)

    def figures(fraction: float) -> tuple[float, float]:
        answer = (logits - fraction * np.log(np.array(COUNTS) / 1000)).argmax(1)
        recalls = [float((answer[label == c] == c).mean()) for c in range(3)]
        return float((answer == label).mean()), sum(recalls) / 3

    natural = figures(0)[0]
    affordable = [s for s in PRIOR_FRACTIONS if figures(s)[0] >= natural - GIVEN]
    best = max(figures(s)[1] for s in affordable)
    fraction = points.prior_share
    assert fraction == min(s for s in affordable if figures(s)[1] == best) > 0
    found = asdict(points.balanced)
    assert (found["accuracy"], found["mean_class_accuracy"]) == pytest.approx(figures(fraction))
    assert points.natural.accuracy == natural
    assert found["mean_class_accuracy"] > points.natural.mean_class_accuracy


def test_classes_of_one_size_have_one_point() -> None:
    logits, label = np.eye(3) * 4, np.arange(3)
    points = fitted_points(logits, label, (7, 7, 7))
    assert points.prior_share == 0
    assert points.natural == points.balanced


def test_above_the_threshold_nine_of_ten_are_right(
    answers: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, label = answers
    probabilities = softmax(logits)
    found = threshold(probabilities, label)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == label
    assert correct.mean() < 0.9 <= correct[confidence >= found].mean()
    for lower in confidence[confidence < found - 1e-6]:
        assert correct[confidence >= lower].mean() < 0.9
    assert threshold(probabilities, label, right=0.1) <= confidence.min()


def test_equal_confidences_stay_together() -> None:
    """Two of the surest three are wrong, and nobody can tell which."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    assert threshold(probabilities, np.array([0, 1, 1, 0])) == 0.9  # no answer is safe: the highest
    assert threshold(probabilities, np.array([0, 0, 0, 1])) == 0.9
    assert threshold(probabilities, np.array([0, 0, 0, 0])) == 0.6


@pytest.mark.parametrize("right_first", [True, False])
def test_a_tie_of_a_right_and_a_wrong_answer_is_below_the_threshold(right_first: bool) -> None:
    """In whichever order they come: the right one alone cannot be answered."""
    probabilities = np.array([[0.99, 0.01], [0.8, 0.2], [0.8, 0.2]])
    assert threshold(probabilities, np.array([0, not right_first, right_first])) == 0.99


def test_few_images_without_an_error_leave_the_threshold_at_what_it_promises() -> None:
    """A model that is surer than 0.9 of every one of them would abstain on all that it sees."""
    label = np.arange(12) % 2
    sure = np.where(np.eye(2)[label] > 0, 0.9999, 0.0001)
    assert threshold(sure, label) == 0.9
    assert threshold(np.vstack([sure, [0.7, 0.3]]), np.append(label, 0)) == 0.7
    assert threshold(np.vstack([sure, [0.95, 0.05]]), np.append(label, 1)) == 0.9
    four = np.append(label[:4], 1)  # the fifth is wrong: below the others, there it begins
    assert threshold(np.vstack([sure[:4], [0.95, 0.05]]), four) == 0.9999
    points = fitted_points(np.log(sure), label, (100, 2))
    assert points.prior_share == 0 and points.natural == points.balanced


def test_an_evaluation_states_both_points_and_what_is_covered(
    answers: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, label = answers
    points = fitted_points(logits, label, COUNTS)
    found = figures_at_points(logits, label, (0, 1, 2), points)
    for name in ("natural", "balanced"):
        stored = asdict(getattr(points, name))
        assert {key: found[name][key] for key in stored} == pytest.approx(stored)
        assert found[name]["accuracy_of_covered"] >= 0.9
        assert 0.5 < found[name]["coverage"] < 1
    two = label < 2
    fewer = figures_at_points(logits[two], 1 - label[two], (1, 0), points)
    expected = logits[two][:, :2].argmax(1) == label[two]
    assert fewer["natural"]["accuracy"] == pytest.approx(float(expected.mean()))
