"""A user's own images: one sub-folder per expression, named in words.

Layout: ROOT/<expression>/*.jpg, or ROOT/train|valid|test/<expression>/*.jpg where splits exist.
Names are mapped by the synonyms of labels.py, never by their position. Without split folders every
image is a training image, and training holds a validation share out; beside them no class folder
may hold images, which no split would read. A table `groups.csv` beside the folders says which
images are of one person.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from fervor.data.datasets.files import folders, images, rows
from fervor.data.datasets.samples import Sample
from fervor.data.datasets.unofficial import is_number, refused
from fervor.errors import DataError, counted
from fervor.labels import canonical, is_expression, ordered


PROTOCOLS = ("folders",)

TERMS = "the user's own pictures, under the user's terms"

TREE = """\
<expression>/     any-name.jpg ...
or train/<expression>/, valid/<expression>/, test/<expression>/
and, where wanted, groups.csv: path (relative to ROOT), group (a subject)"""

GROUPS = "groups.csv"
COLUMNS = ("path", "group")

SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """The classes that occur, in the project's order."""
    return ordered([sample.label for sample in samples])


def read(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """The samples of one split; see `fervor.data.datasets.load`."""
    base = _split_folder(root, split)
    if base is None:
        return []
    owners: dict[str, Path] = {}
    samples, groups = [], _groups(root, annotations)
    for name in folders(base):
        folder = base / name
        label = _label(folder, root)
        if label in owners:
            raise DataError(f"{folder} and {owners[label]} both mean {label}: merge them")
        owners[label] = folder
        paths = [f"{folder}/{image}" for image in images(folder)]
        samples += [Sample(path, label, group=groups.get(_plain(path), "")) for path in paths]
    if not samples:
        raise DataError(f"{base} holds no pictures: expected one sub-folder of them per expression")
    return samples


def expected(root: Path, split: str, *, protocol: str, annotations: str) -> None:
    """Nobody's images but the user's: nothing to compare with."""
    return None


def _groups(root: Path, annotations: str) -> dict[str, str]:
    """Each image's person, by its path; empty without a table."""
    table = root / (annotations or GROUPS)
    if not annotations and not table.is_file():
        return {}
    group_of: dict[str, str] = {}
    columns: list[str] = []
    for number, cells in rows(table):
        if not columns:
            columns = [name.strip().lower() for name in cells]
            if sorted(columns) != sorted(COLUMNS):
                raise DataError(
                    f"{table} has the columns {', '.join(columns)}: expected path, group"
                )
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{table}:{number} has {counted(len(cells), 'column')}, expected {len(columns)}"
            )
        row = dict(zip(columns, cells, strict=True))
        path = _plain(root / row["path"].strip())
        if not os.path.isfile(path):
            raise DataError(f"{table}:{number}: {path} is no file; paths are relative to {root}")
        if path in group_of:
            raise DataError(f"{table}:{number} names {row['path']} for the second time")
        group_of[path] = row["group"].strip()
    return group_of


def _plain(path: str | Path) -> str:
    """A path without detours, by which two spellings of it meet."""
    return os.path.normpath(path)


def _label(folder: Path, root: Path) -> str:
    try:
        return canonical(folder.name)
    except DataError as error:
        reason = refused(root, words=False)
        if is_number(folder.name) and not reason:
            reason = "a number says nothing about an expression: name the folder in words"
        raise DataError(f"{folder}: {reason or error}") from None


def _split_folder(root: Path, split: str) -> Path | None:
    """Where a split's class folders stand; None where the data set has no such split."""
    split_folders = [name for name in folders(root) if name.lower() in SPLIT_NAMES]
    named = {SPLIT_NAMES[name.lower()]: root / name for name in split_folders}
    if len(named) < len(split_folders):
        raise DataError(f"{root} names a split twice: {', '.join(split_folders)}; merge them")
    if named:
        _check_beside(root, split_folders)
        return named.get(split)
    return root if split == "train" else None


def _check_beside(root: Path, split_folders: Sequence[str]) -> None:
    """Refuse class folders with images beside split folders: no split would read them."""
    others = [name for name in folders(root) if name not in split_folders]
    unread = [name for name in others if is_expression(name) and images(root / name)]
    if unread:
        several = len(unread) > 1
        raise DataError(
            f"{root}: {', '.join(unread)} beside {', '.join(split_folders)} would not be read: "
            f"move {'them' if several else 'it'} into {root / 'train'} or another split"
        )
