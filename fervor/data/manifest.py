"""What an aligned folder says of itself: how its crops were made, and for which images.

align.json holds the settings, manifest.jsonl one line for each image (`fervor.data.alignment`).
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fervor.config import Data
from fervor.data.datasets import Box, Sample
from fervor.errors import DataError
from fervor.io.typed_json import read_object


MANIFEST, SETTINGS = "manifest.jsonl", "align.json"

ROW = {"source", "annotated", "file", "status", "state", "error"}
"""What every row holds."""

Missing = Literal["keep", "centre", "skip"]

Row = dict[str, Any]
Place = tuple[str, Box | None]
"""An image's path below the data set's folder, and the annotated box of the face that is meant."""


@dataclass(frozen=True)
class Settings:
    """How the crops of a folder are made; what a run that goes on must have in common.

    Attributes:
        name: the data set.
        size: pixels of a crop's side.
        margin: what is added on each side of the crop that `predict` cuts out, as a share of its
            side; 0 gives exactly that crop.
        missing: where no face is found: keep = the whole image or annotated box, resized;
            centre = the largest square in its middle; skip = no crop.
        detector: checksum of the detector's weights.
    """

    name: str
    size: int
    margin: float
    missing: Missing
    detector: str


def settings_of(folder: Path) -> Settings:
    """How the crops of an aligned folder were made.

    Raises:
        DataError: the folder was not written by `fervor data align`.
    """
    try:
        return Settings(**read_object(folder / SETTINGS))
    except (OSError, ValueError, TypeError):
        raise DataError(
            f"{folder} holds no readable {SETTINGS}: expected a folder that fervor data align wrote"
        ) from None


def alignment(data: Data) -> dict[str, Any] | None:
    """How the aligned images were made that a run reads; None where it reads the data set's."""
    return asdict(settings_of(Path(data.aligned))) if data.aligned else None


def substitute(samples: Iterable[Sample], name: str, root: str, aligned: str) -> list[Sample]:
    """The samples with their aligned crops in place of the images; skipped ones are left out.

    Raises:
        DataError: the folder is of another data set or unfinished, or has no crop of an image.
    """
    folder = Path(aligned)
    begun = settings_of(folder)
    if begun.name != name:
        raise DataError(f"{folder} holds aligned pictures of {begun.name}, not of {name}")
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder} is not finished: run fervor data align again, it goes on")
    rows = {place_of(row): row for row in rows_of(folder / MANIFEST)}
    users = Counter((row["source"], row["file"]) for row in rows.values() if _has_crop(row))
    aligned_samples = []
    for sample in samples:
        row = rows.get((source_of(sample, Path(root)), sample.box))
        if row is None:
            raise DataError(
                f"{folder} has no crop of {sample.path}: run fervor data align again with the "
                "protocol of the run, it adds what is missing"
            )
        if row["status"] == "error":
            raise DataError(f"{row['error']}: mend or remove it, then run fervor data align again")
        if row["state"] is not None and row["state"][0] != os.path.getsize(sample.path):
            raise DataError(f"{sample.path} has changed: run fervor data align again")
        if users[row["source"], row["file"]] > 1:  # version 0.1, under a second protocol
            raise DataError(
                f"{folder} has one crop for several faces of {sample.path}: run fervor data align "
                "again"
            )
        if _has_crop(row):
            aligned_samples.append(replace(sample, path=str(folder / row["file"]), box=None))
    return aligned_samples


def _has_crop(row: Row) -> bool:
    return row["status"] not in ("skipped", "error")


def source_of(sample: Sample, root: Path) -> str:
    """An image's path from the data set's folder on, as the manifest names it.

    Raises:
        DataError: the image stands in a table and has no file.
    """
    if not sample.path:
        raise DataError(
            f"{root} holds its pictures in a table: write them to files first (FERPlus's script "
            "generate_training_data.py does), aligned pictures are found by their files"
        )
    return Path(os.path.relpath(sample.path, root)).as_posix()


def place_of(row: Row) -> Place:
    box = row["annotated"]
    return row["source"], None if box is None else (box[0], box[1], box[2], box[3])


def rows_of(path: Path) -> list[Row]:
    """The rows of a manifest; a last line that was cut off by a kill is not one."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            rows = [json.loads(line) for line in file if line.endswith("\n")]
    except (ValueError, RecursionError) as error:
        raise _strange(path, str(error) or "nested too deeply") from None
    for row in rows:
        _check(row, path)
    return rows


def _check(row: Any, path: Path) -> None:
    """Raises DataError where a row, perhaps a stranger's, is none or leads out of the folder."""
    if not isinstance(row, dict) or not row.keys() >= ROW:
        raise _strange(path, f"a row without {', '.join(sorted(ROW))}")
    file, state, box = row["file"], row["state"], row["annotated"]
    inside = file is None or (isinstance(file, str) and not {"", ".."} & {*file.split("/")})
    if not inside or not isinstance(row["source"], str):
        raise _strange(path, f"the file {file!r:.60}, which is none below the folder")
    if box is not None and not (isinstance(box, list) and _are_numbers(box) and len(box) == 4):
        raise _strange(path, f"the box {box!r:.60}")
    if not (state is None or (isinstance(state, list) and len(state) == 2)):
        raise _strange(path, f"the state {state!r:.60}")


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _strange(path: Path, what: str) -> DataError:
    return DataError(f"{path} holds {what}: expected what fervor data align writes")


def state_of(path: str) -> list[int] | None:
    """Bytes and time of change of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
