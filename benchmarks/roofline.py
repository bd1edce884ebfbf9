"""How near the classifier runs to what this machine can do at most, on one thread.

    python benchmarks/roofline.py [--model FOLDER] [--output FILE.json] [--nodes]

For every convolution and matrix product that the logits need: its operations (a multiplication and
an addition are two) and the bytes that it must read and write, once, in single precision. The floor
of a layer is the larger of operations over the machine's peak (a matrix product, the faster of
numpy's and onnxruntime's) and bytes over its bandwidth (copying 64 MB, read and written); the
model's floor is the sum. Everything else in the graph counts nothing. Peak, bandwidth and model are
measured in turn, as processor time; the least of the rounds counts. --nodes lists layers, and where
onnxruntime's time goes.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: its matrix product on one thread
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from fervor.artifacts.model_info import ModelInfo
from fervor.io import provenance


BATCHES = (1, 8, 64)
SIDES = (512, 1024)
COPIED = 64_000_000
NEEDED = "logits"


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product: what a single picture costs, and what a batch costs once.

    Attributes:
        name: of its output.
        kind: its operator.
        operations: for one picture.
        moved: bytes read and written for one picture.
        weights: bytes read once for a batch.
    """

    name: str
    kind: str
    operations: float
    moved: float
    weights: float

    def floor(self, batch: int, peak: float, bandwidth: float) -> float:
        """Least seconds for a batch, at operations and bytes a second."""
        compute = batch * self.operations / peak
        return max(compute, (batch * self.moved + self.weights) / bandwidth)


def layers(model: onnx.ModelProto, output: str = NEEDED) -> list[Layer]:
    """The convolutions and matrix products that an output depends on, for a batch of one."""
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    constant = {tensor.name for tensor in graph.initializer}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sides = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(side.dim_value or 1 for side in sides)  # an open batch is 1
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constant:  # weights stored as halves
            constant.add(node.output[0])
    found = (_layer(node, shapes, constant) for node in _needed(graph, output))
    return [layer for layer in found if layer is not None]


def _needed(graph: onnx.GraphProto, output: str) -> Iterator[onnx.NodeProto]:
    """Nodes on the way to an output, the last first: nodes of a graph stand in order."""
    wanted = {output}
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            yield node


def _layer(
    node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], constant: set[str]
) -> Layer | None:
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return None
    result = shapes[node.output[0]]
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    if node.op_type == "Conv":
        terms = math.prod(second[1:])  # channels of a group times the kernel
    else:
        turned = any(part.name == "transA" and part.i for part in node.attribute)
        terms = first[-2] if turned else first[-1]
    moved = math.prod(result) + sum(
        math.prod(shapes[name]) for name in node.input if name and name not in constant
    )
    weights = sum(math.prod(shapes[name]) for name in node.input if name in constant)
    return Layer(
        node.output[0], node.op_type, 2.0 * terms * math.prod(result), 4.0 * moved, 4.0 * weights
    )


