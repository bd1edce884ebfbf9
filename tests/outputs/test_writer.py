"""The work of `fervor predict` in a process of its own: videos, drawings, interruption, murder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fervor.cli.main import main
from fervor.errors import UsageError, counted
from fervor.inference.prediction import Answer, without_face
from fervor.io.frame import Frame
from fervor.outputs import writer
from tests.cli.test_main import fervor_process, read_csv, refused
from tests.support.models import write_model
from tests.support.scenes import scene
from tests.support.signals import hear_interruptions
from tests.support.videos import flat, portrait, write_video


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames with a face at uneven times, and two without."""
    pictures = [portrait(200 + 5 * n, 100) for n in range(10)]
    pictures += [np.full((480, 640, 3), 128, np.uint8)] * 2
    times = [0, 33, 50, 120, 121, 300, 340, 380, 420, 500, 900, 950]
    return write_video(tmp_path / "clip.mp4", pictures, times=times)


def read_json(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_video_gives_a_row_for_every_frame(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    answer = fervor_process("predict", clip, "--output", output, "--smooth", "--threads", "1")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == (
        f"{output}: 1 video (12 frames), 10 faces, 2 without a face, 0 unreadable; "
        "looked for faces of 40 px and more\n"
    )
    rows = read_csv(output)
    assert [row["frame"] for row in rows] == [str(n) for n in range(12)]
    times = [0, 0.033, 0.05, 0.12, 0.121, 0.3, 0.34, 0.38, 0.42, 0.5, 0.9, 0.95]
    assert [float(row["time_s"]) for row in rows] == pytest.approx(times, abs=0.0005)
    assert [row["status"] for row in rows] == ["ok"] * 10 + ["no_face"] * 2
    assert [row["track"] for row in rows] == ["0"] * 10 + [""] * 2
    assert {row["label"] for row in rows[:10]} == {"happiness"}
    assert list(rows[0])[-1] == "smooth_contempt"
    assert rows[0]["smooth_happiness"] == rows[0]["p_happiness"]


def test_spans_and_the_table(clip: Path, model: Path) -> None:
    words = ["--every", "3", "--start", "0.1", "--end", "0.4", "--model", model, "--threads", "1"]
    answer = fervor_process("predict", clip, *words)
    assert (answer.returncode, answer.stderr) == (0, "")
    header, *rows = answer.stdout.splitlines()
    assert header.split()[:4] == ["source", "time", "track", "face"]
    assert [row.split()[1:4] for row in rows] == [["0.120", "0", "0"], ["0.340", "0", "0"]]


def test_a_picture_and_a_video_with_drawings(clip: Path, model: Path, tmp_path: Path) -> None:
    output, drawings = tmp_path / "rows.jsonl", tmp_path / "drawings"
    words = ["--model", model, "--output", output, "--annotate", drawings, "--threads", "1"]
    answer = fervor_process("predict", clip, PHOTOGRAPH, *words)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "1 picture, 1 video (12 frames), 11 faces" in answer.stdout
    names = sorted(path.name for path in drawings.rglob("*") if path.is_file())
    assert names == ["astronaut.jpg", "clip-timeline.html", "clip-timeline.png", "clip.mp4"]
    assert all(row["track"] == (0 if row["time_s"] is not None else None)
               for row in read_json(output) if row["status"] == "ok")  # fmt: skip


def test_a_damaged_video_is_a_row(model: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video\n" * 99)
    output = tmp_path / "rows.csv"
    words = ["predict", str(tmp_path / "clip.mp4"), "--model", str(model), "--output", str(output)]
    assert main(words) == 0
    (row,) = read_csv(output)
    assert (row["status"], row["frame"]) == ("error", "0")
    assert "not a video that can be read" in row["error"]
    assert main([*words, "--strict"]) == 1


def test_a_video_without_a_frame_in_the_span_is_a_line_and_a_problem(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [flat((200, 40, 40))] * 4
    short = write_video(tmp_path / "short.mp4", pictures)
    long = write_video(tmp_path / "long.mp4", pictures, times=[0, 900, 1800, 2700])
    output = tmp_path / "rows.csv"
    words = ["--model", str(model), "--faces", "precropped", "--output", str(output)]
    words += ["--start", "1", "--threads", "1"]
    assert main(["predict", str(short), str(long), str(short), *words]) == 0
    assert capsys.readouterr().err == (
        f"{short}: no frame of it is taken; "
        "name an earlier --start, a later --end or a smaller --every\n"
    )
    assert len(read_csv(output)) == 2
    assert main(["predict", str(short), str(long), *words, "--strict"]) == 1
    assert main(["predict", str(long), *words, "--strict"]) == 0


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".mts"])
def test_bytes_that_were_overwritten_cost_one_row_and_what_they_held(
    ending: str, model: Path, tmp_path: Path
) -> None:
    """Some containers' damage is skipped without an error; every frame around it has its row."""
    clip, output = tmp_path / f"clip{ending}", tmp_path / "rows.jsonl"
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8)
    codec = "libvpx" if ending == ".webm" else "libx264"
    data = bytearray(write_video(clip, noise, codec=codec, options={"g": "10"}).read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 20] = bytes(len(data) // 20)
    clip.write_bytes(data)
    words = ["predict", clip, "--model", model, "--faces", "precropped", "--threads", "1"]
    assert main([*map(str, words), "--output", str(output)]) == 0
    rows = read_json(output)
    assert [row["frame"] for row in rows] == list(range(len(rows)))
    (bad,) = [row for row in rows if row["status"] == "error"]
    assert bad["error"].startswith("damaged part of the video")
    good = [round(row["time_s"] / 0.04) for row in rows if row["status"] == "ok"]
    missing = sorted({*range(60)} - {*good})
    assert good == sorted(good) and round(bad["time_s"] / 0.04) == missing[0]
    assert 20 < missing[0] and missing[-1] < 45 and len(missing) < 22
    assert main([*map(str, words), "--output", str(output), "--strict"]) == 1


@pytest.mark.parametrize("region", ["", "500,500,50,50"])
def test_a_frame_that_cannot_be_read_costs_one_row_where_faces_are_followed(
    region: str, model: Path, tmp_path: Path
) -> None:
    """A cut animation, or a region beside the frames; what comes after it is answered."""
    picture, output = tmp_path / "z.png", tmp_path / "rows.jsonl"
    frames = [Image.fromarray(portrait(200 + 5 * n, 100)).quantize(32) for n in range(6)]
    frames[0].save(picture.with_suffix(".gif"), save_all=True, append_images=frames[1:])
    data = picture.with_suffix(".gif").read_bytes()
    clip = tmp_path / "a.gif"
    clip.write_bytes(data if region else data[: len(data) // 2])
    Image.fromarray(portrait(200, 100, size=(900, 900))).save(picture)
    words = ["predict", clip, picture, "--model", model, "--threads", "1", "--output", output]
    drawings = [] if region else ["--annotate", tmp_path / "drawn"]
    summary = ["--summary", tmp_path / "summary.json", *drawings]
    words += ["--region", region] if region else []
    assert main([*map(str, words), *map(str, summary)]) == 0
    rows = read_json(output)
    bad = [row for row in rows if row["status"] == "error"]
    if region:
        assert [row["frame"] for row in bad] == list(range(6))
        assert "the region 500,500,50,50 lies outside" in bad[0]["error"]
    else:
        assert [row["frame"] for row in rows[:-1]] == list(range(len(rows) - 1))
        assert bad == [rows[-2]] and len(rows) > 2
    assert Path(rows[-1]["source"]) == picture and rows[-1]["error"] is None
    counted = json.loads((tmp_path / "summary.json").read_text())
    assert counted[0]["frames_without_face"] == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--every", "0"], "every=0: expected 1 (each frame) or more"),
        (["--start", "-1"], "start=-1.0: expected seconds, 0 or more"),
        (["--start", "5", "--end", "2"], "end=2.0: expected seconds after start=5.0"),
        (["--whole_every", "0"], "whole_every=0: expected 1"),
        (["--neutral", "nowhere.png"], "nowhere.png does not exist"),
        (["--annotate", "{clip}"], "is a file: expected a folder"),
    ],
)
def test_wrong_use(words: list[str], line: str, clip: Path, model: Path) -> None:
    given = [word.format(clip=clip) for word in words]
    assert line in refused(fervor_process("predict", clip, "--model", model, *given))


def test_no_webcam_is_one_line() -> None:
    if Path("/dev/video99").exists():
        pytest.skip("this computer has a hundred cameras")
    assert "webcam" in refused(fervor_process("predict", "webcam:99"))


def test_without_av_a_video_is_one_line_and_pictures_work(
    clip: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('av', 'pandas', 'torch'): sys.modules[name] = None\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path[1:]])
    environment = {**os.environ, "PYTHONPATH": path}
    answer = fervor_process("predict", clip, "--model", model, env=environment)
    assert 'videos and webcams need PyAV; pip install "fervor[video]"' in refused(answer)
    answer = fervor_process("predict", PHOTOGRAPH, "--model", model, env=environment)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert len(answer.stdout.splitlines()) == 2


def started(model: Path, output: Path, source: Path, *more: str) -> "subprocess.Popen[bytes]":
    """A long run that has written something."""
    words = [source] * 60 + ["--model", model, "--output", output, "--batch_size", "4", *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "fervor", "predict", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_interruptions,
    )
    written = output.with_name(f"{output.name}.partial")
    deadline = time.monotonic() + 300
    least = 3000 if output.suffix != ".parquet" else 4
    while time.monotonic() < deadline and process.poll() is None:
        if written.exists() and written.stat().st_size >= least:
            return process
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
class TestStopping:
    @pytest.mark.parametrize("ending", [".jsonl", ".csv"])
    def test_a_killed_run_leaves_whole_rows(self, clip: Path, model: Path, tmp_path: Path,
                                            ending: str) -> None:  # fmt: skip
        whole = tmp_path / f"rows{ending}"
        whole.write_text("of an earlier run")
        process = started(model, whole, clip)
        second = fervor_process("predict", PHOTOGRAPH, "--model", model, "--output", whole)
        assert "is being written by another process" in refused(second)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert whole.read_text() == "of an earlier run"
        output = tmp_path / f"rows{ending}.partial"
        assert output.read_bytes().endswith(b"\n")
        rows: list[dict[str, Any]] = read_json(output) if ending == ".jsonl" else read_csv(output)
        numbers = [int(row["frame"]) for row in rows]
        assert len(rows) >= 4
        assert numbers == [number % 12 for number in range(len(rows))]

    def test_a_killed_run_loses_the_rows_of_a_new_parquet_file(
        self, clip: Path, model: Path, tmp_path: Path
    ) -> None:
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs fervor[parquet]")
        output = tmp_path / "rows.parquet"
        output.write_bytes(b"of an earlier run")
        process = started(model, output, clip)
        process.kill()
        process.communicate()
        assert output.read_bytes() == b"of an earlier run"
        with pytest.raises(ValueError, match=r"Parquet (magic bytes|file size)"):
            parquet.read_table(output.with_name("rows.parquet.partial"))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_run_leaves_the_earlier_file_and_its_rows_beside(
        self, clip: Path, model: Path, tmp_path: Path, number: signal.Signals
    ) -> None:
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs fervor[parquet]")
        output, drawings = tmp_path / "rows.parquet", tmp_path / "drawings"
        output.write_bytes(b"of an earlier run")
        process = started(model, output, clip, "--annotate", str(drawings))
        deadline = time.monotonic() + 300
        while not list(drawings.glob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, error = process.communicate(timeout=300)
        partial = output.with_name("rows.parquet.partial")
        said = f"stopped: the rows so far are in {partial}, and {output} is as it was"
        assert (process.returncode, error.decode()) == (130, f"fervor predict: {said}\n")
        assert output.read_bytes() == b"of an earlier run"
        rows = parquet.read_table(partial).to_pylist()
        assert rows
        assert [row["frame"] for row in rows] == [number % 12 for number in range(len(rows))]
        left = [path.name for path in tmp_path.rglob("*.partial*") if path != partial]
        assert [name for name in left if not name.endswith(".partial.mp4")] == []
        assert not list(tmp_path.rglob("*.lock"))


class TestOutputs:
    @pytest.mark.parametrize("summary", ["same.csv", "folder/../same.csv", "link.csv"])
    def test_two_in_one_file_are_refused(self, tmp_path: Path, summary: str) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "link.csv").symlink_to(tmp_path / "same.csv")
        names = {"output": str(tmp_path / "same.csv"), "summary": str(tmp_path / summary)}
        with pytest.raises(UsageError, match="is the file of output too; name another"):
            writer.Outputs(**names, annotate="", smooth=False, sources=["a.mp4"])
        names["summary"] = str(tmp_path / "other.csv")
        assert writer.Outputs(**names, annotate="", smooth=False, sources=["a.mp4"])

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("output", "boxes.csv"),
            ("output", "link.csv"),
            ("output", "rows.jsonl"),
            ("summary", "boxes.csv"),
            ("summary", "model/model.json"),
            ("annotate", "rest"),
        ],
    )
    def test_no_file_that_is_read_is_overwritten(
        self,
        option: str,
        value: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for folder in ("in", "rest"):
            Path(folder).mkdir()
            Image.fromarray(flat((9, 9, 9))).save(f"{folder}/a.png")
        Image.fromarray(flat((9, 9, 9))).save(
            "in/moves.gif", save_all=True, append_images=[Image.fromarray(flat((0, 0, 9)))]
        )
        box = '{"source": "in/a.png", "x": 1, "y": 1, "width": 9, "height": 9}\n'
        Path("boxes.csv").write_text("source,x,y,width,height,mine\nin/a.png,1,1,9,9,my note\n")
        Path("link.csv").symlink_to("boxes.csv")
        Path("rows.jsonl.partial").write_text(box)  # where a stopped run left its rows
        write_model(Path("model"))
        files = [path for path in Path().rglob("*") if path.is_file()]
        before = {path: path.read_bytes() for path in files}
        boxes = "rows.jsonl.partial" if value == "rows.jsonl" else "boxes.csv"
        words = ["predict", "in", "--model", "model", "--boxes", boxes]
        words += ["--neutral", "rest/a.png"]
        assert main([*words, f"--{option}", value]) == 2
        error = capsys.readouterr().err
        assert f"{option} {value}: the input " in error and error.count("\n") == 1
        assert "would be overwritten; name another f" in error
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize("end", ["fervor.outputs.summary.Summary.__exit__",
                                     "fervor.outputs.annotator.Annotator.__exit__"])  # fmt: skip
    def test_rows_are_complete_where_another_output_fails_at_its_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device", "summary.csv")

        output, annotate = tmp_path / "rows.jsonl", tmp_path / "drawings"
        outputs = writer.Outputs(
            str(output),
            str(annotate),
            summary=str(tmp_path / "summary.csv"),
            smooth=False,
            sources=["a.mp4"],
        )
        frame = Frame("a.mp4", 0, 0.0, None, None)
        answers: Generator[Answer] = (one for one in [(frame, [without_face(frame, "tiny")], ())])
        monkeypatch.setattr(end, fail)
        with pytest.raises(OSError, match="No space left"):
            writer.run(answers, ("neutral",), ["a.mp4"], outputs)
        assert [row["status"] for row in read_json(output)] == ["no_face"]


class TestStop:
    def test_it_comes_at_once_where_nothing_is_held(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            writer._Stop()()

    def test_it_waits_for_what_is_held(self) -> None:
        stop, done = writer._Stop(), []
        with pytest.raises(KeyboardInterrupt), stop.held():
            stop()
            done.append("the row")
        assert done == ["the row"] and stop.asked

    def test_the_second_one_does_not_wait(self) -> None:
        stop = writer._Stop()
        stop.hold()
        stop()
        with pytest.raises(KeyboardInterrupt):
            stop()

    @pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
    def test_handlers_are_given_back_and_ignored_signals_stay_so(self) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with pytest.raises(KeyboardInterrupt), writer._stoppable() as stop:
                assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                assert signal.getsignal(signal.SIGTERM) is stop
                stop.hold()
                os.kill(os.getpid(), signal.SIGTERM)
                assert stop.asked
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        finally:
            signal.signal(signal.SIGINT, before)


def test_summary_counts_what_there_was() -> None:
    counts = Counter(pictures=2, videos=2, frames=70, ok=60, no_face=11, error=1)
    assert writer.summary("a.csv", counts) == (
        "a.csv: 2 pictures, 2 videos (70 frames), 60 faces, 11 without a face, 1 unreadable"
    )
    one = Counter(pictures=1, videos=1, frames=1, ok=1, no_face=1_000)
    assert writer.summary("a.csv", one) == (
        "a.csv: 1 picture, 1 video (1 frame), 1 face, 1,000 without a face, 0 unreadable"
    )
    skipped = Counter({".txt": 3, ".pdf": 1})
    assert writer.summary("a.csv", counts, skipped=skipped).endswith(
        "1 unreadable; 4 files skipped (3 .txt, 1 .pdf)"
    )
    assert writer.summary("a.csv", counts, 24.0).endswith(
        "1 unreadable; looked for faces of 24 px and more"
    )


@pytest.mark.parametrize(
    ("smallest", "there", "size"), [("0", 2, 40), ("24", 3, 24), ("90", 1, 90)]
)
def test_the_smallest_face_is_found_and_said(
    tmp_path: Path, smallest: str, there: int, size: int
) -> None:
    sides = [(48, 1100, 600), (110, 150, 200)]
    if smallest == "24":  # without being asked for it may be seen on the way
        sides.append((24, 1300, 120))
    scene(1500, 900, sides)[0].save(tmp_path / "group.png")
    output = tmp_path / "rows.csv"
    words = ("--smallest_face", smallest, "--threads", "1", "--output", output)
    answer = fervor_process("predict", tmp_path / "group.png", *words)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == (
        f"{output}: 1 picture, {counted(there, 'face')}, 0 without a face, 0 unreadable; "
        f"looked for faces of {size} px and more\n"
    )
    assert len(read_csv(output)) == there


@pytest.mark.slow
def test_a_thousand_pictures_of_which_fifty_are_damaged(tmp_path: Path) -> None:
    """With the shipped model and detector: nothing is lost, and each damage is one row."""
    pictures = tmp_path / "pictures"
    random = np.random.default_rng(0)
    damaged = set(random.choice(1000, 50, replace=False).tolist())
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((160, 160))
    for number in range(1000):
        path = pictures / f"{number % 7}" / f"{number:04}.{'jpg' if number % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        if number in damaged:
            data = path.read_bytes()
            kinds = [b"", data[: len(data) // 2], bytes(500), b"text " * 50]
            path.write_bytes(kinds[number % 4])
    output = tmp_path / "rows.csv"
    answer = fervor_process("predict", pictures, "--output", output, "--threads", "1")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == (
        f"{output}: 1,000 pictures, 950 faces, 0 without a face, 50 unreadable; "
        "looked for faces of 40 px and more\n"
    )
    rows = read_csv(output)
    names = sorted((path for path in pictures.rglob("*.*")), key=lambda path: path.parts)
    assert [row["source"] for row in rows] == [str(path) for path in names]
    wrong = {int(Path(row["source"]).stem) for row in rows if row["status"] == "error"}
    assert wrong == damaged
    assert {row["label"] for row in rows if row["status"] == "ok"} == {"happiness"}


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    """A tiny model over a long film of a face cut out: what grows here grows everywhere."""
    resource = pytest.importorskip("resource", reason="needs POSIX")
    model = write_model(tmp_path / "model")
    clip = write_video(tmp_path / "clip.mp4", [flat((200, 40, 40), size=(240, 320))] * 500)
    code = (
        "import resource, sys, time\n"
        "from fervor import Predictor\n"
        "from fervor.io.sources import read\n"
        "from fervor.outputs.tables import open_table\n"
        "from pathlib import Path\n"
        "ask = Predictor(sys.argv[1], faces='precropped', threads=1)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_table(Path(sys.argv[3]), ask.labels, smooth=True) as table:\n"
        "    for number, rows in enumerate(ask.stream(read([sys.argv[2]] * 60))):\n"
        "        table.write(rows)\n"
        "        if number in (4000, 29999): print(peak())\n"
    )
    assert resource is not None
    done = subprocess.run(
        [sys.executable, "-c", code, model, clip, tmp_path / "rows.csv"],
        capture_output=True,
        text=True,
        check=True,
    )
    early, late = (int(line) / 1024 for line in done.stdout.split())
    assert late - early < 50
    with (tmp_path / "rows.csv").open() as file:
        assert sum(1 for _ in file) == 30_001
