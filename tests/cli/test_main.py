"""The command line as a user meets it: what it prints, and its exit codes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fervor
from fervor.cli import COMMANDS
from fervor.cli.main import main
from fervor.config import READING, Data, Run
from fervor.errors import UsageError
from tests.support.models import write_model
from tests.support.signals import hear_interruptions


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


def fervor_process(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "fervor", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def refused(answer: subprocess.CompletedProcess[str]) -> str:
    """The one line of wrong use."""
    assert answer.returncode == 2, answer
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two readable face crops, one picture without a face, three that cannot be read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in {"a": "red", "b": "lime", "c": "black"}.items():
        Image.new("RGB", (48, 48), colour).save(folder / f"{name}.png")
    whole = (folder / "a.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    (folder / "notes.txt").write_bytes(whole)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name}\s+\w", shown, re.MULTILINE) for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fervor {fervor.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fervor {command}")


@pytest.mark.skipif(sys.platform == "win32", reason="needs the processor time of a child")
@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"]])
def test_help_is_quick(words: list[str]) -> None:
    """In seconds of processor time; beside other work on the same core they count up to double."""
    import resource

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert fervor_process(*words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 2 * 0.3


@pytest.mark.parametrize("words", [[], ["predct"], ["--hlp"]])
def test_no_or_unknown_command(words: list[str]) -> None:
    assert "expected one of predict, explain, serve, train" in refused(fervor_process(*words))


def test_commands_of_two_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(name: str, *, loud: bool = False) -> int:
        """Describe."""
        print(name, loud)
        return 1

    monkeypatch.setitem(COMMANDS, "group describe", describe)
    monkeypatch.setitem(COMMANDS, "group forget", describe)
    assert main(["group", "describe", "it", "--loud"]) == 1
    assert capsys.readouterr().out == "it True\n"
    for words, given in ((["group"], "group"), (["group", "it", "x"], "group it")):
        assert main(words) == 2
        expected = f"unknown command {given}: expected one of group describe, group forget, "
        assert expected in capsys.readouterr().err
    assert main(["group", "describe"]) == 2
    assert capsys.readouterr().err.startswith("fervor group describe: missing NAME: see fervor gr")


def test_photograph_in_a_table(model: Path) -> None:
    answer = fervor_process("predict", PHOTOGRAPH, "--model", model, "--threads", "1")
    assert (answer.returncode, answer.stderr) == (0, "")
    header, row = answer.stdout.splitlines()
    assert header.split()[:3] == ["source", "face", "expression"]
    assert row.split()[:2] == [str(PHOTOGRAPH), "0"]


def test_folder_as_rows(model: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    words = ["predict", folder, "--model", model, "--faces", "precropped", "--output", output]
    answer = fervor_process(*words)
    assert (answer.returncode, answer.stderr) == (0, "")
    counts = "6 pictures, 3 faces, 0 without a face, 3 unreadable; 1 file skipped (1 .txt)"
    assert answer.stdout == f"{output}: {counts}\n"
    rows = read_csv(output)
    assert [Path(row["source"]).name for row in rows] == [
        *("a.png", "b.png", "c.png", "cut.jpg", "empty.png", "text.jpg")
    ]
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["error"] * 3
    assert [row["label"] for row in rows[:2]] == ["neutral", "happiness"]
    reasons = ["truncated", "empty", "not a picture"]
    assert all(reason in row["error"] for reason, row in zip(reasons, rows[3:], strict=True))
    assert fervor_process(*words, "--strict").returncode == 1


def test_rows_do_not_depend_on_batch_size_and_threads(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    answers: list[list[Any]] = []
    numbers: list[list[float]] = []
    for batch_size, threads in ((1, 1), (2, 2), (100, 1)):
        output = tmp_path / f"{batch_size}.jsonl"
        options = {"model": model, "output": output, "batch_size": batch_size, "threads": threads}
        words = [f"--{name}={value}" for name, value in options.items()]
        assert main(["predict", str(folder), "--faces", "precropped", *words]) == 0
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        answers.append([[row["source"], row["label"], row["status"]] for row in rows])
        numbers.append([row["p_neutral"] for row in rows if row["status"] == "ok"])
    assert answers[0] == answers[1] == answers[2]
    np.testing.assert_allclose(numbers[1:], [numbers[0]] * 2, atol=1e-6)


def test_picture_without_a_face(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(folder / "c.png"), "--model", str(model)]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:] == ["-", "no", "face"]
    assert main([*words, "--strict"]) == 1


def test_abstaining(model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(folder / "a.png"), "--model", str(model), "--faces", "precropped"]
    assert main([*words, "--abstain", "0.999"]) == 0
    assert "uncertain" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["{folder}/nowhere"], "nowhere does not exist: expected a picture, a video"),
        (["{empty}"], "holds no picture and no video: expected .jpg"),
        (["{folder}", "--outptu", "a.csv"], "unknown option --outptu: expected one of --output,"),
        (["{folder}", "--output", "a.xlsx"], "a.xlsx: expected a name that ends in .jsonl, .csv,"),
        (["{folder}", "--faces", "some"], "expected one of all, largest, precropped"),
        (["{folder}", "--threads", "two"], "--threads two: expected a whole number"),
        (["{folder}", "--threads", "-1"], "threads=-1: expected 1 or more"),
        (["{folder}", "--abstain", "7"], "abstain=7.0: expected a probability"),
        (["{folder}", "--abstain", "no"], "--abstain no: expected a number or auto"),
        (
            ["{folder}", "--model", "{tiny}", "--abstain", "auto"],
            "abstain=auto: model tiny stores no operating points",
        ),
        (
            ["{folder}", "--model", "{tiny}", "--prior", "balanced"],
            "prior=balanced: model tiny stores no operating",
        ),
        (["{folder}", "--model", "{folder}"], "holds no model.json: expected a model folder"),
        (["{folder}", "--model", "{folder}/gone"], "does not exist: expected a model folder"),
        (["{folder}", "--model", "{stranger}"], "expected what fervor train and fervor export"),
        ([], "missing INPUT"),
    ],
)
def test_wrong_use_of_predict(
    words: list[str], line: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    stranger = write_model(tmp_path / "stranger", schema="hf")
    places = {"folder": folder, "empty": tmp_path / "empty", "stranger": stranger}
    places["tiny"] = write_model(tmp_path / "tiny")
    assert main(["predict", *(word.format(**places) for word in words)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fervor predict: ")
    assert shown.err.count("\n") == 1
    assert line in shown.err


def test_wrong_use_prints_one_line_and_no_traceback(folder: Path) -> None:
    assert "--threads" in refused(fervor_process("predict", folder, "--thraeds", "2"))
    assert "whole number" in refused(fervor_process("train", "--seed", "abc"))


def test_output_that_cannot_be_written(model: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    output.mkdir()
    words = ["predict", folder, "--model", model, "--faces", "precropped", "--output", output]
    assert "rows.csv is a folder: expected a file's name" in refused(fervor_process(*words))


def test_reader_that_leaves_early(model: Path, folder: Path) -> None:
    command = f"{sys.executable} -m fervor predict {folder} --model {model} --faces precropped"
    answer = subprocess.run(
        f"set -o pipefail; {command} --batch_size 1 | head -n 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("source")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and pipes")
def test_interruption_keeps_the_rows(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (800, 800), "red").save(picture)
    output = tmp_path / "rows.jsonl"
    words = ["predict", *[picture] * 500, "--model", model, "--output", output, "--batch_size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fervor", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_interruptions,
    )
    partial = output.with_name("rows.jsonl.partial")
    deadline = time.monotonic() + 300
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert partial.name.encode() in error
    assert not output.exists()
    rows = [json.loads(line) for line in partial.read_text().splitlines()]
    assert 0 < len(rows) < 500


def test_models_lists_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^detector\.onnx\n  licence +MIT", shown, re.MULTILINE)
    assert re.search(r"sha256 +[0-9a-f]{64}  verified", shown)
    assert "DIFFERS" not in shown
    assert "What a checkpoint needs" in shown
    assert "Without what was learned from research data\n  none of these files" in shown


def test_models_says_what_auto_takes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    _, _, said = capsys.readouterr().out.partition("What --precision auto takes on this machine\n")
    for name, line in zip(("embedded", "vlm"), said.splitlines(), strict=False):
        taken = fervor.Predictor(name, faces="precropped", precision="auto").precision
        assert line.split()[:2] == [name, f"{taken}:"]


def test_models_says_what_was_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fervor.artifacts import packaged

    damaged = [replace(weight, intact=False) for weight in packaged.shipped()]
    monkeypatch.setattr(packaged, "shipped", lambda: damaged)
    assert main(["models"]) == 1
    assert "DIFFERS: reinstall fervor" in capsys.readouterr().out


def test_train_gets_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Run, bool]] = []

    def train(run: Run, *, resume: bool) -> Path:
        calls.append((run, resume))
        return Path("runs/x")

    monkeypatch.setitem(sys.modules, "fervor.training.trainer", SimpleNamespace(train=train))  # type: ignore[arg-type]
    (tmp_path / "config.yaml").write_text("seed: 5\n")
    assert main(["train", "--data.root", "here", "--seed", "3"]) == 0
    assert main(["train", "--resume", str(tmp_path)]) == 0
    assert calls == [
        (Run(data=Data(root="here"), seed=3), False),
        (Run(seed=5, output=str(tmp_path)), True),
    ]
    assert capsys.readouterr().out == "runs/x\nruns/x\n"


SHARES = ("accuracy", "mean_class_accuracy", "macro_f1", "calibration_error")
RESULT: dict[str, Any] = {
    **dict.fromkeys(SHARES, 0.5),
    **{
        "accuracy_interval": [0.4, 0.6],
        "correct": 1,
        "count": 2,
        "persons": None,
        "cross_data": None,
    },
}


def told(exclude_duplicates: bool, count: int) -> dict[str, Any]:
    left_out = {"no_face": count, "duplicates": count}
    return {"exclude_duplicates": exclude_duplicates, "left_out": left_out}


def test_what_an_evaluation_leaves_out_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cross = {
        "trained_on": "ferplus",
        "shared": ["neutral", "fear"],
        "model_only": ["contempt"],
        "data_only": {"anger": 7},
        "accuracy_over_all_classes": 0.25,
    }
    result = {**RESULT, "cross_data": cross, "data": told(True, 3)}
    fake = SimpleNamespace(evaluate=lambda *given, **named: (Path("r.json"), result))
    monkeypatch.setitem(sys.modules, "fervor.evaluation.evaluate", fake)  # type: ignore[arg-type]
    assert main(["evaluate", "--model", "m", "--exclude_duplicates"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()[5:]]
    assert {(line[0], line[-1].strip()) for line in lines} >= {
        ("trained on", "ferplus"),
        ("classes counted", "neutral, fear"),
        ("only in the model", "contempt"),
        ("only in the data", "anger (7 pictures)"),
        ("without a face", "3 pictures left out"),
        ("also in train", "3 pictures left out"),
        ("accuracy, all classes", "25.00%"),
    }


def test_data_align_tells_its_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.drawn import write_folder

    root, out = write_folder(tmp_path / "faces", ["anger"], 1), tmp_path / "out"
    Image.new("RGB", (90, 90)).save(root / "anger" / "black.png")
    words = ["data", "align", "folder", str(root), str(out), "--size", "32", "--missing", "skip"]
    assert main(words) == 0
    assert ": 2 pictures, 1 aligned, 1 without a face (0 kept, 0 centred, 1 skipped), 0 unr" in (
        capsys.readouterr().out
    )
    (root / "anger" / "broken.png").write_bytes(b"x")
    assert main(words) == 1
    assert "1 unreadable; listed in manifest.jsonl" in capsys.readouterr().out
    assert main([*words[:3], "nowhere", str(out)]) == 2
    assert main([*words[:4], str(out), "--missing", "drop"]) == 2
    assert "expected one of keep, centre, skip" in capsys.readouterr().err


def test_evaluate_and_export_get_their_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(
        model: str, data: Data, *, split: str, output: str, exclude_duplicates: bool, **more: Any
    ) -> tuple[Path, dict[str, Any]]:
        assert (model, data.root, split, output) == ("m", "here", "valid", "results")
        assert more == {"report": False, "umap": False, "compare": "", "slices": [], "labels": ()}
        return Path("results/r.json"), {**RESULT, "data": told(exclude_duplicates, 0)}

    def export(*, model: str, output: str, half: bool) -> Path:
        return Path(output) / f"{model}-{half}"

    evaluation, exporting = SimpleNamespace(evaluate=evaluate), SimpleNamespace(export=export)
    monkeypatch.setitem(sys.modules, "fervor.evaluation.evaluate", evaluation)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "fervor.graphs.onnx", exporting)  # type: ignore[arg-type]
    assert main(["evaluate", "--model", "m", "--data.root", "here", "--split", "valid"]) == 0
    assert "accuracy             50.00% (40.00% to 60.00%" in capsys.readouterr().out
    assert main(["export", "--model", "m", "--output", "o"]) == 0
    assert main(["export", "--model", "m", "--output", "o", "--half"]) == 0
    assert capsys.readouterr().out == "o/m-False\no/m-True\n"


@pytest.mark.parametrize("command", ["evaluate", "robustness"])
def test_options_of_training_are_refused_where_a_model_is_measured(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but those that say which images are read, also at their defaults."""
    work = f"fervor.evaluation.{command}.{command}"
    monkeypatch.setattr(work, lambda *_, **given: (_ for _ in ()).throw(UsageError("measured")))
    for field in fields(Data):
        words = [command, "--model", "m", f"--data.{field.name}", str(getattr(Data(), field.name))]
        assert main(words) == 2
        idle = f"--data.{field.name} concerns training and changes nothing here: leave it out"
        error = capsys.readouterr().err
        assert (idle in error) == (field.name not in READING) and error.count("\n") == 1
        assert ("measured" in error) == (field.name in READING)


