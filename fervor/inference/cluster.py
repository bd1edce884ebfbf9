"""The same prediction over Ray Data, for more pictures than one machine holds.

The inputs are cut into pieces; each piece goes to one of several workers, processes that hold a
model each. Ray Data hands out no more pieces than the answers that are taken allow, starts a worker
anew where one is lost, and gives its pieces out again. Answers carry the numbers of their inputs:
each input is written once, in the order of the inputs, however often it was worked on. A picture
that takes its worker with it, again and again, is answered as one that cannot be read. What goes
wrong within a worker is an answer too, which ends the run: Ray would print its traceback.
"""

import logging
import os
import pickle
import platform
import re
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import pyarrow
import ray
from ray.data import ActorPoolStrategy, Dataset

from fervor.artifacts.model_info import SHIPPED
from fervor.errors import EndpointError, FervorError, UsageError, counted
from fervor.faces.landmarks import PointFinder
from fervor.inference.neutral_baseline import AUTO
from fervor.inference.prediction import Answer
from fervor.inference.predictor import Predictor
from fervor.io import remote
from fervor.io import sources as media
from fervor.io.frame import Frame
from fervor.io.prefetch import in_order, prefetch


__all__ = ["Losses", "Worker", "answers", "find", "joined"]

ADDRESS = "RAY_ADDRESS"
"""Environment variable of Ray: the cluster to join; without it one is started here."""

BATCHES = 4
"""Batches of a piece: what is worked on anew where a worker is lost."""

LOSSES = 2
"""Workers that a piece may lose before its pictures are looked at one by one."""

ANSI = re.compile(r"\x1b\[[0-9;]*m")
"""Colours of a terminal, in which Ray prints."""

LOST = "its worker was lost each time that it was read"


def find(
    inputs: Sequence[str], *, offline: bool = False, skipped: Counter[str] | None = None
) -> list[str]:
    """The pictures that the inputs stand for: paths, folders, and addresses that fsspec knows.

    `skipped` counts, by their endings, the files of folders that are no input.

    Raises:
        InputError: an input does not exist, or a folder holds no picture.
        UsageError: a video or a webcam, an address of another machine where `offline`, or a package
            is not installed.
    """
    away = [given for given in inputs if remote.is_remote(given)]
    if offline and away:
        raise UsageError(f"{away[0]}: --offline reads paths alone")
    names: list[str] = []
    for given in inputs:
        if remote.is_remote(given):
            names.extend(remote.find(given, skipped=skipped))
        else:
            names.extend(media.find([given], skipped=skipped))
    for source in names:
        moving = source.lower().endswith(media.VIDEO_ENDINGS) or media.is_webcam(source)
        if moving or (not remote.is_remote(source) and media.is_video(source)):
            raise UsageError(f"{source}: --cluster takes pictures; give videos without it")
    return names


@contextmanager
def joined(workers: int, threads: int) -> Iterator[int]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine; the number of workers.

    `workers` of 0 means as many as the cluster has room for, at `threads` cores each. A cluster
    that was started here reports nothing to anybody, asks for a token that nobody else knows, and
    is gone with its files when the block ends.

    Raises:
        EndpointError: no cluster answers there, or none can be started.
        UsageError: it has less room than that.
    """
    address = os.environ.get(ADDRESS, "")
    where = f"{ADDRESS}={address}" if address else "the cluster on this machine"
    folder = tempfile.mkdtemp(prefix="fervor-", dir=_short_folder())
    with redirect_stdout(sys.stderr):  # Ray tells of lost workers there, of the last as it stops
        try:
            room = _started(address, workers * threads, folder) // threads
            if room < max(workers, 1):
                raise UsageError(
                    f"{where} has room for {counted(room, 'worker')} of "
                    f"{counted(threads, 'thread')} each"
                )
            yield workers or room
        except ray.exceptions.RayError as error:
            raise EndpointError(f"{where} failed: {_reason(error)}") from error
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _started(address: str, cores: int, folder: str) -> int:
    """Cores of the cluster; one that is started has `cores`, 0 for this machine's."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised and said
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        with _hushed():
            if address and address != "local":
                ray.init(address, **quiet)
            else:
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
                own: dict[str, Any] = {"num_cpus": cores or None, "include_dashboard": False}
                ray.init("local", _temp_dir=folder, **own, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"{ADDRESS}={address}: no cluster answers" if address else "Ray cannot be started"
        raise EndpointError(f"{what}: {_reason(error)}") from error
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0))


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing on this process's error stream, where Ray's core tells how it logs."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _short_folder() -> str | None:
    """Ray puts sockets below it, whose paths may have 107 letters; None for the usual place."""
    return "/tmp" if len(tempfile.gettempdir()) > 30 and os.path.isdir("/tmp") else None


def answers(
    sources: Sequence[str],
    options: Mapping[str, Any],
    *,
    workers: int,
    landmarks: bool = False,
) -> Generator[Answer]:
    """For each picture, in order, its faces and their points; inside of `joined`.

    `options` are those of `Predictor`; the frames that come with the answers hold no pixels.

    Raises:
        EndpointError: a worker failed, or the cluster left pictures out.
    """
    losses = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Losses).remote()
    data = ray.data.from_arrow(list(_pieces(sources, BATCHES * options["batch_size"]))).map_batches(
        Worker,
        fn_constructor_args=(losses, os.getcwd(), _portable(options), landmarks),
        batch_size=None,  # a piece as it was cut
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers),
        num_cpus=options["threads"],
    )
    written = 0
    for written, content in enumerate(in_order(_numbered(data)), 1):
        answer = pickle.loads(content)
        if isinstance(answer, Failure):
            raise EndpointError(f"a worker on {answer.machine} failed: {answer.reason}")
        predictions, points = answer
        yield Frame(sources[written - 1], 0, None, None, None), predictions, points
    if written < len(sources):
        raise EndpointError(
            f"the cluster answered {written} of {counted(len(sources), 'picture')}, the rows of "
            "which are written; give the others again"
        )


