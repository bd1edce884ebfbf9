"""The images of a split, decoded once: in parallel, into a file that is mapped from then on.

CACHE/<key>/images.npy holds uint8 [n k h w] and index.json what was found; the key is made of the
images' names, sizes and times of change, their order, and of all that decides what is cut out.
A decoding that was stopped goes on after its last whole block; index.json is written last, so that
no half of a split is ever read. Processes that want the same split wait for the first.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from fervor.data.cropping import CROP, cut, is_grey
from fervor.data.datasets import Sample
from fervor.errors import DataError
from fervor.faces.alignment import BOX_TEMPLATE, TEMPLATE
from fervor.faces.detector import WEIGHTS, FaceDetector
from fervor.faces.types import Pixels
from fervor.io import provenance
from fervor.io.image import to_input, to_rgb
from fervor.io.prefetch import in_threads
from fervor.io.progress import progress


VERSION = 1
"""Of what is stored; another version reads none of this one's files."""

IMAGES, PART, INDEX, LOCK, STATE = "images.npy", ".images.part", "index.json", "lock", "state.json"
BLOCK_BYTES = 32 << 20
"""Decoded images in memory at a time."""

CHUNK = 16
"""Images that a thread takes at once."""

STALE = 24 * 3600
"""Seconds after which what a stopped decoding left behind is no longer kept for going on."""


@dataclass(frozen=True)
class Reading:
    """How the images of a split are cut out and stored.

    Attributes:
        size: the network's side in pixels; larger or unequal images are resized to it.
        faces: precropped = each image, or its annotated box; largest = the face that is found.
        margin: around an annotated box, as a share of its longer side.
        crop: side in pixels of the crop of a face that is found.
    """

    size: int
    faces: str = "precropped"
    margin: float = 0.0
    crop: int = CROP

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how the images are stored; the crop does where faces are found."""
        settings = asdict(self)
        if self.faces != "largest":
            del settings["crop"]
        return settings


@dataclass(frozen=True)
class Decoded:
    """A split's images [n k h w], k = 1 where all are grey; `missing` rows hold no face."""

    images: NDArray[np.uint8]
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """What one stored image is: channels, height and width."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """[k h w]."""
        return self.channels, self.height, self.width


class _Misfit(Exception):
    """An image that the form found so far cannot hold, and the form that can."""

    def __init__(self, form: Form) -> None:
        self.form = form


def decoded(samples: Sequence[Sample], reading: Reading, folder: str = "") -> Decoded:
    """The images of a split, from `folder`'s cache, written first where it is not there yet.

    Images of one common size up to `reading.size` are kept as they are, others are resized to it
    by the project's one resize. An empty `folder` decodes into memory.

    Raises:
        DataError: an image that cannot be read, or a folder that cannot be written.
    """
    if not folder:
        return _in_memory(samples, reading)
    place = Path(folder) / _key(samples, reading)
    try:
        if not (place / INDEX).is_file():
            _forget_stale(Path(folder))
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / LOCK):
                if not (place / INDEX).is_file():
                    _write(samples, reading, place)
        index = json.loads((place / INDEX).read_text(encoding="utf-8"))
        images: NDArray[np.uint8] = np.load(place / IMAGES, mmap_mode="r")
    except OSError as error:
        raise DataError(
            f"the cache {folder} cannot be used ({error.strerror or error}): name another with "
            "--data.cache, or keep the pictures in memory with --data.cache ''"
        ) from error
    return Decoded(images, tuple(index["missing"]))


def _key(samples: Sequence[Sample], reading: Reading) -> str:
    """What the stored images depend on, as a name."""
    settings: dict[str, Any] = {"version": VERSION, **reading.settings}
    if reading.faces == "largest":
        settings |= {"detector": provenance.sha256(WEIGHTS)}
        settings["template"] = [*TEMPLATE.ravel().tolist(), *BOX_TEMPLATE.ravel().tolist()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for sample in samples:
        entry = [sample.path, *_state(sample.path), sample.box, sample.side]
        digest.update(json.dumps(entry).encode() + sample.pixels)
    return f"pictures-{digest.hexdigest()[:20]}"


def _state(path: str) -> tuple[int, int]:
    """Bytes and time of change of a file; decoding says what is wrong where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _in_memory(samples: Sequence[Sample], reading: Reading) -> Decoded:
    form = _first_form(samples, reading)
    while True:
        images = np.empty((len(samples), *form.shape), np.uint8)
        missing: list[int] = []
        try:
            for start, block, lost in _blocks(samples, reading, form):
                images[start : start + len(block)] = block
                missing += lost
            return Decoded(images, tuple(missing))
        except _Misfit as misfit:
            form = misfit.form


