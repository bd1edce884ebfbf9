"""Kill fervor at random moments, again and again, and count what was lost: nothing may be.

    python benchmarks/kill_runs.py --kills 50 --output build/kills.json

Each command runs in a process of its own and gets SIGKILL at a moment drawn uniformly from the time
that it takes when it is left alone. Most kills of `predict` wait for a drawn number of bytes and
half of those of `export` for a drawn number of renames instead: their moments are short. After each
kill every file of its output must be whole, and the next start must go on or start anew. A command
that comes to its end is compared with the one that was left alone, and starts again in a new
folder. A server is asked for a picture, an explanation and a video, and ends when it has answered.
"""

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from safetensors import safe_open

from fervor.artifacts.model_info import ModelInfo
from fervor.artifacts.reader import open_session
from fervor.errors import ModelError
from fervor.models.pickles import read_tensors
from fervor.outputs.tables import partial_of
from tests.support.faults import begun, write_recipe
from tests.support.models import write_model
from tests.support.serving import BOUNDARY, EXPLAIN, PHOTOGRAPH, PREDICT, VIDEO, form
from tests.support.videos import moving, write_video


class Work:
    """A command that is killed: its words, and what must hold after a kill and at the end."""

    name = ""
    draw: random.Random | None = None
    """By which it is killed this time; None where it is left alone."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.alone = base / f"{type(self).__name__}-alone"

    def prepare(self) -> None:
        """Make what the command reads."""
        raise NotImplementedError

    def words(self, folder: Path) -> list[str | Path]:
        """What is started, the first time or after a kill."""
        raise NotImplementedError

    def begun(self, folder: Path, log: Path) -> BaseProcess:
        """The command in a process of its own."""
        return begun(self.words(folder), log)

    def meet(self, process: BaseProcess, folder: Path, seconds: float) -> None:
        """Wait for the moment of the kill; `seconds` is what the command takes."""
        assert self.draw is not None
        process.join(self.draw.uniform(0, 1.05 * seconds))

    def check(self, folder: Path) -> str:
        """What the kill left, as words to count; raises AssertionError for half a file."""
        raise NotImplementedError

    def answer(self, folder: Path) -> Any:
        """What the finished command has found, to compare."""
        raise NotImplementedError


class Train(Work):
    """Three epochs of a tiny run; killed, it goes on with --resume."""

    name = "train"

    def prepare(self) -> None:
        if not (self.base / "drawn.yaml").is_file():
            write_recipe(self.base)

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
    """Four hundred images to rows over an earlier file of rows; killed, it starts anew."""

    ending = ""

    def prepare(self) -> None:
        write_model(self.base / "model")
        (self.base / "pictures").mkdir(exist_ok=True)
        colours = np.random.default_rng(0).integers(0, 256, (len(PICTURES), 3))
        for name, colour in zip(PICTURES, colours, strict=True):
            picture = Image.new("RGB", (48, 48), tuple(map(int, colour)))
            picture.save(self.base / "pictures" / name)

    def words(self, folder: Path) -> list[str | Path]:
        words: list[str | Path] = [
            "predict",
            self.base / "pictures",
            "--model",
            self.base / "model",
        ]
        return [*words, *"--faces precropped --batch_size 2 --threads 1 --output".split(),
                self.output(folder)]  # fmt: skip

    def output(self, folder: Path) -> Path:
        """Where the rows go."""
        return folder / f"rows{self.ending}"

    def begun(self, folder: Path, log: Path) -> BaseProcess:
        if not folder.exists():
            folder.mkdir()
            self.output(folder).write_bytes(EARLIER)
        return super().begun(folder, log)

    def meet(self, process: BaseProcess, folder: Path, seconds: float) -> None:
        assert self.draw is not None
        if self.draw.random() < BY_TIME:
            return super().meet(process, folder, seconds)
        written = self.draw.uniform(0, self.output(self.alone).stat().st_size)
        partial = partial_of(self.output(folder))
        while process.is_alive() and (not partial.is_file() or partial.stat().st_size < written):
            time.sleep(0.0005)

    def check(self, folder: Path) -> str:
        output = self.output(folder)
        if output.read_bytes() != EARLIER:
            assert self.rows(output) == PICTURES
            return "the new rows"
        partial = partial_of(output)
        rows = self.unfinished(partial) if partial.is_file() else []
        assert rows == PICTURES[: len(rows)], rows
        return f"the earlier rows, and {'some' if rows else 'none'} of the new"

    def rows(self, path: Path) -> list[str]:
        """Names of the images that the rows of a file are of."""
        raise NotImplementedError

    def unfinished(self, path: Path) -> list[str]:
        """Likewise of a file that a killed process has left."""
        text = path.read_bytes()
        assert not text or text.endswith(b"\n"), text[-200:]
        return self.rows(path)

    def answer(self, folder: Path) -> Any:
        return self.rows(self.output(folder)), sorted(path.name for path in folder.iterdir())


class PredictLines(Predict):
    """To JSON Lines."""

    name, ending = "predict to JSON Lines", ".jsonl"

    def rows(self, path: Path) -> list[str]:
        lines = path.read_text().splitlines()
        return [Path(json.loads(line)["source"]).name for line in lines]


class PredictTable(Predict):
    """To CSV."""

    name, ending = "predict to CSV", ".csv"

    def rows(self, path: Path) -> list[str]:
        lines = path.read_text().splitlines()
        assert all(line.count(",") == lines[0].count(",") for line in lines)
        return [Path(line.split(",")[0]).name for line in lines[1:]]


class PredictParquet(Predict):
    """To Parquet, whose last bytes say where all others are: an unfinished file has no rows."""

    name, ending = "predict to Parquet", ".parquet"

    def rows(self, path: Path) -> list[str]:
        from pyarrow import parquet

        table = parquet.read_table(path, columns=["source"])
        return [Path(source).name for source in table["source"].to_pylist()]

    def unfinished(self, path: Path) -> list[str]:
        whole = path.read_bytes()[4:].endswith(b"PAR1")  # killed before it took its name
        return self.rows(path) if whole else []


class Align(Work):
    """Crops of drawn faces and their manifest; killed, it goes on."""

    name = "data align"

    def prepare(self) -> None:
        Train(self.base).prepare()  # its drawn faces

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
    """A trained model's graph over an earlier export in half precision; killed, it starts anew."""

    name = "export"

    def prepare(self) -> None:
        train = Train(self.base)
        train.prepare()
        trained, log = self.base / "trained", self.base / "log"
        end(train, begun(train.words(trained), log), log)
        end(self, begun([*self.words(self.base / "half"), "--half"], log), log)

    def words(self, folder: Path) -> list[str | Path]:
        return ["export", "--model", self.base / "trained", "--output", folder]

    def begun(self, folder: Path, log: Path) -> BaseProcess:
        if not folder.exists():
            shutil.copytree(self.base / "half", folder)
        at = None if self.draw is None else self.draw.randrange(2 * RENAMES)
        self.renames = None if at is None or at >= RENAMES else at
        return begun(self.words(folder), log, renames=self.renames)

    def meet(self, process: BaseProcess, folder: Path, seconds: float) -> None:
        if self.renames is None:
            return super().meet(process, folder, seconds)
        process.join()

    def check(self, folder: Path) -> str:
        check_whole(folder)
        try:
            info = ModelInfo.read(folder)
            open_session(info, 1)
        except ModelError as error:
            assert "export or copy the model again" in str(error), error
            return "two exports' files, refused"
        return "the earlier export" if info.half else "the new export"

    def answer(self, folder: Path) -> Any:
        self.check(folder)
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        info = ModelInfo.read(folder)
        return info.labels, info.half, names