def _pieces(sources: Sequence[str], size: int) -> Iterator[pyarrow.Table]:
    """Numbers and names; names as bytes, for they need not be UTF-8."""
    for start in range(0, len(sources), size):
        names = [os.fsencode(source) for source in sources[start : start + size]]
        yield pyarrow.table(
            {"number": range(start, start + len(names)), "source": pyarrow.array(names, "binary")}
        )


def _portable(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for a process that works in another folder."""
    names = {"model": SHIPPED, "neutral": (AUTO,), "boxes": ()}
    given = {name: options.get(name) for name in names}
    paths = {
        name: os.path.abspath(path)
        for name, path in given.items()
        if path and path not in names[name] and os.path.exists(path)
    }
    return {**options, **paths}


def _numbered(data: Dataset) -> Iterator[tuple[int, bytes]]:
    context = data.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    tables: Iterable[pyarrow.Table] = data.iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=1
    )
    for table in tables:
        yield from zip(table["number"].to_pylist(), table["answer"].to_pylist(), strict=True)


class Losses:
    """Remembers which pieces lost their workers, and which pictures were being read; one for all.

    Pieces and pictures are numbers of inputs; a piece's is that of its first.
    """

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()
        self._reading: dict[int, int] = {}
        self._fatal: set[int] = set()

    def begin(self, piece: int) -> bool:
        """Before a piece; whether it lost so many workers that each picture is to be told."""
        if piece in self._reading:
            self._fatal.add(self._reading.pop(piece))
        self._begun[piece] += 1
        return self._begun[piece] > 1 + LOSSES

    def read(self, piece: int, number: int) -> bool:
        """Before a picture; whether it may be read: none before it has taken its worker with it."""
        self._reading[piece] = number
        return number not in self._fatal

    def done(self, piece: int) -> None:
        """After a piece."""
        self._begun.pop(piece, None)
        self._reading.pop(piece, None)


@dataclass(frozen=True)
class Failure:
    """What a worker answers where it cannot work, for each picture of a piece.

    Attributes:
        machine: name of the machine that it runs on.
        reason: in one line.
    """

    machine: str
    reason: str


def _failure(error: Exception) -> Failure:
    line = " ".join(str(error).split())
    kind = "" if isinstance(error, FervorError) and line else type(error).__name__
    return Failure(platform.node(), ": ".join(filter(None, (kind, line))))


class Worker:
    """A model in a process of its own, for one piece after another; it never raises.

    Args:
        losses: the `Losses` of all workers, an actor of Ray.
        folder: from which paths count.
        options: of `Predictor`.
        landmarks: whether to find each face's points.
    """

    def __init__(
        self, losses: Any, folder: str, options: Mapping[str, Any], landmarks: bool
    ) -> None:
        self._losses, self._folder = losses, folder
        self._failure: Failure | None = None
        try:
            self._predictor = Predictor(**options)
            whole = options["faces"] == "precropped"
            self._finder = PointFinder(self._predictor.threads, whole=whole) if landmarks else None
        except Exception as error:
            self._failure = _failure(error)

    def __call__(self, piece: pyarrow.Table) -> pyarrow.Table:
        """Numbers and sources to numbers and answers."""
        if self._failure is None:
            try:
                rows = self._rows(piece)
            except Exception as error:
                self._failure = _failure(error)
        if self._failure is not None:
            rows = [pickle.dumps(self._failure)] * len(piece)
        return pyarrow.table(
            {"number": piece["number"], "answer": pyarrow.array(rows, "large_binary")}
        )

    def _rows(self, piece: pyarrow.Table) -> list[bytes]:
        numbers = piece["number"].to_pylist()
        sources = [os.fsdecode(source) for source in piece["source"].to_pylist()]
        if ray.get(self._losses.begin.remote(numbers[0])):
            given = zip(numbers, sources, strict=True)
            rows = [self._with_care(numbers[0], number, source) for number, source in given]
        else:
            rows = list(self._answers(self._read(source) for source in sources))
        ray.get(self._losses.done.remote(numbers[0]))
        return rows

    def _answers(self, frames: Generator[Frame]) -> Iterator[bytes]:
        read = prefetch(frames, weight=lambda frame: frame.pixels, limit=media.PREFETCH_PIXELS)
        with closing(read):
            for frame, answer in self._predictor.with_frames(read):
                points = (
                    ()
                    if self._finder is None
                    else self._finder(frame, [face.box for face in answer])
                )
                yield pickle.dumps((answer, points))

    def _with_care(self, piece: int, number: int, source: str) -> bytes:
        may = ray.get(self._losses.read.remote(piece, number))
        frames = (self._read(source) if may else Frame(source, 0, None, None, LOST) for _ in (0,))
        return next(self._answers(frames))

    def _read(self, source: str) -> Frame:
        if remote.is_remote(source):
            return remote.read_image(source)
        path = os.path.join(self._folder, source)
        if media.is_animated(path):
            return Frame(source, 0, None, None, remote.ANIMATION)
        return replace(media.read_image(path), source=source)


def _reason(error: BaseException) -> str:
    """What an error says, in one line; of a traceback, as Ray's errors hold, what was raised."""
    lines = [line for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    code = [number for number, line in enumerate(lines) if line.startswith("    ")]
    if code and code[-1] + 1 < len(lines):  # behind the last frame
        lines = lines[code[-1] + 1 :]
    return lines[0].strip() if lines else type(error).__name__
