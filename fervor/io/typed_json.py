"""JSON that may come from strangers: files bounded in size and depth, and frozen dataclasses.

Every entry of a dataclass has its annotated type and range. Annotations may be texts, numbers,
truth values, Literal texts, `X | None`, tuples, mappings from texts, other dataclasses, and
`Annotated[X, check, ...]`, where each check takes the value and gives a complaint about it, empty
where it is fine.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from fervor.errors import counted


__all__ = ["DEEPEST", "decoded", "encoded", "read_json", "read_object"]

LARGEST = 10_000_000
"""Bytes; the largest file that fervor writes has a few hundred thousand."""

DEEPEST = 50
"""Levels of lists and objects; what fervor writes has fewer than ten."""

_EXPECTED = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def decoded(kind: Any, value: Any, name: str = "") -> Any:
    """A value of the annotation `kind` from what `json.loads` gave; errors call it `name`.

    Raises:
        ValueError: it is of another type or out of its range.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        plain = decoded(arguments[0], value, name)
        for check in arguments[1:]:
            if complaint := check(plain):
                raise ValueError(f"{name} {complaint}")
        return plain
    if origin in (Union, UnionType):  # always with None
        return None if value is None else decoded(arguments[0], value, name)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{name} is {value!r:.60}, expected {' or '.join(arguments)}")
        return value
    if origin is Mapping:
        return {
            decoded(arguments[0], key, f"{name} key"): decoded(arguments[1], own, _below(name, key))
            for key, own in _of(dict, value, name, "an object").items()
        }
    if origin is tuple:
        return _list(arguments, _of(list, value, name, "a list"), name)
    if is_dataclass(kind):
        return _object(kind, _of(dict, value, name, "an object"), name)
    return value if kind is Any else _scalar(kind, value, name)


def encoded(value: Any) -> Any:
    """Plain values of a dataclass, for `json.dumps`; its entries that are None are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        entries = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        return {name: encoded(own) for name, own in entries.items() if own is not None}
    if isinstance(value, Mapping):
        return {key: encoded(own) for key, own in value.items()}
    return [encoded(own) for own in value] if isinstance(value, list | tuple) else value


def _of(kind: Any, value: Any, name: str, expected: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r:.60}, expected {expected}")
    return value


def _scalar(kind: Any, value: Any, name: str) -> Any:
    _of((int, float) if kind is float else kind, value, name, _EXPECTED[kind])
    if isinstance(value, bool) and kind is not bool:
        raise ValueError(f"{name} is {value}, expected {_EXPECTED[kind]}")
    if kind is not float:
        return value
    if not -sys.float_info.max <= value <= sys.float_info.max:  # NaN is not either
        raise ValueError(f"{name} is {value!r:.30}, expected {_EXPECTED[kind]}")
    return float(value)


def _list(kinds: tuple[Any, ...], values: list[Any], name: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise ValueError(f"{name} has {counted(len(values), 'entry')}, expected {len(kinds)}")
    return tuple(decoded(kind, value, name) for kind, value in zip(kinds, values, strict=True))


def _object(kind: Any, entries: dict[str, Any], name: str) -> Any:
    hints = _hints(kind)
    if strange := [key for key in entries if key not in hints]:
        raise ValueError(f"{_below(name, strange[0])} is unknown, expected {', '.join(hints)}")
    for entry in fields(kind):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in entries:
            raise ValueError(f"{_below(name, entry.name)} is missing")
    return kind(
        **{key: decoded(hints[key], own, _below(name, key)) for key, own in entries.items()}
    )


def _below(name: str, key: str) -> str:
    shown = f"{key:.60}" if key.isprintable() else f"{key!r:.60}"
    return f"{name}.{shown}" if name else shown


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def read_json(
    path: Path, *, largest: int = LARGEST, constant: Callable[[str], Any] | None = None
) -> Any:
    """The value that a file holds; `constant` takes NaN and the infinities, which are no JSON.

    Raises:
        ValueError: larger, nested deeper, no UTF-8 or no JSON.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"larger than {largest:,} bytes")
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    _check_depth(document)
    return document


def read_object(path: Path, *, largest: int = LARGEST) -> dict[str, Any]:
    """The object that a file holds.

    Raises:
        ValueError: larger, nested deeper, no UTF-8, no JSON (NaN is none), or no object at the top.
        OSError: it cannot be read.
    """
    document = read_json(path, largest=largest, constant=_refuse)
    if not isinstance(document, dict):
        raise ValueError("holds no object")
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a sign, which no text may") from None
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"holds {constant}, which is no JSON")


def _check_depth(document: Any) -> None:
    level: list[Any] = [document] if isinstance(document, dict | list) else []
    for _ in range(DEEPEST):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for part in parts for value in part if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST} levels")
