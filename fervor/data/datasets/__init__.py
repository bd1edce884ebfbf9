"""Data sets: official annotation files -> lists of samples, with the counts of a named protocol.

The next data set is one file here (`PROTOCOLS`, `TERMS`, `TREE`, `labels`, `read`, `expected`, and
`attributes` where the images' attributes stand in files of their own) and one line in
`plugins.DATASETS`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from fervor import plugins
from fervor.data.datasets.samples import Box, Expected, Sample, check_counts
from fervor.errors import DataError, UsageError


__all__ = [
    "FOLDS",
    "SPLITS",
    "Box",
    "Dataset",
    "Expected",
    "Sample",
    "check_counts",
    "dataset",
    "folds",
    "labels_of",
    "load",
    "protocol_of",
    "with_attributes",
]


class Dataset(Protocol):
    """What a data set declares: the module of one of ours, or a class of another package."""

    PROTOCOLS: Sequence[str]
    """Rules that turn annotations into labels; the first is the default."""
    TERMS: str
    """Under which its images may be used; the card of a model repeats them."""
    TREE: str
    """The folders and files that are expected, as text."""

    def labels(self, protocol: str, samples: Sequence[Sample]) -> Sequence[str]:
        """The ordered classes."""
        ...

    def read(self, root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
        """The samples of one split, in the annotation files' order."""
        ...

    def expected(
        self, root: Path, split: str, *, protocol: str, annotations: str
    ) -> Expected | None:
        """The official counts; None where there are none."""
        ...


SPLITS = ("train", "valid", "test")

FOLDS = 10
"""Parts of a subject-independent cross-validation, as is usual on CK+."""


def dataset(name: str) -> Dataset:
    """The data set of a name.

    Raises:
        UsageError: no data set has that name, or its package is missing.
    """
    reader = plugins.load("datasets", name)
    data: Dataset = reader() if isinstance(reader, type) else reader
    declared = [word for word in vars(Dataset) if not word.startswith("_")]
    declared += Dataset.__annotations__
    if missing := [word for word in declared if not hasattr(data, word)]:
        raise UsageError(f"data set {name} has no {', '.join(missing)}: see {Dataset.__module__}")
    return data


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
    name: str,
    root: str | Path,
    split: str,
    *,
    protocol: str = "",
    annotations: str = "",
    fold: int = 0,
) -> list[Sample]:
    """The samples of one split under a protocol, in the annotation files' order.

    With a fold, test is that one of ten parts of all groups (subjects), train is the nine others,
    and valid is empty.

    Raises:
        UsageError: unknown data set, protocol, split or fold, or a fold of samples without groups.
        DataError: the folder is missing or differs from the official layout or counts.
    """
    module = dataset(name)
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if not 0 <= fold <= FOLDS:
        raise UsageError(f"fold {fold}: expected 1 to {FOLDS}, or 0 for the usual splits")
    folder_path = Path(root)
    if not str(root) or not folder_path.is_dir():
        raise DataError(
            f"no folder {str(root)!r} for data set {name}: give its root with --data.root"
        )
    rule = protocol_of(name, protocol)
    all_samples: list[Sample] = []
    for part in SPLITS if fold else (split,):
        samples = module.read(folder_path, part, protocol=rule, annotations=annotations)
        official = module.expected(folder_path, part, protocol=rule, annotations=annotations)
        if official is not None:
            check_counts(samples, official, where=f"{root}", what=f"{part} pictures under {rule}")
        all_samples += samples
    return _part_of(all_samples, split, fold, name) if fold else all_samples


def folds(groups: Iterable[str]) -> dict[str, int]:
    """The fold of each group, 1 to 10: every tenth of the sorted groups, so that sizes are alike.

    This is how the subjects of CK+ are usually divided (sorted by number, in steps of ten).
    """
    return {group: place % FOLDS + 1 for place, group in enumerate(sorted(set(groups)))}


def _part_of(samples: Sequence[Sample], split: str, fold: int, name: str) -> list[Sample]:
    if not all(sample.group for sample in samples):
        raise UsageError(
            f"fold {fold} of {name}: its pictures have no groups (subjects); leave the fold out"
        )
    if split == "valid":
        return []
    numbers = folds(sample.group for sample in samples)
    return [s for s in samples if (numbers[s.group] == fold) == (split == "test")]


def labels_of(name: str, samples: Sequence[Sample], protocol: str = "") -> tuple[str, ...]:
    """The ordered classes of a data set under a protocol.

    A data set with classes of its own (folder, csv) derives them from its samples.
    """
    return tuple(dataset(name).labels(protocol_of(name, protocol), samples))


def with_attributes(name: str, root: str | Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with what is known of their images, where that stands in files of its own.

    Raises:
        DataError: such a file is missing or reads otherwise than the official ones.
    """
    read = getattr(dataset(name), "attributes", None)
    return list(samples) if read is None else read(Path(root), samples)
