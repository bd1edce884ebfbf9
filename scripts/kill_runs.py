"""Kill fervor at random moments, again and again, and count what was lost: nothing may be.

    python scripts/kill_runs.py --kills 50 --output build/kills.json

Each command runs in a process of its own and gets SIGKILL at a moment drawn uniformly from the time
that it takes when it is left alone. After each kill every file of its output must be whole, and the
next start must go on or start anew. A command that comes to its end is compared with the one that
was left alone, and starts again in a new folder.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from safetensors import safe_open

from tests.faults import begun, write_recipe
from tests.models import write_model


class Work:
    """A command that is killed: its words, and what must hold after a kill and at the end."""

    name = ""

    def __init__(self, base: Path) -> None:
        self.base = base

    def words(self, folder: Path) -> list[str | Path]:
        """What is started, the first time or after a kill."""
        raise NotImplementedError

    def check(self, folder: Path) -> str:
        """What the kill left, as words to count; raises AssertionError for half a file."""
        raise NotImplementedError

    def answer(self, folder: Path) -> Any:
        """What the finished command has found, to compare."""
        raise NotImplementedError


class Train(Work):
    """Three epochs of a tiny run; killed, it goes on with --resume."""

    name = "train"

    def words(self, folder: Path) -> list[str | Path]:
        if (folder / "config.yaml").is_file():
            return ["train", "--resume", folder]
        return ["train", "--config", self.base / "drawn.yaml", "--output", folder]

    def check(self, folder: Path) -> str:
        check_whole(folder)
        if (folder / "model.json").is_file():
            return "finished"
        history = folder / "history.json"
        epochs = len(json.loads(history.read_text())) if history.is_file() else 0
        kept = len(checkpoint(folder)["history"]) if (folder / "last.ckpt").is_file() else 0
        assert epochs - 1 <= kept <= epochs, f"{epochs} epochs measured, {kept} kept"
        return f"after epoch {kept}" if kept else "before the first checkpoint"

    def answer(self, folder: Path) -> Any:
        rows = json.loads((folder / "history.json").read_text())
        left = sorted(path.name for path in folder.iterdir() if not path.name.startswith("logs"))
        return [[row["epoch"], round(row["negative_log_likelihood"], 4)] for row in rows], left


class Predict(Work):
    """Four hundred pictures to rows; killed, it starts anew."""

    ending = ""

    def words(self, folder: Path) -> list[str | Path]:
        folder.mkdir(exist_ok=True)
        words = ["predict", self.base / "pictures", "--model", self.base / "model"]
        return [*words, *"--faces precropped --batch_size 2 --threads 1 --output".split(),
                folder / f"rows{self.ending}"]  # fmt: skip

    def check(self, folder: Path) -> str:
        path = folder / f"rows{self.ending}"
        if not path.is_file():
            return "before the first row"
        text = path.read_text()
        assert not text or text.endswith("\n"), text[-200:]
        rows = self.rows(text)
        assert rows == PICTURES[: len(rows)], rows
        return "with all rows" if len(rows) == len(PICTURES) else "with some rows"

    def rows(self, text: str) -> list[str]:
        """Names of the pictures that the rows are of."""
        raise NotImplementedError

    def answer(self, folder: Path) -> Any:
        text = (folder / f"rows{self.ending}").read_text()
        return self.rows(text), sorted(path.name for path in folder.iterdir())


class PredictLines(Predict):
    """To JSON Lines."""

    name, ending = "predict to JSON Lines", ".jsonl"

    def rows(self, text: str) -> list[str]:
        return [Path(json.loads(line)["source"]).name for line in text.splitlines()]


class PredictTable(Predict):
    """To CSV."""

    name, ending = "predict to CSV", ".csv"

    def rows(self, text: str) -> list[str]:
        lines = text.splitlines()
        assert all(line.count(",") == lines[0].count(",") for line in lines)
        return [Path(line.split(",")[0]).name for line in lines[1:]]


class Align(Work):
    """Crops of drawn faces and their manifest; killed, it goes on."""

    name = "data align"

    def words(self, folder: Path) -> list[str | Path]:
        return ["data", "align", "folder", self.base / "faces", folder, "--threads", "1"]

    def check(self, folder: Path) -> str:
        for path in folder.rglob("*.png") if folder.is_dir() else []:
            if not path.name.startswith("."):
                Image.open(path).load()
        part = folder / ".manifest.part"
        if (folder / "manifest.jsonl").is_file():
            return "finished"
        return f"with {'some' if part.is_file() and part.stat().st_size else 'no'} rows"

    def answer(self, folder: Path) -> Any:
        lines = (folder / "manifest.jsonl").read_text().splitlines()
        left = sorted(path.name for path in folder.rglob(".*") if path.name != ".lock")
        return [json.loads(line)["file"] for line in lines], left


class Export(Work):
    """A trained model's graph; killed, it starts anew, beside an earlier export."""

    name = "export"

    def words(self, folder: Path) -> list[str | Path]:
        return ["export", "--model", self.base / "trained", "--output", folder]

    def check(self, folder: Path) -> str:
        if not folder.is_dir():
            return "before its folder"
        check_whole(folder)
        return "finished" if (folder / "model.json").is_file() else "without a model.json"

    def answer(self, folder: Path) -> Any:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        return json.loads((folder / "model.json").read_text())["labels"], names


