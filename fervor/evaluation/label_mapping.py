"""Which classes and images an evaluation counts, also on another data set than the model's own.

On the data set that a model was trained on, its classes stay as they are and an unknown one is
wrong use. On any other, classes are matched by name: what only one side knows is left out and
reported; a folder or table with an unknown class is another one than the model's. Where the model
is asked for other words, these are matched with the data set's classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fervor.artifacts.model_info import ModelInfo
from fervor.data import datasets
from fervor.data.datasets import Sample
from fervor.errors import DataError, UsageError
from fervor.labels import canonical


ANYBODYS = ("folder", "csv")
"""Data sets whose name does not say whose images they hold."""


@dataclass(frozen=True)
class Scope:
    """What is counted.

    Attributes:
        labels: the classes, in the model's order.
        columns: their places among the model's classes.
        samples: the images of these classes.
        report: what was left out on both sides; None on the model's own data set.
    """

    labels: tuple[str, ...]
    columns: tuple[int, ...]
    samples: tuple[Sample, ...]
    report: dict[str, Any] | None


def scope(info: ModelInfo, name: str, protocol: str, samples: Sequence[Sample]) -> Scope:
    """The classes and images that model and data set share.

    Args:
        info: the model.
        name: the data set that is evaluated.
        protocol: its protocol.
        samples: its images.

    Raises:
        UsageError: a class of its own data set is unknown to the model, or another data set shares
            fewer than two classes with it.
    """
    classes = info.labels
    trained_on = info.data.name
    if name == trained_on:
        unknown = sorted({sample.label for sample in samples} - set(classes))
        if not unknown:
            return Scope(classes, tuple(range(len(classes))), tuple(samples), None)
        if name not in ANYBODYS:
            raise UsageError(
                f"{name} under {protocol} holds {', '.join(unknown)}, the model knows "
                f"{', '.join(classes)}: choose a protocol with these classes, or name classes with "
                "--labels, which a model that compares with texts can answer"
            )
    labels_there = datasets.labels_of(name, samples, protocol)
    shared = tuple(label for label in classes if label in labels_there)
    if len(shared) < 2:
        raise UsageError(
            f"{name} under {protocol} has {', '.join(labels_there) or 'no class'}, the model knows "
            f"{', '.join(classes)}: expected at least two in common"
        )
    left_out = Counter(sample.label for sample in samples if sample.label not in shared)
    report = {
        "trained_on": trained_on,
        "shared": list(shared),
        "model_only": [label for label in classes if label not in shared],
        "data_only": {label: left_out[label] for label in labels_there if label not in shared},
    }
    shared_samples = tuple(sample for sample in samples if sample.label in shared)
    return Scope(shared, tuple(classes.index(label) for label in shared), shared_samples, report)


def scope_of_words(
    info: ModelInfo, words: Sequence[str], name: str, protocol: str, samples: Sequence[Sample]
) -> Scope:
    """The classes that words name, and their images; a word that names none is an answer too.

    A word names a class that is spelt alike or, for the eight expressions, is a synonym of it.

    Args:
        info: the model.
        words: what it is asked for.
        name: the data set that is evaluated.
        protocol: its protocol.
        samples: its images.

    Raises:
        UsageError: the words name no class of the data set, or one of them twice.
    """
    classes = datasets.labels_of(name, samples, protocol)
    labels = tuple(_named(word, classes) for word in words)
    if doubled := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(
            f"--labels {', '.join(words)}: {' and '.join(_words_of(doubled[0], words, labels))} "
            f"both stand for {doubled[0]}; give one of them"
        )
    shared = [label for label in labels if label in classes]
    if not shared:
        raise UsageError(
            f"--labels {', '.join(words)}: {name} under {protocol} has "
            f"{', '.join(classes) or 'no class'}; name at least one of these"
        )
    left_out = Counter(sample.label for sample in samples if sample.label not in shared)
    report = {
        "trained_on": info.data.name,
        "words": list(words),
        "shared": shared,
        "model_only": [label for label in labels if label not in classes],
        "data_only": {label: left_out[label] for label in classes if label not in shared},
    }
    counted = tuple(sample for sample in samples if sample.label in shared)
    return Scope(labels, tuple(range(len(labels))), counted, report)


def _named(word: str, classes: Sequence[str]) -> str:
    """The class that a word names, or the word."""
    try:
        expression = canonical(word)
    except DataError:
        return word
    return word if word in classes or expression not in classes else expression


def _words_of(label: str, words: Sequence[str], labels: Sequence[str]) -> list[str]:
    return [word for word, other in zip(words, labels, strict=True) if other == label]