def test_evaluate_tells_of_another_model_and_of_groups(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"model": "other", "accuracy": 0.6, "first_only": 3, "second_only": 8}
    other |= {"gain": -0.1, "gain_interval": [-0.2, 0.05], "test": "McNemar's test", "p_value": 0.2}
    group = {"count": 4, "accuracy": 0.5, "accuracy_interval": [0.15, 0.85]}
    slices = {"age": {"groups": {"20-39": group}, "test": "fisher", "p_value_holm": 0.03}}
    result = {**RESULT, "data": told(False, 0), "comparison": other, "slices": slices}
    given: dict[str, Any] = {}

    def evaluate(*words: Any, **named: Any) -> tuple[Path, dict[str, Any]]:
        given.update(named)
        return Path("results/r.json"), result

    fake = SimpleNamespace(evaluate=evaluate)
    monkeypatch.setitem(sys.modules, "fervor.evaluation.evaluate", fake)  # type: ignore[arg-type]
    words = ["evaluate", "--model", "m", "--compare", "o", "--slices", "age, light", "--report"]
    assert main(words) == 0
    assert (given["compare"], given["slices"], given["report"]) == ("o", ["age", "light"], True)
    shown = capsys.readouterr().out
    for line in (
        "compared with        other, accuracy 60.00%",
        "right alone          3 against 8 pictures",
        "gain                 -10.00% (-20.00% to +5.00%)",
        "McNemar's test       p = 0.2",
        "age 20-39            50.00% (15.00% to 85.00%), 4 pictures",
        "age, equal           p = 0.03 (fisher)",
        "report               results/r/report.html",
    ):
        assert line in shown


