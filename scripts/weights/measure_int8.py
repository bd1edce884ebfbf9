"""Quantise a model's graph to 8 bits, and measure what that costs on validation and gains here.

    python scripts/weights/measure_int8.py FERPLUS OUTPUT.onnx [--model embedded]

Static quantisation by onnxruntime: activations to 8 bits over the range seen on FERPlus train
faces, kernels channel by channel. Kept in single precision are the first three convolutions of each
pass over the face (it and its mirror image). Clips are quantised with their convolutions, without
which the range before the clip is taken and accuracy falls by two points. Needs fervor[train].
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import quantization
from PIL import Image

from fervor.datasets import Sample, load
from fervor.modelfolder import find_model, read_header
from fervor.preprocess import to_input


BATCH = 32
FLOAT_LAYERS = 3


class Faces(quantization.CalibrationDataReader):
    """Train faces for the ranges of activations."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        starts = range(0, len(images), BATCH)
        self.batches: Iterator[dict[str, NDArray[np.float32]]] = (
            {"image": images[start : start + BATCH]} for start in starts
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.batches, None)


def read(samples: list[Sample], size: int) -> NDArray[np.float32]:
    """Inputs [n 3 size size]."""
    return np.stack([to_input(Image.open(sample.path), size) for sample in samples])


def session(path: Path, *, fused: Path | None = None) -> onnxruntime.InferenceSession:
    """On one thread; `fused` is where the graph with folded constants is written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if fused is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(fused)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def kept(graph: onnx.GraphProto) -> list[str]:
    """Names of the first convolutions of each pass; those with three input channels begin one."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    begins = [place for place, node in enumerate(convolutions) if shapes[node.input[1]][1] == 3]
    return [node.name for start in begins for node in convolutions[start : start + FLOAT_LAYERS]]


def quantise(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """Write the graph in 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder) / "fused.onnx"
        session(source, fused=fused)
        quantization.quantize_static(
            fused,
            target,
            Faces(images),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv", "Clip"],
            nodes_to_exclude=kept(onnx.load(fused).graph),
        )


def main() -> None:
    """Quantise, compare on validation, time both in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--faces", type=int, default=256, help="of train, for the ranges")
    parser.add_argument("--count", type=int, default=0, help="of validation; 0 for all")
    given = parser.parse_args()
    folder = find_model(given.model)
    header = read_header(folder)
    train = load("ferplus", given.root, "train", protocol="majority")
    valid = load("ferplus", given.root, "valid", protocol="majority")[: given.count or None]
    random.Random(0).shuffle(train)
    quantise(folder / "model.onnx", given.output, read(train[: given.faces], header.size))
    sessions = {"fp32": session(folder / "model.onnx"), "int8": session(given.output)}
    images = read(valid, header.size)
    truth = np.array([header.labels.index(sample.label) for sample in valid])
    answers = {}
    for name, ready in sessions.items():
        parts = [
            ready.run(["logits"], {"image": images[start : start + BATCH]})[0].argmax(axis=1)
            for start in range(0, len(images), BATCH)
        ]
        answers[name] = np.concatenate(parts)
    result = {
        "pictures": len(valid),
        "accuracy": {name: float((found == truth).mean()) for name, found in answers.items()},
        "agree": float((answers["fp32"] == answers["int8"]).mean()),
        "milliseconds of processor a face": {
            size: times(sessions, images[:size]) for size in (1, 8, 64)
        },
    }
    print(json.dumps(result, indent=1))


def times(
    sessions: dict[str, onnxruntime.InferenceSession], images: NDArray[np.float32]
) -> dict[str, float]:
    """Least of ten, measured in turn."""
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(10):
        for name, ready in sessions.items():
            start = time.process_time()
            ready.run(["logits"], {"image": images})
            best[name] = min(best[name], 1000 * (time.process_time() - start) / len(images))
    return {name: round(value, 2) for name, value in best.items()}


if __name__ == "__main__":
    main()
