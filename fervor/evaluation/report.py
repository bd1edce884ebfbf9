"""The report of one evaluation: figures, tables and one page that holds them all."""

import csv
import html
import io
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from fervor.errors import counted
from fervor.evaluation import figures
from fervor.evaluation.evaluate import Answers
from fervor.evaluation.metrics import coverage_risk, reliability
from fervor.evaluation.significance import Floats, Ints
from fervor.io import provenance
from fervor.io.csv_cells import harmless


LAID_OUT = 2000
"""Images in the layout of features, drawn by SEED where there are more: t-SNE takes long."""

SEED = 0
PERPLEXITY = 30.0
NEIGHBOURS = 15
"""UMAP's own default."""
CURVE = 101
"""Coverages that metrics.json holds of the coverage-risk curve."""


def write_report(
    folder: Path,
    answers: Answers,
    result: dict[str, Any],
    *,
    root: str,
    umap: bool = False,
) -> None:
    """Write metrics.json, per_class.csv, predictions.csv, figures and report.html into a folder.

    Args:
        folder: is made where it is missing.
        answers: of the model to the images.
        result: what the result file says of them.
        root: the data set's folder, from which the images are named.
        umap: lay the features out by UMAP too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics, drawings = _drawn(folder, answers, result, umap)
    provenance.write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    _write_csv(folder / "per_class.csv", _per_class(result))
    _write_csv(folder / "predictions.csv", _predictions(answers, root))
    provenance.write_text(folder / "report.html", page(result, drawings))


def _drawn(
    folder: Path,
    answers: Answers,
    result: dict[str, Any],
    umap: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """What stands in metrics.json, and the figures as SVG by their titles."""
    bins = reliability(answers.probabilities, answers.label)
    curve = coverage_risk(answers.probabilities, answers.label)
    labels = answers.scope.labels
    drawings = {
        "Confusion matrix": figures.save(
            figures.confusion_figure(np.array(result["confusion"]), labels), folder, "confusion"
        ),
        "Reliability": figures.save(
            figures.reliability_figure(bins, result["calibration_error"]), folder, "reliability"
        ),
        "Coverage and risk": figures.save(figures.coverage_figure(curve), folder, "coverage_risk"),
    }
    metrics = {
        **result,
        "reliability": {name: value.tolist() for name, value in bins._asdict().items()},
        "coverage_risk": _thinned(curve.coverage, curve.risk),
    }
    rows = laid_out(len(answers.label))
    if len(rows) > 3:  # fewer have no layout
        embedding, label = answers.embedding(rows), answers.label[rows]
        layouts = {"t-SNE": layout, "UMAP": umap_layout} if umap else {"t-SNE": layout}
        for name, lay_out in layouts.items():
            drawn = figures.scatter_figure(lay_out(embedding), label, labels)
            file = name.replace("-", "").lower()
            drawings[f"Features ({name})"] = figures.save(drawn, folder, file)
        metrics["features"] = {"pictures": len(rows), "silhouette": _silhouette(embedding, label)}
    return metrics, drawings


def laid_out(count: int) -> Ints:
    """Which of so many images are laid out: all, or a seeded choice of them."""
    sample = np.random.default_rng(SEED).permutation(count)[:LAID_OUT]
    rows: Ints = np.sort(sample)
    return rows


def layout(embedding: Floats) -> Floats:
    """Features [n d] in the plane [n 2] by t-SNE over cosine distances (van der Maaten, 2008)."""
    perplexity = min(PERPLEXITY, (len(embedding) - 1) / 3)
    places: Floats = TSNE(
        perplexity=perplexity, metric="cosine", init="random", random_state=SEED
    ).fit_transform(embedding)
    return places


def umap_layout(embedding: Floats) -> Floats:
    """Features [n d] in the plane [n 2] by UMAP over cosine distances (McInnes and others, 2018).

    Needs more than three of them. One thread and SEED: the same features give the same places.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few images, or groups that no neighbour joins
        import umap  # brings a compiler, and takes as long to load

        count = len(embedding)
        places = umap.UMAP(
            n_neighbors=min(NEIGHBOURS, count - 1),
            metric="cosine",
            init="random" if count <= NEIGHBOURS else "spectral",
            random_state=SEED,
            n_jobs=1,
        ).fit_transform(np.asarray(embedding, np.float32))
    layout: Floats = np.asarray(places, np.float64)
    return layout


def _silhouette(embedding: Floats, label: Ints) -> float | None:
    """How well classes are separated, -1..1, by cosine distances in the features' own space."""
    if not 1 < len(set(label.tolist())) < len(label):
        return None
    return float(silhouette_score(embedding, label, metric="cosine"))


