"""A run folder between two starts: which settings may change, and what is noted of each start."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from fervor import plugins
from fervor.config import Optim, flat_settings
from fervor.data.splits import Fingerprint
from fervor.errors import UsageError, counted
from fervor.io import provenance
from fervor.io.typed_json import decoded, encoded, read_json, read_object
from fervor.training.activity import ACTIVITY


CONFIG = "config.yaml"
HISTORY = "history.json"
STARTS = "starts.json"

MACHINE = {"data.root", "data.cache", "threads", "workers", "processes", "output"}
"""Settings that say where a run is at work; the others say what it is."""
WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth"}
"""Endings of files that count of a folder: notes, cards and locks may change beside them."""
FILES = {
    *("start", "data.teachers", "text.name"),
    *(f"{network}.weights" for network in ("encoder", "landmarks", "teacher")),
}
"""Settings that may name a file or a folder to learn from; the method's options may, too."""


def check_resume(folder: Path, changes: Mapping[str, tuple[Any, Any]], optim: Optim) -> None:
    """Refuse another run under the name of the one that shall go on.

    What may change is of the machine, and the number of epochs where rates do not depend on it.

    Raises:
        UsageError: another setting differs, fewer epochs are asked for than are done, or a file of
            the folder is damaged.
    """
    check_notes(folder)
    done = epochs_done(folder)
    free = MACHINE | ({"optim.epochs"} if optim.schedule == "exponential" else set())
    for name, (then, now) in changes.items():
        if name not in free:
            raise UsageError(
                f"--resume {folder}: {name} was {_shown(then)}, {_shown(now)} would make another "
                "run of it: leave it out, or train anew with another --output"
            )
    if optim.epochs < done:
        raise UsageError(
            f"--optim.epochs {optim.epochs}: {folder} has {counted(done, 'epoch')} behind it "
            "already, expected as many or more"
        )


@dataclass(frozen=True, slots=True)
class _Starts:
    """What STARTS holds: each start, its images, and the files that settings name by checksum."""

    starts: tuple[Mapping[str, Any], ...]
    data: Mapping[str, Fingerprint] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def _unnumbered(epochs: Sequence[Mapping[str, Any]]) -> str:
    numbered = all(type(epoch.get("epoch")) is int for epoch in epochs)
    return "" if numbered else "has an epoch without its number"


@dataclass(frozen=True, slots=True)
class _Activity:
    """What ACTIVITY holds."""

    start: Mapping[str, Any]
    epochs: Annotated[tuple[Mapping[str, Any], ...], _unnumbered]
    inactive: tuple[str, ...]


NOTES: dict[str, Any] = {
    HISTORY: tuple[Mapping[str, Any], ...],
    STARTS: _Starts,
    ACTIVITY: _Activity,
}
"""Files of a run folder, which may be a stranger's, and what they hold."""


def check_notes(folder: Path) -> None:
    """Look at what a run has noted, in a folder that may be a stranger's.

    Raises:
        UsageError: a file of NOTES holds something else.
    """
    for name, kind in NOTES.items():
        path = folder / name
        try:
            if path.is_file():
                decoded(kind, read_json(path), "the whole")
        except ValueError as error:
            raise UsageError(
                f"{path} is damaged: {error}; copy the run again, or train anew with another "
                "--output"
            ) from None


def check_data(folder: Path, fingerprints: Mapping[str, Fingerprint]) -> None:
    """Refuse other images, or other labels, than those that the run began with.

    A hold-out that is drawn anew among others would hold images that were trained on. Runs of
    version 0.1 have noted none.

    Raises:
        UsageError: a split differs.
    """
    noted = _noted(folder).data
    for split, use in {"train": "to train on", "selection": "to choose on"}.items():
        then, now = noted.get(split), fingerprints.get(split)
        if then is None or now is None or then == now:
            continue
        what = f"there are {counted(now.images, 'picture')} {use}, {then.images:,}"
        if then.images == now.images:
            what = f"the pictures {use} have other names or labels than"
        raise UsageError(
            f"--resume {folder}: {what} when the run began: put them back as they were, or train "
            "anew with another --output"
        )


def check_files(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse other weights, teachers or texts in a file than those that the run began with.

    Raises:
        UsageError: a file or folder that a setting names holds something else.
    """
    then = _noted(folder).files
    for name, checksum in named_files(settings).items():
        if then.get(name, checksum) != checksum:
            raise UsageError(
                f"--resume {folder}: {name} {flat_settings(settings)[name]} holds something else "
                "than when the run began: put it back as it was, or train anew with another "
                "--output"
            )


def named_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """The checksum of each file or folder that a setting of FILES or an option names."""
    checksums: dict[str, str] = {}
    for name, value in flat_settings(settings).items():
        if isinstance(value, str) and (name in FILES or name.startswith("options.")):
            checksum = _checksum(value.removeprefix(plugins.SHUFFLED))
            checksums |= {} if checksum is None else {name: checksum}
    return checksums


def _checksum(name: str) -> str | None:
    """Of a file, or of the weights that lie in a folder, by their names; None where none do."""
    try:
        path = Path(name)
        if path.is_file():
            return provenance.sha256(path)
        # a bare word is a name that fervor knows
        if path.is_dir() and len(path.parts) > 1:
            files = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_FILES)
            lines = [f"{provenance.sha256(file)}  {file.name}\n" for file in files]
            return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None
    except (OSError, ValueError):  # a sentence, longer than a name may be
        pass
    return None


def _noted(folder: Path) -> _Starts:
    path = folder / STARTS
    notes: _Starts = decoded(_Starts, read_object(path)) if path.is_file() else _Starts(())
    return notes


def epochs_done(folder: Path) -> int:
    """How many epochs a run has behind it."""
    path = folder / HISTORY
    return len(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0


def starts(folder: Path) -> list[dict[str, Any]]:
    """What was noted of each start of a run: epochs done, commit, versions, changed settings."""
    return [dict(start) for start in _noted(folder).starts]


def note_start(
    folder: Path,
    settings: Mapping[str, Any],
    changes: Mapping[str, tuple[Any, Any]],
    fingerprints: Mapping[str, Fingerprint],
) -> None:
    """Write the run's configuration, and beside the earlier starts this one, images and files."""
    row = {
        "epoch": epochs_done(folder),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        # where files lie is nobody's business
        "changed": sorted(changes.keys() - {"data.root", "data.cache", "output"}),
    }
    provenance.write_text(folder / CONFIG, yaml.safe_dump(dict(settings), sort_keys=False))
    content = {
        "starts": [*starts(folder), row],
        "data": encoded(fingerprints),
        "files": named_files(settings),
    }
    provenance.write_text(folder / STARTS, f"{json.dumps(content, indent=1)}\n")


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value) if value != "" else "empty"
