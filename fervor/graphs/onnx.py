"""From a trained model folder to one that needs no torch: model.onnx, checked against torch.

The graph takes RGB images in 0..1 and answers with `logits` [b c], `embedding` [b d] (unit
length, joint space) and `local` [b n d]: each place's share of the embedding. For encoders that
average over places, the mean of `local` is the embedding, so its products with a class vector
divide the answer among the places.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import Float
from onnx import TensorProto, helper, numpy_helper
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fervor.artifacts.model_card import card
from fervor.artifacts.model_info import CARD, CLASS_VECTORS, DESCRIPTION, GRAPH, WEIGHTS, ModelInfo
from fervor.errors import ModelError, UsageError
from fervor.io import provenance
from fervor.io.atomic import atomic_write, check_inputs_stay, lock_folder
from fervor.methods import build
from fervor.methods.base import Method
from fervor.plugins import quiet


OUTPUTS = ("logits", "embedding", "local")
TOLERANCE = 1e-4
"""Largest accepted difference between the graph and torch."""


class _Graph(nn.Module):
    """What is exported: prediction, embedding and local features in one pass."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, embedding, local."""
        features = self.method.features(image)
        length = features.pooled.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        embedding = features.pooled / length
        return self.method.logits(features), embedding, features.tokens / length[:, None]


def export(model: str | Path, output: str | Path, *, half: bool = False) -> Path:
    """Export a model folder to `output` and return the graph's path.

    Args:
        model: a run folder, or embedded.
        output: folder to write; may be the run folder itself, whose weights then stay as they are.
        half: store matrices and kernels in half precision; the graph still computes in fp32.

    Raises:
        ModelError: the graph's answers differ from torch's by more than 1e-4.
        UsageError: the output is a file, half would replace a run's only weights, or a file there
            is a link to one of the run.
    """
    info = ModelInfo.read(model)
    method = build.build(info)
    tensors = build.own_state(method)
    if half:
        state = {name: build.halved(tensor) for name, tensor in method.state_dict().items()}
        tensors = {name: state[name] for name in tensors}
        method.load_state_dict(state)
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder to export to")
    own = folder.exists() and folder.samefile(info.folder)
    if own and half and not info.half:
        raise UsageError(
            f"{folder} holds the whole weights: name another folder for halves of them"
        )
    with torch.no_grad():
        vectors = {
            "class_vectors": F.normalize(method.class_vectors().float(), dim=-1),
            "centre": method.text_centre().float(),
        }
    names = (DESCRIPTION, CARD, GRAPH, CLASS_VECTORS, *(() if own else (WEIGHTS,)))
    if not own:  # its files may be links to those of the run
        written = [folder / name for name in names]
        check_inputs_stay(f"output {folder}", written, [info.folder], kind="folder")
    with lock_folder(folder), _together(folder, *names) as parts:
        write_method(method, parts[GRAPH], size=info.input.size, half=half)
        build.save_weights(parts[CLASS_VECTORS], vectors)
        if not own:
            build.save_weights(parts[WEIGHTS], tensors)
        sums = {WEIGHTS: info.sha256[WEIGHTS]} if own else {}
        sums |= {name: provenance.sha256(parts[name]) for name in names[2:]}
        info = replace(info, half=half or info.half, int8=None, sha256=sums)
        info.validate()
        provenance.write_text(parts[CARD], card(info))
        provenance.write_text(parts[DESCRIPTION], info.text_form())
    return folder / GRAPH


def write_method(method: Method, path: Path, *, size: int, half: bool) -> None:
    """Write a method's graph, `image` [b 3 size size] -> OUTPUTS, and compare it with the method.

    Raises:
        ModelError: the graph's answers differ from torch's by more than 1e-4.
    """
    with method.constant_text():
        write_checked(_Graph(method), path, size=size, outputs=OUTPUTS, half=half)


@contextmanager
def _together(folder: Path, *names: str) -> Iterator[dict[str, Path]]:
    """Files that take their names when all of them are whole, the first one last.

    A full disk leaves an earlier export as it was.
    """
    with ExitStack() as stack:
        yield {name: stack.enter_context(atomic_write(folder / name)) for name in names}


def write_checked(
    graph: nn.Module, path: Path, *, size: int, outputs: Sequence[str], half: bool
) -> None:
    """Write a module that takes square RGB images `image` [b 3 size size], and compare it.

    Raises:
        ModelError: the graph's answers differ from torch's by more than 1e-4.
    """
    _write_graph(graph.eval(), size, path, outputs=outputs, half=half)
    _check(graph, size, path)


def _write_graph(
    graph: nn.Module, size: int, path: Path, *, outputs: Sequence[str], half: bool
) -> None:
    """Trace, name the outputs, leave the batch open."""
    # Swin's windows cannot be decomposed from the fused kernel
    leaf = {"message": r"`isinstance\(treespec, LeafSpec\)", "category": FutureWarning}
    with quiet("torch.onnx", logging.ERROR, **leaf), sdpa_kernel(SDPBackend.MATH):
        program = torch.onnx.export(
            graph,
            (torch.rand(2, 3, size, size),),
            input_names=["image"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            external_data=False,
            verbose=False,
            optimize=False,  # would fold BatchNorm into kernels, which then are halves no longer
        )
    assert program is not None
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    model = program.model_proto
    replace_prelu(model)
    if half:
        store_half(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def replace_prelu(model: onnx.ModelProto) -> None:
    """Write each PReLU as a x + (1 - a) max(x, 0), for a slope a that is an initializer.

    onnxruntime fuses these products and their sum into convolutions, and has no fast kernel for
    PReLU. The same to the last bit where a product is added in one rounding and a is at most 0.5.
    """
    graph = model.graph
    slopes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        slope = slopes.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None:
            nodes.append(node)
            continue
        (source, name), (answer,) = node.input, node.output
        rest = f"{answer}.slope"
        graph.initializer.append(numpy_helper.from_array(1 - slope, rest))
        nodes += [
            helper.make_node("Mul", [source, name], [f"{answer}.scaled"]),
            helper.make_node("Relu", [source], [f"{answer}.positive"]),
            helper.make_node("Mul", [f"{answer}.positive", rest], [f"{answer}.rest"]),
            helper.make_node("Add", [f"{answer}.scaled", f"{answer}.rest"], [answer]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def store_half(model: onnx.ModelProto) -> None:
    """Keep matrices and kernels that are halves as such; they are cast up when loaded."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.array_equal(values.astype(np.float16).astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _check(graph: nn.Module, size: int, path: Path) -> None:
    """Compare graph and torch on noise, alone and in a batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            outputs = graph(image)
        expected = [t.numpy() for t in ((outputs,) if isinstance(outputs, Tensor) else outputs)]
        answers = session.run(None, {"image": image.numpy()})
        gaps = [float(np.abs(a - b).max()) for a, b in zip(answers, expected, strict=True)]
        if not max(gaps) <= TOLERANCE:
            raise ModelError(
                f"the exported graph differs from torch by {max(gaps):.2e}, expected at most "
                f"{TOLERANCE:.0e}: report this model's encoder and versions"
            )
