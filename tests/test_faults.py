"""Faults around a process: a kill, a full or read-only disk, a clock that lies, a dead worker.

What must hold: nothing half-written under a name, nothing lost that was whole, one line and exit
code 2, and a next start that goes on. benchmarks/kill_runs.py kills many more times.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fervor.artifacts.model_info import ModelInfo
from fervor.artifacts.reader import open_session
from fervor.cli.main import main
from fervor.errors import ModelError
from tests.support.faults import (
    EPOCHS,
    ROOT,
    begun,
    die_after,
    fill,
    mount,
    small_disk,
    tree,
    write_recipe,
)
from tests.support.models import LABELS, sha256, write_model


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's file systems"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


OTHERS = LABELS[::-1]


def wrong_use(words: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that could not do its work."""
    capsys.readouterr()
    code = main([*map(str, words)])
    shown = capsys.readouterr()
    assert code == 2, shown
    assert shown.err.count("\n") == 1, shown.err
    return shown.err


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    with small_disk(tmp_path / "disk", "300k") as place:
        yield place


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (48, 48), (20 * number, 255 - 20 * number, 90)).save(
            folder / f"{number:02d}.png"
        )
    return folder


@pytest.fixture
def predict(tmp_path: Path, pictures: Path) -> list[str | Path]:
    """The words of a prediction without its output."""
    model = write_model(tmp_path / "model")
    options = "--faces precropped --batch_size 1 --threads 1 --model".split()
    return ["predict", pictures, *options, model]


