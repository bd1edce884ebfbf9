"""A second graph beside an exported model, for speed: its convolutions compute in eight bits.

Static quantisation by onnxruntime: activations to 8 bits over the range that they have on faces of
the training data, kernels to 7 bits channel by channel: processors without VNNI add two products of
8 bits in 16, which overflows (the embedded model then lost a point). Kept in single precision are
the first ninth of the convolutions, which lose most, and all that is no convolution but products of
a convolution's map with a constant, which are convolutions of one place, such as the one that makes
local features. Clips are quantised with their convolutions: a range taken before the clip would be
too wide. Then each bias is corrected, so that its channel has the mean that it has in single
precision (Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction", section 4.2; the means here are measured on faces). A model that predicts from an image
and its mirror image (encoder.mirror) here sees the image alone.
"""

import logging
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime import quantization

from fervor import plugins
from fervor.artifacts.model_info import GRAPH, INT8_GRAPH, Int8, ModelInfo
from fervor.config import Data
from fervor.data.image_set import read_images
from fervor.data.loading import evaluation_batches
from fervor.data.splits import load_samples
from fervor.errors import ModelError, UsageError, counted
from fervor.graphs.onnx import store_half, write_method
from fervor.io import provenance, sources
from fervor.io.atomic import atomic_write
from fervor.io.frame import Frame
from fervor.io.image import to_input
from fervor.io.onnx_session import Session
from fervor.methods.build import build
from fervor.plugins import quiet
from fervor.recipes import read_settings


__all__ = ["Report", "add_int8", "faces_of"]

FACES = 256
"""From which the ranges of activations are read."""
CORRECTED_ON = 64
"""Images from which the means are taken; each convolution's takes a pass up to it."""
BATCH = 32
FLOAT_FRACTION = 1 / 9
AGREEMENT = 0.9
"""Least share of equal answers; below, something is wrong with the model or the images."""

Faces = NDArray[np.float32]


@dataclass(frozen=True)
class Report:
    """What was found on the faces that the ranges were read from.

    Attributes:
        graph: the file.
        faces: their number.
        agreement: share of them to which both graphs give the same answer.
        bytes: size of the graph.
    """

    graph: Path
    faces: int
    agreement: float
    bytes: int


def faces_of(model: str, images: str = "") -> Faces:
    """Network inputs [n 3 size size] in 0..1 for the ranges, at most FACES; the seed is fixed.

    Args:
        model: a run folder, for whose own training images are taken, or a model folder.
        images: a folder of cut-out faces to take instead.

    Raises:
        UsageError: no folder is named, and the model does not say where its images are.
        DataError, InputError: they cannot be read.
    """
    info = ModelInfo.read(model)
    folder, size = info.folder, info.input.size
    if images:
        paths = sources.find([images])
        paths_of_faces = random.Random(0).sample(paths, min(FACES, len(paths)))
        return np.stack([_input(frame, size) for frame in sources.open_inputs(paths_of_faces)])
    if not (folder / "config.yaml").is_file():
        raise UsageError(
            f"int8: {model} does not say where its training pictures are; name a folder of such "
            "faces, cut out, with --pictures"
        )
    data = _recorded(folder / "config.yaml")
    plugins.check_stranger("datasets", data.name, folder / "config.yaml")
    rule = data.train_protocol or data.protocol
    samples, _ = load_samples(data, "train", protocol=rule)
    some = random.Random(0).sample(samples, min(FACES, len(samples)))
    read = read_images(
        some,
        info.labels,
        size=size,
        faces=data.faces,
        margin=data.margin,
        crop=info.input.crop,
    )
    return np.concatenate([batch.images().numpy() for batch in evaluation_batches(read, size=size)])


def _recorded(path: Path) -> Data:
    """What a run wrote of its data."""
    try:
        return Data(**read_settings(path)["data"])
    except UsageError as error:
        raise UsageError(
            f"{error}; or name a folder of training faces, cut out, with --pictures"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is no run's configuration; name a folder of training faces, cut out, "
            "with --pictures"
        ) from error


