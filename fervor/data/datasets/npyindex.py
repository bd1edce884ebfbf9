"""One index of very many small files of numpy, each with one whole number: built once, then kept.

The files are read by several threads, since most of the time goes into opening them. The index
lies below the user's cache folder, never in the data set, which may be read-only. It is written
aside and then renamed, and built again once the name, size or time of any file has changed.
"""

import hashlib
import io
import logging
import os
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fervor.data.datasets.files import ENDINGS, entries, shown
from fervor.errors import DataError


logger = logging.getLogger(__name__)

THREADS = 8
CHUNK = 1_000
"""Files that a thread reads at a time."""

SUFFIX = "_exp.npy"
HIGHEST = 10
LARGEST = 1 << 16
"""Bytes: such a file has some 130, and no more than this is read of any."""

Numbers = NDArray[np.int32]
Labels = NDArray[np.uint8]


def index(folder: Path) -> Iterator[tuple[int, int]]:
    """Number and label, 0 to 10, of each image, by number.

    Args:
        folder: it holds images/<number>.jpg and annotations/<number>_exp.npy.

    Raises:
        DataError: an image without a label or the other way round, or a damaged label.
    """
    numbers = _numbers(folder)
    cache = _cache(folder)
    fingerprint = _fingerprint(folder / "annotations", numbers)
    labels = _kept(cache, fingerprint)
    if labels is None:
        labels = _built(folder / "annotations", numbers)
        _keep(cache, fingerprint, labels)
    return zip(numbers.tolist(), labels.tolist(), strict=True)


def _numbers(folder: Path) -> Numbers:
    """The sorted numbers of the images, each of which has a label."""
    images, annotations = folder / "images", folder / "annotations"
    labelled, pictured = _stems(annotations, SUFFIX), _stems(images, ".jpg")
    for lost in np.setdiff1d(labelled, pictured, assume_unique=True)[:1]:
        raise DataError(f"{images}/{lost}.jpg is missing but a label names it")
    for lost in np.setdiff1d(pictured, labelled, assume_unique=True)[:1]:
        raise DataError(f"{annotations}/{lost}{SUFFIX} is missing: a picture has no label")
    if not len(pictured):
        raise DataError(f"{images} holds no pictures: expected <number>.jpg")
    return pictured


def _stems(folder: Path, suffix: str) -> Numbers:
    """The sorted numbers that the names of a folder's files begin with."""
    numbers = array("i")  # four bytes each: a folder may hold a million names
    for name, is_folder in entries(folder):
        if is_folder or not name.lower().endswith((suffix, *ENDINGS)):
            continue  # such as annotations of other kinds
        stem = name.removesuffix(suffix)
        if not (stem.isascii() and stem.isdigit() and len(stem) < 10 and str(int(stem)) == stem):
            raise DataError(f"{folder / name} has an unexpected name: expected <number>{suffix}")
        numbers.append(int(stem))
    return np.sort(np.frombuffer(numbers, np.int32)) if numbers else np.zeros(0, np.int32)


def _fingerprint(folder: Path, numbers: Numbers) -> str:
    """Of the names, sizes and times of all label files."""
    columns = [array("q") for _ in range(4)]
    with os.scandir(folder) as listed:
        for entry in listed:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                state = entry.stat()
                row = (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
                number = int(entry.name.removesuffix(SUFFIX))
                for column, value in zip(columns, (number, *row), strict=True):
                    column.append(value)
    states = np.stack([np.frombuffer(column, np.int64) for column in columns])
    ordered = np.ascontiguousarray(states[:, np.argsort(states[0])])
    return hashlib.sha256(numbers.tobytes() + ordered.tobytes()).hexdigest()


def _built(folder: Path, numbers: Numbers) -> Labels:
    reader = _Reader(folder)
    chunks = np.array_split(numbers, max(1, len(numbers) // CHUNK))
    with (
        ThreadPoolExecutor(THREADS) as pool,
        # only on a terminal, and only where it takes more than two seconds
        tqdm(
            total=len(numbers), desc=folder.parent.name, unit=" labels", delay=2, disable=None
        ) as bar,
    ):
        labels = []
        for part in pool.map(reader, chunks):
            labels.append(part)
            bar.update(len(part))
    return np.concatenate(labels)


class _Reader:
    """Reads labels. There are few different contents, each of which is parsed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[bytes, int] = {}

    def __call__(self, numbers: Numbers) -> Labels:
        return np.array(
            [self._label(f"{self.folder}/{n}{SUFFIX}") for n in numbers.tolist()], np.uint8
        )

    def _label(self, path: str) -> int:
        try:
            with open(path, "rb", buffering=0) as file:
                content = file.read(LARGEST)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        if content not in self.known:
            self.known[content] = _parsed(content, path)
        return self.known[content]


def _parsed(content: bytes, path: str) -> int:
    """The one whole number of a file of numpy, stored as a number or as a word.

    Raises:
        DataError: anything else; objects are never unpickled.
    """
    try:
        array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        value = float(array.reshape(-1)[0]) if array.size == 1 else None
    except Exception as error:  # a damaged header raises nearly anything
        raise DataError(f"{path} is no file of numpy with a number: {error}") from None
    if value is None or not value.is_integer():
        raise DataError(f"{path} holds {array.tolist()!r:.60}, expected one whole number")
    if not 0 <= value <= HIGHEST:
        raise DataError(f"{path} has label {value:.0f}, out of range: expected 0 to {HIGHEST}")
    return int(value)


def _cache(folder: Path) -> Path:
    """Where the index of a folder lies."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    return Path(base) / "fervor" / f"labels-{key}.npz"


def _kept(cache: Path, fingerprint: str) -> Labels | None:
    """The labels that were kept; None where there are none, or others, or they cannot be read."""
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            labels: Labels = stored["labels"]
            if str(stored["fingerprint"]) == fingerprint:
                return labels
    except Exception as error:  # a damaged zip raises nearly anything; the index is only a copy
        if cache.is_file():
            logger.info("%s cannot be read and is built again: %s", shown(cache), error)
    return None


def _keep(cache: Path, fingerprint: str, labels: Labels) -> None:
    atomic_write = cache.with_name(f".{cache.stem}.{os.getpid()}.npz")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(atomic_write, fingerprint=np.array(fingerprint), labels=labels)
        atomic_write.replace(cache)
    except OSError as error:
        with suppress(OSError):
            atomic_write.unlink()
        logger.warning("the index of labels is not kept: %s: %s", shown(cache), error.strerror)
