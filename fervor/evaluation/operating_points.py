"""Where a model answers: by the data set's own shares of the classes, or with classes held equal.

The natural point takes the logits as they are, and is the best where images come as the training
images did. The balanced one subtracts a share of the logarithm of the training classes' shares
(logit adjustment, Menon et al., 2021, https://arxiv.org/abs/2007.07314), so that rare expressions
are answered more often. Each point has a threshold of confidence below which `--abstain auto`
answers "uncertain".
"""

from collections.abc import Sequence

import numpy as np

from fervor.artifacts.model_info import OperatingPoint, OperatingPoints
from fervor.evaluation.metrics import per_class, softmax
from fervor.evaluation.significance import Floats, Ints


PRIOR_FRACTIONS = tuple(round(0.05 * step, 2) for step in range(21))
"""Of the log prior, tried in this order."""

GIVEN = 0.008
"""Most accuracy that the balanced point may cost."""

RIGHT = 0.9
"""Share of right answers above the threshold of `--abstain auto`."""


def log_prior(counts: Sequence[int]) -> Floats:
    """Logarithm of the training classes' shares [c]; a class without images counts as one."""
    count = np.maximum(np.asarray(counts, np.float64), 1)
    probabilities: Floats = np.log(count / count.sum())
    return probabilities


def fitted_points(logits: Floats, label: Ints, counts: Sequence[int]) -> OperatingPoints:
    """What model.json stores of both points, from calibrated logits [n c] of a choosing split.

    The share of the log prior is the smallest of PRIOR_FRACTIONS with the highest mean class
    accuracy among those that give at most GIVEN of accuracy. Thresholds are fitted with that. All
    figures are of the images that were fitted to: fewer than 1 / GIVEN of them cannot show such a
    loss, and one image of a rare class may choose the share.
    """
    prior = log_prior(counts)
    natural = _figures(logits, label)
    best, fraction = natural, 0.0
    for candidate in PRIOR_FRACTIONS:
        figures = _figures(logits - candidate * prior, label)
        affordable = figures["accuracy"] >= natural["accuracy"] - GIVEN - 1e-12
        if affordable and figures["mean_class_accuracy"] > best["mean_class_accuracy"]:
            best, fraction = figures, candidate
    return OperatingPoints(
        log_prior=tuple(round(float(value), 6) for value in prior),
        prior_share=fraction,
        natural=OperatingPoint(**natural, abstain=threshold(softmax(logits), label)),
        balanced=OperatingPoint(
            **best, abstain=threshold(softmax(logits - fraction * prior), label)
        ),
    )


def threshold(probabilities: Floats, label: Ints, *, right: float = RIGHT) -> float:
    """The lowest confidence such that the answers at or above it are right in that share.

    The highest confidence of all where even the surest answers are wrong more often. Where all
    answers together are right in that share, as on a few images without an error, nothing tells
    where wrong ones begin: the threshold is then at most that share itself, by which a calibrated
    confidence promises the same.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == label
    order = np.argsort(-confidence, kind="stable")
    fraction = np.cumsum(correct[order]) / np.arange(1, len(label) + 1)
    ends = np.append(np.diff(confidence[order]) < 0, True)  # equal confidences stay together
    good = np.flatnonzero((fraction >= right) & ends)
    place = int(good[-1]) if len(good) else 0
    lowest = float(np.floor(confidence[order][place] * 1e6) / 1e6)
    return min(lowest, right) if place == len(label) - 1 else lowest


def _figures(logits: Floats, label: Ints) -> dict[str, float]:
    answer, classes = logits.argmax(1), logits.shape[1]
    by_class = per_class(label, answer, classes)
    return {
        "accuracy": float((answer == label).mean()),
        "mean_class_accuracy": by_class.mean_class_accuracy(),
        "macro_f1": by_class.macro_f1(),
    }


def figures_at_points(
    logits: Floats, label: Ints, columns: Sequence[int], points: OperatingPoints
) -> dict[str, dict[str, float]]:
    """Accuracy, mean class accuracy and macro F1 at both points; coverage at their thresholds.

    Args:
        logits: calibrated, of all the model's classes [n k].
        label: numbers among the classes that are counted.
        columns: places of these among the model's classes.
        points: what `fitted_points` stored.
    """
    moved_logits = logits - points.prior_share * np.array(points.log_prior)
    both = (("natural", points.natural, logits), ("balanced", points.balanced, moved_logits))
    figures = {}
    for name, point, moved in both:
        counted = moved[:, list(columns)]
        probabilities, correct = softmax(counted), counted.argmax(1) == label
        sure = probabilities.max(1) >= point.abstain
        figures[name] = {
            **_figures(counted, label),
            "abstain": point.abstain,
            "coverage": float(sure.mean()),
            "accuracy_of_covered": float(correct[sure].mean()) if sure.any() else 0.0,
        }
    return figures
