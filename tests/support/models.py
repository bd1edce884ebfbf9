"""A tiny model folder: what it sees is the mean colour, so that a test knows every answer."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file


LABELS = ("neutral", "happiness", "sadness")
"""Shown by red, green and blue faces."""

SIZE = 16
SHARPNESS = 4.0
"""Logits are the colour's shares (0..1) times this."""


POINTS: dict[str, Any] = {
    "log_prior": [-0.1, -4.0, -3.0],
    "prior_share": 0.5,
    "natural": {"accuracy": 0.9, "mean_class_accuracy": 0.8, "macro_f1": 0.8, "abstain": 0.99},
    "balanced": {"accuracy": 0.9, "mean_class_accuracy": 0.9, "macro_f1": 0.8, "abstain": 0.2},
}
"""Operating points of a tiny model, for its model.json."""


def write_model(folder: Path, *, labels: Sequence[str] = LABELS, **changes: Any) -> Path:
    """Write model.onnx, model.json and class_vectors.safetensors; `changes` replace entries."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph(labels), folder / "model.onnx")
    vectors = {"class_vectors": weights(labels).T.copy(), "centre": np.zeros(3, np.float32)}
    save_file(vectors, folder / "class_vectors.safetensors")
    files = ("model.onnx", "class_vectors.safetensors")
    sums = {"sha256": {name: sha256(folder / name) for name in files}}
    text = json.dumps(content(labels=list(labels), **{**sums, **changes}))
    (folder / "model.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text("# tiny\n", encoding="utf-8")
    return folder


def content(**changes: Any) -> dict[str, Any]:
    """The object of a tiny model's model.json; `changes` replace entries."""
    return {
        "schema": 1,
        "name": "tiny",
        "method": "ke",
        "labels": list(LABELS),
        "input": {"size": SIZE, "crop": 12, "grey": False},
        "grid": [7, 7],
        "temperature": 1.0,
        "options": {},
        "encoder": {"name": "mean-colour"},
        "text": {"name": "none", "width": 4},
        "parameters": {"all": 10, "trainable": 9},
        "data": {"name": "none", "protocol": "", "train": {}, "selection": {}},
        "selection": {
            **{"mode": "honest", "split": "valid", "epoch": 0},
            **{"accuracy": 0.9, "mean_class_accuracy": 0.8, "macro_f1": 0.7},
        },
        "seed": 0,
        "commit": "",
        "versions": {},
        "licence": "Apache-2.0",
        "data_terms": "none",
        "sha256": {},
        **changes,
    }


def spoil_blue(folder: Path) -> Path:
    """Change the graph of a tiny model: blue faces get logits that are no finite numbers."""
    model = onnx.load(folder / "model.onnx")
    count = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    blue = np.zeros((3, count), np.float32)
    blue[2] = 500  # its exponential is infinite, and less itself not a number
    model.graph.initializer.append(numpy_helper.from_array(blue, "blue"))
    answer = next(node for node in model.graph.node if node.output[0] == "logits")
    answer.output[0] = "finite"
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["mean", "blue"], ["large"]),
            helper.make_node("Exp", ["large"], ["infinite"]),
            helper.make_node("Sub", ["infinite", "infinite"], ["spoilt"]),
            helper.make_node("Add", ["finite", "spoilt"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "model.onnx")
    text = (folder / "model.json").read_text(encoding="utf-8")
    entries = json.loads(text)
    entries["sha256"]["model.onnx"] = sha256(folder / "model.onnx")
    (folder / "model.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(labels: Sequence[str]) -> np.ndarray:
    """[3 c]: class k answers to colour k modulo 3, later ones more weakly."""
    return np.array(
        [[(k % 3 == colour) / (1 + k // 3) for k in range(len(labels))] for colour in range(3)],
        np.float32,
    )


def graph(labels: Sequence[str]) -> onnx.ModelProto:
    """image [b 3 16 16] -> logits [b c], embedding [b 3] of unit length, local [b 49 3]."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, SIZE, SIZE])
    shapes: dict[str, list[str | int | None]]
    shapes = {"logits": ["b", len(labels)], "embedding": ["b", 3], "local": ["b", 49, 3]}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    constants = {
        "axes": np.array([2, 3]),
        "weights": weights(labels) * SHARPNESS,
        "tiny": np.array(1e-6, np.float32),
        "shape": np.array([0, 3, 49]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Add", ["mean", "tiny"], ["safe"]),
        helper.make_node("LpNormalization", ["safe"], ["embedding"], axis=1, p=2),
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[4, 4], strides=[2, 2]),
        helper.make_node("Reshape", ["cells", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["local"], perm=[0, 2, 1]),
    ]
    initialisers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", [image], outputs, initialisers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model
