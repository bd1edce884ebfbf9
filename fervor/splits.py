"""What a run reads: its training pictures, and those on which its epoch is chosen."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fervor import datasets
from fervor.config import Data, Run
from fervor.data import Pictures, hold_out, read_pictures
from fervor.errors import UsageError
from fervor.manifest import settings_of, substitute


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Training and selection pictures and their classes; `selected_on` names the split."""

    labels: tuple[str, ...]
    train: Pictures
    selection: Pictures
    selected_on: str


def read_splits(run: Run) -> Splits:
    """Training and selection pictures under the run's protocols.

    Raises:
        UsageError: no test split under `paper`, or one protocol for training and another for a
            selection that is held out of train.
        DataError: a training picture is of a class that the protocol does not have.
    """
    data = run.data

    def samples(split: str, protocol: str) -> list[datasets.Sample]:
        return load_samples(data, split, protocol=protocol)[0]

    train_samples = samples("train", data.train_protocol or data.protocol)
    labels = datasets.labels_of(data.name, train_samples, data.protocol)
    size = run.encoder.size

    def pictures(chosen: list[datasets.Sample]) -> Pictures:
        return read_pictures(
            chosen, labels, size=size, faces=data.faces, margin=data.margin, cache=data.cache
        )

    split = "test" if run.selection == "paper" else "valid"
    chosen = samples(split, data.protocol)
    if chosen:
        return Splits(labels, pictures(train_samples), pictures(chosen), split)
    if run.selection == "paper":
        raise UsageError(f"{data.name} at {data.root} has no test split: use --selection honest")
    if data.train_protocol:
        raise UsageError(
            f"{data.name} has no validation split, so train and selection share one protocol: "
            "leave --data.train_protocol out"
        )
    train_part, held = hold_out(pictures(train_samples), data.validation, run.seed)
    return Splits(labels, train_part, held, f"{data.validation:.0%} of train, held out")


def load_samples(data: Data, split: str, *, protocol: str) -> tuple[list[datasets.Sample], int]:
    """The samples of one split, and how many were left out because alignment had skipped them.

    With `data.aligned` the crops there stand for the data set's pictures.
    """
    samples = datasets.load(
        data.name,
        data.root,
        split,
        protocol=protocol,
        annotations=data.annotations,
        fold=data.fold,
    )
    if not data.aligned:
        return samples, 0
    found = substitute(samples, data.name, data.root, data.aligned)
    if skipped := len(samples) - len(found):
        logger.warning(
            "%d of %d %s pictures hold no face and were skipped when they were aligned",
            skipped,
            len(samples),
            split,
        )
    return found, skipped


def alignment(data: Data) -> dict[str, Any] | None:
    """How the aligned pictures were made that a run reads; None where it reads the data set's."""
    return asdict(settings_of(Path(data.aligned))) if data.aligned else None
