"""Result files: JSON with its provenance inside, a fingerprint, and a checksum over the whole.

A result says which recipe, seed and commit made its model, how the epoch was chosen, which images
were counted under which protocol, and the versions that counted them. `content_sha256` is over all
other fields, so that a number that was changed by hand is found when the file is read.
`fingerprint` is over what was asked: weights, data, filters, selection, seed. It is part of a
file's name, so that two questions never share a file, and other content never replaces an answer.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fervor.errors import DataError, UsageError
from fervor.io import provenance
from fervor.io.typed_json import read_object


CONTENT = "content_sha256"

REQUIRED = (
    *("model", "run.config", "run.seed", "run.commit", "run.selection"),
    *("data.name", "data.protocol", "data.split", "sha256", "commit", "versions"),
)
"""What a result file says of its origin, beside a `count` of images; commits may be empty."""

COMMITS = ("run.commit", "commit")
"""Empty outside a checkout, where the version of fervor stands for it."""

FINGERPRINT = "fingerprint"
DIGITS = 10
"""Hexadecimal digits of a fingerprint: enough to tell a million results apart."""

ORIGIN = (CONTENT, FINGERPRINT, "commit", "versions")
"""Fields that two writings of one answer may differ in."""


def fingerprint(asked: dict[str, Any]) -> str:
    """A short name of what was asked, whatever the order of its entries."""
    return checksum(asked)[:DIGITS]


def asked_of(result: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a result answers: model, its weights, seed and selection, the data, and what else.

    What the data turned out to hold (`left_out`) is part of the answer.
    """
    data = {key: value for key, value in result["data"].items() if key != "left_out"}
    run = {key: result["run"].get(key) for key in ("seed", "selection")}
    return {"model": result["model"], "run": run, "sha256": result["sha256"], "data": data, **more}


def store(
    folder: Path, name: str, result: dict[str, Any], asked: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Write a result into the file of its fingerprint; the path, and what it holds.

    Args:
        folder: of result files.
        name: what the file is called before its fingerprint; may hold folders.
        result: the answer.
        asked: what it answers; see `asked_of`.

    Raises:
        DataError: its provenance is incomplete.
        UsageError: the file holds another answer to the same question.
    """
    mark = fingerprint(asked)
    path = folder / f"{name}-{mark}.json"
    return path, write(path, {**result, FINGERPRINT: mark})


def write(path: Path, result: dict[str, Any], *, replace: bool = False) -> dict[str, Any]:
    """Write a result file with its checksum, and return what it holds.

    Args:
        path: the file.
        result: the answer.
        replace: whether it may take the place of another answer (a sweep's rows grow).

    Raises:
        DataError: its provenance is incomplete.
        UsageError: the file holds another answer, and `replace` is false.
    """
    missing = [key for key in REQUIRED if not _told(result, key)]
    missing += [] if any(_counts(result)) else ["count"]
    if missing:
        raise DataError(
            f"{path}: a result without {', '.join(missing)} cannot be written; train or export "
            "the model with this version"
        )
    if not replace and path.exists() and _answer(read(path)) != _answer(result):
        raise UsageError(
            f"{path} holds another result already, and results are not overwritten: move it away, "
            "or name another --output"
        )
    stamped = {**result, CONTENT: checksum(result)}
    provenance.write_text(path, json.dumps(stamped, indent=1) + "\n")
    return stamped


def read(path: Path) -> dict[str, Any]:
    """A result file's content.

    Raises:
        DataError: it is unreadable, has no checksum, or was changed since it was written.
    """
    try:
        result = read_object(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no readable JSON: {error}") from None
    if CONTENT not in result:
        raise DataError(f"{path} has no {CONTENT}: expected a result file; evaluate again")
    if result[CONTENT] != checksum(result):
        raise DataError(f"{path} was changed since it was written: evaluate again")
    return result


def checksum(result: dict[str, Any]) -> str:
    """SHA-256 over all fields but the checksum's own, whatever their order and layout."""
    plain = {key: value for key, value in result.items() if key != CONTENT}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _answer(result: dict[str, Any]) -> str:
    """What a result says, as its file holds it, without the version that said it."""
    plain = {key: value for key, value in result.items() if key not in ORIGIN}
    return json.dumps(plain, sort_keys=True)


def _told(result: dict[str, Any], key: str) -> bool:
    value: Any = result
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value is not None and (value not in ("", {}) or key in COMMITS)


def _counts(value: Any) -> Iterator[int]:
    """Every `count` in a result, however deep."""
    if isinstance(value, dict):
        yield from (number for key, number in value.items() if key == "count")
        for part in value.values():
            yield from _counts(part)
