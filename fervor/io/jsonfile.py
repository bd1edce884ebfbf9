"""JSON files that may come from strangers: bounded in size and depth, and objects at the top."""

import json
from pathlib import Path
from typing import Any


LARGEST = 10_000_000
"""Bytes; the largest file that fervor writes has a few hundred thousand."""

DEEPEST = 50
"""Levels of lists and objects; what fervor writes has fewer than ten."""


def read_object(path: Path, *, largest: int = LARGEST) -> dict[str, Any]:
    """The object that a file holds.

    Raises:
        ValueError: larger, nested deeper, no UTF-8, no JSON (NaN is none), or no object at the top.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"larger than {largest:,} bytes")
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    if not isinstance(found, dict):
        raise ValueError("holds no object")
    _check_depth(found)
    try:
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a sign, which no text may") from None
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"holds {constant}, which is no JSON")


def _check_depth(found: dict[str, Any]) -> None:
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for part in parts for value in part if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST} levels")