def test_robustness_tells_each_corruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"accuracy": [0.9, 0.8, 0.7, 0.6, 0.5], "mean_accuracy": 0.7}
    result = {
        "corruptions": {"noise": row},
        "clean": {"accuracy": 0.95},
        "mean_accuracy": 0.7,
        "count": 20,
        "baseline": {"model": "other", "mean_corruption_error": 0.875},
    }
    fake = SimpleNamespace(robustness=lambda *given, **named: (Path("r.json"), result))
    monkeypatch.setitem(sys.modules, "fervor.evaluation.robustness", fake)  # type: ignore[arg-type]
    assert main(["robustness", "--model", "m", "--data.root", "here", "--pictures", "20"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"noise +90\.0% +80\.0% +70\.0% +60\.0% +50\.0% +70\.0%", shown)
    assert "clean 95.00%, corrupted 70.00% on 20 pictures" in shown
    assert "mean corruption error 87.5% of that of other" in shown


def test_reproduce_prints_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "mpa-results", "--data.name", "rafdb", "--profile", "full"]) == 0
    assert re.search(r"\| MPA-FER +\| 0 +\| +\| 92\.51", capsys.readouterr().out)
    assert main(["reproduce", "ke-tabel2"]) == 2
    assert "unknown table 'ke-tabel2': expected one of ke-table" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_training_without_torch_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("fervor.graphs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["export", "--model", "m", "--output", "o"]) == 2
    assert 'needs torch, which is not installed: pip install "fervor[train]"' in (
        capsys.readouterr().err
    )


def test_prediction_opens_no_socket(model: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\ndef refuse(*_): raise SystemExit('a socket')\nsocket.socket = refuse\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = ["predict", folder, "--model", model, "--offline"]
    answer = fervor_process(*words, env=environment)
    assert (answer.returncode, answer.stderr) == (0, "1 file skipped (1 .txt)\n")
    opening = [sys.executable, "-c", "import socket; socket.socket()"]
    opened = subprocess.run(opening, env=environment, capture_output=True, check=False)
    assert opened.stderr == b"a socket\n"  # the guard guards


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_work_is_done_without_streams(closed: str, tmp_path: Path) -> None:
    """As daemons and cron start programs; no file that is opened may get the number of one."""
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    model = write_model(tmp_path / "model")
    words = f"predict a.png --model {model} --faces precropped --output rows.csv"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for given, code in ((words, 0), ("predict nowhere.png", 2)):
        command = f"{sys.executable} -m fervor {given} {closed}"
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, env=environment
        )
        assert (done.returncode, done.stderr) == (code, b"")
        assert b"nowhere" not in done.stdout
    (row,) = read_csv(tmp_path / "rows.csv")
    assert row["status"] == "ok"


def test_a_name_that_begins_as_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-face.png").write_bytes(b"no picture")
    assert main(["predict", "-face.png"]) == 2
    assert "begins with - as options do: write ./-face.png" in capsys.readouterr().err
    assert main(["predict", ""]) == 2
    assert "an empty name does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--landmarks", "--smooth"])
