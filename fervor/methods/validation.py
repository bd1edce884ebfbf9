"""Whether a model.json can be what fervor wrote, before anything is built of it.

It may come from a stranger. Its entries must be of their kinds, and the sizes that it states those
of the weights beside it: a file of a kilobyte does not get to ask for a network of gigabytes.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fervor.config import Encoder
from fervor.errors import FervorError
from fervor.models.image import build_image_encoder


__all__ = ["check_architecture", "check_entries", "check_numbers"]

KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "method": str,
    "labels": list,
    "input": dict,
    "options": dict,
    "encoder": dict,
    "text": dict,
    "temperature": (int, float),
    "selection": dict,
    "data": dict,
    "parameters": dict,
    "licence": str,
    "data_terms": str,
    "seed": int,
    "commit": str,
    "sha256": dict,
    "towers": dict,
    "companions": dict,
    "config": dict,
}
WIDEST = 16_384
"""Largest whole number among options and sizes: above every width that a text encoder has."""

SIDES = (8, 2048)
"""Least and largest side of a picture in pixels."""

SMALL = 4096
"""Numbers of an architecture up to which nothing is asked."""

COUNTED = re.compile("layers|depth|repeat|blocks")
"""Names of numbers that say how often something is built."""


def check_entries(info: Mapping[str, Any]) -> None:
    """Raises ValueError with the first entry that is of another kind or out of its range."""
    for name, kind in KINDS.items():
        if name in info and (not isinstance(info[name], kind) or isinstance(info[name], bool)):
            raise ValueError(f"{name} is {type(info[name]).__name__}")
    labels = info["labels"]
    if not all(isinstance(label, str) and label.isprintable() for label in labels):
        raise ValueError("labels are no names")
    if not 2 <= len(set(labels)) == len(labels) <= 10_000:
        raise ValueError("labels are not two or more different names")
    parts = info["name"].split("/")  # results are filed under it
    if not info["name"].isprintable() or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(f"name {info['name']!r:.60} is none, or leads out of its folder")
    low, high = SIDES
    if not low <= _whole(info["input"], "size") <= high:
        raise ValueError(f"input size is {info['input']['size']}, expected {low} to {high}")
    if not 1 <= _whole(info["text"], "width") <= WIDEST:
        raise ValueError(f"text width is {info['text']['width']}, expected 1 to {WIDEST}")
    if not (math.isfinite(info["temperature"]) and info["temperature"] > 0):
        raise ValueError(f"temperature is {info['temperature']}, expected above 0")
    if wrong := [name for name, value in info["options"].items() if isinstance(value, dict)]:
        raise ValueError(f"option {wrong[0]!r:.60} is no plain value")
    for name in ("options", "encoder", "companions"):
        check_numbers(info.get(name, {}), name)


def _whole(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} is {type(value).__name__} instead of a whole number")
    return value


def check_numbers(values: Any, name: str) -> None:
    """Raises ValueError where a whole number in options or sizes is beyond all use."""
    for key, number in _numbers(values, name):
        if abs(number) > WIDEST:
            raise ValueError(f"{key} is {number}, expected at most {WIDEST}")


def _numbers(values: Any, name: str) -> Iterator[tuple[str, int]]:
    """Every whole number with its name; of a list also their sum."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, f"{name}.{key}")
    elif isinstance(values, list):
        yield name, sum(value for value in values if isinstance(value, int))
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, int):
        yield name, values


def check_architecture(
    config: Encoder, architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Raises ValueError where the image encoder is larger than the weights that are there."""
    stored = {key: value for key, value in tensors.items() if key.startswith("image.")}
    widest = max((side for tensor in stored.values() for side in tensor.shape), default=0)
    for name, number in _numbers(dict(architecture), "architecture"):
        limit = len(stored) if COUNTED.search(name) else max(SMALL, widest)
        if number > limit:
            raise ValueError(f"{name} is {number}, more than the weights hold")
    try:
        with torch.device("meta"):  # no memory is taken
            drawn = build_image_encoder(config, architecture=architecture)
    except FervorError:
        raise
    except Exception as error:  # transformers raises nearly anything
        raise ValueError(f"architecture: {error}") from None
    wanted = sum(parameter.numel() for parameter in drawn.parameters())
    found = sum(tensor.numel() for tensor in stored.values())
    if wanted > found:
        raise ValueError(f"architecture has {wanted:,} parameters, the weights hold {found:,}")
