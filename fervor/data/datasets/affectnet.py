"""AffectNet: faces from the web, one annotator each, in either of its two official releases.

Mollahosseini, Hasani and Mahoor, 2019, "AffectNet: a database for facial expression, valence, and
arousal computing in the wild". The original release has whole images, and training.csv and
validation.csv with a box for each face. The release of 2021 has cropped faces of 224 x 224, and one
small file of numpy per image and kind of annotation, which are read once into an index.

The official validation set is the test split; training holds a share out to choose on. Its classes
are equally large, so that it cannot show a permuted label order: the training annotations, whose
classes differ in size, are therefore looked at for either split.
"""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fervor.data.datasets import npyindex
from fervor.data.datasets.files import files, rows
from fervor.data.datasets.samples import Box, Expected, Sample, check_counts
from fervor.data.datasets.unofficial import refused
from fervor.errors import DataError, counted
from fervor.labels import AFFECTNET, EXPRESSIONS


logger = logging.getLogger(__name__)

PROTOCOLS = ("affectnet8", "affectnet7")

TERMS = "on request from the makers, for research that is not commercial"

TREE = """\
the original release:
  training.csv  validation.csv  (also below Manually_Annotated_file_lists/)
  Manually_Annotated_Images/1/         <hash>.jpg ...  (also below Manually_Annotated/)
the release of 2021:
  train_set/images/                    0.jpg ...
  train_set/annotations/               0_exp.npy ...
  val_set/images/  val_set/annotations/"""

RELEASES = ("original", "2021")
LISTS = {"train": "training.csv", "test": "validation.csv"}
SETS = {"train": "train_set", "test": "val_set"}

COUNTS = {
    "train": dict(
        zip(AFFECTNET, (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750), strict=True)
    ),
    "test": dict.fromkeys(AFFECTNET, 500),
}
"""287,651 and 4,000 images (283,901 and 3,500 without contempt) of the original release. KE-FER's
paper quotes 287,568 for eight classes, which are not these files."""

SLACK = 0.01
"""Of the release of 2021 we know no authoritative counts: each class may differ by a hundredth from
the original release, less than its classes differ from each other."""

HIGHEST = 10
"""8 none, 9 uncertain and 10 no face are no expressions."""

NUMBER = re.compile(r"[0-9]{1,9}")

HEADER = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height"),
    *("facial_landmarks", "expression", "valence", "arousal"),
)


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """All eight, or all but contempt."""
    return EXPRESSIONS if protocol == "affectnet8" else EXPRESSIONS[:7]