def test_columns_that_nobody_would_see(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", ".", option]) == 2
    line = f"the terminal's table has no such columns: leave {option[2:]} out"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--output rows.parquet", "--summary sums.json"])
def test_a_pipe_stays_one(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="needs fervor[parquet]")
    name, file = option.split()
    os.mkfifo(tmp_path / file)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), name, str(tmp_path / file)]) == 2
    assert "is a pipe or device" in capsys.readouterr().err
    assert (tmp_path / file).is_fifo()


def test_rows_are_boxes_whatever_a_file_is_called(tmp_path: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/bad\xff.png"))
    strange.parent.mkdir()
    Image.new("RGB", (40, 40)).save(strange)
    model, rows = write_model(tmp_path / "model"), tmp_path / "rows.csv"
    words = ["predict", str(strange.parent), "--model", str(model), "--output"]
    assert main([*words, str(rows), "--faces", "precropped"]) == 0
    text = rows.read_text().splitlines()
    (row,) = read_csv(rows)
    assert row["status"] == "ok" and len(text) == 2
    lines = "source,x,y,width,height\n" + text[1].split(",")[0] + ",4,4,30,30\n"
    (tmp_path / "boxes.csv").write_text(lines)
    again = tmp_path / "again.csv"
    assert main([*words, str(again), "--boxes", str(tmp_path / "boxes.csv")]) == 0
    assert [row["x"] for row in read_csv(again)] == ["4.0"]


@pytest.mark.parametrize("stdout", ["latin-1", "closed"])
def test_a_stdout_that_cannot_show_a_name(stdout: str, tmp_path: Path) -> None:
    (tmp_path / "表情.png").write_bytes(b"no picture")
    command = f"{sys.executable} -m fervor predict 表情.png" + (
        " >&-" if stdout == "closed" else ""
    )
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1:strict", "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    if stdout == "latin-1":
        assert b"\\u8868\\u60c5.png" in done.stdout
