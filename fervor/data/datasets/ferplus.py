"""FERPlus: FER2013's images, 48 x 48 and grey, with ten raters' votes each.

Barsoum et al., 2016, "Training deep networks for facial expression recognition with crowd-sourced
label distribution". Layout: FER2013Train, FER2013Valid and FER2013Test with ferXXXXXXX.png and
label.csv (name, box, ten vote columns; no header). Two more label sources are read: fer2013new.csv
beside the written images (joined by full name), and fer2013.csv with fer2013new.csv (joined by
row order, as the official script does; the numbers inside the names are not row numbers).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fervor.data.datasets.files import images, rows
from fervor.data.datasets.samples import Expected, Sample
from fervor.data.datasets.unofficial import refused
from fervor.errors import DataError, counted
from fervor.labels import BASIC, EXPRESSIONS, FER2013, FERPLUS_COLUMNS


PROTOCOLS = ("majority", "majority7", "argmax10", "argmax8", "raw")

TERMS = "labels under the MIT licence; FER2013's pictures were collected from the web for research"

FOLDERS = {"train": "FER2013Train", "valid": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}
SOURCES = ("label.csv", "fer2013new.csv", "fer2013.csv")

COUNTS: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "label.csv": {
        "majority": {
            "train": (8733, 7284, 3136, 3022, 2098, 116, 536, 120),
            "valid": (1180, 862, 411, 348, 289, 25, 60, 16),
            "test": (1083, 892, 394, 382, 269, 16, 86, 15),
        },
        "majority7": {
            "train": (8733, 7284, 3136, 3022, 2098, 116, 536),
            "valid": (1180, 862, 411, 348, 289, 25, 60),
            "test": (1083, 892, 394, 382, 269, 16, 86),
        },
        "argmax10": {
            "train": (10295, 7526, 3557, 3530, 2463, 191, 655, 168),
            "valid": (1329, 899, 458, 415, 325, 32, 71, 26),
            "test": (1258, 928, 447, 446, 321, 20, 97, 28),
        },
        "argmax8": {
            "train": (10377, 7537, 3583, 3559, 2476, 195, 659, 170),
            "valid": (1341, 899, 461, 419, 326, 34, 72, 27),
            "test": (1274, 929, 450, 449, 322, 21, 98, 30),
        },
    },
    "fer2013new.csv": {
        "majority": {
            "train": (8740, 7287, 3149, 3014, 2100, 119, 532, 119),
            "valid": (1182, 865, 415, 351, 287, 24, 62, 13),
            "test": (1090, 893, 396, 384, 273, 18, 83, 16),
        },
        "majority7": {
            "train": (8740, 7287, 3149, 3014, 2100, 119, 532),
            "valid": (1182, 865, 415, 351, 287, 24, 62),
            "test": (1090, 893, 396, 384, 273, 18, 83),
        },
        "argmax10": {
            "train": (10309, 7528, 3562, 3515, 2467, 191, 652, 165),
            "valid": (1335, 899, 456, 412, 319, 34, 74, 24),
            "test": (1262, 928, 444, 444, 325, 23, 93, 27),
        },
        "argmax8": {
            "train": (10388, 7539, 3588, 3549, 2478, 194, 656, 167),
            "valid": (1347, 899, 459, 418, 320, 36, 75, 25),
            "test": (1278, 929, 446, 448, 326, 23, 94, 29),
        },
    },
    "fer2013.csv": {
        "raw": {
            "train": (4965, 7215, 3171, 4830, 3995, 436, 4097),
            "valid": (607, 895, 415, 653, 467, 56, 496),
            "test": (626, 879, 416, 594, 491, 55, 528),
        }
    },
}
"""Images of each class, in the order of `labels`; counted in the official files. Those of raw are
FER2013's published ones, which sum to 28,709 / 3,589 / 3,589. The two label files disagree in 1,602
images' votes. Four names of fer2013new.csv occur twice; both rows count, as in the official
script."""

TREE = """\
FER2013Train/   fer0000000.png ...  label.csv
FER2013Valid/   fer0028638.png ...  label.csv
FER2013Test/    fer0032220.png ...  label.csv
or fer2013new.csv instead of the three label.csv
or fer2013.csv and fer2013new.csv instead of the folders"""

_CELLS = 2 + len(FERPLUS_COLUMNS)

Row = tuple[str, tuple[int, ...]]


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Seven classes under majority7 and raw (FER2013 knows no contempt), eight otherwise."""
    return BASIC if protocol in ("majority7", "raw") else EXPRESSIONS


