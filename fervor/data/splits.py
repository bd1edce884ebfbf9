"""What a run reads: its training images, and those on which its epoch is chosen."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fervor.config import Data, Pipeline, Selection
from fervor.data import datasets
from fervor.data.datasets import subsets
from fervor.data.image_set import ImageSet, hold_out, read_images
from fervor.data.manifest import substitute
from fervor.errors import DataError, UsageError, counted


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """A split's images by number, and the checksum of their names and labels in order."""

    images: int
    sha256: str


@dataclass(frozen=True)
class Splits:
    """Training and selection images and their classes; `selected_on` names the split.

    `fingerprints` are those of "train" and "selection".
    """

    labels: tuple[str, ...]
    train: ImageSet
    selection: ImageSet
    selected_on: str
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)


def read_splits(pipeline: Pipeline, *, selection: Selection = "honest") -> Splits:
    """Training and selection images under a run's protocols; see `config.Run.selection`.

    Raises:
        UsageError: no test split under `paper`, or one protocol for training and another for a
            selection that is held out of train.
        DataError: there are no training images, none of a class that is asked for or selected on,
            one of a class that the protocol does not have, or a single class.
    """
    data, encoder, seed = pipeline.data, pipeline.encoder, pipeline.seed

    def samples(split: str, protocol: str) -> list[datasets.Sample]:
        return load_samples(data, split, protocol=protocol)[0]

    split = "test" if selection == "paper" else "valid"
    shots, selected = subsets.shots(data.subset), samples(split, data.protocol)
    train = samples("train", data.train_protocol or data.protocol)
    classes = subsets.class_names(data.classes)
    _check_train(train, data, classes)
    labels = classes or datasets.labels_of(data.name, train, data.protocol)
    if len(labels) < 2:
        raise DataError(
            f"{labels[0]} is the only class of {data.name} at {data.root}: expected two or more to "
            "tell apart"
        )
    if unseen := sorted({sample.label for sample in selected} - set(labels)):
        raise DataError(
            f"{', '.join(unseen)}: in {split} of {data.name} at {data.root}, not in train; "
            "expected pictures of the same classes"
        )
    if not selected and selection == "paper":
        raise UsageError(f"{data.name} at {data.root} has no test split: use --selection honest")
    selected_on = split
    if not selected:
        if data.train_protocol:
            raise UsageError(
                f"{data.name} has no validation split, so train and selection share one protocol: "
                "leave --data.train_protocol out"
            )
        train, selected = hold_out(train, labels, data.validation, seed)
        selected_on = f"{data.validation:.0%} of train, held out"
    train = restricted(train, data, labels, seed)
    if shots and selected_on != "test":
        selected = subsets.few(selected, subsets.VALID_SHOTS, seed)

    def images(those: list[datasets.Sample]) -> ImageSet:
        return read_images(
            those,
            labels,
            size=encoder.size,
            faces=data.faces,
            margin=data.margin,
            crop=encoder.crop,
            cache=data.cache,
        )

    folder = data.aligned or data.root
    prints = {"train": fingerprint(train, folder), "selection": fingerprint(selected, folder)}
    return Splits(labels, images(train), images(selected), selected_on, prints)


def fingerprint(samples: Sequence[datasets.Sample], folder: str) -> Fingerprint:
    """What tells a split from another, wherever its folder lies.

    An image is named by its path below the folder, one outside by its last part alone, and one of
    a table by its pixels. Of the file's content nothing is read.
    """
    digest = hashlib.sha256()
    inside = os.path.join(os.path.abspath(folder), "")
    for sample in samples:
        path = os.path.abspath(sample.path) if sample.path else ""
        name = path.removeprefix(inside) if path.startswith(inside) else os.path.basename(path)
        row = [name.replace(os.sep, "/"), sample.label, sorted(sample.votes.items())]
        digest.update(json.dumps(row).encode())
        digest.update(sample.pixels)
    return Fingerprint(len(samples), digest.hexdigest())


def _check_train(train: Sequence[datasets.Sample], data: Data, classes: Sequence[str]) -> None:
    """Look whether there is something to train on, of each class that is asked for.

    Raises:
        DataError: there is not.
    """

    def load(split: str, protocol: str) -> list[datasets.Sample]:
        return load_samples(replace(data, classes="", aligned=""), split, protocol=protocol)[0]

    protocol = datasets.protocol_of(data.name, data.train_protocol or data.protocol)
    if not train and not load("train", protocol):
        test = [] if data.fold else load("test", data.protocol)
        if test and all(sample.group for sample in test):
            raise DataError(
                f"{data.name} at {data.root} has no training split: train on nine tenths of its "
                f"subjects and test on the others with --data.fold 1 to {datasets.FOLDS}"
            )
        raise DataError(
            f"{data.name} at {data.root} has no training pictures: expected the tree that fervor "
            f"data check {data.name} {data.root} prints"
        )
    present = {sample.label for sample in train}
    if missing := [name for name in classes if name not in present]:
        raise DataError(
            f"--data.classes {data.classes}: {data.name} under {protocol} has no training pictures "
            f"of {', '.join(missing)}"
        )


def restricted(
    train: Sequence[datasets.Sample], data: Data, labels: Sequence[str], seed: int
) -> list[datasets.Sample]:
    """The training samples that a protocol of few images, wrong labels or other priors leaves."""
    remaining = list(train)
    if data.priors:
        remaining = subsets.in_proportion(remaining, data.priors, seed)
    if shots := subsets.shots(data.subset):
        remaining = subsets.few(remaining, shots, seed)
    if data.label_noise:
        remaining = subsets.noisy(remaining, data.label_noise, labels, seed)
    return remaining


def load_samples(data: Data, split: str, *, protocol: str) -> tuple[list[datasets.Sample], int]:
    """The samples of one split, and how many were left out because alignment had skipped them.

    With `data.aligned` the crops there stand for the data set's images.
    """
    samples = datasets.load(
        data.name,
        data.root,
        split,
        protocol=protocol,
        annotations=data.annotations,
        fold=data.fold,
    )
    samples = subsets.of_classes(samples, subsets.class_names(data.classes))
    if not data.aligned:
        return samples, 0
    substitutes = substitute(samples, data.name, data.root, data.aligned)
    if skipped := len(samples) - len(substitutes):
        logger.warning(
            "skipped when they were aligned, without a face: %d of %s",
            skipped,
            counted(len(samples), f"{split} picture"),
        )
    return substitutes, skipped
