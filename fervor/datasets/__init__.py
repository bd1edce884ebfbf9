"""Data sets: official annotation files -> lists of samples, with the counts of a named protocol.

The next data set is one file here (`PROTOCOLS`, `TERMS`, `labels`, `load`), one line in `DATASETS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from fervor.errors import DataError, UsageError


Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One annotated picture.

    Attributes:
        path: the picture's file; empty where `pixels` holds it.
        label: the expression's name; its index is nobody's business outside a model.
        votes: raters' votes by expression, after the protocol's rule; empty where there are none.
        pixels: the picture itself, grey, row by row, for sets that keep pixels in a table.
        side: width and height of `pixels`.
        box: x, y, width, height of the face in the file's pixels; None where the picture is one.
        group: what must not be torn apart by a split (a subject, a recording); empty for none.
    """

    path: str
    label: str
    votes: dict[str, float] = field(default_factory=dict)
    pixels: bytes = b""
    side: int = 0
    box: Box | None = None
    group: str = ""


from fervor.datasets import ferplus, folder  # noqa: E402  (both need Sample)


DATASETS: dict[str, ModuleType] = {"ferplus": ferplus, "folder": folder}

SPLITS = ("train", "valid", "test")


def dataset(name: str) -> ModuleType:
    """The module of a data set.

    Raises:
        UsageError: no data set has that name.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def protocol_of(name: str, protocol: str) -> str:
    """The protocol asked for, or the data set's default where it is empty.

    Raises:
        UsageError: the data set has no such protocol.
    """
    protocols: Sequence[str] = dataset(name).PROTOCOLS
    if protocol and protocol not in protocols:
        raise UsageError(
            f"{name} has no protocol {protocol!r}: expected one of {', '.join(protocols)}"
        )
    return protocol or protocols[0]


def load(
    name: str, root: str | Path, split: str, *, protocol: str = "", annotations: str = ""
) -> list[Sample]:
    """The samples of one split under a protocol, in the annotation files' order.

    Raises:
        UsageError: unknown data set, protocol or split.
        DataError: the folder is missing or differs from the official layout or counts.
    """
    module = dataset(name)
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    folder_path = Path(root)
    if not str(root) or not folder_path.is_dir():
        raise DataError(
            f"no folder {str(root)!r} for data set {name}: give its root with --data.root"
        )
    samples: list[Sample] = module.load(
        folder_path, split, protocol=protocol_of(name, protocol), annotations=annotations
    )
    return samples


def labels_of(name: str, samples: Sequence[Sample], protocol: str = "") -> tuple[str, ...]:
    """The ordered classes of a data set under a protocol.

    A data set with classes of its own (folder) derives them from its samples.
    """
    return tuple(dataset(name).labels(protocol_of(name, protocol), samples))