def read(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """The samples of one split, not counted; see `fervor.data.datasets.load`."""
    release = _release(root, annotations)
    if split == "valid":
        return []
    names = labels(protocol, ())
    if release == "2021":
        if split == "test":
            index = npyindex.index(root / SETS["train"])
            classes = [AFFECTNET[label] for _, label in index if label < len(AFFECTNET)]
            _check_order(root, protocol, classes, SLACK)
        return _from_index(root / SETS[split], names)
    if split == "test":
        classes = [AFFECTNET[int(row[6])] for _, row in _used(_place(root, LISTS["train"]))]
        _check_order(root, protocol, classes, 0.0)
    return _from_list(root, split, names)


def expected(root: Path, split: str, *, protocol: str, annotations: str) -> Expected:
    """Official images of one split by class; none in valid."""
    slack = SLACK if _release(root, annotations) == "2021" else 0.0
    return _official(split, protocol, slack)


def _official(split: str, protocol: str, slack: float) -> Expected:
    names = labels(protocol, ())
    counts = {name: count for name, count in COUNTS.get(split, {}).items() if name in names}
    return Expected(counts, slack)


def _check_order(root: Path, protocol: str, labels_there: Sequence[str], slack: float) -> None:
    names = labels(protocol, ())
    samples = (Sample("", name) for name in labels_there if name in names)
    what = f"train annotations under {protocol}"
    check_counts(samples, _official("train", protocol, slack), where=str(root), what=what)


def _release(root: Path, annotations: str) -> str:
    """Which release stands below the root; `annotations` decides where both do."""
    if annotations not in ("", *RELEASES):
        raise DataError(f"AffectNet has no release {annotations!r}: expected original or 2021")
    there = {
        "original": any(_place(root, name).is_file() for name in LISTS.values()),
        "2021": any((root / name).is_dir() for name in SETS.values()),
    }
    releases = [name for name in RELEASES if there[name]]
    if annotations:
        return annotations
    if len(releases) == 2:
        raise DataError(f"{root} holds both releases: choose with --data.annotations original|2021")
    if not releases:
        reason = refused(root) or "expected training.csv and validation.csv, or train_set, val_set"
        raise DataError(f"{root} holds no AffectNet: {reason}")
    return releases[0]


def _place(root: Path, name: str) -> Path:
    """Where a list stands: at the root or in the folder of its archive."""
    inner = root / "Manually_Annotated_file_lists" / name
    return inner if inner.is_file() else root / name


def _from_index(folder: Path, names: Sequence[str]) -> list[Sample]:
    """A split of the release of 2021, in the order of its numbers."""
    images = folder / "images"
    return [
        Sample(f"{images}/{number}.jpg", AFFECTNET[label])
        for number, label in npyindex.index(folder)
        if label < len(AFFECTNET) and AFFECTNET[label] in names
    ]


def _from_list(root: Path, split: str, names: Sequence[str]) -> list[Sample]:
    """A split of the original release, in its list's order."""
    images = root / "Manually_Annotated_Images"
    if not images.exists():
        images = root / "Manually_Annotated" / images.name
    path = _place(root, LISTS[split])
    present: dict[str, frozenset[str]] = {}
    samples, seen, unboxed = [], set(), 0
    for number, cells in _used(path):
        label = AFFECTNET[int(cells[6])]
        if label not in names:
            continue
        where = f"{path}:{number}"
        folder, _, name = cells[0].rpartition("/")
        if folder not in present:
            present[folder] = frozenset(files(images / folder))
        if name not in present[folder]:
            raise DataError(f"{images / cells[0]} is missing but {where} names it")
        box = _box(cells[1:5], where)
        unboxed += box is None
        if (cells[0], box) in seen:
            raise DataError(f"{where} names {cells[0]} for the second time")
        seen.add((cells[0], box))
        samples.append(Sample(f"{images}/{cells[0]}", label, box=box, photograph=cells[0]))
    if unboxed:
        logger.warning(
            "%s: %s without area; pictures with one are taken whole", path, counted(unboxed, "box")
        )
    return samples


def _used(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The list's rows that hold an expression, with their line numbers."""
    header: list[str] = []
    for number, cells in rows(path):
        where = f"{path}:{number}"
        if not header:
            header = cells
            if tuple(header) != HEADER:
                raise DataError(f"{path} begins {cells[:7]}, expected the header {list(HEADER)}")
        elif len(cells) != len(HEADER):
            raise DataError(f"{where} has {counted(len(cells), 'column')}, expected {len(HEADER)}")
        elif not NUMBER.fullmatch(cells[6]):
            raise DataError(
                f"{where} has the expression {cells[6][:20]!r}, expected a number, 0 to 10"
            )
        elif int(cells[6]) > HIGHEST:
            raise DataError(f"{where} has expression {cells[6]}, out of range: expected 0 to 10")
        elif int(cells[6]) < len(AFFECTNET):
            yield number, cells


def _box(cells: Sequence[str], where: str) -> Box | None:
    """The face's box; None where it has no area: the image counts all the same."""
    try:
        x, y, width, height = (float(cell) for cell in cells)
    except ValueError:
        raise DataError(f"{where} has the box {list(cells)}, expected four numbers") from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise DataError(f"{where} has the box {list(cells)}, which ends nowhere")
    return (x, y, width, height) if width > 0 and height > 0 else None