# A full disk


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_predict_on_a_full_disk_gives_the_earlier_rows_back(
    ending: str, disk: Path, predict: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="needs fervor[parquet]")
    output = disk / f"rows{ending}"
    output.write_bytes(b"earlier rows")
    fill(disk)
    line = wrong_use([*predict, "--output", output], capsys)
    assert "o space left" in line and "make room" in line
    assert tree(disk) == {output.name: b"earlier rows"}


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_rows_before_the_disk_was_full_are_whole_and_kept(
    ending: str, disk: Path, predict: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = disk / f"rows{ending}"
    output.write_bytes(b"earlier rows")
    fill(disk, left=4096)  # the next page of a file is one too many
    words = ["predict", *[predict[1]] * 30, *predict[2:], "--output", output]
    line = wrong_use(words, capsys)
    assert f"No space left on device; the rows so far are in {disk}/rows{ending}.partial" in line
    found = tree(disk)
    assert found.keys() == {output.name, f"rows{ending}.partial"}
    assert found[output.name] == b"earlier rows"
    rows = found[f"rows{ending}.partial"].decode()
    assert rows.endswith("\n") and rows.count("\n") > 5
    if ending == ".jsonl":
        assert all(json.loads(row)["status"] == "ok" for row in rows.splitlines())


def test_explain_on_a_full_disk(
    disk: Path, predict: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = disk / "explanations"
    output.mkdir()
    (output / "explanations.jsonl").write_text("earlier rows\n")
    fill(disk, left=8192)
    words = ["explain", predict[1], "--faces", "precropped", "--model", predict[-1]]
    assert "No space left on device" in wrong_use([*words, "--output", output], capsys)
    found = tree(disk)
    assert found.pop("explanations/explanations.jsonl") == b"earlier rows\n"
    assert all(name.endswith(".png") for name in found)  # each whole


def test_drawings_on_a_full_disk(
    disk: Path, predict: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(disk, left=8192)
    line = wrong_use([*predict, "--annotate", disk / "drawings"], capsys)
    assert "No space left on device" in line
    for name, content in tree(disk).items():
        assert name.endswith(".png") and "partial" not in name
        assert content.endswith(b"IEND\xaeB`\x82")


def test_align_on_a_full_disk_goes_on_later(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(0, 256, (80, 80, 3), dtype=np.uint8)
        path = tmp_path / "set" / "happy" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    words = ["data", "align", "folder", tmp_path / "set", disk / "out", "--threads", "1"]
    fill(disk, left=100_000)
    assert "No space left on device" in wrong_use(words, capsys)
    assert not any("partial" in name for name in tree(disk))
    (disk / ".ballast").unlink()
    mounted = mount("-o", "remount,size=2m", str(disk))
    assert mounted.returncode == 0, mounted.stderr
    assert main([*map(str, words)]) == 0
    capsys.readouterr()
    assert main([*map(str, [*words[:4], tmp_path / "whole", *words[5:]])]) == 0
    whole = {name: value for name, value in tree(tmp_path / "whole").items() if name[0] != "."}
    found = {name: value for name, value in tree(disk / "out").items() if name[0] != "."}
    assert found == whole


# A disk that is read-only


def test_a_read_only_disk_is_one_line(
    disk: Path, predict: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "happy").symlink_to(predict[1])
    (disk / "rows.csv").write_text("earlier rows")
    assert mount("-o", "remount,ro", str(disk)).returncode == 0
    before = tree(disk)
    for words in (
        [*predict, "--output", disk / "rows.csv"],
        [*predict, "--output", disk / "new.jsonl"],
        [*predict, "--annotate", disk / "drawings"],
        ["data", "align", "folder", tmp_path / "set", disk / "out"],
    ):
        line = wrong_use(words, capsys)
        assert str(disk) in line and "Read-only file system; name another folder" in line
    assert tree(disk) == before


# Views of pictures


@pytest.mark.slow  # for torch
def test_views_that_were_killed_or_found_no_room_are_made_again(disk: Path) -> None:
    """A mapped file on a full disk would end the process without a word."""
    pytest.importorskip("torch", reason="needs fervor[train]")
    from fervor.training.feature_cache import _store

    parts = [np.full((4, 3), number, np.float32) for number in range(3)]
    path = disk / "views" / "view0.npy"
    fill(disk, left=4096)
    with pytest.raises(OSError, match="No space left on device"):
        _store(path, 40_000, [np.zeros((40_000, 3), np.float32)])
    (disk / ".ballast").unlink()
    (path.parent / ".view0.123.partial.npy").write_bytes(b"of a killed process")
    _store(path, 12, parts)
    assert np.array_equal(np.load(path, mmap_mode="r"), np.concatenate(parts))
    assert [name for name in tree(disk) if "lock" not in name] == ["views/view0.npy"]


# Training


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs fervor[train]")
    return write_recipe(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def trained(recipe: Path) -> Path:
    """A run that nothing has disturbed."""
    folder = recipe.parent / "trained"
    assert main(["train", "--config", str(recipe), "--output", str(folder)]) == 0
    return folder


def history(run: Path) -> list[tuple[int, float]]:
    rows = json.loads((run / "history.json").read_text())
    return [(row["epoch"], pytest.approx(row["negative_log_likelihood"], rel=1e-3)) for row in rows]


@pytest.mark.slow
def test_training_on_a_full_disk_is_one_line_and_goes_on_later(
    recipe: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "1200k") as disk:
        run = disk / "run"
        fill(disk, left=900_000)  # for the best weights and half a checkpoint
        code = main(["train", "--config", str(recipe), "--output", str(run)])
        shown = capfd.readouterr().err.splitlines()
        assert code == 2 and "No space left on device" in shown[-1], shown
        assert not any("Traceback" in line for line in shown), shown
        assert not any("partial" in name for name in tree(disk))
        assert mount("-o", "remount,size=20m", str(disk)).returncode == 0
        assert main(["train", "--resume", str(run)]) == 0
        assert history(run) == history(trained)
        assert not (run / "last.ckpt").exists()


@pytest.mark.slow
def test_evaluation_and_export_on_a_full_disk_keep_what_was_there(
    recipe: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        data = ["--data.name", "folder", "--data.root", recipe.parent / "faces", "--data.cache", ""]
        evaluate = ["evaluate", "--model", trained, *data, "--output", disk / "results"]
        export = ["export", "--model", trained, "--output", disk / "exported"]
        assert main([*map(str, evaluate)]) == main([*map(str, export)]) == 0
        before = tree(disk)
        fill(disk)
        assert "No space left on device" in wrong_use([*evaluate], capsys)
        assert "No space left on device" in wrong_use([*export, "--half"], capsys)
        assert tree(disk) == before


@pytest.mark.slow
def test_a_clock_that_went_back_does_not_stop_a_run(
    recipe: Path, trained: Path, tmp_path: Path
) -> None:
    """Everything that a killed run has left is dated a year ahead of the clock."""
    run = tmp_path / "run"
    process = begun(["train", "--config", recipe, "--output", run], tmp_path / "log")
    while process.exitcode is None and not (run / "last.ckpt").is_file():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log.err").read_text()
    prefetch = time.time() + 365 * 24 * 3600
    for path in run.rglob("*"):
        os.utime(path, (prefetch, prefetch))
    assert main(["train", "--resume", str(run)]) == 0
    assert history(run) == history(trained)


def test_a_clock_that_went_back_does_not_stop_the_cache(pictures: Path, tmp_path: Path) -> None:
    from fervor.data.datasets import Sample
    from fervor.data.image_cache import Reading, decoded

    samples = [Sample(str(path), "anger") for path in sorted(pictures.iterdir())]
    whole = decoded(samples, Reading(64), str(tmp_path / "cache")).images
    prefetch = time.time() + 365 * 24 * 3600
    stopped = tmp_path / "cache" / "pictures-stopped"
    stopped.mkdir()
    for path in [*(tmp_path / "cache").rglob("*"), *pictures.iterdir()]:
        os.utime(path, (prefetch, prefetch))
    again = decoded(samples, Reading(64), str(tmp_path / "cache")).images
    assert np.array_equal(again, whole)
    assert stopped.exists()  # who is to say that it is old


@pytest.mark.parametrize("renames", range(6))
def test_killed_at_any_rename_an_export_is_whole_or_refused(renames: int, tmp_path: Path) -> None:
    """Its five files take their names one after the other, the description last."""
    from fervor.graphs.onnx import _together

    earlier, new = write_model(tmp_path / "earlier"), write_model(tmp_path / "new", labels=OTHERS)
    for folder, text in ((earlier, "earlier"), (new, "new")):
        (folder / "weights.safetensors").write_text(text)
        description = json.loads((folder / "model.json").read_text())
        description["sha256"]["weights.safetensors"] = sha256(folder / "weights.safetensors")
        (folder / "model.json").write_text(json.dumps(description))
    files = ["model.json", *sorted(set(tree(new)) - {"model.json"})]
    child = os.fork()
    if not child:
        die_after(renames)
        with _together(earlier, *files) as parts:
            for name, part in parts.items():
                part.write_bytes((new / name).read_bytes())
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    left = {path.name for path in earlier.iterdir() if path.name.startswith(".")}
    assert len(left) == len(files) - renames
    if renames in (0, len(files)):
        info = ModelInfo.read(earlier)
        open_session(info, 1)
        assert info.verified("weights.safetensors").read_text() == ("new" if renames else "earlier")
        assert list(info.labels) == list(OTHERS if renames else LABELS)
    else:
        with pytest.raises(ModelError, match="export or copy the model again"):
            info = ModelInfo.read(earlier)
            open_session(info, 1)
            info.verified("weights.safetensors")


@pytest.mark.slow
def test_killed_at_random_a_run_comes_to_the_same_end(
    recipe: Path, trained: Path, tmp_path: Path
) -> None:
    draw, run, kills = random.Random(0), tmp_path / "run", 0
    while not (run / "model.json").is_file():
        begin = ["--resume", run] if (run / "config.yaml").is_file() else ["--config", recipe]
        process = begun(["train", *begin, "--output", run], tmp_path / "log")
        process.join(draw.uniform(0.1, 4) if kills < 4 else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0, (tmp_path / "log.err").read_text()
    assert len(history(run)) == EPOCHS
    assert history(run) == history(trained)
    assert not [path for path in run.rglob(".*.partial*")]


@pytest.mark.slow
def test_a_killed_server_leaves_no_file_and_starts_again(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs fervor[serve]")
    pytest.importorskip("av", reason="needs fervor[video]")
    output = tmp_path / "kills.json"
    words = ["--kills", "2", "--works", "serve", "--output", output]
    command = [sys.executable, ROOT / "benchmarks" / "kill_runs.py", *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text())["serve"]["kills"] == 2


# Workers


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_in_one_line(
    recipe: Path, trained: Path, tmp_path: Path
) -> None:
    """The processes that prepare batches: PyTorch notices, and the run goes on when asked to."""
    run = tmp_path / "run"
    words = ["train", "--config", recipe, "--output", run, "--workers", "1"]
    process = begun([*words, "--optim.epochs", "1000"], tmp_path / "log")
    children: list[int] = []
    while process.exitcode is None and not (children and (run / "last.ckpt").is_file()):
        children = children_of(process.pid or 0)
        time.sleep(0.01)
    for child in children_of(process.pid or 0):
        os.kill(child, signal.SIGKILL)
    process.join(300)
    said = (tmp_path / "log.err").read_text().splitlines()
    assert process.exitcode == 2, said
    assert "worker" in said[-1] and not any("Traceback" in line for line in said), said


def children_of(process: int) -> list[int]:
    found: Any = Path(f"/proc/{process}/task/{process}/children")
    return [*map(int, found.read_text().split())] if found.is_file() else []