def read(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """The samples of one split, not counted; see `fervor.data.datasets.load`."""
    source = _source(root, protocol, annotations)
    if protocol == "raw":
        return list(_raw(root, split))
    if source == "fer2013.csv":
        return list(_from_tables(root, split, protocol))
    return list(_from_images(root, split, protocol, source))


def expected(root: Path, split: str, *, protocol: str, annotations: str) -> Expected:
    """Official images of one split by class."""
    source = _source(root, protocol, annotations)
    votes = "fer2013new.csv" if source == "fer2013.csv" and protocol != "raw" else source
    counts = COUNTS[votes][protocol][split]
    return Expected(dict(zip(labels(protocol, ()), counts, strict=True)), source=source)


def decide(votes: Sequence[int], protocol: str) -> tuple[str, dict[str, float]] | None:
    """Label and votes by expression under a protocol; None where the rule drops the image.

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


def _source(root: Path, protocol: str, annotations: str) -> str:
    """The label source asked for, or the first that stands below the root."""
    if annotations not in ("", *SOURCES):
        raise DataError(
            f"FERPlus has no label source {annotations!r}: expected one of {', '.join(SOURCES)}"
        )
    if protocol == "raw":
        if annotations not in ("", "fer2013.csv"):
            raise DataError(
                f"raw reads fer2013.csv alone, not {annotations}: leave --data.annotations out"
            )
        return "fer2013.csv"
    if annotations:
        return annotations
    if any((root / folder / "label.csv").is_file() for folder in FOLDERS.values()):
        return "label.csv"
    for name in ("fer2013.csv", "fer2013new.csv"):
        if (root / name).is_file():
            return name
    zipped = any((root / f"{folder}.zip").is_file() for folder in FOLDERS.values())
    hint = "unzip the three archives there first" if zipped else "see docs/data.md for the tree"
    raise DataError(
        f"{root} holds no FERPlus labels: expected FER2013Train/label.csv, fer2013new.csv or "
        f"fer2013.csv; {refused(root) or hint}"
    )


def _from_images(root: Path, split: str, protocol: str, source: str) -> Iterator[Sample]:
    """Written images with either label file."""
    folder = root / FOLDERS[split]
    if not folder.exists():
        raise DataError(
            f"{root} has no folder {FOLDERS[split]}: expected the official FERPlus tree"
        )
    present = frozenset(images(folder))
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
    seen = set()
    for number, cells in rows(path):
        if len(cells) != _CELLS:
            raise DataError(
                f"{path}:{number} has {counted(len(cells), 'column')}, expected {_CELLS}"
            )
        if cells[0] in seen:
            raise DataError(f"{path}:{number} names {cells[0]} for the second time")
        seen.add(cells[0])
        yield cells[0], _votes(cells[2:], path, number)


def _new_rows(root: Path, split: str) -> Iterator[Row]:
    """One split's rows of fer2013new.csv, in order; a name is empty where there is no face."""
    path = root / "fer2013new.csv"
    expected = ["Usage", "Image name", *FERPLUS_COLUMNS]
    for number, cells in rows(path):
        if number == 1:
            if cells != expected:
                raise DataError(
                    f"{path} begins {cells[:3]}, expected the header {expected[:3]} ..."
                )
        elif len(cells) != _CELLS:
            raise DataError(
                f"{path}:{number} has {counted(len(cells), 'column')}, expected {_CELLS}"
            )
        elif cells[0] == USAGES[split]:
            yield cells[1], _votes(cells[2:], path, number)


def _pixel_rows(root: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of fer2013.csv below its header."""
    path = root / "fer2013.csv"
    for number, cells in rows(path):
        if number == 1:
            if cells != ["emotion", "pixels", "Usage"]:
                raise DataError(f"{path} begins {cells[:3]}, expected emotion,pixels,Usage")
        elif len(cells) != 3:
            raise DataError(f"{path}:{number} has {counted(len(cells), 'column')}, expected 3")
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


def _votes(cells: Sequence[str], path: Path, number: int) -> tuple[int, ...]:
    try:
        votes = tuple(int(cell) for cell in cells)
    except ValueError:
        raise DataError(f"{path}:{number} has votes {list(cells)}, expected integers") from None
    if min(votes) < 0:
        raise DataError(f"{path}:{number} has a negative vote: {list(cells)}")
    return votes
