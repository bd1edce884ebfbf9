"""What lies beside a graph: the texts' vectors in the space of its embedding and its places."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from fervor.artifacts.model_info import CLASS_VECTORS, COVER_VECTORS, CUE_VECTORS, ModelInfo
from fervor.errors import ModelError


__all__ = [
    "Covers",
    "Cues",
    "JointSpace",
    "read_covers",
    "read_cues",
    "read_floats",
    "read_space",
    "unit",
]

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


@dataclass(frozen=True, slots=True, eq=False)
class Covers:
    """What tells a covered part of a face: a linear classifier of its places for each part.

    Attributes:
        dimensions: the parts of a face, k of them.
        weights: float32 [k d], for the part's mean place scaled to length 1.
        bias: float32 [k]; a part seems covered where the sum is above 0.
    """

    dimensions: tuple[str, ...]
    weights: Floats
    bias: Floats


def read_space(info: ModelInfo) -> JointSpace:
    """The class vectors of a model folder, checked against its model.json.

    Raises:
        ModelError: it has none, or they are damaged or of another model.
    """
    (vectors,), _ = read_floats(info, CLASS_VECTORS, "class_vectors")
    if vectors.ndim != 2 or len(vectors) != len(info.labels) or not info.grid:
        raise ModelError(
            f"{info.folder / CLASS_VECTORS} and the grid of model.json are {vectors.shape} and "
            f"{info.grid}: expected {len(info.labels)} class vectors and rows and columns, as "
            "fervor export writes"
        )
    return JointSpace(unit(vectors), info.grid)


def read_cues(info: ModelInfo) -> Cues | None:
    """The cues that are stored beside a model; None where there are none.

    Raises:
        ModelError: they are damaged.
    """
    if not info.vouches(CUE_VECTORS):
        return None
    (vectors,), notes = read_floats(info, CUE_VECTORS, "vectors")
    try:
        bank = json.loads(notes["cues"])
        texts = tuple(tuple(map(str, row)) for row in bank["texts"])
        labels, dimensions = map(str, bank["labels"]), map(str, bank["dimensions"])
        cues = Cues(tuple(labels), tuple(dimensions), texts, vectors)
        shape = (len(cues.labels), len(cues.dimensions))
        if (
            vectors.ndim != 3
            or vectors.shape[:2] != shape
            or len(texts) != shape[0]
            or {len(row) for row in texts} != {shape[1]}
        ):
            raise ValueError(f"vectors of shape {vectors.shape} for {shape} texts")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{info.folder / CUE_VECTORS} holds no cues: {error}; export or copy it again"
        ) from None
    return cues


def read_covers(info: ModelInfo) -> Covers | None:
    """What tells covered parts, stored beside a model; None where there is nothing.

    Raises:
        ModelError: it is damaged.
    """
    if not info.vouches(COVER_VECTORS):
        return None
    (weights, bias), notes = read_floats(info, COVER_VECTORS, "weights", "bias")
    try:
        dimensions = tuple(map(str, json.loads(notes["dimensions"])))
        if weights.ndim != 2 or {len(weights), *bias.shape} != {len(dimensions)}:
            raise ValueError(f"weights {weights.shape} and bias {bias.shape} for {dimensions}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{info.folder / COVER_VECTORS} tells no covers: {error}; copy it again"
        ) from None
    return Covers(dimensions, weights, bias)


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalized: Floats = np.asarray(vectors / np.maximum(length, 1e-12), np.float32)
    return normalized


def read_floats(info: ModelInfo, file: str, *names: str) -> tuple[list[Floats], dict[str, str]]:
    """Some tensors of a model folder's file as finite float32, and the file's notes.

    Raises:
        ModelError: the file is missing, damaged or changed, or holds other tensors.
    """
    content, path = info.read_file(file), info.folder / file
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        notes = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type numpy has not
        raise ModelError(f"{path} cannot be read: {error}") from None
    arrays = []
    for name in names:
        if name not in tensors or tensors[name].dtype.kind != "f":
            raise ModelError(f"{path} holds no {name} of floating point: export the model again")
        arrays.append(tensors[name].astype(np.float32))
        if not np.isfinite(arrays[-1]).all():
            raise ModelError(f"{path}: {name} is not finite: export the model again")
    return arrays, notes
