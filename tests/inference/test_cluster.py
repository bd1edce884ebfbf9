"""Prediction over Ray Data: nothing is lost and nothing doubled, whoever is killed."""

import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from fervor.cli.main import main
from fervor.errors import ModelError
from fervor.inference.prediction import Answer
from fervor.io.frame import Frame
from tests.support.models import write_model
from tests.support.signals import hear_interruptions


POISON = "13.png"
"""A worker that reads it kills itself."""

KILLER = f"""
import os, sys, time
if "default_worker.py" in " ".join(sys.orig_argv):
    from fervor.io import sources as media
    read = media.read_image
    def killing(source, **options):
        if os.path.basename(source) == {POISON!r}:
            os.kill(os.getpid(), 9)
        time.sleep(0.1)  # so that workers are busy while the first rows are written
        return read(source, **options)
    media.read_image = killing
"""


MISSING = """
import sys
if "default_worker.py" in " ".join(sys.orig_argv):
    from fervor.errors import ModelError
    from fervor.inference import predictor
    def missing(*_, **__):
        raise ModelError("/models/mine is missing: expected a model folder")
    predictor.Predictor.__init__ = missing
"""
"""No worker finds its model."""

ELSEWHERE = """
import sys
if "default_worker.py" in " ".join(sys.orig_argv):
    sys.modules["fervor.inference.cluster"] = None
"""
"""No worker finds fervor."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty faces of different colours, two of them damaged."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (24, 24), (6 * number, 200, 0)).save(folder / f"{number:02}.png")
    (folder / "05.png").write_bytes(b"")
    (folder / "38.png").write_text("no picture")
    return folder


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["predict", *words]) == 2
    answer = capsys.readouterr()
    assert (answer.out, answer.err.count("\n")) == ("", 1)
    return answer.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--cluster", "--annotate", "drawings"], "--cluster writes rows alone"),
        (["--cluster", "--summary", "times.csv"], "summary=times.csv: --cluster takes no videos"),
        (["--cluster", "--every", "2"], "every=2: --cluster takes no videos; leave one"),
        (["--cluster", "--start", "0.5"], "start=0.5: --cluster takes no videos; leave one"),
        (["--cluster", "--end", "3"], "end=3.0: --cluster takes no videos; leave one"),
        (["--cluster", "--workers", "-1"], "workers=-1: expected 1 or more"),
        (["--workers", "2"], "workers=2: needs --cluster"),
    ],
)
def test_wrong_use(
    words: list[str], line: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused([str(pictures), *words], capsys)


def test_without_ray_it_is_one_line(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "fervor.inference.cluster", raising=False)
    monkeypatch.delattr("fervor.inference.cluster", raising=False)  # another test's import
    monkeypatch.setitem(sys.modules, "pyarrow", sys.modules[__name__])
    line = refused([str(pictures), "--cluster"], capsys)
    assert 'needs ray, which is not installed: pip install "fervor[cluster]"' in line


def test_an_address_without_a_cluster_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "addresses are read with --cluster" in refused(["s3://bucket/a.png"], capsys)


class TestPieces:
    @pytest.fixture(autouse=True)
    def needs_ray(self) -> None:
        pytest.importorskip("ray.data", reason="needs fervor[cluster]")

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["clip.mp4"], "clip.mp4: --cluster takes pictures"),
            (["memory://bucket/a.png", "--offline"], "--offline reads paths alone"),
            (["gone.png"], "gone.png does not exist"),
        ],
    )
    def test_wrong_inputs(
        self,
        words: list[str],
        line: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        pytest.importorskip("av", reason="needs fervor[video]")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "")  # --offline sets it
        (tmp_path / "clip.mp4").write_bytes(bytes(9))
        assert line in refused([*words, "--cluster"], capsys)

    def test_files_of_folders_that_are_no_input_are_counted(
        self,
        model: Path,
        pictures: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Of paths and addresses alike, as without a cluster; here a cluster that has no worker."""
        from fervor.inference import cluster

        def answers(sources: list[str], *_: Any, **__: Any) -> Iterator[Answer]:
            yield from ((Frame(source, 0, None, None, "unread"), (), ()) for source in sources)

        (pictures / "notes.txt").touch()
        (pictures / ".hidden").touch()
        monkeypatch.setattr(cluster, "joined", lambda *_: nullcontext(1))
        monkeypatch.setattr(cluster, "answers", answers)
        words = ["predict", str(pictures), f"file://{pictures}", "--cluster", "--model", str(model)]
        assert main([*words, "--output", str(tmp_path / "rows.jsonl")]) == 0
        assert capsys.readouterr().out.endswith("; 2 files skipped (2 .txt)\n")
        assert main(words) == 0
        assert capsys.readouterr().err == "2 files skipped (2 .txt)\n"

    def test_every_name_is_in_one_piece(self) -> None:
        from fervor.inference.cluster import _pieces

        names = [f"{number}.png" for number in range(9)] + [os.fsdecode(b"\xff.png")]
        pieces = [piece.to_pylist() for piece in _pieces(names, 4)]
        assert [len(piece) for piece in pieces] == [4, 4, 2]
        rows = [row for piece in pieces for row in piece]
        assert [row["number"] for row in rows] == list(range(10))
        assert [os.fsdecode(row["source"]) for row in rows] == names

    def test_paths_of_options_hold_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fervor.inference.cluster import _portable

        for name in ("embedded", "mine"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        mine = {"model": "mine", "neutral": "auto", "threads": 1}
        assert _portable(mine) == {**mine, "model": str(tmp_path / "mine")}
        for name in ("embedded", "hub:user/name", None):
            assert _portable({"model": name}) == {"model": name}
        (tmp_path / "faces.csv").touch()
        assert _portable({"boxes": "faces.csv"}) == {"boxes": str(tmp_path / "faces.csv")}

    def test_an_animation_is_an_error_and_not_its_first_frame(self, tmp_path: Path) -> None:
        from fervor.inference.cluster import Worker

        frames = [Image.new("RGB", (24, 24), (100 * number, 0, 0)) for number in range(3)]
        frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
        frames[0].save(tmp_path / "stands.gif")
        worker = object.__new__(Worker)
        worker._folder = str(tmp_path)
        for name in ("moves.gif", f"file://{tmp_path}/moves.gif"):
            frame = worker._read(name)
            assert (frame.source, frame.picture, frame.time_s) == (name, None, None)
            assert frame.error == (
                "an animation: --cluster takes pictures; give animations without it"
            )
        for name in ("stands.gif", f"file://{tmp_path}/stands.gif"):
            frame = worker._read(name)
            assert frame.error is None and frame.shape == (24, 24)

    def test_a_picture_that_takes_workers_with_it_is_found_out(self) -> None:
        from fervor.inference.cluster import LOSSES, Losses

        losses = Losses()
        for _ in range(1 + LOSSES):
            assert not losses.begin(8)
        assert not losses.begin(16)  # another piece's worker was not lost
        losses.done(16)
        assert not losses.begin(16)
        assert losses.begin(8)
        assert losses.read(8, 8)
        assert losses.read(8, 9)  # and with it the worker was lost
        assert losses.begin(8)
        assert [losses.read(8, number) for number in (8, 9, 10, 11)] == [True, False, True, True]
        losses.done(8)
        assert not losses.begin(8)

    @pytest.mark.parametrize("fails", ["__init__", "with_frames"])
    def test_what_goes_wrong_in_a_worker_is_an_answer(
        self, fails: str, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each picture of the piece has it, also where the worker could not even begin."""
        from fervor.inference import cluster

        def fail(*_: Any, **__: Any) -> None:
            raise ModelError("mine is missing")

        calls = SimpleNamespace(remote=lambda *_: False)
        monkeypatch.setattr(cluster.ray, "get", lambda answer: answer)
        monkeypatch.setattr(cluster.Predictor, fails, fail)
        options = {"model": str(model), "faces": "precropped", "batch_size": 8, "threads": 1}
        losses = SimpleNamespace(begin=calls, done=calls)
        worker = cluster.Worker(losses, str(pictures), options, False)
        piece = next(cluster._pieces(["00.png", "01.png"], 8))
        answers = worker(piece)["answer"].to_pylist()
        expected = cluster.Failure(platform.node(), "mine is missing")
        assert [pickle.loads(answer) for answer in answers] == [expected] * 2

    def test_a_failure_names_what_is_no_error_of_ours(self) -> None:
        from fervor.inference.cluster import _failure

        assert _failure(RuntimeError("out\nof memory")).reason == "RuntimeError: out of memory"
        assert _failure(MemoryError()).reason == "MemoryError"
        assert _failure(ModelError()).reason == "ModelError"

    def test_of_rays_errors_the_cause_is_told(self) -> None:
        """Ray's own lines are above the cause, in colours; frames of its own are left out."""
        from ray.exceptions import ActorDiedError, RayTaskError

        from fervor.inference.cluster import _reason

        def error(*frames: str) -> RayTaskError:
            text = "\n".join(["Traceback (most recent call last):", *frames, "KeyError: 'x'", ""])
            return RayTaskError("f", text, KeyError("x"), proctitle="f", pid=1, ip="192.0.2.1")

        frame = '  File "a.py", line 1, in f\n    x["x"]\n    ~^^^^^'
        for one in (error(frame), error(frame, frame), error("           ^^^^^^")):
            for raised in (one, one.as_instanceof_cause(), ActorDiedError(one)):
                assert _reason(raised) == "KeyError: 'x'"
        assert _reason(ConnectionError("no\n\n  answer")) == "no"
        assert _reason(ConnectionError()) == "ConnectionError"


def read_rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def started(tmp_path: Path, *words: str | Path, program: str = KILLER) -> "subprocess.Popen[str]":
    """A prediction over a cluster of this machine whose workers die of the poison.

    `program` is what each process runs as it starts.
    """
    (tmp_path / "sitecustomize.py").write_text(program, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *sys.path[1:]])
    command = [sys.executable, "-m", "fervor", "predict", *map(str, words), "--cluster"]
    return subprocess.Popen(
        [*command, "--workers", "2", "--batch_size", "1", "--faces", "precropped"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": "", "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_interruptions,
    )


def wait_for_rows(process: "subprocess.Popen[str]", output: Path, least: int) -> None:
    deadline = time.monotonic() + 300
    while len(read_rows(output)) < least:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def workers_below(process: int) -> list[int]:
    """The processes below one that hold a model; a child may have the smaller number."""
    children: dict[int, list[int]] = {}
    names = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(folder.name))
    below = [process]
    for number in below:
        below.extend(children.get(number, ()))
    return [number for number in below if "ray::MapWorker" in names.get(number, "")]


def is_alive(process: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes below /proc")
class TestCluster:
    @pytest.fixture(autouse=True)
    def needs_ray(self) -> None:
        pytest.importorskip("ray.data", reason="needs fervor[cluster]")

    def test_a_killed_worker_loses_and_doubles_nothing(
        self, model: Path, pictures: Path, tmp_path: Path
    ) -> None:
        """One is killed from outside; a picture kills those that read it until it is left out."""
        plain, output = tmp_path / "plain.jsonl", tmp_path / "rows.jsonl"
        words = ["--faces", "precropped", "--model", str(model), "--output"]
        assert main(["predict", str(pictures), *words, str(plain)]) == 0
        process = started(
            tmp_path, pictures, f"file://{pictures}", "--model", model, "--output", output
        )
        partial = output.with_name("rows.jsonl.partial")
        wait_for_rows(process, partial, 4)
        assert len(read_rows(partial)) < 40
        os.kill(workers_below(process.pid)[0], signal.SIGKILL)
        answer, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert answer == f"{output}: 80 pictures, 75 faces, 0 without a face, 5 unreadable\n"
        rows, expected = read_rows(output), read_rows(plain)
        addresses = [{**row, "source": f"file://{row['source']}"} for row in expected]
        wrong = expected[int(Path(POISON).stem)]
        probabilities = [name for name in wrong if name.startswith("p_")]
        found = ("face", "x", "y", "width", "height", "label", "prob", *probabilities)
        reason = "its worker was lost each time that it was read"
        wrong.update(dict.fromkeys(found), status="error", error=reason)
        for row, right in zip(rows, [*expected, *addresses], strict=True):
            assert list(row) == list(right)
            assert row == pytest.approx(right, abs=1e-5)

    def test_an_interrupted_run_leaves_whole_rows_and_no_process(
        self, model: Path, pictures: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "rows.jsonl"
        process = started(tmp_path, pictures, "--model", model, "--output", output)
        partial = output.with_name("rows.jsonl.partial")
        wait_for_rows(process, partial, 4)
        workers = workers_below(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
        assert process.returncode == 130
        rows = read_rows(partial)
        assert 4 <= len(rows) < 40
        names = [Path(row["source"]).name for row in rows]
        assert names == [f"{number:02}.png" for number in range(len(rows))]
        assert workers
        deadline = time.monotonic() + 60  # Ray ends its workers after the process that asked
        while left := [worker for worker in workers if is_alive(worker)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            (MISSING, f"a worker on {platform.node()} failed: /models/mine is missing: expected"),
            (ELSEWHERE, "the cluster on this machine failed: ModuleNotFoundError: import of"),
        ],
    )
    def test_why_a_worker_fails_is_one_line(
        self, program: str, reason: str, pictures: Path, tmp_path: Path
    ) -> None:
        """What Ray itself prints of a worker that ends or does not start may stand above it."""
        output = tmp_path / "rows.jsonl"
        process = started(tmp_path, pictures, "--output", output, program=program)
        answer, error = process.communicate(timeout=300)
        assert (process.returncode, answer) == (2, "")
        assert any(
            line.startswith(f"fervor predict: {reason}") and "\x1b" not in line
            for line in error.splitlines()
        ), error
        assert program == ELSEWHERE or "Traceback" not in error
