"""Figures: what is drawn is what was given, the same each time, in files of three kinds."""

from pathlib import Path

import numpy as np
import pytest

from fervor.evaluation import figures
from fervor.evaluation.metrics import coverage_risk, reliability, softmax


LABELS = ("neutral", "happiness", "surprise")


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    matrix = np.array([[8, 1, 1], [0, 5, 0], [2, 2, 0]])
    for name in ("first", "second"):
        text = figures.save(figures.confusion_figure(matrix, LABELS), tmp_path / name, "c")
        assert text == (tmp_path / name / "c.svg").read_text()
    for ending in figures.ENDINGS:
        first, second = ((tmp_path / name / f"c.{ending}") for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), ending
    for word in (*LABELS, "80.0", "(8)", "50.0", "(2)"):
        assert word in text


def test_a_class_without_pictures_is_drawn() -> None:
    axes = figures.confusion_figure(np.array([[3, 0], [0, 0]]), ("a", "b")).axes[0]
    assert [text.get_text() for text in axes.texts][2:] == ["0.0\n(0)", "0.0\n(0)"]


def test_curves_hold_the_numbers() -> None:
    random = np.random.default_rng(0)
    probabilities, label = softmax(random.normal(size=(90, 3))), random.integers(0, 3, 90)
    bins, curve = reliability(probabilities, label), coverage_risk(probabilities, label)
    drawn = figures.reliability_figure(bins, 0.1).axes[0].lines[1].get_xydata()
    np.testing.assert_allclose(drawn, np.stack([bins.confidence, bins.accuracy], 1))
    drawn = figures.coverage_figure(curve).axes[0].lines[0].get_xydata()
    np.testing.assert_allclose(drawn, np.stack([curve.coverage, curve.risk], 1))


def test_each_class_has_its_points() -> None:
    places, label = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 3
    axes = figures.scatter_figure(places, label, LABELS).axes[0]
    for number, drawn in enumerate(axes.collections):
        np.testing.assert_allclose(drawn.get_offsets(), places[label == number])
        assert drawn.get_label() == f"{LABELS[number]} (4)"


def test_severity_starts_clean() -> None:
    values = {"m": {"noise": [0.8, 0.6, 0.5, 0.4, 0.3], "blur": [0.9] * 5}}
    figure = figures.severity_figure(values, {"m": 0.95})
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["noise", "blur"]
    expected = [95, 80, 60, 50, 40, 30]
    assert panels[0].lines[0].get_ydata() == pytest.approx(expected)


def luminance(colour: str) -> float:
    """Relative luminance, 0..1."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(fraction * c for fraction, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_classes_differ_in_colour_and_sign() -> None:
    assert len(set(figures.PALETTE)) == len(set(figures.MARKERS)) == 8
    assert luminance(figures.PALETTE[0]) == 0 and max(map(luminance, figures.PALETTE)) > 0.7
