"""Model folders: weights.safetensors, model.json and the card README.md; strict both ways."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from fervor import provenance
from fervor.config import Encoder
from fervor.encoders import build_image_encoder
from fervor.errors import ModelError
from fervor.methods import METHODS, Method


EMBEDDED = Path(__file__).parent / "weights" / "embedded"
"""The model that ships with the package."""

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
SCHEMA = 1
REQUIRED = (
    *("name", "method", "labels", "input", "options", "encoder", "text", "temperature"),
    *("selection", "data", "parameters", "licence", "data_terms", "seed", "commit", "sha256"),
)
"""What evaluation, export and the card read."""


@dataclass(frozen=True)
class _KnownWidth:
    """Stands for a text encoder whose vectors are in the weights already."""

    width: int

    def encode(self, sentences: list[str]) -> Float[Tensor, "n d"]:
        """Places for the vectors that the weights bring."""
        return torch.zeros(len(sentences), self.width)


@dataclass(frozen=True)
class Model:
    """A model folder that was read: where it lies and what its model.json says."""

    folder: Path
    info: dict[str, Any]

    def method(self) -> Method:
        """The method with its weights, in eval mode.

        Raises:
            ModelError: weights are missing, left over, of another shape, or changed since saved.
        """
        path = self.folder / WEIGHTS
        if not path.is_file():
            raise ModelError(f"{self.folder} has no {WEIGHTS}: give a run folder of fervor train")
        if provenance.sha256(path) != self.info["sha256"].get(WEIGHTS):
            raise ModelError(f"{path} differs from the checksum in {DESCRIPTION}: copy it anew")
        method = built(self.info)
        fill(method, load_file(path), path)
        return method.eval()


def built(info: dict[str, Any]) -> Method:
    """An empty method of the kind that a model.json describes."""
    method_class = METHODS[info["method"]]
    encoder = build_image_encoder(
        Encoder(**{**info["encoder"], "weights": "random"}), architecture=info.get("architecture")
    )
    text: Any = _KnownWidth(info["text"]["width"])
    options: Any = method_class.Options(**info["options"])
    return method_class(encoder, text, info["labels"], options)


def fill(method: Method, tensors: dict[str, Tensor], source: Path) -> None:
    """Load tensors strictly, in whatever precision they were stored.

    Raises:
        ModelError: names or shapes differ.
    """
    own = method.state_dict()
    missing, left_over = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    if missing or left_over or shapes:
        raise ModelError(
            f"{source} does not fit {type(method).__name__}: missing {missing or 'none'}, left "
            f"over {left_over or 'none'}, of another shape {sorted(shapes) or 'none'}"
        )
    method.load_state_dict({key: tensors[key].to(own[key].dtype) for key in own})


def load_model(model: str | Path) -> Model:
    """Read a model folder's description; `embedded` names the shipped one.

    Raises:
        ModelError: no such folder, no model.json in it, or one that this version cannot read.
    """
    folder = EMBEDDED if str(model) in ("", "embedded") else Path(model)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ModelError(f"{folder} is no model folder: it has no {DESCRIPTION}")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is no readable JSON: {error}") from None
    if not isinstance(info, dict) or info.get("schema") != SCHEMA:
        raise ModelError(f"{path} has no schema {SCHEMA}: train or export again with this version")
    missing = [key for key in REQUIRED if key not in info]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}: train or export again")
    if info["method"] not in METHODS:
        raise ModelError(
            f"{path} names method {info['method']!r}, expected one of {', '.join(METHODS)}"
        )
    return Model(folder, info)


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    # safetensors' own writer leaves files that their owner alone can read
    aside.write_bytes(save({key: tensor.contiguous() for key, tensor in tensors.items()}))
    aside.replace(path)


def save_model(folder: Path, tensors: dict[str, Tensor], info: dict[str, Any], card: str) -> None:
    """Write a model folder: weights first, then the description that vouches for them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, tensors)
    checksums = {WEIGHTS: provenance.sha256(folder / WEIGHTS)}
    provenance.write_text(folder / "README.md", card)
    describe(folder, {**info, "schema": SCHEMA, "sha256": checksums})


def describe(folder: Path, info: dict[str, Any]) -> None:
    """Write model.json."""
    provenance.write_text(folder / DESCRIPTION, json.dumps(info, indent=1) + "\n")
