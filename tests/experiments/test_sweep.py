"""Sweeps: every setting once, ranked on validation, gone on with after a stop."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fervor.cli.main import main
from fervor.config import Augment, Data, Encoder, Optim, Run
from fervor.errors import UsageError
from fervor.evaluation import results
from fervor.experiments.sweep import JOURNAL, Figure, job_of, parsed, recipe_of, sweep
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
    assert not words[3:], words
    folder = pathlib.Path(recipe["output"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(yaml.safe_dump(recipe))
temperature = recipe["options"]["temperature"]
with open("trained.txt", "a") as file:
    print(words[1], temperature, recipe["optim"]["learning_rate"], recipe["seed"], file=file)
with open("data.txt", "a") as file:
    data = recipe["data"]
    print(data["root"], data["validation"], data["target"], data["views"], file=file)
if pathlib.Path("stop").exists():
    (folder / "last.ckpt").touch()
    raise KeyboardInterrupt
if temperature == 9 and not pathlib.Path("mended").exists():
    (folder / "last.ckpt").touch()
    sys.exit("diverged")
accuracy = 1 - abs(temperature - 0.3) / 9 - recipe["optim"]["learning_rate"]
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
    data=Data(name="folder", root="here", validation=0.2, target="probability", views=3),
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
def test_settings_of_the_data_set_vary_whatever_the_recipe_has() -> None:
    """Also to their defaults; what does not vary stays the recipe's."""
    vary = ["data.validation=0.1,0.4", "data.target=majority,cross_entropy"]
    sweep(RECIPE, vary, folder=Path("s"))
    assert sorted(Path("data.txt").read_text().splitlines()) == [
        f"here {validation} {target} 3"
        for validation in (0.1, 0.4)
        for target in ("cross_entropy", "majority")
    ]


@pytest.mark.usefixtures("stand_in")
def test_every_seed_is_trained() -> None:
    found = sweep(RECIPE, ["seed=0,1,2"], folder=Path("s"))
    assert sorted(line.split()[3] for line in trained()) == ["0", "1", "2"]
    assert [row["seed"] for row in found.rows] == [row["settings"]["seed"] for row in found.rows]
    assert len({row["folder"] for row in found.rows}) == 3
    sweep(RECIPE, ["seed=0,1,2"], folder=Path("s"))
    assert len(trained()) == 3


@pytest.mark.usefixtures("stand_in")
def test_a_trial_of_other_settings_is_not_ranked() -> None:
    """As version 0.1 has trained some that vary the data."""
    found = sweep(RECIPE, ["data.validation=0.1,0.4"], folder=Path("s"))
    config = Path("s") / found.rows[0]["folder"] / "config.yaml"
    config.write_text(config.read_text().replace("validation: 0.", "validation: 0.2"))
    with pytest.raises(UsageError, match=r"other settings \(data\.validation\): name another"):
        sweep(RECIPE, ["data.validation=0.1,0.4"], folder=Path("s"))


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
    run = job_of(
        recipe_of(RECIPE.title, RECIPE.resolved(), Path("s")), {"options.temperature": 0.1}
    )
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
def test_a_run_that_fails_is_told_and_tried_again_by_the_next_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vary = ["options.temperature=9,0.3"]
    found = sweep(RECIPE, vary, folder=Path("s"))
    assert [row["state"] for row in found.rows] == ["complete", "failed"]
    assert "diverged" in caplog.text
    again = sweep(RECIPE, vary, folder=Path("s"))
    assert again.rows == found.rows and len(trained()) == 3  # it fails again
    Path("mended").touch()
    mended = sweep(RECIPE, vary, folder=Path("s"))
    assert [row["state"] for row in mended.rows] == ["complete", "complete"]
    assert [line.split()[:2] for line in trained() if " 9 " in line] == [
        ["--config", "9"],
        *[["--resume", "9"]] * 2,
    ]
    sweep(RECIPE, vary, folder=Path("s"))
    assert len(trained()) == 4


@pytest.mark.usefixtures("stand_in")
def test_drawn_trials_that_fail_are_tried_again_by_the_next_start() -> None:
    """Whatever number of trials the next start asks for, and in place of newly drawn ones."""
    vary = ["options.temperature=9,9.0"]
    found = sweep(RECIPE, vary, trials=4, folder=Path("s"))
    assert {row["state"] for row in found.rows} == {"failed"} and len(trained()) == 4
    settings = {repr(row["settings"]) for row in found.rows}
    Path("mended").touch()
    for trials in (1, 4, 4):
        mended = sweep(RECIPE, vary, trials=trials, folder=Path("s"))
        assert {row["state"] for row in mended.rows} == {"complete"}
        assert {repr(row["settings"]) for row in mended.rows} >= settings
    states = [trial["state"] for trial in results.read(mended.path)["trials"]]
    assert states == ["complete"] * len(states)


@pytest.mark.usefixtures("stand_in")
def test_the_command_ends_with_a_problem_where_a_trial_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["sweep", "--config", "ke/ferplus-mobilenet-evidence-ls", "--data.root", "here"]
    words += ["--study", "s", "--vary"]
    assert main([*words, "options.temperature=9"]) == 1
    answer = capsys.readouterr()
    assert answer.out == "failed   options.temperature=9\n"
    assert "1 trial failed: the same command tries again\n" in answer.err
    assert not Path("s/trials.json").exists()
    assert main([*words, "options.temperature=9,0.3"]) == 1
    assert capsys.readouterr().out.endswith("written to s/trials.json\n")
    Path("mended").touch()
    assert main([*words, "options.temperature=9,0.3"]) == 0
    answer = capsys.readouterr()
    assert "failed" not in answer.out + answer.err


