"""LaCoVL-FER's comparison with and without landmarks: its runs, and what their results say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fervor.evaluation import results
from fervor.recipes import read_recipe
from tests.evaluation.test_results import COMPLETE


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import lacovl_guided
from row_runs import Task


LABEL = np.arange(40) % 4


def answers(count: int) -> str:
    """Right on so many of the first images."""
    return " ".join(map(str, np.where(np.arange(40) < count, LABEL, (LABEL + 1) % 4)))


def write(folder: Path, row: str, correct: list[int], occluded: list[int]) -> None:
    """Results and notes of a row's runs, and their answers under occlusion."""
    for seed, (count, under) in enumerate(zip(correct, occluded, strict=True)):
        label = " ".join(map(str, LABEL))
        stored = {"pictures": "40 images", "label": label, "person": ""}
        result = {
            **COMPLETE,
            "run": {**COMPLETE["run"], "seed": seed, "inactive": []},
            "count": 40,
            "accuracy": count / 40,
            "answers": {**stored, "answer": answers(count)},
        }
        results.write(folder / "results" / row / "lacovl" / f"x-seed{seed}-a.json", result)
        run = folder / "runs" / f"{row}-{seed}"
        run.mkdir(parents=True)
        kinds = dict.fromkeys(("eyes", "mouth"), answers(under)) | {"block": answers(40)}
        (run / "occluded.json").write_text(json.dumps(kinds))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, lacovl_guided.GUIDED, [36, 34, 30], [25, 25, 25])
    write(tmp_path, lacovl_guided.UNGUIDED, [30, 30, 30], [10, 10, 10])
    return tmp_path


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


def test_gains_are_over_seeds_and_occlusion_s_over_its_three_kinds(folder: Path) -> None:
    found = {one["of"]: one for one in lacovl_guided.tests(folder)}
    assert [name for name, one in found.items() if one["primary"]] == ["clean"]
    assert found["clean"]["gain"] == pytest.approx((6 + 4 + 0) / 3 / 40)
    assert found["occluded"]["gain"] == pytest.approx(2 / 3 * 15 / 40)
    assert found["occluded"]["p_value_holm"] == found["occluded"]["p_value"]
    shares = lacovl_guided.right_under(folder, lacovl_guided.GUIDED)
    assert shares.shape == (3, 40)
    assert (shares[0, 0], shares[0, 39]) == (1, pytest.approx(1 / 3))


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
