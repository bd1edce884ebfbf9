"""A data set's faces found, aligned and cut out once; training reads the crops by its manifest.

OUT/manifest.jsonl holds one line for each image, OUT/images the crops, OUT/align.json how they
were made. Annotations stay where they are: labels, protocols and counts come from the data set's
own files, and the manifest only says which crop stands for which image.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from fervor import plugins
from fervor.data import datasets
from fervor.data.cropping import box_crop, is_grey, pixels_of, select_face
from fervor.data.datasets import SPLITS, Box, Sample
from fervor.data.manifest import (
    MANIFEST,
    SETTINGS,
    Missing,
    Place,
    Row,
    Settings,
    place_of,
    rows_of,
    settings_of,
    source_of,
    state_of,
)
from fervor.errors import DataError, UsageError
from fervor.faces.alignment import crop
from fervor.faces.detector import WEIGHTS, FaceDetector
from fervor.faces.types import Face, Pixels
from fervor.io import provenance
from fervor.io.atomic import check_inputs_stay, forget_partial, write_image
from fervor.io.image import to_input, to_rgb
from fervor.io.prefetch import in_threads
from fervor.io.progress import progress


PART, IMAGES = ".manifest.part", "pictures"
BATCH = 256
"""Images between two writings of the manifest."""

SIDES = (16, 2048)
"""Least and largest side of a crop in pixels."""


def align(
    name: str,
    root: str,
    output: str,
    *,
    protocol: str = "",
    annotations: str = "",
    size: int = 112,
    margin: float = 0.0,
    missing: Missing = "keep",
    threads: int = 0,
) -> dict[str, int]:
    """Align the images of all splits under a protocol; gives the images of each status.

    What an earlier run has done is kept, where neither the image nor the settings changed.

    Raises:
        UsageError: settings outside their range, or other ones than the folder was begun with; or
            it would be written over the data set.
        DataError: the data set is not as its protocol says, or holds pixels in a table.
    """
    stored = plugins.stored("datasets", name)
    settings = _checked(Settings(stored, size, margin, missing, provenance.sha256(WEIGHTS)))
    splits = {
        split: datasets.load(name, root, split, protocol=protocol, annotations=annotations)
        for split in SPLITS
    }
    tasks = _tasks(splits, Path(root))
    folder = Path(output)
    written = [folder / name for name in (MANIFEST, SETTINGS, PART)]
    written += [folder / one.row["file"] for one in tasks]
    inputs = [one.sample.path for one in tasks]
    if not (folder / SETTINGS).is_file():  # else its files are an earlier run's
        inputs.append(root)
    check_inputs_stay(f"out {output}", written, inputs, kind="folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            forget_partial(folder)
            rows = _aligned(tasks, settings, folder, threads)
    except Timeout:
        raise UsageError(f"another process is writing to {folder}: wait for it") from None
    return {
        status: sum(row["status"] == status for row in rows)
        for status in ("ok", "kept", "centred", "skipped", "error")
    }


def _checked(settings: Settings) -> Settings:
    low, high = SIDES
    if not low <= settings.size <= high:
        raise UsageError(f"--size {settings.size}: expected {low} to {high} pixels")
    if not 0 <= settings.margin <= 1:
        raise UsageError(f"--margin {settings.margin}: expected 0 to 1, a share of the crop's side")
    if settings.missing not in get_args(Missing):
        raise UsageError(
            f"--missing {settings.missing}: expected one of {', '.join(get_args(Missing))}"
        )
    return settings


@dataclass(frozen=True)
class _Task:
    """One image of the data set: its line in the manifest so far, and where to read it."""

    row: Row
    sample: Sample

    @property
    def place(self) -> Place:
        return place_of(self.row)


def _tasks(splits: dict[str, list[Sample]], root: Path) -> list[_Task]:
    """Each image (and face of it) once, in the splits' order."""
    tasks: dict[Place, _Task] = {}
    for split, samples in splits.items():
        for sample in samples:
            source, box = source_of(sample, root), sample.box
            if (source, box) in tasks:
                continue
            row = {
                "source": source,
                "split": split,
                "label": sample.label,
                "annotated": None if box is None else list(box),
                "file": _file_name(source, box),
            }
            tasks[source, box] = _Task(row, sample)
    return list(tasks.values())


def _file_name(source: str, box: Box | None) -> str:
    """Where a crop is stored, below the output folder and nowhere else.

    An annotated face is named by its box: a number among the faces of one protocol would be
    another face's under the next.
    """
    inside = source if not source.startswith("../") else f"outside/{_short(source)}"
    face = "" if box is None else "." + "_".join(f"{value:.10g}" for value in box)
    return f"{IMAGES}/{inside}{face}.png"


def _short(source: str) -> str:
    return f"{hashlib.sha256(source.encode()).hexdigest()[:12]}-{Path(source).name}"


