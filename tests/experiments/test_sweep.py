"""Sweeps: every setting once, ranked on validation, gone on with after a stop."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fervor.config import Augment, Data, Encoder, Optim, Run
from fervor.errors import UsageError
from fervor.evaluation import results
from fervor.experiments.jobs import Job
from fervor.experiments.sweep import JOURNAL, job_of, parsed, sweep
from tests.support import tiny
from tests.support.drawn import write_folder
from tests.support.models import content


STAND_IN = """#!{python}
import json, pathlib, sys, yaml

words = sys.argv[3:]
assert words[0] == "train", words
if words[1] == "--resume":
    folder = pathlib.Path(words[2])
    recipe = yaml.safe_load((folder / "config.yaml").read_text())
else:
    recipe = yaml.safe_load(open(words[2]))
    folder = pathlib.Path(recipe["output"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(yaml.safe_dump(recipe))
temperature = recipe["options"]["temperature"]
with open("trained.txt", "a") as file:
    print(words[1], temperature, recipe["optim"]["learning_rate"], recipe["seed"], file=file)
if pathlib.Path("stop").exists():
    (folder / "last.ckpt").touch()
    raise KeyboardInterrupt
if temperature == 9:
    sys.exit("diverged")
accuracy = 1 - (temperature - 0.3) ** 2 - recipe["optim"]["learning_rate"]
info = json.loads({description!r})
info["selection"] |= {{"accuracy": accuracy, "negative_log_likelihood": 1 - accuracy}}
(folder / "model.json").write_text(json.dumps(info))
"""

DESCRIPTION = json.dumps(
    content(
        data={"name": "x", "protocol": "", "train": {}, "selection": {"neutral": 5, "fear": 2}},
        commit="abc",
        sha256={"weights.safetensors": "1f" * 32},
    )
)

RECIPE = Run(
    data=Data(name="folder", root="here"),
    options={"temperature": 1.0, "centre": True},
    seed=7,
    name="ke/x",
)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in place of Python that trains nothing and knows how good a setting is."""
    program = tmp_path / "python"
    program.write_text(STAND_IN.format(python=sys.executable, description=DESCRIPTION))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)


def trained() -> list[str]:
    return Path("trained.txt").read_text().splitlines()


@pytest.mark.usefixtures("stand_in")
def test_every_combination_once_and_the_best_first() -> None:
    vary = ["options.temperature=0.1,0.3,1", "optim.learning_rate=0.01,0.1"]
    found = sweep(RECIPE, vary, folder=Path("s"))
    assert len(trained()) == 6 and len(set(trained())) == 6
    assert {line.split()[3] for line in trained()} == {"7"}
    assert found.rows[0]["settings"] == {
        "options.temperature": 0.3,
        "optim.learning_rate": 0.01,
    }
    figures = [row["selection"]["accuracy"] for row in found.rows]
    assert figures == sorted(figures, reverse=True) and len(figures) == 6
    result = results.read(found.path)
    assert [row["settings"] for row in result["trials"]] == [row["settings"] for row in found.rows]
    assert (result["count"], result["data"]["split"], result["run"]["commit"]) == (
        7,
        "valid",
        "abc",
    )
    assert result["run"]["config"]["data"]["root"] == ""
    assert str(Path.cwd()) not in found.path.read_text()
    again = sweep(RECIPE, vary, folder=Path("s"))
    assert again.rows == found.rows and len(trained()) == 6
    wider = sweep(
        RECIPE, ["options.temperature=0.1,0.3,1", "optim.learning_rate=0.01"], folder=Path("w")
    )
    assert len(wider.rows) == 3 and len(trained()) == 9


@pytest.mark.usefixtures("stand_in")
def test_a_likelihood_is_to_be_low() -> None:
    found = sweep(
        RECIPE,
        ["options.temperature=0.1,0.3"],
        figure="negative_log_likelihood",
        folder=Path("s"),
    )
    assert found.rows[0]["settings"] == {"options.temperature": 0.3}


@pytest.mark.usefixtures("stand_in")
def test_what_stopped_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies within a trial leaves it behind; the next takes its run up."""
    recipe = Job(RECIPE.title, RECIPE.seed, RECIPE.resolved(), Data("", ""), None, runs=Path("s"))
    run = job_of(recipe, {"options.temperature": 0.1})
    folder = run.folder

    def killed(self: object, processes: object) -> bool:
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps(run.recipe))
        (folder / "last.ckpt").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fervor.experiments.jobs.Job.run", killed)
        sweep(RECIPE, ["options.temperature=0.1,0.3"], folder=Path("s"))
    found = sweep(RECIPE, ["options.temperature=0.1,0.3"], folder=Path("s"))
    assert [row["state"] for row in found.rows] == ["complete", "complete"]
    assert sorted(line.split()[0] for line in trained()) == ["--config", "--resume"]


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_fails_is_told_and_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    found = sweep(RECIPE, ["options.temperature=9,0.3"], folder=Path("s"))
    assert [row["state"] for row in found.rows] == ["complete", "failed"]
    assert "diverged" in caplog.text
    sweep(RECIPE, ["options.temperature=9,0.3"], folder=Path("s"))
    assert len(trained()) == 2


@pytest.mark.usefixtures("stand_in")
def test_ranges_are_drawn_within_their_ends() -> None:
    vary = ["options.temperature=0.05..0.5:log", "optim.learning_rate=0.01..0.02"]
    first = sweep(RECIPE, vary, trials=5, folder=Path("s"))
    for row in first.rows:
        assert 0.05 <= row["settings"]["options.temperature"] <= 0.5
        assert 0.01 <= row["settings"]["optim.learning_rate"] <= 0.02
    assert len(first.rows) == len(trained()) == 5
    more = sweep(RECIPE, vary, trials=7, folder=Path("s"))
    assert len(more.rows) == len(trained()) == 7
    assert (Path("s") / JOURNAL).is_file()


def test_values_keep_their_kinds() -> None:
    for words, expected in {
        "options.template=1,9": (1, 9),
        "optim.learning_rate=1e-3,0.1": (0.001, 0.1),
        "options.centre=true,false": (True, False),
        "optim.name=sgd,adam": ("sgd", "adam"),
    }.items():
        name, found = parsed(words)
        assert name == words.partition("=")[0] and found.choices == expected  # type: ignore[attr-defined]
    _, found = parsed("options.template=1..9")
    assert type(found).__name__ == "IntDistribution"


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("optim.learning=1,2", r"--vary optim.learning: no such setting, .*optim\.learning_rate"),
        ("optim.learning_rate", "expected name=value,value or name=low..high"),
        ("optim.learning_rate=2..1", "expected two rising numbers"),
        ("optim.learning_rate=a..b", "expected two rising numbers"),
        ("optim.learning_rate=0.1..0.2", "a range has no end of trials, give --trials"),
    ],
)
def test_what_is_wrong_is_one_line(vary: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as error:
        sweep(RECIPE, [vary], folder=tmp_path / "s")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "s").exists()


def test_nothing_is_chosen_on_test(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a sweep chooses on validation"):
        sweep(replace(RECIPE, selection="paper"), ["optim.learning_rate=1,2"], folder=tmp_path)


@pytest.mark.slow
def test_a_tiny_sweep_trains(tmp_path: Path) -> None:
    """Real runs on drawn faces; test holds no picture, so that nothing could be chosen there."""
    labels = ("neutral", "happiness", "surprise")
    for seed, split in enumerate(("train", "valid")):
        write_folder(tmp_path / "faces" / split, labels, 3, seed=seed)
    torch.manual_seed(0)
    run = Run(
        data=Data(name="folder", root=str(tmp_path / "faces"), cache=""),
        augment=Augment(crop_padding=0, erase=0),
        encoder=Encoder(name="resnet18", weights=tiny.save_resnet(tmp_path / "net"), size=32),
        optim=Optim(epochs=1, batch_size=4),
        options={"temperature": 0.1},
        threads=1,
        name="drawn",
    )
    found = sweep(run, ["options.temperature=0.1,0.5"], folder=tmp_path / "s")
    assert [row["state"] for row in found.rows] == ["complete", "complete"]
    for row in found.rows:
        info = json.loads((found.path.parent / row["folder"] / "model.json").read_text())
        assert info["options"]["temperature"] == row["settings"]["options.temperature"]
        assert info["selection"] == row["selection"]
        assert row["selection"]["split"] == "valid"
