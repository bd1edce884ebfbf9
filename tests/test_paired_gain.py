"""Two rows of results, paired by seed and picture."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fervor.errors import UsageError
from fervor.evaluation import results
from tests.evaluation.test_results import COMPLETE


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import paired_gain


LABEL = np.arange(40) % 4


def row(folder: Path, correct: dict[int, int], pictures: str = "40 pictures") -> list[Path]:
    """Result files by seed: so many of the first pictures are right."""
    paths = []
    for seed, count in correct.items():
        answer = np.where(np.arange(40) < count, LABEL, (LABEL + 1) % 4)
        told = {"label": LABEL, "answer": answer}
        lines = {name: " ".join(map(str, values)) for name, values in told.items()}
        answers = {"pictures": pictures, **lines, "person": ""}
        run = {**COMPLETE["run"], "seed": seed, "inactive": []}
        paths.append(folder / f"seed{seed}.json")
        results.write(paths[-1], {**COMPLETE, "run": run, "answers": answers})
    return paths


def test_a_gain_is_the_mean_over_the_seeds(tmp_path: Path) -> None:
    first = row(tmp_path / "first", {0: 36, 1: 34})
    second = row(tmp_path / "second", {1: 30, 0: 30})
    found = paired_gain.paired(first, second)
    assert found.mean == pytest.approx((6 + 4) / 2 / 40)
    assert found.low < found.mean < found.high


def test_rows_that_cannot_be_paired(tmp_path: Path) -> None:
    first = row(tmp_path / "first", {0: 36})
    with pytest.raises(UsageError, match=r"seeds \[0\] against \[1\]"):
        paired_gain.paired(first, row(tmp_path / "second", {1: 30}))
    with pytest.raises(UsageError, match="other pictures"):
        paired_gain.paired(first, row(tmp_path / "third", {0: 30}, "39 pictures"))
    with pytest.raises(UsageError, match="second result of seed 0"):
        paired_gain.paired([*first, *first], first)


def test_runs_that_do_not_say_what_was_inactive_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = row(tmp_path, {0: 36})
    result = results.read(path)
    del result["run"]["inactive"]
    results.write(path, result, replace=True)
    monkeypatch.setattr(sys, "argv", ["x", "--first", str(path), "--second", str(path)])
    assert paired_gain.main() == 0
    assert capsys.readouterr().out.startswith("gain +0.00 points")


def test_results_without_answers_are_named(tmp_path: Path) -> None:
    (path,) = row(tmp_path, {0: 36})
    del (result := results.read(path))["answers"]
    results.write(path, result, replace=True)
    with pytest.raises(
        UsageError, match=r"seed0\.json holds no answers .*: evaluate its run again"
    ):
        paired_gain.paired([path], [path])