OTHERS = {
    "recipe": (
        replace(RECIPE, optim=Optim(epochs=999), data=replace(RECIPE.data, root="elsewhere")),
        "options.temperature=0.1,0.3",
        r"s holds a sweep of a recipe with other settings \(optim\.epochs\): name another --study",
    ),
    "seed": (replace(RECIPE, seed=8), "options.temperature=0.1,0.3", r"other settings \(seed\)"),
    "option": (
        replace(RECIPE, options={"temperature": 1.0}),
        "options.temperature=0.1,0.3",
        r"other settings \(options\.centre\)",
    ),
    "varied": (
        RECIPE,
        "optim.learning_rate=0.01,0.1",
        r"over options\.temperature, expected optim\.learning_rate as --vary has it: name another",
    ),
}


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("figure", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("case", OTHERS)
def test_another_sweep_does_not_go_on_in_its_folder(
    case: str, recorded: bool, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it ranks by; a study of version 0.1 keeps no recipe, but its runs do."""
    with monkeypatch.context() as patch:
        if not recorded:
            patch.setattr("optuna.Study.set_user_attr", lambda *_: None)
        sweep(RECIPE, ["options.temperature=0.1,0.3"], folder=Path("s"))
    before = Path("s/trials.json").read_bytes()
    run, vary, message = OTHERS[case]
    with pytest.raises(UsageError, match=message) as refused:
        sweep(run, [vary], figure=figure, folder=Path("s"))
    assert "\n" not in str(refused.value) and len(trained()) == 2
    assert Path("s/trials.json").read_bytes() == before


@pytest.mark.usefixtures("stand_in")
def test_a_sweep_goes_on_on_another_machine_and_whatever_its_recipe_had_for_what_varies() -> None:
    sweep(RECIPE, ["options.temperature=0.1,0.3"], folder=Path("s"))
    moved = replace(
        RECIPE,
        data=replace(RECIPE.data, root="elsewhere", cache="there"),
        options={"temperature": 2.0, "centre": True},
        threads=2,
        workers=1,
    )
    again = sweep(moved, ["options.temperature=0.1,0.3"], folder=Path("s"))
    assert len(again.rows) == len(trained()) == 2


@pytest.mark.usefixtures("stand_in")
def test_a_longer_list_goes_on_and_a_shorter_one_is_answered_alone() -> None:
    sweep(RECIPE, ["options.temperature=0.1,0.3"], folder=Path("s"))
    longer = sweep(RECIPE, ["options.temperature=0.1,0.3,1"], folder=Path("s"))
    assert [row["settings"]["options.temperature"] for row in longer.rows] == [0.3, 0.1, 1]
    assert len(trained()) == 3
    other = sweep(RECIPE, ["options.temperature=0.2,0.1"], folder=Path("s"))
    assert [row["settings"]["options.temperature"] for row in other.rows] == [0.2, 0.1]
    assert len(trained()) == 4
    with pytest.raises(UsageError, match=r"--vary options\.temperature: --trials draws from") as no:
        sweep(RECIPE, ["options.temperature=0.1..0.3"], trials=3, folder=Path("s"))
    assert "\n" not in str(no.value)


@pytest.mark.usefixtures("stand_in")
def test_trials_outside_of_a_range_do_not_count() -> None:
    sweep(RECIPE, ["options.temperature=0.1..0.2"], trials=2, folder=Path("s"))
    other = sweep(RECIPE, ["options.temperature=0.3..0.4"], trials=2, folder=Path("s"))
    assert len(other.rows) == 2 and len(trained()) == 4
    assert all(0.3 <= row["settings"]["options.temperature"] <= 0.4 for row in other.rows)


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


@pytest.mark.usefixtures("stand_in")
def test_seeds_are_those_of_a_run() -> None:
    vary = ["options.temperature=0.05..0.5"]
    for seed in (50_000, 2**32 - 1):
        found = sweep(replace(RECIPE, seed=seed), vary, trials=1, folder=Path(f"s{seed}"))
        assert [row["seed"] for row in found.rows] == [seed]
    with pytest.raises(UsageError, match=r"--seed 4294967296: expected at most 4,294,967,295"):
        sweep(replace(RECIPE, seed=2**32), vary, trials=1, folder=Path("s"))
    assert not Path("s").exists()


def test_values_keep_their_kinds() -> None:
    for words, expected in {
        "options.template=1,9": (1, 9),
        "optim.learning_rate=1e-3,0.1": (0.001, 0.1),
        "options.centre=true,false": (True, False),
        "optim.name=sgd,adam": ("sgd", "adam"),
        "encoder.weights=../a.safetensors,../b": ("../a.safetensors", "../b"),
        "data.root=..": ("..",),
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
        ("optim.learning_rate=0.1..b", "expected two rising numbers"),
        ("optim.learning_rate=..1", "expected two rising numbers"),
        ("optim.learning_rate=1..2,3", "expected two rising numbers"),
        ("optim.learning_rate=a..b", r"--vary optim\.learning_rate=a\.\.b: .*Expected a <class"),
        ("selection=honest,paper", "--vary selection: a sweep chooses on validation alone"),
        ("output=a,b", "--vary output: every trial would train the same"),
        ("seed=0,x", r"--vary seed=x: .*Expected a <class 'int'>"),
        ("seed=-1,0", "--seed -1: expected at least 0"),
        ("data.validation=0.1,2", "--data.validation 2.0: expected a share"),
        ("data.validation=0.5..2", "--data.validation 2.0: expected a share"),
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
    again = sweep(run, ["options.temperature=0.1,0.5"], figure="macro_f1", folder=found.path.parent)
    assert {row["sha256"] for row in again.rows} == {row["sha256"] for row in found.rows}
    assert len(list(found.path.parent.glob("trial-*/logs*"))) == 2  # nothing was trained anew
