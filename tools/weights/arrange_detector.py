"""Rearrange the int8 detector's operations, so that onnxruntime computes them in less time.

    python tools/weights/arrange_detector.py GRAPH

make_detector_int8.py does it by itself. For a graph that was made before, this rewrites the file
and its card. What is computed stays:

- The image is read as one plane whose rows hold the colours side by side, so that nothing is
  transposed: three columns of a kernel become nine, a stride of 2 becomes 6. A grey is subtracted
  while bytes become numbers; what the mean colour differs by stands in the first biases.
- The first two convolutions get 16 channels, the width of a register: the first one's stand there
  twice, the second one's with both signs, which saves the pass of a leaky rectifier.
- Nearest enlarging becomes a copy (`Expand`).
- Of the finest level's context two convolutions that read the same map become one, narrow ones are
  filled up to 16 channels, and each answers on the scale of what they are put together to.
- Each level's answers are products of its map with kernels of 8 bits, in the order in which the map
  lies in memory, and are put together as they are, not rounded to 8 bits for it. Boxes and points
  stay side by side in `answers` (OUTPUTS): who reads a few of them takes these apart.

Only rounding differs: products are added in another order, two of its steps are left out, one that
the heads' kernels take is new. And outside the image lies that grey, not the mean colour, 11 steps
of 255 away at most: the first map's outermost rows and columns see a pixel of it.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


LANES = 16
"""Numbers in single precision that a register of AVX-512 holds, and channels in a block."""
LARGEST = 127
"""The largest whole number of 8 bits."""
ANSWERS = 30
"""Of a cell: two anchors with a score, four numbers of a box and ten of points."""
OUTPUTS = {
    "outputs": [
        "score [b n]",
        "answers [b n/2 30]: of a cell's two anchors the logits, encoded boxes, encoded points",
    ]
}
"""What an arranged graph's card says of them."""

Array = NDArray[Any]


