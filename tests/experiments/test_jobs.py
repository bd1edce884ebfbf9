"""Jobs: trained and evaluated once by commands in processes, gone on with, side by side."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fervor.config import Data, Encoder, Landmarks, Run
from fervor.errors import UsageError
from fervor.evaluation import results
from fervor.experiments.jobs import Job, run_all, run_differences
from fervor.io import provenance
from fervor.io.atomic import lock_folder


STAND_IN = """#!{python}
import pathlib, sys, time, yaml

words = sys.argv[1:]
assert words[:2] == ["-m", "fervor.cli.child"], words
words = words[2:]
value = lambda name: words[words.index(name) + 1]
with open("commands.txt", "a") as file:
    print(*words, file=file)
if words[0] == "train":
    folder = pathlib.Path(
        value("--resume") if "--resume" in words
        else yaml.safe_load(open(value("--config")))["output"]
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").touch()
    if pathlib.Path("stop").exists():
        (folder / "last.ckpt").touch()
        sys.exit("stopped half-way")
    (folder / "last.ckpt").unlink(missing_ok=True)
    (folder / "model.json").touch()
else:
    folder = pathlib.Path(value("--model"))
    assert (folder / "model.json").exists()
    sys.path.insert(0, {root!r})
    from fervor.evaluation import results
    from tests.evaluation.test_results import COMPLETE
    seed = int(folder.name.rpartition("seed")[2])
    protocol = value("--data.protocol") if "--data.protocol" in words else "majority"
    data = {{"name": value("--data.name"), "protocol": protocol, "split": "test"}}
    run = {{**COMPLETE["run"], "seed": seed, "config": {{"seed": seed}}}}
    result = pathlib.Path(value("--output")) / "ke" / (folder.name + "-test-abc.json")
    results.write(result, {{**COMPLETE, "model": "ke/x", "data": data, "run": run}})
    if "--report" in words:
        result.with_suffix("").mkdir()
        (result.with_suffix("") / "report.html").touch()
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in place of Python that does to files what the commands do."""
    program = tmp_path / "python"
    program.write_text(STAND_IN.format(python=sys.executable, root=str(Path(__file__).parents[2])))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)


def job(seed: int = 0) -> Job:
    data = Data(name="ferplus", root="pictures")
    return Job(
        name="ke/x",
        seed=seed,
        recipe={"method": "ke", "name": "ke/x"},
        data=data,
        test=data,
    )


def commands() -> list[str]:
    path = Path("commands.txt")
    return path.read_text().splitlines() if path.exists() else []


def test_a_run_is_trained_and_evaluated_once() -> None:
    assert run_all([job()]) == []
    train, evaluate = commands()
    assert train == "train --config runs/ke/x-seed0.yaml --data.root pictures"
    assert evaluate == (
        "evaluate --model runs/ke/x-seed0 --output results --data.root pictures --data.name ferplus"
    )
    recipe = yaml.safe_load(Path("runs/ke/x-seed0.yaml").read_text())
    assert recipe == {"method": "ke", "name": "ke/x", "seed": 0, "output": "runs/ke/x-seed0"}
    assert run_all([job()]) == []
    assert len(commands()) == 2


def test_what_is_given_replaces_a_recipes_setting_even_as_the_default() -> None:
    data = Data(name="ferplus", root="pictures", views=0)
    recipe = {"method": "ke", "data": {"views": 5, "margin": 0.1}}
    plain = Job("ke/x", 0, recipe, data, data)
    assert (plain.asked().data.views, plain.asked().data.margin) == (5, 0.1)
    given = replace(plain, replaced=frozenset({"name", "root", "views"}))
    assert (given.asked().data.views, given.asked().data.margin) == (0, 0.1)
    assert given.steps()[0][3:] == ["--data.root", "pictures", "--data.views", "0"]
    assert "--data.views" not in plain.steps()[0] + given.steps()[1]


def test_a_test_is_read_as_it_is_asked_for_and_its_result_has_to_be() -> None:
    data = Data(name="ferplus", root="pictures", views=3, margin=0.2, classes="happy,sad")
    read = replace(job(), data=data, test=data)
    words = read.steps()[1]
    assert words[words.index("--data.margin") + 1] == "0.2"
    assert words[words.index("--data.classes") + 1] == "happy,sad"
    assert "--data.views" not in words and "--data.views" in read.steps()[0]
    assert run_all([read]) == []
    (path,) = Path("results/ke").glob("*.json")
    plain = results.read(path)
    assert not read.finished()
    changes = {"margin": 0.2, "classes": ["happiness", "sadness"]}
    config = {"data": {"views": 3, "margin": 0.2, "classes": "happy,sad"}}
    run = {**plain["run"], "config": config}
    results.write(path, {**plain, "run": run, "data": plain["data"] | changes}, replace=True)
    assert read.finished() and not job().finished()


def test_what_stopped_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    Path("stop").touch()
    assert run_all([job()]) == [job()]
    assert "stopped half-way" in caplog.text and "runs/ke/x-seed0.log" in caplog.text
    assert len(commands()) == 1 and not job().finished()
    Path("stop").unlink()
    assert run_all([job()]) == []
    assert commands()[1] == "train --resume runs/ke/x-seed0"
    assert commands()[2].startswith("evaluate")


def test_a_trained_model_is_evaluated_alone() -> None:
    folder = Path("runs/ke/x-seed0")
    folder.mkdir(parents=True)
    (folder / "model.json").touch()
    assert run_all([job()]) == []
    assert [line.split()[0] for line in commands()] == ["evaluate"]


def test_a_run_that_ended_in_its_first_epoch_begins_anew() -> None:
    folder = Path("runs/ke/x-seed0")
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "half").touch()
    assert run_all([job()]) == []
    assert not (folder / "half").exists()
    assert [line.split()[0] for line in commands()] == ["train", "evaluate"]


def test_the_folder_of_a_training_that_is_no_jobs_is_left_alone() -> None:
    """A training that outlived its command has no checkpoint in its first epoch."""
    folder = Path("runs/ke/x-seed0")
    with lock_folder(folder):
        (folder / "half").touch()
        with pytest.raises(UsageError, match=r"x-seed0 is being written by another") as refused:
            run_all([job(0), job(1)])
        assert (folder / "half").is_file() and "\n" not in str(refused.value)
    assert [line.split()[0] for line in commands()] == ["train", "evaluate"]  # of the other job
    assert run_all([job()]) == []
    assert not (folder / "half").exists()


def test_a_report_belongs_to_a_figures_rows() -> None:
    assert run_all([job()]) == []
    drawn = replace(job(), report=True)
    assert not drawn.finished()
    assert run_all([drawn]) == []
    assert commands()[-1].endswith("--data.name ferplus --report")
    assert len(commands()) == 3 and drawn.finished()


def test_another_test_set_is_evaluated() -> None:
    other = Data(name="ckplus", root="ck", protocol="first-last")
    assert run_all([replace(job(), test=other)]) == []
    assert commands()[1].endswith("--data.root ck --data.name ckplus --data.protocol first-last")


def test_a_result_of_another_run_is_not_taken_for_this_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The right name is not enough: data, filters and settings have to be the run's."""
    assert run_all([job()]) == []
    (path,) = Path("results/ke").glob("*.json")
    plain = results.read(path)
    for change in (
        {"data": {**plain["data"], "name": "folder"}},
        {"data": {**plain["data"], "protocol": "argmax8"}},
        {"data": {**plain["data"], "exclude_duplicates": True}},
        {"data": {**plain["data"], "classes": ["happiness", "sadness"]}},
        {"data": {**plain["data"], "faces": "largest"}},
        {"data": {**plain["data"], "margin": 0.2}},
        {"data": {**plain["data"], "annotations": "fer2013.csv"}},
        {"data": {**plain["data"], "aligned": {"size": 112}}},
        {"cross_data": {"words": ["happy", "sad"], "shared": ["happiness", "sadness"]}},
        {"run": {**plain["run"], "config": {"optim": {"learning_rate": 0.5}}}},
        {"run": {**plain["run"], "seed": 1}},
    ):
        results.write(path, {**plain, **change}, replace=True)
        assert not job().finished(), change
    results.write(path, plain, replace=True)
    assert job().finished()
    path.unlink()
    Path("runs/ke/x-seed0/config.yaml").write_text("optim: {learning_rate: 0.5}")
    assert run_all([job()]) == [job()]
    assert "holds a run of other settings (optim.learning_rate): move it away" in caplog.text


def test_a_model_of_other_settings_is_not_taken_for_the_one_that_is_trained_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = replace(job(), test=None)
    assert run_all([alone]) == [] and alone.finished()
    Path("runs/ke/x-seed0/config.yaml").write_text("optim: {learning_rate: 0.5}")
    assert run_all([alone]) == [alone]
    assert "holds a run of other settings (optim.learning_rate)" in caplog.text


def test_files_are_compared_by_name_and_initial_weights_by_checksum(tmp_path: Path) -> None:
    """A result names files without their folders; the same name is not the same weights."""
    file, marks = tmp_path / "net.pt", tmp_path / "marks.pt"
    file.write_bytes(b"weights")
    marks.touch()
    asked = Run(encoder=Encoder("resnet18", str(file)), landmarks=Landmarks(weights=str(marks)))
    recorded = {
        "config": asked.published(),
        "initial_weights": {"file": "net.pt", "sha256": provenance.sha256(file)},
    }
    assert recorded["config"]["encoder"]["weights"] == "net.pt"
    assert run_differences(recorded, asked.resolved()) == []
    other = replace(asked, landmarks=Landmarks(weights=str(file)))
    assert run_differences(recorded, other.resolved()) == ["landmarks.weights"]
    for name in ("runs/cache", "ke/x"):  # a folder of such a name changes nothing
        Path(name).mkdir(parents=True)
    named = replace(asked, name="ke/x")
    assert (named.published()["name"], named.published()["data"]["cache"]) == ("ke/x", "runs/cache")
    assert named.published() == {**recorded["config"], "name": "ke/x"}
    file.write_bytes(b"others")
    assert run_differences(recorded, asked.resolved()) == ["encoder.weights"]


def test_jobs_run_side_by_side_and_each_once() -> None:
    """The same job twice, as of two tables: the second waits, and finds it done."""
    jobs = [job(0), job(1), job(0), job(2)]
    assert run_all(jobs, max_workers=4) == []
    trained = sorted(line.split()[2] for line in commands() if line.startswith("train"))
    assert trained == [f"runs/ke/x-seed{seed}.yaml" for seed in range(3)]
