"""Where faces are, said by the user: a region of each image, or the boxes in a file."""

import csv
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fervor.errors import InputError, UsageError
from fervor.faces.alignment import BOX_TEMPLATE, TEMPLATE
from fervor.faces.types import Box, Face
from fervor.io.csv_cells import encodable, original


__all__ = [
    "GivenBoxes",
    "GivenFace",
    "check_region",
    "check_unused",
    "misfit",
    "outside",
    "parse_region",
    "upright_face",
]

FIELDS = ("source", "x", "y", "width", "height")
FARTHEST = 1e6
"""Pixels; no box reaches farther."""
PARTIAL = ".partial"
"""Ending of the rows of a run that did not come to its end."""


class GivenFace(NamedTuple):
    """A box of the file, and the number of its track where it says one."""

    box: Box
    track: int | None


def parse_region(text: str) -> Box | None:
    """The box that "x,y,width,height" names, in pixels; None where the text is empty.

    Raises:
        UsageError: it is no such text, or the box is empty.
    """
    if not text.strip():
        return None
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"region={text!r}: expected x,y,width,height in pixels") from None
    return check_region((x, y, width, height))


def check_unused(why: str, **options: bool) -> None:
    """Refuse options that have no effect; each says whether it is given.

    Raises:
        UsageError: one of them is.
    """
    if given := " and ".join(name for name, is_given in options.items() if is_given):
        raise UsageError(f"{why}: leave {given} out")


def check_region(region: Sequence[float]) -> Box:
    """Raises UsageError where it is no box: four finite numbers, the last two above 0."""
    try:
        fits = len(region) == 4 and all(map(math.isfinite, region)) and min(region[2:]) > 0
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        given = " ".join(repr(region).split())
        raise UsageError(f"region={given}: expected x,y,width,height in pixels, not empty")
    x, y, width, height = map(float, region)
    return (x, y, width, height)


def misfit(box: Box, shape: tuple[int, int]) -> str:
    """Why a box is none of a face in an image of `shape` (height, width); empty where it may be."""
    if outside(box, shape):
        return "lies outside"
    return "is more than twice as large as" if max(box[2:]) > 2 * max(shape) else ""


def outside(box: Box, shape: tuple[int, int]) -> bool:
    """Whether no pixel of an image of `shape` (height, width) lies in a box."""
    x, y, width, height = box
    return x >= shape[1] or y >= shape[0] or x + width <= 0 or y + height <= 0


def upright_face(box: Box) -> Face:
    """A face that fills a box as faces usually do: upright, its points in place."""
    x, y, width, height = box
    low, high = BOX_TEMPLATE[0], BOX_TEMPLATE[3]
    step = np.array([width, height], np.float32) / (high - low)
    points = np.array([x, y], np.float32) + (TEMPLATE - low) * step
    return Face(box, points.astype(np.float32), 1.0)


class GivenBoxes:
    """The faces of a file: CSV or JSON Lines with source, x, y, width, height in pixels.

    Frames of a video have `frame` too, and may have `track`; rows whose box is empty (`no_face`)
    are no faces, so that the rows of `fervor predict` are such a file, and so are those of a run
    that was stopped (NAME.partial), whose last one, where it was cut, is left out.

    Raises:
        InputError: the file does not exist, or a line of it is no box.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._faces: defaultdict[tuple[str, int], list[GivenFace]] = defaultdict(list)
        self._next_tracks: defaultdict[str, int] = defaultdict(int)
        self._untracked: set[str] = set()
        try:
            for line, row in _rows(_text(self.path), self.path):
                self._add(line, row)
        except (OSError, ValueError, csv.Error) as error:
            text = "not a text in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            reason = getattr(error, "strerror", None) or text
            raise InputError(f"boxes {path} cannot be read: {reason}") from error

    def _add(self, line: int, row: dict[str, Any]) -> None:
        if missing := [name for name in FIELDS if name not in row]:
            raise InputError(
                f"boxes {self.path}, line {line}: {missing[0]} is missing; "
                f"expected {', '.join(FIELDS)}, and frame for videos"
            )
        if all(row[name] in (None, "") for name in FIELDS[1:]):
            return
        try:
            x, y, width, height = (float(row[name]) for name in FIELDS[1:])
            is_finite = all(map(math.isfinite, (x, y, width, height)))
            if not is_finite or max(abs(x), abs(y)) >= FARTHEST:
                raise ValueError
            if not 0 < min(width, height) <= max(width, height) < FARTHEST:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            values = ", ".join(f"{row[name]!s:.60}" for name in FIELDS[1:])
            raise InputError(
                f"boxes {self.path}, line {line}: {values} is no box; expected x, y, width and "
                "height in pixels, width and height above 0"
            ) from None
        frame, track = (self._whole_number(line, row, name) for name in ("frame", "track"))
        face = GivenFace((x, y, width, height), track)
        source = _key(str(row["source"]))
        self._faces[source, frame or 0].append(face)
        if face.track is None:
            self._untracked.add(source)
        else:
            self._next_tracks[source] = max(self._next_tracks[source], face.track + 1)

    def _whole_number(self, line: int, row: dict[str, Any], name: str) -> int | None:
        """A field, which tables with gaps write as 3.0; None where it is empty."""
        value = row.get(name)
        if value in (None, ""):
            return None
        try:
            number = float(value)
            if not number.is_integer() or not 0 <= number < 2**31:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"boxes {self.path}, line {line}: {name} is {value!s:.60}; "
                "expected a whole number from 0 on, or nothing"
            ) from None
        return int(number)

    def check_sources(self, sources: Iterable[str]) -> None:
        """Raises UsageError where it names a source that is no input."""
        keys = {_key(source) for source in sources}
        for source, _ in self._faces:
            if source not in keys:
                raise UsageError(
                    f"boxes {self.path} name {source}, which is no input: name it too, or take its "
                    "lines out"
                )

    def of(self, source: str, frame: int) -> list[GivenFace]:
        """The faces of one frame, largest first."""
        faces = self._faces.get((_key(source), frame), [])
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])

    def next_track(self, source: str) -> int | None:
        """The first free number of a track in a video; None where every face has its own."""
        key = _key(source)
        return self._next_tracks.get(key, 0) if key in self._untracked else None


def _key(source: str) -> str:
    """As rows name it: see `encodable`."""
    return os.path.normpath(encodable(source))


def _text(path: Path) -> Iterable[str]:
    """The lines of a file, without a byte order mark; of a stopped run those that it could end."""
    content = path.read_bytes()
    if path.suffix == PARTIAL:
        content = content[: content.rfind(b"\n") + 1]
    return io.StringIO(content.decode("utf-8-sig"), newline="")


def _rows(file: Iterable[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers of lines, and what they say."""
    ending = path.with_suffix("").suffix if path.suffix == PARTIAL else path.suffix
    if ending.lower() == ".jsonl":
        for line, text in enumerate(file, start=1):
            if text.strip():
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise InputError(f"boxes {path}, line {line}: expected a JSON object")
                yield line, row
    elif ending.lower() == ".csv":
        reader = csv.DictReader(file)
        for row in reader:
            if isinstance(source := row.get("source"), str):
                row["source"] = original(source)
            yield reader.line_num, row
    else:
        raise InputError(f"boxes {path}: expected a name that ends in .csv or .jsonl")
