"""The figures of reports, by matplotlib, in colours that colour-blind readers tell apart.

Figures are built without pyplot, so that nothing outside them is touched; the same numbers give the
same file.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fervor.evaluation.metrics import Bins, CoverageRisk
from fervor.evaluation.significance import Floats, Ints
from fervor.io.atomic import write_bytes


ENDINGS = ("svg", "pdf", "png")

PALETTE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#CC79A7", "#0072B2", "#D55E00", "#F0E442"),
)
"""Okabe and Ito (2008): eight colours that remain distinct without red or green."""

MARKERS = "osDv^Px*"
"""A second sign beside the colour, for greyscale prints."""

DARK = 0.6
"""Share of a row from which on a cell's number is written light on dark."""

STYLE: dict[Any, Any] = {"svg.hashsalt": "fervor", "svg.fonttype": "none", "font.size": 9}
"""Stable names inside SVG, and text that stays text."""


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as SVG, PDF and PNG; returns the SVG for a page to hold."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        drawing = _drawn(figure, "svg", metadata={"Date": None})
        write_bytes(folder / f"{name}.svg", drawing)
        pdf = _drawn(figure, "pdf", metadata={"CreationDate": None})
        write_bytes(folder / f"{name}.pdf", pdf)
        write_bytes(folder / f"{name}.png", _drawn(figure, "png", dpi=150))
    return drawing.decode("utf-8")


def _drawn(figure: Figure, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, **options)
    return buffer.getvalue()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def confusion_figure(matrix: Ints, labels: Sequence[str]) -> Figure:
    """Fractions of each true class's answers (rows), with counts written beside them."""
    side = 1.6 + 0.62 * len(labels)
    figure, axes = _axes(side + 0.8, side)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    drawn = axes.imshow(fractions, cmap="cividis_r", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        axes.text(
            column,
            row,
            f"{100 * fractions[row, column]:.1f}\n({matrix[row, column]})",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if fractions[row, column] > DARK else "black",
        )
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    figure.colorbar(drawn, label="share of the label's pictures", shrink=0.8)
    return figure


def reliability_figure(bins: Bins, error: float) -> Figure:
    """Accuracy over confidence in bins of equally many images; the diagonal is calibrated."""
    figure, axes = _axes(4, 3.8)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    axes.plot(bins.confidence, bins.accuracy, color=PALETTE[5], marker="o", label="model")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_title(f"expected calibration error {100 * error:.2f} %")
    axes.legend()
    return figure


def coverage_figure(curve: CoverageRisk) -> Figure:
    """Share of wrong answers among the surest images."""
    figure, axes = _axes(4, 3.8)
    axes.plot(curve.coverage, curve.risk, color=PALETTE[5])
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage: share of pictures that are answered")
    axes.set_ylabel("risk: share of wrong answers")
    axes.set_title(f"area {100 * curve.area():.2f} %")
    return figure


def scatter_figure(places: Floats, label: Ints, labels: Sequence[str]) -> Figure:
    """Features laid out in the plane [n 2], one colour and sign for each class."""
    figure, axes = _axes(6.2, 4.6)
    for number, name in enumerate(labels):
        members = places[label == number]
        axes.scatter(
            members[:, 0],
            members[:, 1],
            s=9,
            color=PALETTE[number % len(PALETTE)],
            marker=MARKERS[number % len(MARKERS)],
            linewidths=0,
            alpha=0.75,
            label=f"{name} ({len(members)})",
        )
    axes.set_xticks([])
    axes.set_yticks([])
    figure.legend(loc="outside right center", markerscale=2, frameon=False)
    return figure


def severity_figure(
    accuracies: Mapping[str, Mapping[str, Sequence[float]]], clean: Mapping[str, float]
) -> Figure:
    """Accuracy over severity, a panel for each corruption and a line for each model.

    Args:
        accuracies: by model, then by corruption: severities 1 to 5.
        clean: by model: without a corruption, severity 0.
    """
    names = list(next(iter(accuracies.values())))
    columns = 4
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * columns, 1.9 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        for panel, name in zip(panels, names, strict=False):
            for number, (model, values) in enumerate(accuracies.items()):
                heights = [clean[model], *values[name]]
                panel.plot(
                    range(len(heights)),
                    [100 * height for height in heights],
                    color=PALETTE[(5, 6)[number % 2]],
                    marker=MARKERS[number],
                    markersize=3,
                    label=model,
                )
            panel.set_title(name.replace("_", " "), fontsize=9)
            panel.set_ylim(0, 100)
        handles, texts = panels[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False)
        figure.supxlabel("severity (0: clean)")
        figure.supylabel("accuracy, %")
    return figure
