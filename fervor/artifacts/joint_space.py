"""What lies beside a graph: the texts' vectors in the space of its embedding and its places."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fervor.errors import ModelError


__all__ = ["CUES", "VECTORS", "Cues", "JointSpace", "read_cues", "read_space", "unit"]

VECTORS = "class_vectors.safetensors"
CUES = "cue_vectors.safetensors"

LARGEST_GRID = 2048
"""Rows or columns: as many as the largest picture that a network sees has pixels."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class JointSpace:
    """The classes in the joint space of a model.

    Attributes:
        vectors: float32 [c d], unit length, in the order of the labels.
        grid: rows and columns of the places that `local` lists row by row.
    """

    vectors: Floats
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Cues:
    """The described cues of some expressions, in the joint space.

    Attributes:
        labels: the expressions, c of them.
        dimensions: the parts of a face, k of them.
        texts: for each expression the words on each part.
        vectors: float32 [c k d], unit length.
    """

    labels: tuple[str, ...]
    dimensions: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    vectors: Floats


def read_space(folder: Path, labels: int) -> JointSpace:
    """The class vectors of a model folder, checked against its model.json.

    Raises:
        ModelError: it has none, or they are damaged or of another model.
    """
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    path = folder / VECTORS
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no {VECTORS}, so its answers cannot be explained: "
            f"run fervor export --model {folder} --output {folder}-onnx and name that folder"
        )
    vectors = _tensors(path, content)[0].get("class_vectors")
    grid = content.get("grid")
    fits = isinstance(grid, list) and len(grid) == 2 and all(_is_side(side) for side in grid)
    if vectors is None or vectors.ndim != 2 or len(vectors) != labels or not fits:
        raise ModelError(
            f"{path} and the grid of model.json are {grid} and "
            f"{None if vectors is None else vectors.shape}: expected {labels} class vectors and "
            "rows and columns, as fervor export writes"
        )
    return JointSpace(unit(vectors), (grid[0], grid[1]))


def _is_side(side: Any) -> bool:
    return isinstance(side, int) and 1 <= side <= LARGEST_GRID


def read_cues(folder: Path) -> Cues | None:
    """The cues that are stored beside a model; None where its model.json names none.

    Raises:
        ModelError: they are damaged.
    """
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    path = folder / CUES
    if CUES not in content.get("sha256", {}) or not path.is_file():
        return None
    tensors, notes = _tensors(path, content)
    try:
        bank = json.loads(notes["cues"])
        texts = tuple(tuple(map(str, row)) for row in bank["texts"])
        labels, dimensions = map(str, bank["labels"]), map(str, bank["dimensions"])
        vectors = tensors["vectors"].astype(np.float32)
        found = Cues(tuple(labels), tuple(dimensions), texts, vectors)
        shape = (len(found.labels), len(found.dimensions))
        if (
            vectors.ndim != 3
            or vectors.shape[:2] != shape
            or {len(row) for row in texts} != {shape[1]}
        ):
            raise ValueError(f"vectors of shape {vectors.shape} for {shape} texts")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} holds no cues: {error}; export or copy it again") from None
    return found


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Floats = np.asarray(vectors / np.maximum(length, 1e-12), np.float32)
    return found


def _tensors(path: Path, content: dict[str, Any]) -> tuple[dict[str, Floats], dict[str, str]]:
    """A file's tensors and notes, where it is the one that model.json describes."""
    data = path.read_bytes()
    expected = content.get("sha256", {}).get(path.name)
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise ModelError(
            f"{path} has another sha256 than model.json says: the file is damaged or was changed; "
            "export or copy the model again"
        )
    try:
        with safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
