"""A run folder between two starts: which settings may change, and what is noted of each start."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fervor.config import Run, differences
from fervor.errors import UsageError
from fervor.io import provenance
from fervor.io.typed_json import read_object


CONFIG = "config.yaml"
HISTORY = "history.json"
STARTS = "starts.json"

MACHINE = {"data.root", "data.cache", "threads", "workers", "processes", "output"}
"""Settings that say where a run is at work; the others say what it is."""


def check_resume(folder: Path, run: Run) -> dict[str, tuple[Any, Any]]:
    """Refuse another run under the name of the one that shall go on; returns what changes.

    What may change is of the machine, and the number of epochs where rates do not depend on it.

    Raises:
        UsageError: another setting differs, or fewer epochs are asked for than are done.
    """
    before = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    found, done = differences(before, run), epochs_done(folder)
    free = MACHINE | ({"optim.epochs"} if run.optim.schedule == "exponential" else set())
    for name, (then, now) in found.items():
        if name not in free:
            raise UsageError(
                f"--resume {folder}: {name} was {_shown(then)}, {_shown(now)} would make another "
                "run of it: leave it out, or train anew with another --output"
            )
    if run.optim.epochs < done:
        raise UsageError(
            f"--optim.epochs {run.optim.epochs}: {folder} has {done} epochs behind it already, "
            "expected as many or more"
        )
    return found


def epochs_done(folder: Path) -> int:
    """How many epochs a run has behind it."""
    path = folder / HISTORY
    return len(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0


def starts(folder: Path) -> list[dict[str, Any]]:
    """What was noted of each start of a run: epochs done, commit, versions, changed settings."""
    path = folder / STARTS
    return list(read_object(path)["starts"]) if path.is_file() else []


def note_start(
    folder: Path, settings: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]]
) -> None:
    """Write the run's configuration, and beside the earlier starts this one."""
    row = {
        "epoch": epochs_done(folder),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        # where files lie is nobody's business
        "changed": sorted(changes.keys() - {"data.root", "data.cache", "output"}),
    }
    provenance.write_text(folder / CONFIG, yaml.safe_dump(dict(settings), sort_keys=False))
    content = json.dumps({"starts": [*starts(folder), row]}, indent=1)
    provenance.write_text(folder / STARTS, f"{content}\n")


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value) if value != "" else "empty"
