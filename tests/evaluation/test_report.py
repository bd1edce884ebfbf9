"""The report of an exported model: its tables and figures are those of the answers."""

import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from fervor.artifacts.model_info import ModelInfo
from fervor.config import Data
from fervor.errors import UsageError
from fervor.evaluation import report
from fervor.evaluation.evaluate import Answers, answer, evaluate
from fervor.evaluation.metrics import coverage_risk, reliability
from tests.evaluation.test_robustness import SIDE, TINTS, described
from tests.support.models import LABELS, write_model


COUNT = 9


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of noisy tints, with an attribute and a few answers that the model gets wrong."""
    folder = tmp_path_factory.mktemp("tints")
    random = np.random.default_rng(0)
    lines = ["path,label,split,light"]
    for place, (name, tint) in enumerate(TINTS.items()):
        for number in range(COUNT):
            shown = tint if number else list(TINTS.values())[(place + 1) % 3]
            pixels = np.clip(shown + random.normal(0, 60, (SIDE, SIDE, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}{number}.png")
            light = ("day", "night")[number % 2]
            lines.append(f"{name}{number}.png,{name},test,{light}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    own = described(data={"name": "csv", "protocol": "table"})
    return str(write_model(tmp_path_factory.mktemp("model") / "tiny", **own))


@pytest.fixture(scope="module")
def written(model: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result file of an evaluation with everything."""
    output = str(tmp_path_factory.mktemp("results"))
    other = described(name="other", data={"name": "csv", "protocol": "table"})
    second = write_model(Path(output) / "other", labels=LABELS[::-1], **other)
    path, _ = evaluate(
        model, data_of(root), output=output, report=True, compare=str(second), slices=["light"]
    )
    return path


def data_of(root: Path) -> Data:
    return Data(name="csv", root=str(root), cache="")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_name_of_a_picture_is_a_harmless_cell() -> None:
    scope = SimpleNamespace(labels=LABELS)
    sample = SimpleNamespace(path="/root/=1\x1b[2J.png", label=LABELS[0])
    found = SimpleNamespace(scope=scope, samples=[sample], probabilities=np.eye(len(LABELS))[:1])
    _, row = report._predictions(cast(Answers, found), "/root")
    assert row[0] == r"./=1\x1b[2J.png"


def test_the_tables_hold_the_answers(written: Path, model: str, root: Path) -> None:
    folder = written.with_suffix("")
    found = answer(ModelInfo.read(model), data_of(root), "test")
    rows = rows_of(folder / "predictions.csv")
    assert len(rows) == 3 * COUNT
    assert rows[0]["path"] == "neutral0.png"  # below the data set's root
    right = 0
    for row, probabilities in zip(rows, found.probabilities, strict=True):
        stored = [float(row[f"p_{name}"]) for name in LABELS]
        np.testing.assert_allclose(stored, probabilities, atol=1e-6)
        assert row["answer"] == LABELS[int(probabilities.argmax())]
        right += row["answer"] == row["label"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["correct"], metrics["count"]) == (right, len(rows))
    assert 0 < right < len(rows)
    for row in rows_of(folder / "per_class.csv"):
        own = [answered for answered in rows if answered["label"] == row["class"]]
        hits = sum(answered["answer"] == row["class"] for answered in own)
        assert int(row["count"]) == len(own) == COUNT
        assert float(row["recall"]) == pytest.approx(hits / COUNT)


def test_metrics_hold_the_curves(written: Path, model: str, root: Path) -> None:
    metrics = json.loads((written.with_suffix("") / "metrics.json").read_text())
    found = answer(ModelInfo.read(model), data_of(root), "test")
    bins = reliability(found.probabilities, found.label)
    assert metrics["reliability"]["accuracy"] == pytest.approx(bins.accuracy.tolist())
    curve = coverage_risk(found.probabilities, found.label)
    assert metrics["coverage_risk"]["risk"] == pytest.approx(curve.risk.tolist())
    assert -1 <= metrics["features"]["silhouette"] <= 1
    assert {k: v for k, v in metrics.items() if k in json.loads(written.read_text())} == (
        json.loads(written.read_text())
    )


