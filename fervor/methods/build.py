"""Model folders: weights.safetensors, model.json and the card README.md; strict both ways.

Towers that a method leaves as they came are not stored: model.json holds their names (`encoder`,
`text`, `companions`) and checksums (`towers`), and loading finds and verifies them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fervor.config import Encoder, Landmarks, Teacher
from fervor.errors import FervorError, ModelError
from fervor.io import provenance
from fervor.io.atomic import write_bytes
from fervor.io.jsonfile import read_object
from fervor.methods import METHODS
from fervor.methods.base import Method
from fervor.methods.options import method_options
from fervor.methods.validation import check_architecture, check_entries
from fervor.models.auxiliary import build_companions
from fervor.models.image import build_image_encoder
from fervor.models.text.encoders import build_text_encoder


EMBEDDED = Path(__file__).parents[1] / "weights" / "embedded"
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
        tensors = self.tensors()
        method = built(self.info, tensors, self.folder / DESCRIPTION)
        fill(method, tensors, path)
        self._verify_towers(method)
        return method.eval()

    def tensors(self) -> dict[str, Tensor]:
        """What the folder's weights hold.

        Raises:
            ModelError: they are missing or damaged.
        """
        path = self.folder / WEIGHTS
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}; copy it anew") from None

    def _verify_towers(self, method: Method) -> None:
        """The towers that were found are those of the training; halved where the export was."""
        names = {"image": self.info["encoder"].get("weights"), "text": self.info["text"]["name"]}
        for companion, config in self.info.get("companions", {}).items():
            names[companion] = config["weights"] or config["name"]
        for tower, expected in self.info.get("towers", {}).items():
            if (found := checksum(method.get_submodule(tower))) != expected:
                raise ModelError(
                    f"the {tower} tower {names[tower] or 'of the package'} has the checksum "
                    f"{found[:12]}..., {self.folder / DESCRIPTION} says {expected[:12]}...: give "
                    "the weights that the model was trained on"
                )
        if self.info.get("towers") and self.info.get("half"):
            halves = {name: halved(tensor) for name, tensor in method.state_dict().items()}
            method.load_state_dict(halves)


def built(info: dict[str, Any], tensors: Mapping[str, Tensor], source: Path) -> Method:
    """A method of the kind that a model.json describes; empty but for its frozen towers.

    Raises:
        ModelError: the description is none that fervor wrote, or too large for these weights.
    """
    try:
        return _built(info, tensors)
    except FervorError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{source}: {reason}; expected what fervor train writes") from error


def _built(info: dict[str, Any], tensors: Mapping[str, Tensor]) -> Method:
    method_class: Any = METHODS[info["method"]]
    options = method_options(info["method"], info["options"])
    towers = info.get("towers", {})
    config, architecture = Encoder(**info["encoder"]), None
    if "image" not in towers:
        config, architecture = replace(config, weights="random"), info.get("architecture")
    if architecture is not None:
        check_architecture(config, architecture, tensors)
    encoder = build_image_encoder(config, architecture=architecture)
    text: Any = _KnownWidth(info["text"]["width"])
    if "text" in towers:
        text = build_text_encoder(info["text"]["name"])
    named = info.get("companions", {})
    companions = build_companions(
        info["method"],
        method_class.companions,
        Landmarks(**named.get("landmarks", {})),
        Teacher(**named.get("teacher", {})),
    )
    method: Method = method_class(encoder, text, info["labels"], options, **companions)
    return method


def own_state(method: Method) -> dict[str, Tensor]:
    """What a model folder holds of a method: all but its frozen towers."""
    towers = tuple(f"{name}." for name in method.frozen())
    return {key: value for key, value in method.state_dict().items() if not key.startswith(towers)}


def tower_checksums(method: Method) -> dict[str, str]:
    """The checksum of each frozen tower."""
    return {name: checksum(method.get_submodule(name)) for name in method.frozen()}


def checksum(module: nn.Module) -> str:
    """Of a module's tensors, whatever their names: transformers changes names now and then."""
    digests = []
    for tensor in module.state_dict().values():
        values = tensor.detach().cpu().contiguous().numpy()
        digests.append(hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def sizes(method: Method) -> dict[str, int]:
    """Parameters of a method, those that train, and their bytes."""
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return {
        "all": sum(parameter.numel() for parameter in method.parameters()),
        "trainable": sum(parameter.numel() for parameter in trained),
        "trainable_bytes": sum(parameter.nbytes for parameter in trained),
    }


def halved(tensor: Tensor) -> Tensor:
    """Half precision for what has two dimensions or more; statistics and biases keep theirs."""
    return tensor.half() if tensor.ndim > 1 and tensor.is_floating_point() else tensor


def fill(method: Method, tensors: dict[str, Tensor], source: Path) -> None:
    """Load tensors strictly, in whatever precision they were stored; frozen towers stay.

    Raises:
        ModelError: names or shapes differ.
    """
    own = own_state(method)
    missing, left_over = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    if missing or left_over or shapes:
        raise ModelError(
            f"{source} does not fit {type(method).__name__}: missing {missing or 'none'}, left "
            f"over {left_over or 'none'}, of another shape {sorted(shapes) or 'none'}"
        )
    state = {key: tensors[key].to(own[key].dtype) for key in own}
    method.load_state_dict({**method.state_dict(), **state})


def load_model(model: str | Path) -> Model:
    """Read a model folder's description; `embedded` names the shipped one.

    Raises:
        ModelError: no such folder, no model.json in it, or one that this version cannot read.
    """
    folder = EMBEDDED if str(model) in ("", "embedded") else Path(model)
    path = folder / DESCRIPTION
    if str(model) == "vlm" and not path.is_file():
        raise ModelError(
            "vlm is the embedded image-text model, which answers the words of predict --labels and "
            "is no classifier: give a run folder, or embedded"
        )
    if not path.is_file():
        raise ModelError(f"{folder} is no model folder: it has no {DESCRIPTION}")
    try:
        info = read_object(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is no readable JSON: {error}") from None
    if info.get("schema") != SCHEMA:
        raise ModelError(f"{path} has no schema {SCHEMA}: train or export again with this version")
    missing = [key for key in REQUIRED if key not in info]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}: train or export again")
    try:
        check_entries(info)
    except ValueError as error:
        raise ModelError(f"{path}: {error}; expected what fervor train writes") from None
    if info["method"] not in METHODS:
        raise ModelError(
            f"{path} names method {info['method']!r}, expected one of {', '.join(METHODS)}"
        )
    return Model(folder, info)


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors whole or not at all."""
    # safetensors' own writer leaves files that their owner alone can read
    write_bytes(path, save({key: tensor.contiguous() for key, tensor in tensors.items()}))


def save_model(folder: Path, tensors: dict[str, Tensor], info: dict[str, Any], card: str) -> None:
    """Write a model folder: weights first, then the description that vouches for them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, tensors)
    checksums = {WEIGHTS: provenance.sha256(folder / WEIGHTS)}
    provenance.write_text(folder / "README.md", card)
    describe(folder, {**info, "schema": SCHEMA, "sha256": checksums})


def describe(folder: Path, info: dict[str, Any]) -> None:
    """Write model.json."""
    provenance.write_text(folder / DESCRIPTION, description_text(info))


def description_text(info: dict[str, Any]) -> str:
    """What model.json holds."""
    return json.dumps(info, indent=1) + "\n"