class Serve(Work):
    """A server that is asked by one client; killed, the next start takes its port."""

    name = "serve"

    def prepare(self) -> None:
        write_model(self.base / "model")
        video = write_video(
            self.base / "film.mp4", moving(12, lambda number: (60 + 4 * number, 60))
        )
        self.video = video.read_bytes()
        self.temporary = self.base / "temporary"
        self.port = 0
        self.answers: list[Any] = []
        self.asking = Thread()

    def words(self, folder: Path) -> list[str | Path]:
        words: list[str | Path] = ["serve", "--model", self.base / "model", "--threads", "1"]
        return [*words, "--port", str(self.port)]

    def begun(self, folder: Path, log: Path) -> BaseProcess:
        self.temporary.mkdir(exist_ok=True)
        log.with_suffix(".out").unlink(missing_ok=True)
        process = begun(self.words(folder), log, temporary=self.temporary)
        self.answers = []
        self.asking = Thread(target=self._ask, args=(process, log.with_suffix(".out")))
        self.asking.start()
        return process

    def _ask(self, process: BaseProcess, notice: Path) -> None:
        while process.exitcode is None and not (
            notice.is_file() and (found := re.findall(r":(\d+) .*\n", notice.read_text()))
        ):
            time.sleep(0.01)
        if process.exitcode is not None:
            return
        self.port = int(found[0])
        picture = ("a.jpg", PHOTOGRAPH.read_bytes())
        try:
            for path, file in (
                (PREDICT, picture),
                (EXPLAIN, picture),
                (VIDEO, ("a.mp4", self.video)),
            ):
                self.answers.append(asked(self.port, path, file))
        except (OSError, http.client.HTTPException):
            return  # it was killed
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGTERM)

    def check(self, folder: Path) -> str:
        self.asking.join()
        left = [path.name for path in self.temporary.rglob("*")]
        assert not left, left
        given = len(self.answers)
        return f"after {given} of 3 answers" if given else "before an answer"

    def answer(self, folder: Path) -> Any:
        self.check(folder)
        return self.answers