PICTURES = [f"{number:03d}.png" for number in range(400)]
WORKS = (Train, PredictLines, PredictTable, Align, Export)


def check_whole(folder: Path) -> None:
    """Every file whose name does not start with a dot can be read to its end."""
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                assert list(file.keys())
        elif path.suffix == ".ckpt":
            checkpoint(folder)


def checkpoint(folder: Path) -> Any:
    import torch

    return torch.load(folder / "last.ckpt", weights_only=False)


def prepared(base: Path) -> None:
    """Data, a recipe, a tiny exported model and pictures."""
    write_recipe(base)
    write_model(base / "model")
    (base / "pictures").mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (len(PICTURES), 3))
    for name, colour in zip(PICTURES, colours, strict=True):
        Image.new("RGB", (48, 48), tuple(map(int, colour))).save(base / "pictures" / name)
    train = Train(base)
    end(train, begun(train.words(base / "trained"), base / "log"), base / "log")


def campaign(work: Work, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill a command so many times; what was found."""
    log, number, left = work.base / "log", 0, Counter[str]()
    alone = work.base / f"{type(work).__name__}-alone"
    begin = time.monotonic()
    end(work, begun(work.words(alone), log), log)
    seconds = time.monotonic() - begin
    expected = work.answer(alone)
    while True:
        folder = work.base / f"{type(work).__name__}-{number}"
        process = begun(work.words(folder), log)
        if sum(left.values()) < kills:
            process.join(draw.uniform(0, 1.05 * seconds))
        if process.exitcode is None and sum(left.values()) < kills:
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                left[work.check(folder)] += 1
            continue
        end(work, process, log)
        assert work.answer(folder) == expected, (work.answer(folder), expected)
        number += 1
        if sum(left.values()) >= kills:
            break
    return {
        "kills": sum(left.values()),
        "left": dict(sorted(left.items())),
        "came to the same end": number,
        "seconds alone": round(seconds, 2),
    }


def end(work: Work, process: BaseProcess, log: Path) -> None:
    """Wait for a command that is left alone; a run that was killed after its last file says so."""
    process.join()
    said = log.with_suffix(".err").read_text()
    over = work.name == "train" and process.exitcode == 2 and "holds a finished run" in said
    assert process.exitcode == 0 or over, said


def main(given: Sequence[str] | None = None) -> int:
    """Run the campaigns and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--works", default="", help="names, separated by commas; empty for all")
    parser.add_argument("--output", type=Path, default=Path("build/kills.json"))
    asked = parser.parse_args(given)
    chosen = [kind for kind in WORKS if not asked.works or kind.name in asked.works.split(",")]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared(Path(folder))
        for kind in chosen:
            draw = random.Random(f"{asked.seed}-{kind.name}")
            found[kind.name] = campaign(kind(Path(folder)), asked.kills, draw)
            print(f"{kind.name}: {json.dumps(found[kind.name])}", flush=True)
            asked.output.parent.mkdir(parents=True, exist_ok=True)
            asked.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