class Links(HTMLParser):
    """Collects what a page refers to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        names = ("src", "href", "xlink:href", "data")
        self.links += [value for name, value in attrs if name in names and value]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_no_other_file(written: Path) -> None:
    text = (written.with_suffix("") / "report.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert "<script" not in text and not re.search(r"url\((?!#)", text)
    assert text.count("<svg") == 4
    words = " ".join(page.text)
    for word in ("Confusion matrix", "t-SNE", "Compared with other", "By light", "night"):
        assert word in words


def test_the_page_gives_the_interval_of_the_result_file(written: Path) -> None:
    result = json.loads(written.read_text(encoding="utf-8"))
    rows = {row[0]: row[2] for row in report._figures(result)}
    low, high = result["accuracy_interval"]
    assert rows["accuracy"] == f"{low:.2%} to {high:.2%}"
    low, high = result["bootstrap_intervals"]["macro_f1"]
    assert rows["macro F1"] == f"{low:.2%} to {high:.2%}"


def test_the_comparison_counts_the_same_pictures(written: Path) -> None:
    result = json.loads(written.read_text())
    other = result["comparison"]
    assert other["model"] == "other"
    theirs = round(other["accuracy"] * result["count"])
    assert other["first_only"] - other["second_only"] == result["correct"] - theirs
    groups = result["slices"]["light"]["groups"]
    assert sum(group["correct"] for group in groups.values()) == result["correct"]
    assert {name: group["count"] for name, group in groups.items()} == {"day": 15, "night": 12}


@pytest.mark.parametrize("name", ["McNemar", "sign flips of persons"])
def test_the_page_names_the_test_of_the_comparison(written: Path, name: str) -> None:
    other = json.loads(written.read_text())["comparison"]
    (text,) = report._comparison({"comparison": {**other, "test": name}})
    assert f"({name} test: p = {other['p_value']:.3g})" in text
    assert text.count(" test: ") == 1


def test_other_classes_cannot_be_compared(model: str, root: Path, tmp_path: Path) -> None:
    own = described(data={"name": "ferplus", "protocol": "majority"})
    other = write_model(tmp_path / "other", labels=LABELS[:2], **own)
    with pytest.raises(UsageError, match=r"--compare .*other: it answers with neutral, happiness,"):
        evaluate(model, data_of(root), output=str(tmp_path), compare=str(other))


def test_a_choice_of_pictures_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.laid_out(5).tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(report, "LAID_OUT", 3)
    rows = report.laid_out(50)
    assert len(rows) == 3 and (np.diff(rows) > 0).all()
    assert report.laid_out(50).tolist() == rows.tolist()


def test_the_layout_keeps_neighbours_together() -> None:
    """Two bundles of directions stay two bundles, whatever their lengths."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(2, 8))
    label = np.arange(40) % 2
    features = centres[label] + 0.05 * random.normal(size=(40, 8))
    places = report.layout(features * random.uniform(0.1, 10, (40, 1)))
    for row in range(40):
        distance = np.linalg.norm(places - places[row], axis=1)
        distance[row] = np.inf
        assert label[distance.argmin()] == label[row]


@pytest.mark.slow  # numba compiles for most of a minute
def test_umap_keeps_neighbours_together() -> None:
    """Two bundles of directions stay two bundles, the same each time; few have a layout too."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(2, 8))
    label = np.arange(40) % 2
    features = centres[label] + 0.05 * random.normal(size=(40, 8))
    features *= random.uniform(0.1, 10, (40, 1))
    places = report.umap_layout(features)
    for row in range(40):
        distance = np.linalg.norm(places - places[row], axis=1)
        distance[row] = np.inf
        assert label[distance.argmin()] == label[row]
    assert (report.umap_layout(features) == places).all()
    assert np.isfinite(report.umap_layout(features[:4])).all()


def test_a_second_layout_is_drawn_where_it_is_asked_for(
    model: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", ModuleType("umap"))  # the real one is slow to load
    monkeypatch.setattr(report, "umap_layout", lambda embedding: embedding[:, :2])
    path, _ = evaluate(model, data_of(root), output=str(tmp_path), report=True, umap=True)
    folder = path.with_suffix("")
    assert (folder / "umap.svg").stat().st_size > 1000
    assert (folder / "umap.svg").read_bytes() != (folder / "tsne.svg").read_bytes()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Features (UMAP)" in page and "Features (t-SNE)" in page


def test_a_layout_without_a_report_is_refused(model: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--report"):
        evaluate(model, data_of(root), output=str(tmp_path), umap=True)
    assert not list(tmp_path.iterdir())


def test_without_umap_the_extra_is_named(
    model: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UsageError, match=r"needs umap.*fervor\[umap\]"):
        evaluate(model, data_of(root), output=str(tmp_path), report=True, umap=True)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(
    model: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fervor.evaluation

    for name in ("report", "figures"):
        monkeypatch.delitem(sys.modules, f"fervor.evaluation.{name}")
        monkeypatch.delattr(fervor.evaluation, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib.*fervor\[report\]"):
        evaluate(model, data_of(root), output=str(tmp_path), report=True)
    assert not list(tmp_path.iterdir())
