"""Methods from model folders, and model folders from methods; strict both ways.

Towers that a method leaves as they came are not stored: model.json holds their names (`encoder`,
`text`, `companions`) and checksums (`towers`), and loading finds and verifies them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fervor import plugins
from fervor.artifacts.model_info import CARD, DESCRIPTION, WEIGHTS, ModelInfo
from fervor.config import Landmarks, Teacher
from fervor.errors import FervorError, ModelError, UsageError
from fervor.io import provenance
from fervor.io.atomic import write_bytes
from fervor.labels import EXPRESSIONS
from fervor.methods import method_class
from fervor.methods.base import Method
from fervor.methods.options import method_options
from fervor.methods.validation import check_architecture
from fervor.models.auxiliary import build_auxiliary
from fervor.models.image import build_image_encoder
from fervor.models.text.encoders import STORED, build_text_encoder


@dataclass(frozen=True)
class _KnownWidth:
    """Stands for a text encoder whose vectors are in the weights already."""

    width: int

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Places for the vectors that the weights bring."""
        return torch.zeros(len(sentences), self.width)


def load_model(model: str | Path) -> Method:
    """The method of a model folder with its weights, in eval mode; names as of `find_model`.

    Raises:
        ModelError: see `ModelInfo.read` and `build`.
    """
    return build(ModelInfo.read(model))


def build(info: ModelInfo) -> Method:
    """The method that a folder describes, with its weights, in eval mode.

    Raises:
        ModelError: the description is none that fervor wrote, or weights are missing, left over, of
            another shape, or changed since saved.
    """
    tensors = tensors_of(info)
    source = info.folder / DESCRIPTION
    try:
        _check_parts(info, source)
        method = _built(info, tensors)
    except UsageError as error:
        raise ModelError(f"{source}: {error}") from None
    except FervorError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{source}: {reason}; expected what fervor train writes") from error
    fill(method, tensors, info.folder / WEIGHTS)
    _verify_towers(method, info)
    return method.eval()


def tensors_of(info: ModelInfo) -> dict[str, Tensor]:
    """The weights of a model folder.

    Raises:
        ModelError: they are missing, damaged or changed.
    """
    path = info.verified(WEIGHTS)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy it anew") from None


def with_words(info: ModelInfo, words: Sequence[str]) -> Method:
    """The method that a folder describes with other words as its classes, in eval mode.

    Raises:
        ModelError: see `build`.
        UsageError: its classes are no words, or its text encoder does not know these.
    """
    method = build(info)
    try:
        from_words = method.word_tensors()
    except UsageError as error:
        raise UsageError(
            f"labels {', '.join(words)}: model {info.name} of method {info.method} {error}; leave "
            "labels out, or choose a model of method ke, mpa or vlm"
        ) from None
    own: Any = type(method)
    name = info.text.name
    if not set(words) <= set(EXPRESSIONS):  # of other words no vectors are stored
        name = STORED.get(name, name)
    text = dict(method.named_children()).get("text") or build_text_encoder(name)
    other: Method = own(method.image, text, words, method.options)
    own_tensors = {key: value for key, value in own_state(method).items() if key not in from_words}
    fill(other, {**own_state(other), **own_tensors}, info.folder / WEIGHTS)
    return other.eval()


def _check_parts(info: ModelInfo, source: Path) -> None:
    """Code that a stranger's description names is not imported; see `plugins.check_stranger`."""
    plugins.check_stranger("methods", info.method, source)
    plugins.check_stranger("image_encoders", info.encoder.name, source)
    plugins.check_stranger("text_encoders", info.text.name, source)
    if info.companions.teacher is not None:
        plugins.check_stranger("image_encoders", info.companions.teacher.name, source)


def _built(info: ModelInfo, tensors: Mapping[str, Tensor]) -> Method:
    """Empty but for its frozen towers."""
    kind: Any = method_class(info.method)
    options = method_options(info.method, dict(info.options))
    config, architecture = info.encoder, None
    if "image" not in info.towers:
        config, architecture = replace(config, weights="random"), info.architecture
    if architecture is not None:
        check_architecture(config, architecture, tensors)
    encoder = build_image_encoder(config, architecture=architecture)
    text: Any = _KnownWidth(info.text.width)
    if "text" in info.towers:
        text = build_text_encoder(info.text.name)
    auxiliary = build_auxiliary(
        info.method,
        kind.auxiliary,
        info.companions.landmarks or Landmarks(),
        info.companions.teacher or Teacher(),
    )
    method: Method = kind(encoder, text, info.labels, options, **auxiliary)
    return method


def _verify_towers(method: Method, info: ModelInfo) -> None:
    """The towers that were found are those of the training; halved where the export was."""
    names = {"image": info.encoder.weights, "text": info.text.name}
    networks = {"landmarks": info.companions.landmarks, "teacher": info.companions.teacher}
    names |= {name: own.weights or own.name for name, own in networks.items() if own is not None}
    for tower, expected in info.towers.items():
        if tower not in dict(method.named_children()):
            raise ModelError(
                f"{info.folder / DESCRIPTION}: towers.{tower:.60} is no part of method "
                f"{info.method}; expected what fervor train writes"
            )
        if (actual := checksum(method.get_submodule(tower))) != expected:
            raise ModelError(
                f"the {tower} tower {names.get(tower) or 'of the package'} has the checksum "
                f"{actual[:12]}..., {info.folder / DESCRIPTION} says {expected[:12]}...: give "
                "the weights that the model was trained on"
            )
    if info.towers and info.half:
        halves = {name: halved(tensor) for name, tensor in method.state_dict().items()}
        method.load_state_dict(halves)


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


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors whole or not at all."""
    # safetensors' own writer leaves files that their owner alone can read
    write_bytes(path, save({key: tensor.contiguous() for key, tensor in tensors.items()}))


def save_model(folder: Path, tensors: dict[str, Tensor], info: ModelInfo, card: str) -> None:
    """Write a model folder: weights first, then the description that vouches for them.

    Raises:
        ModelError: an entry of the description is out of its range.
    """
    info.validate()
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, tensors)
    provenance.write_text(folder / CARD, card)
    replace(info, sha256={WEIGHTS: provenance.sha256(folder / WEIGHTS)}).write(folder)
