"""MPA-FER's comparison with few pictures: its runs, and what their results say together."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fervor.evaluation import results
from fervor.recipes import read_recipe
from tests.evaluation.test_results import COMPLETE


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import mpa_fewshot


LABEL = np.arange(40) % 4


def write(folder: Path, row: str, data: str, correct: list[int]) -> None:
    """Results and notes of a row's runs: in each seed so many of the first pictures are right."""
    for seed, count in enumerate(correct):
        answer = np.where(np.arange(40) < count, LABEL, (LABEL + 1) % 4)
        lines = {"label": LABEL, "answer": answer}
        answers = {name: " ".join(map(str, values)) for name, values in lines.items()}
        run = {**COMPLETE["run"], "seed": seed, "inactive": ["local (silent)"] if seed else []}
        told = {
            **COMPLETE,
            "run": run,
            "count": 40,
            "accuracy": count / 40,
            "mean_class_accuracy": count / 80,
            "negative_log_likelihood": 1.0,
            "classes": {"neutral": {"recall": 0.5}},
            "answers": {"pictures": "40 pictures", **answers, "person": ""},
        }
        results.write(folder / "results" / f"{row}-{data}" / "mpa" / f"x-seed{seed}-a.json", told)
        notes = folder / "runs" / f"{row}-{data}-{seed}" / "activity.json"
        notes.parent.mkdir(parents=True, exist_ok=True)
        last = {"prompted_unprompted": 0.25, "moved": {"visual": 2.0, "soft": 1.0}}
        notes.write_text(json.dumps({"epochs": [{}, last]}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for data, ours, theirs in (
        ("16", [36, 34], [30, 30]),
        ("4", [20, 20], [20, 20]),
        ("base", [30, 20], [30, 20]),
        ("new", [30, 20], [10, 20]),
    ):
        write(tmp_path, mpa_fewshot.COMPLETE, data, ours)
        write(tmp_path, mpa_fewshot.SOFT, data, theirs)
    return tmp_path


def test_the_design_s_runs_and_no_other() -> None:
    tasks = [*mpa_fewshot.choices().values(), *mpa_fewshot.rows(mpa_fewshot.setting(0.32, "sum"))]
    assert len(tasks) == len({task.run for task in tasks}) == 36
    assert sum(len(task.evaluations) for task in tasks) == 46
    for task in tasks:
        recipe = task.words[task.words.index("--config") + 1]
        assert read_recipe(recipe).method == "mpa"
        pairs = dict(zip(task.words[::2], task.words[1::2], strict=True))
        steps = int(pairs.get("--optim.epochs", 50)) * int(
            pairs.get("--data.subset", "few-shot:16").split(":")[1]
        )
        assert steps == (800 if "--data.classes" not in pairs else 1600)


def test_gains_are_over_pairs_of_seeds_and_the_rest_is_corrected(folder: Path) -> None:
    found = {one["of"]: one for one in mpa_fewshot.tests(folder)}
    assert list(found) == ["16", "4", "base", "new", "harmonic mean"]
    assert [name for name, one in found.items() if one["primary"]] == ["16"]
    assert found["16"]["gain"] == pytest.approx(5 / 40)
    assert found["4"]["gain"] == found["base"]["gain"] == 0
    assert found["new"]["gain"] == pytest.approx((20 + 0) / 2 / 40)
    before = 2 / (40 / 30 + 40 / 10)
    assert found["harmonic mean"]["gain"] == pytest.approx((30 / 40 - before) / 2)
    assert found["16"]["p_value_holm"] is None
    assert found["new"]["p_value_holm"] >= found["new"]["p_value"]


def test_a_row_says_what_its_parts_did(folder: Path) -> None:
    first, second = mpa_fewshot.told(folder, f"{mpa_fewshot.COMPLETE}-new")
    assert (first["seed"], first["accuracy"], first["neutral_recall"]) == (0, 0.75, 0.5)
    assert first["moved"] == {"prompted_unprompted": 0.25, "visual": 2.0, "soft": 1.0}
    assert (first["inactive"], second["inactive"]) == ([], ["local (silent)"])
