"""What a model gets right and how sure it is: pure functions on arrays.

Conventions: `probabilities` is [n c] with rows summing to 1, `label` holds class numbers [n];
n is at least 1. The answer is the first of the most probable classes. Every value lies in 0..1
unless its function says otherwise. A class without images does not enter a mean over classes.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, special
from sklearn import metrics as sklearn_metrics

from fervor.evaluation.significance import Floats, Ints, accuracy_interval


__all__ = [
    "Bins",
    "CoverageRisk",
    "PerClass",
    "brier_score",
    "confusion",
    "coverage_risk",
    "expected_calibration_error",
    "fitted_temperature",
    "negative_log_likelihood",
    "per_class",
    "reliability",
    "softmax",
    "summary",
    "top_k_accuracy",
]

BINS = 15
"""Of a calibration error."""

LOG_TEMPERATURE_STD = float(np.log(2))
"""Of the temperatures that models have, as `fitted_temperature` takes it before it sees images."""

Spacing = Literal["mass", "width"]


class PerClass(NamedTuple):
    """Figures by class, [c] each; 0 where nothing was to be found or nothing was answered."""

    support: Ints
    precision: Floats
    recall: Floats
    f1: Floats

    def mean_class_accuracy(self) -> float:
        """Mean recall over the classes that have images."""
        return float(self.recall[self.support > 0].mean())

    def macro_f1(self) -> float:
        """Mean F1 over the classes that have images."""
        return float(self.f1[self.support > 0].mean())


class Bins(NamedTuple):
    """Images by confidence, [k] each; empty bins are left out."""

    low: Floats
    high: Floats
    support: Ints
    confidence: Floats
    accuracy: Floats


class CoverageRisk(NamedTuple):
    """Share of images that are answered, the surest first, and share of wrong answers; [n]."""

    coverage: Floats
    risk: Floats

    def area(self) -> float:
        """Mean risk over all coverages (AURC; Geifman and El-Yaniv, 2017)."""
        return float(self.risk.mean())


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities [n c] of logits [n c]."""
    probabilities: Floats = special.softmax(logits.astype(np.float64) / temperature, axis=1)
    return probabilities