class Graph:
    """A graph whose nodes are found by what they read and make."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.constants = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }

    def made(self, output: str) -> onnx.NodeProto:
        """The node that makes a tensor."""
        return next(node for node in self.nodes if output in node.output)

    def reading(self, name: str) -> onnx.NodeProto:
        """The first node that reads a tensor."""
        return next(node for node in self.nodes if name in node.input)

    def constant(self, name: str, value: Array | list[int]) -> str:
        """Keep a constant, lists as whole numbers; the name is returned."""
        self.constants[name] = np.array(value, np.int64) if isinstance(value, list) else value
        return name

    def replace(self, old: Iterable[onnx.NodeProto], new: Iterable[onnx.NodeProto]) -> None:
        """Put nodes where the first of others was."""
        gone = list(old)
        start = min(self.nodes.index(node) for node in gone)
        self.nodes[start:start] = list(new)
        for node in gone:
            self.nodes.remove(node)

    def store(self, graph: onnx.GraphProto) -> None:
        """Write nodes that something needs, and their constants, into a graph."""
        needed, nodes = {output.name for output in graph.output}, []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(nodes))
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value, order="C"), name)
            for name, value in self.constants.items()
            if name in needed
        )


def filled(values: Array, axis: int, value: float = 0) -> Array:
    """An axis filled up to LANES."""
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, LANES - values.shape[axis])
    return np.pad(values, widths, constant_values=value)


def attribute(node: onnx.NodeProto, name: str) -> Any:
    """The value of an attribute."""
    return next(helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name)


def set_attributes(node: onnx.NodeProto, **values: int | str | list[int] | None) -> None:
    """Attributes by name, taken away where None; others stay."""
    others = [entry for entry in node.attribute if entry.name not in values]
    del node.attribute[:]
    node.attribute.extend(others)
    node.attribute.extend(
        helper.make_attribute(name, value) for name, value in values.items() if value is not None
    )


def widen_first_stage(graph: Graph, stage: str = "maps.trunk.stage1") -> None:
    """Fill the channels of the first two convolutions up to LANES.

    The first convolution's stand there twice. The second's are rectified with both signs, so that
    the third one's kernels hold the slope below zero: a leaky rectifier's own pass is left out.
    """
    first, second, third = (f"{stage}.{layer}" for layer in ("0.0", "1.0", "1.3"))
    if len(graph.constants[f"{first}.bias"]) == LANES:  # by train_first_stage.py
        return
    for name, sign in ((first, 1), (second, -1)):
        for part in ("weight.half", "bias"):
            values = graph.constants[f"{name}.{part}"]
            graph.constant(f"{name}.{part}", np.concatenate([values, sign * values]))
    convolution = graph.reading(f"{second}.bias")
    (slope,) = attribute(convolution, "activation_params")
    set_attributes(convolution, group=LANES, activation="Relu", activation_params=None)
    kernels = graph.constants[f"{third}.weight.half"].astype(np.float32)
    graph.constant(f"{third}.weight.half", np.concatenate([kernels, -slope * kernels], axis=1))


def read_as_plane(graph: Graph, first: str = "maps.trunk.stage1.0.0") -> None:
    """Images [b h w 3] as [b 1 h 3w], less a grey, and the first convolution for them."""
    convolution = graph.reading(f"{first}.bias")
    subtracted = graph.made(convolution.input[0])
    turned = graph.made(subtracted.input[0])
    kernels = graph.constants[f"{first}.weight.half"]  # [o c y x]
    graph.constant(f"{first}.weight.half", kernels.transpose(0, 2, 3, 1).reshape(-1, 1, 3, 9))
    set_attributes(convolution, kernel_shape=[3, 9], strides=[2, 6], pads=[1, 3, 1, 3])
    colour = graph.constants[subtracted.input[2]].astype(np.float64)
    grey = np.rint(colour.mean())
    beyond = kernels.astype(np.float64).sum(axis=(2, 3)) @ (grey - colour)
    biases = graph.constants[f"{first}.bias"]
    graph.constant(f"{first}.bias", (biases + beyond).astype(biases.dtype))
    one = graph.constant("one", np.array(1, np.float32))
    zero = graph.constant("grey", np.array(grey, np.uint8))
    graph.replace(
        [turned, subtracted],
        [
            helper.make_node("Reshape", ["image", graph.constant("to.rows", [0, 0, -1])], ["rows"]),
            helper.make_node("Unsqueeze", ["rows", graph.constant("second", [1])], ["plane"]),
            helper.make_node("DequantizeLinear", ["plane", one, zero], list(subtracted.output)),
        ],
    )


def enlarge_by_copies(graph: Graph) -> None:
    """Each nearest enlarging by 2, whose result is added to a finer map, as an expansion."""
    graph.constant("between", [2, 4])
    graph.constant("twice", [1, 1, 2, 1, 2, 1])
    for number, node in enumerate([node for node in graph.nodes if node.op_type == "Resize"]):
        (coarse, *_), (large,) = node.input, node.output
        added = graph.reading(large)
        (finer,) = {added.input[0], added.input[3]} - {large}
        names = [f"enlarged.{number}.{step}" for step in range(6)]
        turned, single, double, like, shape, whole = names
        graph.nodes.remove(node)  # the finer map may come after it
        start = graph.nodes.index(added)
        graph.nodes[start:start] = [
            helper.make_node("Transpose", [coarse], [turned], perm=[0, 2, 3, 1]),
            helper.make_node("Unsqueeze", [turned, "between"], [single]),
            helper.make_node("Expand", [single, "twice"], [double]),
            helper.make_node("Transpose", [finer], [like], perm=[0, 2, 3, 1]),
            helper.make_node("Shape", [like], [shape]),
            helper.make_node("Reshape", [double, shape], [whole]),
            helper.make_node("Transpose", [whole], [large], perm=[0, 3, 1, 2]),
        ]


def join_context(graph: Graph, context: str = "fine.context", heads: str = "fine.heads") -> None:
    """The finest level's convolutions side by side, on one scale.

    `deep` shares a convolution with `middle`, whose scale it takes: its own kernels are as much
    larger as those that read it are smaller, so that every number in between is the same.
    """
    near, shared, middle, deep, far = (
        graph.reading(f"{context}.{part}.0.weight_quantized")
        for part in ("near", "shared", "middle", "deep", "far")
    )
    joined = graph.reading(far.output[0])
    scale, own = joined.input[0], graph.constants[deep.input[6]]
    ratio = own / graph.constants[scale]
    zero = shared.input[7]
    assert not graph.constants[zero], "what is rectified has the zero point 0"

    def parts(node: onnx.NodeProto) -> list[Array]:
        """Kernels, their scales and biases."""
        return [graph.constants[node.input[place]] for place in (3, 4, 8)]

    def convolution(
        like: onnx.NodeProto, source: str, scales: tuple[str, str], part: str, values: list[Array]
    ) -> onnx.NodeProto:
        """A convolution in 8 bits, rectified; outputs filled up to LANES."""
        kernels, steps, biases = values
        names = [
            graph.constant(f"{part}.weight", filled(kernels, 0)),
            graph.constant(f"{part}.scale", filled(steps.astype(np.float32), 0, 1)),
            graph.constant(f"{part}.zero", np.zeros(LANES, np.int8)),
            graph.constant(f"{part}.bias", filled(biases, 0)),
        ]
        inputs = [source, scales[0], zero, *names[:3], scales[1], zero, names[3]]
        made = helper.make_node("QLinearConv", inputs, [f"{part}.answer"])
        made.attribute.extend(like.attribute)
        return made

    both = [np.concatenate(pair) for pair in zip(parts(middle), parts(deep), strict=True)]
    both[0] = filled(both[0], 1)
    width = len(parts(middle)[0])
    both[1][width:] /= ratio
    last = parts(far)
    kernels = np.zeros((len(last[0]), LANES, 3, 3), np.int8)
    kernels[:, width : 2 * width] = last[0]
    last = [kernels, last[1] * ratio, last[2]]
    source, read_on = near.input[0], near.input[1]
    inside = shared.input[6]
    graph.replace([near], [convolution(near, source, (read_on, scale), "near", parts(near))])
    graph.replace(
        [shared], [convolution(shared, source, (read_on, inside), "shared", parts(shared))]
    )
    graph.replace(
        [middle, deep], [convolution(middle, "shared.answer", (inside, scale), "both", both)]
    )
    graph.replace([far], [convolution(far, "both.answer", (scale, scale), "far", last)])
    answers = ["near.answer", "both.answer", "far.answer"]
    graph.replace([joined], [helper.make_node("Concat", answers, list(joined.output), axis=1)])

    weight = f"{heads}.layer.weight"
    before = graph.constants[weight]
    after = np.zeros((len(before), 3 * LANES, 1, 1), before.dtype)
    middle_at = LANES + width
    after[:, :middle_at] = before[:, :middle_at]
    after[:, 2 * LANES : 2 * LANES + width] = before[:, middle_at:]
    graph.constant(weight, after)


def answer_in_numbers(graph: Graph) -> None:
    """The levels' answers put together in single precision, by constant shapes.

    Each level's are products of the map's 8 bits, channels last as it lies in memory, with kernels
    of 8 bits: no map is turned or made wider for them.
    """
    score, box, points = (graph.made(name) for name in ("score", "box", "points"))
    split = graph.made(graph.made(score.input[0]).input[0])
    together = graph.made(graph.made(split.input[0]).input[0])
    levels = []
    for number, level in enumerate(together.input[2::3]):
        shaped = graph.made(level)
        turned = graph.made(graph.made(shaped.input[0]).input[0])
        convolution = graph.made(turned.input[0])
        source, scale, zero = graph.made(convolution.input[0]).input
        kernels, biases = (
            graph.constants[name].astype(np.float32) for name in convolution.input[1:]
        )
        whole, steps = rounded(kernels[:, :, 0, 0])
        name = f"level.{number}"
        factors = [
            graph.constant(f"{name}.weight", whole.T),
            scale,
            graph.constant(f"{name}.scale", steps),
            zero,
            graph.constant(f"{name}.zero", np.zeros(ANSWERS, np.int8)),
            graph.constant(f"{name}.bias", biases),
        ]
        width = whole.shape[1]
        shape = graph.constant(f"to.cells.{width}", [0, -1, width])
        graph.replace(
            [shaped],
            [
                helper.make_node("Transpose", [source], [f"{name}.map"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}.map", shape], [f"{name}.cells"]),
                helper.make_node(
                    "MatMulIntegerToFloat",
                    [f"{name}.cells", *factors],
                    [f"{name}.answers"],
                    domain="com.microsoft",
                ),
            ],
        )
        levels.append(f"{name}.answers")
    graph.replace(
        [together, graph.made(split.input[0])],
        [helper.make_node("Concat", levels, ["answers"], axis=1)],
    )
    ends = [graph.constant(name, [end]) for name, end in (("from", 0), ("to", 2), ("along", 2))]
    flat = graph.constant("to.anchors", [0, -1])
    graph.replace(
        [split, box, points, graph.made(score.input[0])],
        [
            helper.make_node("Slice", ["answers", *ends], ["faces"]),
            helper.make_node("Reshape", ["faces", flat], list(score.input)),
        ],
    )


def rounded(kernels: Array) -> tuple[Array, Array]:
    """Kernels [o i] in whole numbers of steps [o].

    Neighbours of one sign are LARGEST together, up to rounding, and so is each alone: processors
    without VNNI add their products with a map's 8 bits in 16, and cut off what is more.
    """
    pairs = kernels.reshape(len(kernels), -1, 2)
    sums = np.maximum(pairs.clip(0).sum(axis=2), -pairs.clip(max=0).sum(axis=2))
    steps = sums.max(axis=1) / LARGEST
    return np.rint(kernels / steps[:, None]).astype(np.int8), steps


def arrange(path: Path) -> None:
    """Rewrite a graph by make_detector_int8.py."""
    model = onnx.load(path)
    graph = Graph(model.graph)
    widen_first_stage(graph)
    read_as_plane(graph)
    enlarge_by_copies(graph)
    join_context(graph)
    answer_in_numbers(graph)
    outputs = model.graph.output
    del outputs[1:]
    outputs.append(helper.make_tensor_value_info("answers", TensorProto.FLOAT, ["b", "m", ANSWERS]))
    graph.store(model.graph)
    onnx.save(model, path)


def main() -> None:
    """Read the command line, rewrite the graph and its card's checksum."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("graph", type=Path)
    path = parser.parse_args().graph
    if any("plane" in node.output for node in onnx.load(path).graph.node):
        parser.error(f"{path} is arranged already")
    arrange(path)
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text(encoding="utf-8"))
    content = path.read_bytes()
    card |= OUTPUTS | {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    card_path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
