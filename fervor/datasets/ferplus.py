"""FERPlus: FER2013's pictures, 48 x 48 and grey, with ten raters' votes each.

Barsoum et al., 2016, "Training deep networks for facial expression recognition with crowd-sourced
label distribution". Layout: FER2013Train, FER2013Valid and FER2013Test with ferXXXXXXX.png and
label.csv (name, box, ten vote columns; no header). Two more label sources are read: fer2013new.csv
beside the written pictures (joined by full name), and fer2013.csv with fer2013new.csv (joined by
row order, as the official script does; the numbers inside the names are not row numbers).
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from fervor.datasets import Sample
from fervor.errors import DataError
from fervor.labels import BASIC, EXPRESSIONS, FER2013, FERPLUS_COLUMNS


PROTOCOLS = ("majority", "majority7", "argmax10", "argmax8", "raw")

TERMS = "labels under the MIT licence; FER2013's pictures were collected from the web for research"

FOLDERS = {"train": "FER2013Train", "valid": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}
SOURCES = ("label.csv", "fer2013new.csv", "fer2013.csv")

COUNTS = {
    "label.csv": {
        "majority": (25_045, 3_191, 3_137),
        "majority7": (24_925, 3_175, 3_122),
        "argmax10": (28_385, 3_555, 3_545),
        "argmax8": (28_556, 3_579, 3_573),
    },
    "fer2013new.csv": {
        "majority": (25_060, 3_199, 3_153),
        "majority7": (24_941, 3_186, 3_137),
        "argmax10": (28_389, 3_553, 3_546),
        "argmax8": (28_559, 3_579, 3_573),
    },
    "fer2013.csv": {"raw": (28_709, 3_589, 3_589)},
}
"""Train, valid and test pictures that the official files give, counted in them. The two label files
disagree in 1,602 pictures' votes. Four names of fer2013new.csv occur twice; both rows count, as in
the official script."""

_CELLS = 2 + len(FERPLUS_COLUMNS)

Row = tuple[str, tuple[int, ...]]


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Seven classes under majority7 and raw (FER2013 knows no contempt), eight otherwise."""
    return BASIC if protocol in ("majority7", "raw") else EXPRESSIONS


