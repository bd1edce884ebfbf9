"""A run folder that may be a stranger's, before a run goes on in it."""

import json
from pathlib import Path

import pytest
import yaml

from fervor.config import Run
from fervor.errors import UsageError
from fervor.training.trainer import open_run


NOTES = {
    "no JSON": "3 epochs",
    "deep": "[" * 100_000,
    "another kind": '"words"',
    "rows of another kind": "[3]",
    "too large": " " * 10_000_001,
    "epochs without numbers": '{"start": {}, "epochs": [{"epoch": "last"}], "inactive": []}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    settings = yaml.safe_dump(dict(Run().resolved()))
    history = [{"epoch": 0, "negative_log_likelihood": float("nan")}]
    activity = {"start": {}, "epochs": [{"epoch": 0, "moved": {}}], "inactive": ["text"]}
    (tmp_path / "config.yaml").write_text(settings)
    (tmp_path / "history.json").write_text(json.dumps(history))
    (tmp_path / "starts.json").write_text(json.dumps({"starts": [{"epoch": 0}]}))
    (tmp_path / "activity.json").write_text(json.dumps(activity))
    return tmp_path


def test_what_a_run_leaves_is_taken(folder: Path) -> None:
    assert set(open_run(Run(output=str(folder)), resume=True)) == {"output"}


@pytest.mark.parametrize("name", ["history.json", "starts.json", "activity.json"])
@pytest.mark.parametrize("case", NOTES)
def test_damaged_notes_are_one_line(case: str, name: str, folder: Path) -> None:
    (folder / name).write_text(NOTES[case])
    with pytest.raises(UsageError, match=rf"{name} is damaged: ") as refused:
        open_run(Run(output=str(folder)), resume=True)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_settings_have_the_bounds_of_a_recipe(folder: Path) -> None:
    parts = ["a0: &a0 {x: 1}"]
    parts += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    (folder / "config.yaml").write_text("\n".join(parts))
    with pytest.raises(UsageError, match=r"config\.yaml unfolds to"):
        open_run(Run(output=str(folder)), resume=True)