def _aligned(tasks: Sequence[_Task], settings: Settings, folder: Path, threads: int) -> list[Row]:
    """The rows of all images, written to the manifest; those of other protocols stay in it."""
    rows_by_place = _reliable({place_of(row): row for row in _begun(settings, folder)})
    done: dict[Place, Row] = {}
    for one in tasks:
        row = rows_by_place.get(one.place)
        if row is not None and _unchanged(row, one, folder):
            done[one.place] = {**row, **one.row, "file": row["file"]}
    open_ones = [one for one in tasks if one.place not in done]
    with (folder / PART).open("a", encoding="utf-8") as part:
        for row in _processed(open_ones, settings, folder, threads, len(tasks)):
            part.write(json.dumps(row) + "\n")
            part.flush()
            done[place_of(row)] = row
    rows = [done[one.place] for one in tasks]
    others = [row for place, row in rows_by_place.items() if place not in done]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, *others])
    provenance.write_text(folder / MANIFEST, text)
    (folder / PART).unlink()
    return rows


def _begun(settings: Settings, folder: Path) -> list[Row]:
    """The rows that earlier runs have written; notes the settings in a new folder."""
    path = folder / SETTINGS
    if not path.is_file():
        provenance.write_text(path, json.dumps(asdict(settings), indent=1) + "\n")
        return []
    begun = settings_of(folder)
    for name, value in asdict(settings).items():
        if getattr(begun, name) != value:
            raise UsageError(
                f"{folder} was begun with {name} {getattr(begun, name)}, now {value} is asked for: "
                "name another folder, or remove this one"
            )
    part = rows_of(folder / PART)  # without a line that a kill cut off
    provenance.write_text(folder / PART, "".join(json.dumps(row) + "\n" for row in part))
    return [*rows_of(folder / MANIFEST), *part]


def _reliable(rows: dict[Place, Row]) -> dict[Place, Row]:
    """The rows without those whose crop may be another face's.

    Version 0.1 numbered the faces of an image, under each protocol anew.
    """
    faces = Counter(source for source, _ in rows)
    return {
        (source, box): row
        for (source, box), row in rows.items()
        if faces[source] == 1 or row["file"] in (None, _file_name(source, box))
    }


def _unchanged(row: Row, one: _Task, folder: Path) -> bool:
    """Whether a row still holds: the same image, and its crop is there."""
    if row["status"] == "error" or row["state"] != state_of(one.sample.path):
        return False
    return row["status"] == "skipped" or bool(row["file"] and (folder / row["file"]).is_file())


def _processed(
    tasks: Sequence[_Task], settings: Settings, folder: Path, threads: int, total: int
) -> Iterator[Row]:
    detector = FaceDetector(threads=1)
    done = total - len(tasks)
    with in_threads(threads) as each, progress(total, "aligning", done=done) as bar:
        for start in range(0, len(tasks), BATCH):
            batch = tasks[start : start + BATCH]
            for row in each(lambda one: _row(one, detector, settings, folder), batch):
                yield row
                bar.update()


def _row(one: _Task, detector: FaceDetector, settings: Settings, folder: Path) -> Row:
    """Find and cut out one face, write its crop, and say what was done."""
    empty: Row = {"score": None, "box": None, "points": None, "error": None}
    row = {**one.row, **empty, "state": state_of(one.sample.path)}
    try:
        image = to_rgb(pixels_of(one.sample))
    except DataError as error:
        return {**row, "status": "error", "file": None, "error": str(error)}
    face = select_face(detector.detect([image])[0], one.sample.box)
    if face is not None:
        row |= {
            "score": round(face.score, 4),
            "box": [round(float(value), 2) for value in face.box],
            "points": [[round(float(value), 2) for value in point] for point in face.points],
        }
    status, pixels = _crop(image, face, one.sample.box, settings)
    if pixels is None:
        return {**row, "status": status, "file": None}
    _save(pixels, folder / one.row["file"])
    return {**row, "status": status}


def _crop(
    image: Pixels, face: Face | None, box: Box | None, settings: Settings
) -> tuple[str, Pixels | None]:
    size, margin = settings.size, settings.margin
    if face is not None:
        return "ok", crop(image, face, size, margin=margin)
    if settings.missing == "skip":
        return "skipped", None
    if box is not None:  # an annotated face is a square already
        pixels = box_crop(image, box, size, margin=margin)
        return "kept" if settings.missing == "keep" else "centred", pixels
    if settings.missing == "keep":
        return "kept", _whole(image, size)
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return "centred", _whole(image[top : top + side, left : left + side], size)


def _whole(image: Pixels, size: int) -> Pixels:
    """By the project's one resize."""
    return np.rint(to_input(image, size) * 255).astype(np.uint8).transpose(1, 2, 0)


def _save(pixels: Pixels, path: Path) -> None:
    """Write a crop whole or not at all; without colour where it has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels[:, :, 0] if is_grey(pixels) else pixels)
    write_image(path, image, "PNG", compress_level=1)