def session(model: Path | bytes, *, profile: str = "") -> onnxruntime.InferenceSession:
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def product(side: int) -> Callable[[], object]:
    """A matrix product in onnxruntime: `side` cubed multiplications and additions."""
    matrix = np.random.default_rng(0).random((side, side), np.float32)
    square = (TensorProto.FLOAT, [side, side])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", *square)],
        [helper.make_tensor_value_info("c", *square)],
        [onnx.numpy_helper.from_array(matrix, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    ready = session(model.SerializeToString())
    return lambda: ready.run(None, {"a": matrix})


def least(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least processor seconds of each work, measured in turn after one run of each."""
    for work in works.values():
        work()
    best = dict.fromkeys(works, math.inf)
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


def measured(graph: Path, size: int, rounds: int) -> tuple[dict[int, float], float, float]:
    """Seconds by batch, operations a second, bytes a second."""
    ready = session(graph)
    only = onnxruntime.RunOptions()
    only.only_execute_path_to_fetches = True
    chance = np.random.default_rng(0)
    source = np.ones(COPIED // 4, np.float32)
    target = np.empty_like(source)
    works: dict[str, Callable[[], object]] = {"copy": lambda: np.copyto(target, source)}
    for side in SIDES:
        matrix = chance.random((side, side), np.float32)
        works[f"numpy {side}"] = lambda matrix=matrix: matrix @ matrix  # type: ignore[misc]
        works[f"onnxruntime {side}"] = product(side)
    for batch in BATCHES:
        image = chance.random((batch, 3, size, size), np.float32)
        works[str(batch)] = lambda image=image: ready.run([NEEDED], {"image": image}, only)  # type: ignore[misc]
    seconds = least(works, rounds)
    peak = max(
        2.0 * side**3 / seconds[f"{library} {side}"]
        for side in SIDES
        for library in ("numpy", "onnxruntime")
    )
    return {batch: seconds[str(batch)] for batch in BATCHES}, peak, 2 * COPIED / seconds["copy"]


def probabilities(graph: Path, size: int) -> Counter[str]:
    """Microseconds of one run of a batch of 8 by operator, as onnxruntime's profile tells."""
    with tempfile.TemporaryDirectory() as folder:
        ready = session(graph, profile=f"{folder}/profile")
        image = np.random.default_rng(0).random((8, 3, size, size), np.float32)
        for _ in range(5):
            ready.run([NEEDED], {"image": image})
        events = json.loads(Path(ready.end_profiling()).read_text(encoding="utf-8"))
    found: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"] // 5
    return found


def report(parts: Sequence[Layer], graph: Path, size: int, rounds: int) -> dict[str, Any]:
    """Peak, bandwidth, and for each batch the time, the floor and their ratio."""
    seconds, peak, bandwidth = measured(graph, size, rounds)
    floors = {batch: sum(part.floor(batch, peak, bandwidth) for part in parts) for batch in BATCHES}
    return {
        "gigaflops": peak / 1e9,
        "gigabytes_a_second": bandwidth / 1e9,
        "operations": sum(part.operations for part in parts),
        "moved": sum(part.moved for part in parts),
        "weights": sum(part.weights for part in parts),
        "batches": {
            batch: {
                "seconds": seconds[batch],
                "floor": floors[batch],
                "times_the_floor": seconds[batch] / floors[batch],
            }
            for batch in BATCHES
        },
        "load": os.getloadavg()[0],
        "versions": provenance.versions(),
    }


def main() -> None:
    """Count, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--nodes", action="store_true")
    given = parser.parse_args()
    info = ModelInfo.read(given.model)
    graph, size = info.folder / "model.onnx", info.input.size
    parts = layers(onnx.load(graph))
    result = report(parts, graph, size, given.rounds)
    print(
        f"{result['operations'] / 1e6:,.0f} million operations, {result['moved'] / 1e6:,.1f} MB "
        f"moved a face, {result['weights'] / 1e6:,.1f} MB of weights; "
        f"{result['gigaflops']:.0f} gigaflops, {result['gigabytes_a_second']:.1f} GB/s, "
        f"load {result['load']:.1f}"
    )
    for batch, row in result["batches"].items():
        print(
            f"batch {batch:2}: {1000 * row['seconds'] / batch:6.2f} ms a face, floor "
            f"{1000 * row['floor'] / batch:6.2f} ms, {row['times_the_floor']:.2f} times the floor"
        )
    if given.nodes:
        for part in reversed(parts):
            print(
                f"{part.kind:7}{part.operations / 1e6:8.2f} million operations "
                f"{part.moved / 1e6:6.2f} MB  {part.name}"
            )
        total = sum((found := probabilities(graph, size)).values())
        for name, spent in found.most_common(8):
            print(f"{spent / total:6.1%} of onnxruntime's time in {name}")
    if given.output:
        provenance.write_text(given.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