def _input(frame: Frame, size: int) -> Faces:
    if frame.image is None:
        raise UsageError(f"pictures: {frame.source} cannot be read: {frame.error}; take it out")
    return to_input(frame.image, size)


def add_int8(folder: Path, faces: Faces) -> Report:
    """Write model.int8.onnx beside model.onnx, and its checksum and report into model.json.

    Args:
        folder: an exported model.
        faces: network inputs [n 3 size size] in 0..1, like those that the model was trained on.

    Raises:
        ModelError: the graph has no convolutions to quantise, or answers otherwise in eight bits.
    """
    info = ModelInfo.read(folder)
    with atomic_write(folder / INT8_GRAPH) as part:
        with tempfile.TemporaryDirectory() as temporary:
            quantize_model(_unmirrored(info, Path(temporary)), part, faces)
        agreement = float((answers(folder / GRAPH, faces) == answers(part, faces)).mean())
        if agreement < AGREEMENT:
            raise ModelError(
                f"{folder / GRAPH} in eight bits gives the same answer to {agreement:.1%} of "
                f"{counted(len(faces), 'face')} only: use it in single precision"
            )
        report = Report(folder / INT8_GRAPH, len(faces), agreement, part.stat().st_size)
        checksum = provenance.sha256(part)
    int8 = Int8(report.faces, round(report.agreement, 4))
    replace(info, int8=int8, sha256={**info.sha256, INT8_GRAPH: checksum}).write()
    return report


def _unmirrored(info: ModelInfo, temporary: Path) -> Path:
    """A graph that sees the image alone: the folder's own, or one made for it."""
    if not info.encoder.mirror:
        return info.verified(GRAPH)
    method = build(info)
    method.image.mirror = False
    write_method(method, temporary / GRAPH, size=info.input.size, half=info.half)
    return temporary / GRAPH


def answers(graph: Path, faces: Faces) -> NDArray[np.intp]:
    """Class numbers [n]."""
    session = Session(graph, str(graph), 0)
    logits = [session.run(["logits"], {"image": part})[0] for part in _batches(faces)]
    classes: NDArray[np.intp] = np.concatenate(logits).argmax(axis=1)
    return classes


def quantize_model(source: Path, target: Path, faces: Faces) -> None:
    """Write a graph's copy with its convolutions in eight bits."""
    compute_in_eight_bits(
        source, target, _batches(faces), operations=("Conv", "Clip", "MatMul"), kept=_kept
    )


def compute_in_eight_bits(
    source: Path,
    target: Path,
    images: Iterable[NDArray[Any]],
    *,
    operations: Sequence[str],
    kept: Callable[[onnx.GraphProto], list[str]],
) -> None:
    """Write a graph's copy, some of whose operations compute in eight bits.

    Args:
        source: the graph, whose input is called image.
        target: where the copy goes.
        images: batches of its input, over which the ranges of activations are taken.
        operations: their types, as ONNX calls them.
        kept: names of nodes of the graph, once constants are folded, to leave as they are.

    Raises:
        ModelError: nothing of the graph could be quantised.
    """
    with tempfile.TemporaryDirectory() as folder, quiet("", logging.ERROR):
        fused = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(fused)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        batches = list(images)
        quantization.quantize_static(
            fused,
            target,
            _Ranges(batches),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=list(operations),
            nodes_to_exclude=kept(onnx.load(fused).graph),
        )
        single = onnx.load(fused)
    graph = onnx.load(target)
    if not any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        raise ModelError(f"{source} has no convolutions that eight bits would make faster")
    _correct_biases(graph, single, batches)
    _share_constants(graph.graph)
    store_half(graph)
    onnx.save(graph, target)


