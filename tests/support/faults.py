"""What goes wrong around a process: sudden death, a full or read-only disk, a clock that lies."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fervor.cli.main import main


ROOT = Path(__file__).parents[2]

LABELS = ("neutral", "happiness", "surprise", "anger")

EPOCHS = 3

PRELOADED = [
    "fervor.training.trainer",
    "fervor.graphs.onnx",
    "fervor.data.alignment",
    "fervor.outputs.writer",
]
"""What the process that all children are forked from has loaded; importing torch takes seconds."""


def begun(
    words: Sequence[str | Path],
    log: Path,
    *,
    temporary: Path | None = None,
    renames: int | None = None,
) -> BaseProcess:
    """A command of fervor in a process of its own, whose streams go to `log`.out and .err.

    `temporary` is where its temporary files lie. After so many `renames` it is killed, at the next
    one or at its end.
    """
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(PRELOADED)
    process = start.Process(
        target=_command, args=([*map(str, words)], str(log), temporary, renames)
    )
    process.start()
    return process


def _command(words: list[str], log: str, temporary: Path | None, renames: int | None) -> None:
    if renames is not None:
        die_after(renames)
    tempfile.tempdir = None if temporary is None else str(temporary)
    for number, ending in ((1, "out"), (2, "err")):
        file = os.open(f"{log}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
    code = main(words)
    if renames is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(code)


def die_after(renames: int) -> None:
    """Get SIGKILL in place of the rename after so many."""
    replace, left = os.replace, iter(range(renames))

    def replaced(*names: Any, **folders: Any) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names, **folders)

    os.replace = replaced


def write_recipe(folder: Path, *, pictures: int = 6, **optim: Any) -> Path:
    """Drawn faces in three splits, a tiny network, and a recipe that trains it in seconds."""
    import torch

    from tests.support import tiny
    from tests.support.drawn import write_folder

    for seed, (split, count) in enumerate({"train": pictures, "valid": 3, "test": 3}.items()):
        write_folder(folder / "faces" / split, LABELS, count, seed=seed)
    torch.manual_seed(0)
    settings = {
        "data": {"name": "folder", "root": str(folder / "faces"), "cache": ""},
        "augment": {"rotation": 10},
        "encoder": {"name": "resnet18", "weights": tiny.save_resnet(folder / "net"), "size": 32},
        "optim": {
            "epochs": EPOCHS,
            "batch_size": 8,
            "learning_rate": 0.03,
            "warmup_learning_rate": 0.0,
            **optim,
        },
        "options": {"temperature": 0.1, "centre": True},
        "threads": 1,
        "name": "drawn",
    }
    recipe = folder / "drawn.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    return recipe


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes at `place`; skips the test where nobody may mount one."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "fervor", str(place))
    if mounted.returncode:
        pytest.skip(f"needs to mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess([], 1, "", str(error))


def fill(folder: Path, left: int = 0) -> None:
    """Use up a small disk but for so many bytes."""
    state = os.statvfs(folder)
    size = max(0, state.f_bavail * state.f_frsize - left)
    with (folder / ".ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size) if size else None


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".ballast"
    }
