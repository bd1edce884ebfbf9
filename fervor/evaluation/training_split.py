"""The split that a model was trained on, found again below the folder that is evaluated.

A model.json may come from a stranger: of its configuration only plain settings of the right type
are taken.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fervor.artifacts.model_info import ModelInfo
from fervor.config import Data
from fervor.data.datasets import Sample
from fervor.data.splits import load_samples
from fervor.errors import FervorError, UsageError, counted
from fervor.evaluation.label_mapping import ANYBODYS


__all__ = ["check_persons", "in_own_fold", "own_training_samples", "training_samples"]

OWN = ("annotations", "fold", "classes")
"""Settings of the training that say which images its split holds."""

DRAWN = ("subset", "label_noise", "priors")
"""Settings that leave a part of them, or other labels."""


def in_own_fold(info: ModelInfo, data: Data) -> Data:
    """The data in the model's own fold where it is the model's own data set.

    Raises:
        UsageError: another fold than the training's, whose test split holds training images.
    """
    own = _stored(info, ("fold",)).get("fold")
    if own is None or data.fold == own or not _is_own(info, data):
        return data
    if data.fold:
        training = f"in fold {own}" if own else "in no fold"
        raise UsageError(
            f"--data.fold {data.fold}: {info.name} was trained {training}, and other folds test "
            f"what it was trained on; expected --data.fold {own}"
        )
    return replace(data, fold=own)


def check_persons(info: ModelInfo, data: Data, samples: Sequence[Sample]) -> None:
    """Look whether a fold under another protocol tests other persons: it counts those it has.

    Raises:
        UsageError: some of the persons were trained on.
    """
    if not data.fold or data.protocol == info.data.protocol or not _is_own(info, data):
        return
    trained = {sample.group for sample in training_samples(info, data)}
    if shared := {sample.group for sample in samples} & trained:
        raise UsageError(
            f"--data.protocol {data.protocol}: in its fold {data.fold} stand "
            f"{counted(len(shared), 'person')} that {info.name} was trained on under "
            f"{info.data.protocol}; expected that protocol"
        )


def training_samples(info: ModelInfo, data: Data) -> list[Sample]:
    """The training split below the evaluated folder, read as the model's training read it."""
    rule = info.data.train_protocol or info.data.protocol
    return load_samples(replace(data, **_stored(info, OWN)), "train", protocol=rule)[0]


def own_training_samples(info: ModelInfo, data: Data) -> list[Sample]:
    """What the model was trained on, for `exclude_duplicates`.

    Raises:
        UsageError: the folder holds no train, or another one than the model's.
    """
    samples = training_samples(info, data)
    if not samples or (data.name in ANYBODYS and not _agrees(info, samples)):
        there = counted(len(samples), "picture")
        raise UsageError(
            f"--exclude_duplicates: train below {data.root} ({there}) is not what {info.name} was "
            "trained on, by its counts; expected the training's folder"
        )
    return samples


def _is_own(info: ModelInfo, data: Data) -> bool:
    """Whether the data set is the model's own; those of anybody's are told by their counts."""
    if data.name != info.data.name:
        return False
    if data.name not in ANYBODYS:
        return True
    try:
        return _agrees(info, training_samples(info, data))
    except FervorError:  # it has no such table, or no groups
        return False


def _agrees(info: ModelInfo, samples: Sequence[Sample]) -> bool:
    """Whether samples can be those of the model's training, by their counts.

    A part may have been held out, drawn, or without a face; a description without counts says
    nothing.
    """
    if not info.data.train:
        return True
    stated = Counter(info.data.train)
    if "held out" in info.selection.split:
        stated += Counter(info.data.selection)
    counts = Counter(sample.label for sample in samples)
    settings = _stored(info, ("faces", *DRAWN))
    drawn = any(settings.get(name) for name in DRAWN)
    if not drawn and settings.get("faces") == "precropped" and info.data.aligned is None:
        return counts == +stated
    if settings.get("label_noise"):
        return counts.total() >= stated.total()
    return all(counts[label] >= count for label, count in stated.items())


def _stored(info: ModelInfo, names: Sequence[str]) -> dict[str, Any]:
    """Settings of the training's data; without those that the description lacks."""
    stored, plain = info.config.get("data"), Data()
    if not isinstance(stored, Mapping):
        return {}
    return {
        name: stored.get(name, getattr(plain, name))
        for name in names
        if type(stored.get(name, getattr(plain, name))) is type(getattr(plain, name))
    }