def _thinned(coverage: Floats, risk: Floats) -> dict[str, list[float]]:
    rows = np.unique(np.linspace(0, len(coverage) - 1, CURVE).round().astype(int))
    return {"coverage": coverage[rows].tolist(), "risk": risk[rows].tolist()}


def _per_class(result: dict[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = [["class", "count", "precision", "recall", "f1"]]
    for name, row in result["classes"].items():
        rows.append([name, row["count"], row["precision"], row["recall"], row["f1"]])
    return rows


def _predictions(answers: Answers, root: str) -> Iterable[list[Any]]:
    labels = answers.scope.labels
    yield ["path", "label", "answer", *(f"p_{name}" for name in labels)]
    for sample, row in zip(answers.samples, answers.probabilities, strict=True):
        probabilities = [f"{fraction:.6f}" for fraction in row]
        path = harmless(_relative(sample.path, root), path=True)
        yield [path, sample.label, labels[row.argmax()], *probabilities]


def _relative(path: str, root: str) -> str:
    """An image's path below the data set's root; as it is where it lies elsewhere."""
    if not path or not Path(path).is_relative_to(root):
        return path
    return os.path.relpath(path, root)


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    provenance.write_text(path, text.getvalue())


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
  color: #111; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .25em .8em; border-bottom: 1px solid #ccc; text-align: right }
th:first-child, td:first-child { text-align: left }
svg { max-width: 100%; height: auto } figure { margin: 1.5em 0 }
"""


def page(result: dict[str, Any], drawings: dict[str, str]) -> str:
    """One HTML page that needs no other file."""
    data, name = result["data"], result["model"]
    title = f"{name}, seed {result['run']['seed']}"
    where = (
        f"{data['name']}, protocol {data['protocol']}, split {data['split']}: "
        f"{counted(result['count'], 'picture')}"
    )
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(where)}. Epoch chosen on "
        f"{html.escape(str(result['run']['selection'].get('split')))}; evaluated at commit "
        f"<code>{html.escape(result['commit'] or 'unknown')}</code>.</p>",
        _table(["figure", "value", "95 % interval"], _figures(result)),
        _table(
            ["class", "pictures", "precision", "recall", "F1"],
            [
                [row[0], row[1], *(f"{value:.1%}" for value in row[2:])]
                for row in _per_class(result)[1:]
            ],
        ),
        *_comparison(result),
        *_slices(result),
    ]
    for heading, svg in drawings.items():
        parts.append(f"<h2>{heading}</h2><figure>{svg[svg.index('<svg') :]}</figure>")
    parts.append(
        "<p>The answers name the expression that a face shows, as people who look at the picture "
        "would; they are not what a person feels.</p>"
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _figures(result: dict[str, Any]) -> list[list[str]]:
    titles = {"accuracy": "accuracy", "mean_class_accuracy": "mean class accuracy"}
    titles |= {"macro_f1": "macro F1", "top_2_accuracy": "accuracy of the two most probable"}
    titles |= {
        "calibration_error": "calibration error",
        "coverage_risk_area": "area under risk",
    }
    rows = []
    intervals = {**result["bootstrap_intervals"], "accuracy": result["accuracy_interval"]}
    for key, title in titles.items():
        pair = intervals.get(key)
        interval = f"{pair[0]:.2%} to {pair[1]:.2%}" if pair else ""
        rows.append([title, f"{result[key]:.2%}", interval])
    for key in ("brier_score", "negative_log_likelihood"):
        rows.append([key.replace("_", " "), f"{result[key]:.4f}", ""])
    return rows


def _comparison(result: dict[str, Any]) -> list[str]:
    if (other := result.get("comparison")) is None:
        return []
    return [
        f"<h2>Compared with {html.escape(other['model'])}</h2><p>Its accuracy is "
        f"{other['accuracy']:.2%}. This model alone is right on "
        f"{counted(other['first_only'], 'picture')}, the other alone on {other['second_only']} "
        f"({html.escape(other['test'])} test: p = {other['p_value']:.3g}).</p>"
    ]


def _slices(result: dict[str, Any]) -> list[str]:
    parts = []
    for column, told in result.get("slices", {}).items():
        rows = [
            [
                name,
                group["count"],
                f"{group['accuracy']:.2%}",
                "{:.2%} to {:.2%}".format(*group["accuracy_interval"]),
            ]
            for name, group in told["groups"].items()
        ]
        parts.append(f"<h2>By {html.escape(column)}</h2>")
        parts.append(_table([column, "pictures", "accuracy", "95 % interval"], rows))
        parts.append(
            f"<p>Equal accuracy in all groups ({told['test']} test): p = {told['p_value']:.3g}, "
            f"corrected for the number of attributes (Holm) {told['p_value_holm']:.3g}.</p>"
        )
    return parts


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        inside = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
        return f"<tr>{inside}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
