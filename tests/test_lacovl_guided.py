"""LaCoVL-FER's comparison with and without landmarks: its runs, and what their results say."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fervor.evaluation import results
from fervor.recipes import read_recipe


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import lacovl_guided
from row_runs import Task


LABEL = np.arange(40) % 4


def answers(count: int) -> str:
    """Right on so many of the first images."""
    return " ".join(map(str, np.where(np.arange(40) < count, LABEL, (LABEL + 1) % 4)))


def row(name: str, seed: int, correct: int, occluded: int) -> dict[str, Any]:
    """A run's answers: right on so many images, under two of three occlusions on so many."""
    kinds = dict.fromkeys(("eyes", "mouth"), answers(occluded)) | {"block": answers(40)}
    label = " ".join(map(str, LABEL))
    run = {"row": name, "seed": seed, "label": label, "answer": answers(correct)}
    return {**run, "occluded_answer": kinds}


def test_rows_differ_in_their_landmarks_alone() -> None:
    guided, unguided = (
        read_recipe(row).resolved() for row in (lacovl_guided.GUIDED, lacovl_guided.UNGUIDED)
    )
    different = {name for name in guided if guided[name] != unguided[name]}
    assert different <= {"landmarks", "name"}
    assert unguided["landmarks"]["name"] == "none"


def test_the_design_s_runs_and_no_other() -> None:
    tasks = [*lacovl_guided.choices().values(), *lacovl_guided.rows(2e-4, 3)]
    assert len(tasks) == len({task.run for task in tasks}) == 9
    words = {" ".join(task.words) for task in tasks}
    assert len(words) == 9
    assert sum("--optim.learning_rate 0.0002" in line for line in words) == 7
    assert sum("-unguided " in line for line in words) == 6


def test_gains_are_over_seeds_and_occlusion_s_over_its_three_kinds() -> None:
    rows = [
        *(
            row(lacovl_guided.GUIDED, seed, count, 25)
            for seed, count in ((1, 34), (0, 36), (2, 30))
        ),
        *(row(lacovl_guided.UNGUIDED, seed, 30, 10) for seed in (0, 1, 2)),
    ]
    found = {one["of"]: one for one in lacovl_guided.tests(rows)}
    assert [name for name, one in found.items() if one["primary"]] == ["clean"]
    assert found["clean"]["gain"] == pytest.approx((6 + 4 + 0) / 3 / 40)
    assert found["occluded"]["gain"] == pytest.approx(2 / 3 * 15 / 40)
    assert found["occluded"]["p_value_holm"] == found["occluded"]["p_value"]
    swapped = [{**one, "seed": 2 - one["seed"]} for one in rows]
    assert lacovl_guided.tests(swapped)[0]["interval"] == found["clean"]["interval"]


def test_what_there_is_so_far_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    choice = [{"learning_rate": 2e-4, "accuracy": 0.7}]
    lacovl_guided.write(path, choice, [])
    assert results.read(path)["choice"] == choice
    guided = [{**row(lacovl_guided.GUIDED, seed, 30, 20), "count": 40} for seed in (0, 1, 2)]
    other = [{**row(lacovl_guided.UNGUIDED, seed, 20, 20), "count": 40} for seed in (0, 2)]
    lacovl_guided.write(path, choice, [*guided, other[0]])
    assert results.read(path)["tests"] == []
    lacovl_guided.write(path, choice, [*guided, *other])
    stored = results.read(path)
    assert (stored["run"]["seed"], len(stored["rows"])) == ([0, 2], 5)
    assert stored["tests"][0]["gain"] == pytest.approx(10 / 40)


def test_a_task_does_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr("row_runs.fervor", lambda *words: commands.append(words))
    task = Task("x-3", ("--config", "x", "--seed", "3"), {"x": ("--split", "valid")})
    task.finish("FERPLUS", tmp_path)
    assert [words[0] for words in commands] == ["train", "evaluate"]
    assert commands[1][-4:] == ("--split", "valid", "--output", str(tmp_path / "results" / "x"))
    run = tmp_path / "runs" / "x-3"
    run.mkdir(parents=True)
    (run / "last.ckpt").touch()
    task.finish("FERPLUS", tmp_path)
    assert commands[2] == ("train", "--resume", str(run))
    (run / "model.json").touch()
    (tmp_path / "results" / "x" / "ke").mkdir(parents=True)
    (tmp_path / "results" / "x" / "ke" / "x-seed3-test.json").touch()
    commands.clear()
    task.finish("FERPLUS", tmp_path)
    assert commands == []