def asked(port: int, path: str, file: tuple[str, bytes]) -> str:
    """The whole answer to one upload; raises HTTPException where it is cut off."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", "connection": "close"}
    try:
        connection.request("POST", path, form([file]), kind)
        reply = connection.getresponse()
        text = reply.read().decode()
        assert reply.status == 200, text
        return text
    finally:
        connection.close()


BY_TIME = 0.2
"""Of the kills of `predict`."""
RENAMES = 6
"""Moments around the five renames of an export."""
PICTURES = [f"{number:03d}.png" for number in range(400)]
EARLIER = b"earlier rows\n"
WORKS = (Train, PredictLines, PredictTable, PredictParquet, Align, Export, Serve)


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
    return read_tensors(folder / "last.ckpt")


def campaign(work: Work, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill a command so many times; what was found."""
    log, number, left = work.base / "log", 0, Counter[str]()
    alone = work.alone
    begin = time.monotonic()
    end(work, work.begun(alone, log), log)
    seconds = time.monotonic() - begin
    expected = work.answer(alone)
    while True:
        folder = work.base / f"{type(work).__name__}-{number}"
        work.draw = draw if sum(left.values()) < kills else None
        process = work.begun(folder, log)
        if work.draw is not None:
            work.meet(process, folder, seconds)
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


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaigns and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--works", default="", help="names, separated by commas; empty for all")
    parser.add_argument("--output", type=Path, default=Path("build/kills.json"))
    given = parser.parse_args(words)
    chosen = [kind for kind in WORKS if not given.works or kind.name in given.works.split(",")]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        begun(["models"], Path(folder) / "log").join()  # others fork from what it has loaded
        for kind in chosen:
            work = kind(Path(folder))
            work.prepare()
            draw = random.Random(f"{given.seed}-{kind.name}")
            found[kind.name] = campaign(work, given.kills, draw)
            print(f"{kind.name}: {json.dumps(found[kind.name])}", flush=True)
            given.output.parent.mkdir(parents=True, exist_ok=True)
            given.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
