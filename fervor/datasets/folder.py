"""A user's own pictures: one sub-folder per expression, named in words.

Layout: ROOT/<expression>/*.jpg, or ROOT/train|valid|test/<expression>/*.jpg where splits exist.
Names are mapped by the synonyms of labels.py, never by their position. Without split folders every
picture is a training picture, and training holds a validation share out.
"""

from collections.abc import Sequence
from pathlib import Path

from fervor.datasets import Sample
from fervor.errors import DataError
from fervor.labels import canonical, ordered


PROTOCOLS = ("folders",)

TERMS = "the user's own pictures, under the user's terms"

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """The classes that occur, in the project's order."""
    return ordered([sample.label for sample in samples])


def load(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """The samples of one split; see `fervor.datasets.load`."""
    base = _split_folder(root, split)
    if base is None:
        return []
    folders = sorted(path for path in base.iterdir() if path.is_dir())
    owners: dict[str, Path] = {}
    samples = []
    for folder in folders:
        try:
            label = canonical(folder.name)
        except DataError as error:
            raise DataError(f"{folder}: {error}") from None
        if label in owners:
            raise DataError(f"{folder} and {owners[label]} both mean {label}: merge them")
        owners[label] = folder
        pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        samples += [Sample(str(path), label) for path in pictures]
    if not samples:
        raise DataError(f"{base} holds no pictures: expected one sub-folder of them per expression")
    return samples


def _split_folder(root: Path, split: str) -> Path | None:
    """Where a split's class folders stand; None where the data set has no such split."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    found = [path for path in folders if path.name.lower() in SPLIT_NAMES]
    named = {SPLIT_NAMES[path.name.lower()]: path for path in found}
    if len(named) < len(found):
        raise DataError(
            f"{root} names a split twice: {', '.join(p.name for p in found)}; merge them"
        )
    if named:
        return named.get(split)
    return root if split == "train" else None