def load(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """The samples of one split; see `fervor.datasets.load`."""
    source = annotations or _found_source(root, protocol)
    if source not in SOURCES:
        raise DataError(
            f"FERPlus has no label source {source!r}: expected one of {', '.join(SOURCES)}"
        )
    if protocol == "raw" and source != "fer2013.csv":
        raise DataError(f"raw reads fer2013.csv alone, not {source}: leave --data.annotations out")
    if protocol == "raw":
        samples = list(_raw(root, split))
    elif source == "fer2013.csv":
        samples = list(_from_tables(root, split, protocol))
    else:
        samples = list(_from_pictures(root, split, protocol, source))
    _check_count(samples, root, split, source, protocol)
    return samples


def decide(votes: Sequence[int], protocol: str) -> tuple[str, dict[str, float]] | None:
    """Label and votes by expression under a protocol; None where the rule drops the picture.

    Args:
        votes: the ten columns of `FERPLUS_COLUMNS`.
        protocol: majority, majority7 (votes of 1 are dropped, the peak must exceed half of what
            is left, unknown and NF are dropped), argmax10 or argmax8 (first of equal peaks).
    """
    if protocol in ("majority", "majority7"):
        votes = [vote if vote > 1 else 0 for vote in votes]
        # without contempt the column is left out after the rule, as a class that is not asked for
        if not any(votes) or 2 * max(votes) <= sum(votes):
            return None
    considered = votes[: len(EXPRESSIONS)] if protocol == "argmax8" else votes
    peak = max(range(len(considered)), key=lambda column: considered[column])
    name = FERPLUS_COLUMNS[peak]
    names = labels(protocol, ())
    if not considered[peak] or name not in names:
        return None
    return name, {name: float(votes[FERPLUS_COLUMNS.index(name)]) for name in names}


def _found_source(root: Path, protocol: str) -> str:
    """The first label source that stands below the root."""
    if protocol == "raw":
        return "fer2013.csv"
    if any((root / folder / "label.csv").is_file() for folder in FOLDERS.values()):
        return "label.csv"
    for name in ("fer2013.csv", "fer2013new.csv"):
        if (root / name).is_file():
            return name
    zipped = any((root / f"{folder}.zip").is_file() for folder in FOLDERS.values())
    hint = "unzip the three archives there first" if zipped else "see docs/data.md for the tree"
    raise DataError(
        f"{root} holds no FERPlus labels: expected FER2013Train/label.csv, fer2013new.csv or "
        f"fer2013.csv; {hint}"
    )


def _from_pictures(root: Path, split: str, protocol: str, source: str) -> Iterator[Sample]:
    """Written pictures with either label file."""
    folder = root / FOLDERS[split]
    if not folder.is_dir():
        raise DataError(
            f"{root} has no folder {FOLDERS[split]}: expected the official FERPlus tree"
        )
    present = {path.name for path in folder.glob("*.png")}
    rows = _label_rows(folder / "label.csv") if source == "label.csv" else _new_rows(root, split)
    for name, votes in rows:
        decision = decide(votes, protocol)
        if not name or decision is None:
            continue
        if name not in present:
            raise DataError(f"{folder / name} is missing but {source} names it")
        label, by_name = decision
        yield Sample(str(folder / name), label, by_name)


def _label_rows(path: Path) -> Iterator[Row]:
    """The rows of an official label.csv."""
    for number, cells in _cells(path):
        if len(cells) != _CELLS:
            raise DataError(f"{path}:{number} has {len(cells)} columns, expected {_CELLS}")
        yield cells[0], _votes(cells[2:], path, number)


def _new_rows(root: Path, split: str) -> Iterator[Row]:
    """One split's rows of fer2013new.csv, in order; a name is empty where there is no face."""
    path = root / "fer2013new.csv"
    expected = ["Usage", "Image name", *FERPLUS_COLUMNS]
    for number, cells in _cells(path):
        if number == 1:
            if cells != expected:
                raise DataError(
                    f"{path} begins {cells[:3]}, expected the header {expected[:3]} ..."
                )
        elif len(cells) != _CELLS:
            raise DataError(f"{path}:{number} has {len(cells)} columns, expected {_CELLS}")
        elif cells[0] == USAGES[split]:
            yield cells[1], _votes(cells[2:], path, number)


def _pixel_rows(root: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of fer2013.csv below its header."""
    path = root / "fer2013.csv"
    for number, cells in _cells(path):
        if number == 1:
            if cells != ["emotion", "pixels", "Usage"]:
                raise DataError(f"{path} begins {cells[:3]}, expected emotion,pixels,Usage")
        elif len(cells) != 3:
            raise DataError(f"{path}:{number} has {len(cells)} columns, expected 3")
        else:
            yield number, cells


def _from_tables(root: Path, split: str, protocol: str) -> Iterator[Sample]:
    """fer2013.csv and fer2013new.csv joined by row order."""
    votes = iter(list(_new_rows(root, split)))
    path = root / "fer2013.csv"
    for number, (_, pixels, usage) in _pixel_rows(root):
        if usage != USAGES[split]:
            continue
        row = next(votes, None)
        if row is None:
            raise DataError(
                f"{path}:{number} has no partner: fer2013new.csv has fewer {usage} rows"
            )
        decision = decide(row[1], protocol)
        if decision is not None and row[0]:
            yield _pixel_sample(pixels, *decision, where=f"{path}:{number}")
    if next(votes, None) is not None:
        raise DataError(f"fer2013new.csv has more {USAGES[split]} rows than {path}")


def _raw(root: Path, split: str) -> Iterator[Sample]:
    """Every row of fer2013.csv with FER2013's own label."""
    for number, (emotion, pixels, usage) in _pixel_rows(root):
        if usage != USAGES[split]:
            continue
        where = f"{root / 'fer2013.csv'}:{number}"
        if emotion not in {str(index) for index in range(len(FER2013))}:
            raise DataError(f"{where} has emotion {emotion!r}, expected 0 to {len(FER2013) - 1}")
        yield _pixel_sample(pixels, FER2013[int(emotion)], {}, where=where)


def _pixel_sample(pixels: str, label: str, votes: dict[str, float], *, where: str) -> Sample:
    try:
        values = bytes(int(value) for value in pixels.split())
    except ValueError:
        raise DataError(f"{where} has pixels that are no numbers in 0..255") from None
    if len(values) != 48 * 48:
        raise DataError(f"{where} has {len(values)} pixels, expected {48 * 48}")
    return Sample("", label, votes, values, 48)


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """A CSV file's rows with their line numbers, from 1."""
    if not path.is_file():
        raise DataError(f"{path} is missing: see docs/data.md for FERPlus's tree")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from enumerate(csv.reader(file), start=1)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no readable CSV file: {error}") from None


def _votes(cells: Sequence[str], path: Path, number: int) -> tuple[int, ...]:
    try:
        votes = tuple(int(cell) for cell in cells)
    except ValueError:
        raise DataError(f"{path}:{number} has votes {list(cells)}, expected integers") from None
    if min(votes) < 0:
        raise DataError(f"{path}:{number} has a negative vote: {list(cells)}")
    return votes


def _check_count(samples: list[Sample], root: Path, split: str, source: str, protocol: str) -> None:
    official = COUNTS["fer2013new.csv" if source == "fer2013.csv" and protocol != "raw" else source]
    expected = official[protocol][tuple(FOLDERS).index(split)]
    if len(samples) != expected:
        raise DataError(
            f"{root} gives {len(samples):,} {split} pictures under {protocol} ({source}), expected "
            f"{expected:,}: the labels or the tree differ from the official release"
        )
