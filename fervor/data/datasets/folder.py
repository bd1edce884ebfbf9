"""A user's own pictures: one sub-folder per expression, named in words.

Layout: ROOT/<expression>/*.jpg, or ROOT/train|valid|test/<expression>/*.jpg where splits exist.
Names are mapped by the synonyms of labels.py, never by their position. Without split folders every
picture is a training picture, and training holds a validation share out.
"""

from collections.abc import Sequence
from pathlib import Path

from fervor.data.datasets.files import folders, pictures
from fervor.data.datasets.samples import Sample
from fervor.data.datasets.unofficial import is_number, refused
from fervor.errors import DataError
from fervor.labels import canonical, ordered


PROTOCOLS = ("folders",)

TERMS = "the user's own pictures, under the user's terms"

TREE = """\
<expression>/     any-name.jpg ...
or train/<expression>/, valid/<expression>/, test/<expression>/"""

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
    samples = []
    for name in folders(base):
        folder = base / name
        label = _label(folder, root)
        if label in owners:
            raise DataError(f"{folder} and {owners[label]} both mean {label}: merge them")
        owners[label] = folder
        samples += [Sample(f"{folder}/{picture}", label) for picture in pictures(folder)]
    if not samples:
        raise DataError(f"{base} holds no pictures: expected one sub-folder of them per expression")
    return samples


def expected(root: Path, split: str, *, protocol: str, annotations: str) -> None:
    """Nobody's pictures but the user's: nothing to compare with."""
    return None


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
    found = [name for name in folders(root) if name.lower() in SPLIT_NAMES]
    named = {SPLIT_NAMES[name.lower()]: root / name for name in found}
    if len(named) < len(found):
        raise DataError(f"{root} names a split twice: {', '.join(found)}; merge them")
    if named:
        return named.get(split)
    return root if split == "train" else None
