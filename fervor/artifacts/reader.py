"""A model folder as prediction reads it: model.json checked, model.onnx verified and opened."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fervor.errors import ModelError
from fervor.io.jsonfile import read_object
from fervor.io.onnx_session import Session


__all__ = [
    "EMBEDDED",
    "GRAPH",
    "INT8_GRAPH",
    "ModelHeader",
    "find_model",
    "open_session",
    "read_header",
]

EMBEDDED = Path(__file__).parents[1] / "weights" / "embedded"
SHIPPED = {"embedded": EMBEDDED, "vlm": EMBEDDED.with_name("vlm")}
"""Models of the package by name."""
GRAPH, INT8_GRAPH = "model.onnx", "model.int8.onnx"
"""In single precision, and in eight bits where the folder has one."""
SCHEMA = 1
KINDS = {list: "a list", dict: "an object", str: "a text", int: "a whole number"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """What prediction needs of a model.json.

    Attributes:
        name: name of the model.
        labels: expressions in the order of the logits.
        size: width and height of the network's input.
        crop: width and height of the face crop that is resized to `size`.
        temperature: logits are divided by it before the softmax.
        sha256: of model.onnx.
        int8_sha256: of model.int8.onnx; empty where the folder has none.
    """

    name: str
    labels: tuple[str, ...]
    size: int
    crop: int
    temperature: float
    sha256: str
    int8_sha256: str = ""


def find_model(model: str | Path | None) -> Path:
    """The folder of a model, of a name of SHIPPED too; None is the embedded one.

    A name hub:user/name is fetched from the Hugging Face Hub.

    Raises:
        ModelError: there is no such folder.
    """
    name = "embedded" if model is None else str(model)
    if name in SHIPPED:
        folder = SHIPPED[name]
        if not folder.is_dir():
            raise ModelError(
                f"this installation holds no {name} model ({folder} is missing): "
                "reinstall fervor, or name a model folder"
            )
        return folder
    if str(model).startswith("hub:"):
        from fervor.artifacts.hub import fetched

        return fetched(str(model))
    folder = Path(name)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelError(f"model {model} {what}: expected a model folder, as fervor export writes")
    return folder


def read_header(folder: Path) -> ModelHeader:
    """Read and check a model folder's model.json.

    Raises:
        ModelError: a file is missing, or model.json is not what fervor export writes.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no model.json: expected a model folder of fervor")
    if not (folder / GRAPH).is_file():
        raise ModelError(
            f"{folder} holds no model.onnx: "
            f"run fervor export --model {folder} --output {folder}-onnx and name that folder"
        )
    try:
        return _header(read_object(path))
    except (ValueError, OverflowError, OSError) as error:
        raise ModelError(f"{path}: {error}; expected what fervor export writes") from error


def _header(content: dict[str, Any]) -> ModelHeader:
    """Raises ValueError with the first entry that is missing or out of its range."""
    if content.get("schema") != SCHEMA:
        raise ValueError(f"schema is {content.get('schema')!r} instead of {SCHEMA}")
    labels = _entry(content, "labels", list)
    if not 2 <= len(labels) <= 10_000 or len({str(label) for label in labels}) < len(labels):
        raise ValueError("labels are not two or more different names")
    for label in labels:
        if not (isinstance(label, str) and label.isprintable() and 0 < len(label) <= 200):
            raise ValueError(f"label {label!r} is no name")
    picture = _entry(content, "input", dict)
    temperature = content.get("temperature", 1.0)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise ValueError(f"temperature is {temperature!r} instead of a number")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}, expected above 0")
    checksums = _entry(content, "sha256", dict)
    sha256, int8 = _entry(checksums, GRAPH, str), checksums.get(INT8_GRAPH, "")
    for file, digits in ((GRAPH, sha256), (INT8_GRAPH, int8)):
        if not re.fullmatch("[0-9a-f]{64}", digits) and (file, digits) != (INT8_GRAPH, ""):
            raise ValueError(f"sha256 of {file} is not 64 hexadecimal digits")
    name = _entry(content, "name", str)
    if not name.isprintable():
        raise ValueError(f"name {name!r} holds control characters")
    size, face = _side(picture, "size"), _side(picture, "crop")
    return ModelHeader(name, tuple(labels), size, face, float(temperature), sha256, int8)


def _entry(content: dict[str, Any], name: str, kind: type[T]) -> T:
    if not isinstance(value := content.get(name), kind):
        raise ValueError(f"{name} is {type(value).__name__} instead of {KINDS[kind]}")
    return value


def _side(picture: dict[str, Any], name: str) -> int:
    side = _entry(picture, name, int)
    if not 8 <= side <= 2048:
        raise ValueError(f"input {name} is {side}, expected 8 to 2048 pixels")
    return side


def open_session(path: Path, header: ModelHeader, threads: int, *, device: str = "cpu") -> Session:
    """Load one of the two graphs, after its bytes and shape were found to be the header's.

    Raises:
        ModelError: another file than model.json describes, or a damaged one.
    """
    stated = header.int8_sha256 if path.name == INT8_GRAPH else header.sha256
    session = Session(path, str(path), threads, device, sha256=stated)
    inputs, outputs = session.inputs, session.outputs
    if set(inputs) != {"image"} or "logits" not in outputs:
        raise ModelError(
            f"{path} has inputs {sorted(inputs)} and outputs {sorted(outputs)}: "
            "expected image -> logits, embedding, local"
        )
    if [inputs["image"][1:], outputs["logits"][1:]] != [
        [3, header.size, header.size],
        [len(header.labels)],
    ]:
        raise ModelError(
            f"{path} maps {inputs['image']} to {outputs['logits']}: model.json says "
            f"[b, 3, {header.size}, {header.size}] to [b, {len(header.labels)}]"
        )
    return session
