"""RAF-DB, its basic part: 15,339 faces from the web, each seen by about forty annotators.

Li, Deng and Du, 2017, "Reliable crowdsourcing and deep locality-preserving learning for expression
recognition in the wild". Layout: basic/EmoLabel/list_patition_label.txt (the official spelling)
with lines such as `train_00001.jpg 5`, and the images, aligned (100 x 100) and original. The data
set has no validation split: training holds a share out.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fervor.data.datasets.files import images, lines
from fervor.data.datasets.samples import Expected, Sample, check_side
from fervor.data.datasets.unofficial import refused
from fervor.errors import DataError
from fervor.labels import BASIC, RAFDB


PROTOCOLS = ("basic",)

TERMS = "on request from the makers, for research that is not commercial"

TREE = """\
basic/ (or raf-basic/, or this folder itself)
  EmoLabel/list_patition_label.txt     train_00001.jpg 5 ...
  Image/aligned/                       train_00001_aligned.jpg ...  test_0001_aligned.jpg ...
  Image/original/                      train_00001.jpg ...  (for --data.annotations original)
  Annotation/manual/                   train_00001_manu_attri.txt ...  (for --slices)"""

VARIANTS = {"aligned": "{}_aligned.jpg", "original": "{}.jpg"}
"""Folders below Image, and how they name the images of the list."""

SIDE = 100
"""Pixels of an aligned image's side."""

COUNTS = {
    "train": dict(zip(RAFDB, (1290, 281, 717, 4772, 1982, 705, 2524), strict=True)),
    "test": dict(zip(RAFDB, (329, 74, 160, 1185, 478, 162, 680), strict=True)),
}
"""12,271 and 3,068, counted in the official list."""

LISTS = ("list_patition_label.txt", "list_partition_label.txt")
"""The official name, and the one that it gets where somebody mends it: the content tells."""

ATTRIBUTES = {
    "gender": ("male", "female", "unsure"),
    "race": ("Caucasian", "African-American", "Asian"),
    "age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
"""The last three lines of an image's manual annotation, behind five points, by their numbers."""

POINTS = 5

NAME = re.compile(r"(train|test)_\d{4,5}\.jpg")
"""Numbers have five digits in train and four in test."""

NUMBER = re.compile(r"[0-9]{1,9}")


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Neutral and the six basic expressions."""
    return BASIC


def read(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """The samples of one split, not counted; see `fervor.data.datasets.load`."""
    variant = annotations or "aligned"
    if variant not in VARIANTS:
        raise DataError(f"RAF-DB has no pictures {variant!r}: expected aligned or original")
    base = _base(root)
    if split == "valid":
        return []
    entries = _entries(_list(base))
    folder = base / "Image" / variant
    present = frozenset(images(folder))
    samples = []
    for name, label in entries.items():
        image = VARIANTS[variant].format(name.removesuffix(".jpg"))
        if not name.startswith(split):
            continue
        if image not in present:
            raise DataError(f"{folder / image} is missing but the official list names it")
        samples.append(Sample(f"{folder}/{image}", label))
    if variant == "aligned":
        check_side(samples, SIDE, where=f"{root}", copies="smaller copies")
    return samples


def expected(root: Path, split: str, *, protocol: str, annotations: str) -> Expected:
    """Official images of one split by class; none in valid."""
    return Expected(COUNTS.get(split, {}))


def attributes(root: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with gender, race and age as the data set's makers annotated them.

    Raises:
        DataError: an image's annotation is missing or reads otherwise.
    """
    folder = _base(root) / "Annotation" / "manual"
    return [replace(sample, attributes=_attributes(folder, sample)) for sample in samples]


def _attributes(folder: Path, sample: Sample) -> dict[str, str]:
    match = re.search(r"(?:train|test)_\d{4,5}", Path(sample.path).name)
    path = folder / f"{match[0] if match else Path(sample.path).stem}_manu_attri.txt"
    numbers = [line for _, line in lines(path)][POINTS:]
    values = {}
    for (name, words), number in zip(ATTRIBUTES.items(), numbers, strict=False):
        if not number.isdecimal() or int(number) >= len(words):
            raise DataError(f"{path} has {name} {number!r}: expected 0 to {len(words) - 1}")
        values[name] = words[int(number)]
    if len(values) < len(ATTRIBUTES):
        raise DataError(f"{path}: expected five points, then {', '.join(ATTRIBUTES)}, a line each")
    return values


def _base(root: Path) -> Path:
    """The folder that holds EmoLabel."""
    candidates = [root, root / "basic", root / "raf-basic"]
    bases = [folder for folder in candidates if (folder / "EmoLabel").is_dir()]
    if not bases:
        reason = refused(root) or "give the folder that holds basic, raf-basic or EmoLabel"
        raise DataError(f"{root} holds no EmoLabel folder of RAF-DB: {reason}")
    if len(bases) > 1:
        raise DataError(f"{bases[0]} and {bases[1]} both hold EmoLabel: give one as the root")
    return bases[0]


def _list(base: Path) -> Path:
    folder = base / "EmoLabel"
    path = next((folder / name for name in LISTS if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{folder / LISTS[0]} is missing: expected the official list of labels")
    return path


def _entries(path: Path) -> dict[str, str]:
    """The list's images with their expressions, in its order."""
    entries: dict[str, str] = {}
    for number, line in lines(path):
        cells = line.split()
        where = f"{path}:{number}"
        if len(cells) == 2 and NAME.fullmatch(cells[1]):
            raise DataError(f"{where} has its columns swapped: expected a picture, then a label")
        if len(cells) != 2 or not NAME.fullmatch(cells[0]):
            raise DataError(f"{where} reads {line[:60]!r}: expected a line as train_00001.jpg 5")
        name, label = cells
        if not NUMBER.fullmatch(label):
            raise DataError(f"{where} has the class {label!r}, expected a number, 1 to 7")
        if not 1 <= int(label) <= len(RAFDB):
            raise DataError(f"{where} has label {label}, out of range: expected 1 to {len(RAFDB)}")
        if name in entries:
            raise DataError(f"{where} names {name} for the second time")
        entries[name] = RAFDB[int(label) - 1]
    return entries