def confusion(label: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts [c c]: rows are the true classes, columns the answers."""
    matrix: Ints = sklearn_metrics.confusion_matrix(label, predicted, labels=range(classes))
    return matrix


def per_class(label: Ints, predicted: Ints, classes: int) -> PerClass:
    """Images, precision, recall and F1 of each class."""
    precision, recall, f1, count = sklearn_metrics.precision_recall_fscore_support(
        label, predicted, labels=range(classes), zero_division=0
    )
    return PerClass(count, precision, recall, f1)


def top_k_accuracy(probabilities: Floats, label: Ints, k: int) -> float:
    """Share of images whose class is among the k most probable; of equals the first wins."""
    own = probabilities[np.arange(len(label)), label][:, None]
    earlier = np.arange(probabilities.shape[1]) < label[:, None]
    before = (probabilities > own) | ((probabilities == own) & earlier)
    return float((before.sum(1) < k).mean())


def reliability(
    probabilities: Floats, label: Ints, *, bins: int = BINS, spacing: Spacing = "mass"
) -> Bins:
    """Confidence against accuracy, in bins of equally many images or of equal width.

    Bins of equal width hold confidences in (low, high], the first from 0 on. Images of equal
    confidence come in no order: each takes their mean accuracy, as in `coverage_risk`.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == label
    _, group = np.unique(confidence, return_inverse=True)
    accuracy = (np.bincount(group, weights=correct) / np.bincount(group))[group]
    if spacing == "mass":
        order = np.argsort(confidence, kind="stable")
        chunks = [chunk for chunk in np.array_split(order, bins) if len(chunk)]
        low = np.array([confidence[chunk].min() for chunk in chunks])
        high = np.array([confidence[chunk].max() for chunk in chunks])
    else:
        edges = np.linspace(0, 1, bins + 1)
        # a sum of shares may exceed 1 by its rounding
        place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
        filled = np.unique(place)
        chunks = [np.flatnonzero(place == number) for number in filled]
        low, high = edges[filled], edges[filled + 1]
    return Bins(
        low,
        high,
        np.array([len(chunk) for chunk in chunks]),
        np.array([confidence[chunk].mean() for chunk in chunks]),
        np.array([accuracy[chunk].mean() for chunk in chunks]),
    )


def expected_calibration_error(
    probabilities: Floats, label: Ints, *, bins: int = BINS, spacing: Spacing = "mass"
) -> float:
    """Mean gap between confidence and accuracy over the bins of `reliability`."""
    diagram = reliability(probabilities, label, bins=bins, spacing=spacing)
    gaps = np.abs(diagram.accuracy - diagram.confidence) * diagram.support
    return float(gaps.sum() / len(label))


def brier_score(probabilities: Floats, label: Ints) -> float:
    """Mean squared distance from the one-hot label, in 0..2 (Brier, 1950)."""
    truth = np.eye(probabilities.shape[1])[label]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def negative_log_likelihood(probabilities: Floats, label: Ints) -> float:
    """Mean of -log of the true class's probability, at least 0; a probability of 0 counts 1e-12."""
    own = probabilities[np.arange(len(label)), label]
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def coverage_risk(probabilities: Floats, label: Ints) -> CoverageRisk:
    """The risk of answering the surest share of the images only.

    Images of equal confidence come in no order: each takes their mean, so that the order of the
    images changes nothing.
    """
    confidence, wrong = probabilities.max(1), probabilities.argmax(1) != label
    _, group = np.unique(-confidence, return_inverse=True)
    mean = np.bincount(group, weights=wrong) / np.bincount(group)
    rank = np.arange(1, len(label) + 1)
    return CoverageRisk(rank / len(label), np.cumsum(mean[np.sort(group)]) / rank)


def fitted_temperature(logits: Floats, label: Ints) -> float:
    """The temperature that minimises the negative log likelihood (Guo et al., 2017), in 0.05..20.

    It changes no answer, only how sure the probabilities are. The likelihood alone has no minimum
    where all answers are right: it grows until every probability is 0 or 1. So the log temperature
    is taken to be normal around 0, with the deviation log 2 (ours): a factor of two counts as much
    as half a nat of all images together. That keeps few images near 1 and moves thousands by less
    than a thousandth.
    """
    rows = np.arange(len(label))

    def loss(log_temperature: float) -> float:
        log_probabilities = special.log_softmax(
            logits.astype(np.float64) / np.exp(log_temperature), axis=1
        )
        prior = (log_temperature / LOG_TEMPERATURE_STD) ** 2 / 2
        return float(prior - log_probabilities[rows, label].sum())

    minimum = optimize.minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(minimum.x))


def summary(probabilities: Floats, label: Ints, labels: Iterable[str]) -> dict[str, Any]:
    """All figures of one evaluation; classes of one data set in the model's order."""
    names = list(labels)
    predicted = probabilities.argmax(1)
    matrix = confusion(label, predicted, len(names))
    correct, count = int(np.trace(matrix)), len(label)
    by_class = per_class(label, predicted, len(names))
    low, high = accuracy_interval(correct, count)
    return {
        "count": count,
        "correct": correct,
        "accuracy": correct / count,
        "accuracy_interval": [low, high],
        "mean_class_accuracy": by_class.mean_class_accuracy(),
        "macro_f1": by_class.macro_f1(),
        "top_2_accuracy": top_k_accuracy(probabilities, label, 2),
        "calibration_error": expected_calibration_error(probabilities, label),
        "calibration_error_equal_width": expected_calibration_error(
            probabilities, label, spacing="width"
        ),
        "negative_log_likelihood": negative_log_likelihood(probabilities, label),
        "brier_score": brier_score(probabilities, label),
        "coverage_risk_area": coverage_risk(probabilities, label).area(),
        "classes": {
            name: {
                "count": int(by_class.support[number]),
                "precision": float(by_class.precision[number]),
                "recall": float(by_class.recall[number]),
                "f1": float(by_class.f1[number]),
            }
            for number, name in enumerate(names)
        },
        "confusion": matrix.tolist(),
    }