def _write(samples: Sequence[Sample], reading: Reading, place: Path) -> None:
    """Decode into the part file, from where an earlier process stopped, then give it its name."""
    form, missing = _resumed(place) or (_first_form(samples, reading), [])
    while True:
        try:
            with (place / PART).open("ab") as file:
                done = _whole_rows(file, form, len(samples))
                missing = [row for row in missing if row < done]
                for start, block, lost in _blocks(samples, reading, form, done):
                    missing += lost
                    state = {"form": asdict(form), "missing": missing, "rows": start + len(block)}
                    provenance.write_text(place / STATE, json.dumps(state))
                    file.write(block.tobytes())
                file.flush()
                os.fsync(file.fileno())
            break
        except _Misfit as misfit:
            form, missing = misfit.form, []
            (place / PART).unlink()
    (place / PART).replace(place / IMAGES)
    index = {"version": VERSION, "pictures": len(samples), "missing": missing, **reading.settings}
    provenance.write_text(place / INDEX, json.dumps(index) + "\n")
    (place / STATE).unlink()


def _resumed(place: Path) -> tuple[Form, list[int]] | None:
    """The form, and the images without a face, of a decoding that was stopped."""
    try:
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
        return Form(**state["form"]), state["missing"]
    except (OSError, ValueError):
        (place / PART).unlink(missing_ok=True)
        return None


def _whole_rows(file: BinaryIO, form: Form, count: int) -> int:
    """Rows of whole blocks in a part file, which is cut after them; a new file gets its header."""
    if not file.tell():
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *form.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        return 0
    with open(file.name, "rb") as reader:
        np.lib.format.read_magic(reader)
        np.lib.format.read_array_header_1_0(reader)
        start = reader.tell()
    each, rows = int(np.prod(form.shape)), _block_rows(form)
    whole = (file.tell() - start) // each
    whole = whole if whole == count else whole // rows * rows
    file.truncate(start + whole * each)
    return whole


def _block_rows(form: Form) -> int:
    return max(CHUNK, BLOCK_BYTES // int(np.prod(form.shape)))


def _first_form(samples: Sequence[Sample], reading: Reading) -> Form:
    """The form that the first image asks for."""
    if reading.faces == "largest":
        side = min(reading.crop, reading.size)
        return Form(3, side, side)
    return _form_of(cut(samples[0], None, size=reading.size, margin=reading.margin), reading.size)


def _form_of(pixels: Pixels | None, size: int) -> Form:
    assert pixels is not None, "only a detector finds nothing"
    height, width = pixels.shape[:2]
    if max(height, width) > size:
        height = width = size
    return Form(1 if is_grey(pixels) else 3, height, width)


def _blocks(
    samples: Sequence[Sample], reading: Reading, form: Form, done: int = 0
) -> Iterator[tuple[int, NDArray[np.uint8], list[int]]]:
    """First row, images [b k h w] and rows without a face of each block after the first `done`.

    Raises:
        _Misfit: an image needs another form.
    """
    detector = FaceDetector(threads=1) if reading.faces == "largest" else None
    rows = _block_rows(form)

    def fill(target: NDArray[np.uint8], first: int) -> list[int]:
        lost = []
        for row, sample in enumerate(samples[first : first + len(target)]):
            pixels = cut(
                sample, detector, size=reading.size, margin=reading.margin, crop_side=reading.crop
            )
            if pixels is None:
                target[row] = 0
                lost.append(first + row)
            else:
                target[row] = _fitted(pixels, form, reading.size)
        return lost

    with in_threads() as each, progress(len(samples), "decoding", done=done) as bar:
        for start in range(done, len(samples), rows):
            block = np.empty((min(rows, len(samples) - start), *form.shape), np.uint8)
            parts = range(0, len(block), CHUNK)
            chunks = [(block[at : at + CHUNK], start + at) for at in parts]
            lost: list[int] = []
            for (target, _), missing in zip(chunks, each(lambda c: fill(*c), chunks), strict=True):
                lost += missing
                bar.update(len(target))
            yield start, block, lost


def _fitted(pixels: Pixels, form: Form, size: int) -> NDArray[np.uint8]:
    """An image in the form asked for, [k h w].

    Raises:
        _Misfit: it needs another form.
    """
    if pixels.shape[:2] != (form.height, form.width):
        if (form.height, form.width) != (size, size):
            raise _Misfit(replace(form, height=size, width=size))
        pixels = _resized(pixels, size)
    if form.channels == 3:
        return to_rgb(pixels).transpose(2, 0, 1)
    if not is_grey(pixels):
        raise _Misfit(replace(form, channels=3))
    return pixels.reshape(form.height, form.width, -1)[None, :, :, 0]


def _resized(pixels: Pixels, size: int) -> Pixels:
    """By the project's one resize; a grey image [h w] stays grey."""
    inputs = np.rint(to_input(pixels, size) * 255).astype(np.uint8)
    return inputs[0] if pixels.ndim == 2 else inputs.transpose(1, 2, 0)


def _forget_stale(folder: Path) -> None:
    """Remove what decodings left behind that were stopped long ago."""
    for place in folder.glob("pictures-*"):
        if (place / INDEX).exists() or time.time() - place.stat().st_mtime < STALE:
            continue
        try:
            with FileLock(place / LOCK, timeout=0):
                shutil.rmtree(place)
        except Timeout:  # a process is at work on it
            continue