def _correct_biases(
    graph: onnx.ModelProto, single: onnx.ModelProto, images: Sequence[NDArray[Any]]
) -> None:
    """Shift biases so that channels have the means of `single`, one convolution after the other.

    Those before are corrected already when a mean is taken; batches of `images` are [n c h w].
    """
    counts = np.cumsum([len(batch) for batch in images])
    images = images[: int(np.searchsorted(counts, CORRECTED_ON)) + 1]
    made = {output: node for node in graph.graph.node for output in node.output}
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    convolutions = [
        (node, made[node.input[2]])
        for node in graph.graph.node
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in made
    ]
    outputs = {node.name: node.output[0] for node in single.graph.node}
    expected = _channel_means(single, [outputs[node.name] for node, _ in convolutions], images)
    corrected = set()
    for (node, bias), mean in zip(convolutions, expected, strict=True):
        integers, scale = (tensors[name] for name in bias.input[:2])
        if integers.name in corrected:  # another pass has the same kernels
            continue
        (shifted,) = _channel_means(graph, [node.output[0]], images)
        steps = np.rint((shifted - mean) / numpy_helper.to_array(scale)).astype(np.int32)
        biases = numpy_helper.to_array(integers) - steps
        integers.CopyFrom(numpy_helper.from_array(biases, integers.name))
        corrected.add(integers.name)


def _channel_means(
    model: onnx.ModelProto, outputs: Sequence[str], images: Sequence[NDArray[Any]]
) -> list[NDArray[np.float64]]:
    """Of maps [n c h w] inside a graph, their means [c] over images and positions."""
    inside = onnx.ModelProto()
    inside.CopyFrom(model)
    del inside.graph.output[:]
    inside.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        inside.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    totals = [np.zeros(1) for _ in outputs]
    for batch in images:
        for index, maps in enumerate(session.run(list(outputs), {"image": batch})):
            totals[index] = totals[index] + maps.mean((2, 3), np.float64).sum(0)
    count = sum(len(batch) for batch in images)
    return [total / count for total in totals]


def _share_constants(graph: onnx.GraphProto) -> None:
    """Keep equal tensors once: a face and its mirror image pass the same kernels."""
    first: dict[bytes, str] = {}
    constants, named = [], {}
    for tensor in graph.initializer:
        content = onnx.TensorProto()
        content.CopyFrom(tensor)
        content.name = ""
        named[tensor.name] = first.setdefault(content.SerializeToString(), tensor.name)
        if named[tensor.name] == tensor.name:
            constants.append(tensor)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = named.get(name, name)
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _kept(graph: onnx.GraphProto) -> list[str]:
    """Names of what stays in single precision."""
    return _first_of_each_pass(graph) + _other_products(graph)


def _first_of_each_pass(graph: onnx.GraphProto) -> list[str]:
    """Names of FLOAT_FRACTION of each pass's convolutions; one that sees colours begins a pass."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    widths = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 4}
    begins = [
        place
        for place, node in enumerate(convolutions)
        if widths.get(node.input[1], 0) * _groups(node) in (1, 3)
    ]
    passes = pairwise([*begins, len(convolutions)])
    return [
        node.name
        for start, end in passes
        for node in convolutions[start : start + round((end - start) * FLOAT_FRACTION)]
    ]


def _other_products(graph: onnx.GraphProto) -> list[str]:
    """Names of all matrix products but those of a convolution's map with a constant."""
    made = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        source = made.get(node.input[0])
        while source is not None and source.op_type in ("Reshape", "Transpose", "Clip", "Relu"):
            source = made.get(source.input[0])
        of_map = source is not None and source.op_type == "Conv"
        if not of_map or node.input[1] not in constants:
            kept.append(node.name)
    return kept


def _groups(convolution: onnx.NodeProto) -> int:
    return next((entry.i for entry in convolution.attribute if entry.name == "group"), 1)


class _Ranges(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
    """Images for the ranges of activations."""

    def __init__(self, images: Iterable[NDArray[Any]]) -> None:
        self._parts = iter(images)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        part = next(self._parts, None)
        return None if part is None else {"image": part}


def _batches(faces: Faces) -> Iterator[Faces]:
    return (faces[start : start + BATCH] for start in range(0, len(faces), BATCH))
