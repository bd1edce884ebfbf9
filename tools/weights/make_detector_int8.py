"""Write fervor/weights/detector_int8.onnx: the face detector, narrower and in eight bits.

    python tools/weights/train_fine_level.py FERPLUS fine_level.safetensors
    python tools/weights/make_detector_int8.py FERPLUS fine_level.safetensors

Its finest level is a narrower one, which has learned what the whole detector answers. FERPLUS holds
FER2013Train; the ranges of activations are read from 160 of its pictures, enlarged with a border as
benchmarks/measure_detector.py shows them. As for the models, kernels have 7 bits. Weights by
train_first_stage.py, which do not ship, make another graph: name its --output. What they start from
is written by --unarranged.
The first stage, whose few channels gain nothing, stays in single precision, and the heads until
arrange_detector.py rounds them by a rule of its own. The graph is stored with onnxruntime's own
fused operations, the same to the bit, because fusing them takes longer than opening all else, and
rearranged by arrange_detector.py. Needs fervor[train].
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from fervor.faces.detector import LOW, WEIGHTS
from fervor.graphs.onnx import store_half
from fervor.graphs.quantize import compute_in_eight_bits


sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from arrange_detector import OUTPUTS, arrange
from make_detector import export, subtract_in_one_pass
from make_detector import fuse as fuse_normalisation
from measure_detector import enlarged
from train_fine_level import FineLevel, Narrow, whole
from train_first_stage import widened


OUTPUT = WEIGHTS.with_name("detector_int8.onnx")
COUNT, BATCH = 160, 8
OPERATIONS = ("Conv", "LeakyRelu", "Relu", "Add", "Concat", "Resize")
KEPT = ("maps.trunk.stage1.", "heads.", "fine.heads.")


def pictures(root: Path) -> Iterator[NDArray[np.uint8]]:
    """Batches of the detector's input."""
    paths = sorted((root / "FER2013Train").glob("*.png"))
    chosen = random.Random(0).sample(paths, COUNT)
    for start in range(0, COUNT, BATCH):
        shown = [Image.fromarray(enlarged(path)) for path in chosen[start : start + BATCH]]
        yield np.stack([np.asarray(image.resize((LOW, LOW))) for image in shown])


def narrow(path: Path) -> Narrow:
    """The detector with the finest level of a file, or with all weights that it holds."""
    fine, weights = FineLevel().eval(), load_file(path)
    fuse_normalisation(fine)
    network = Narrow(whole(), fine)
    if any(name.startswith("maps.") for name in weights):
        network = widened(network, plain=True)
        network.load_state_dict(weights)
    else:
        fine.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def kept(graph: onnx.GraphProto) -> list[str]:
    """Convolutions of the parts in KEPT, and the rectifiers behind them."""
    convolutions = {
        node.output[0]: node.name
        for node in graph.node
        if node.op_type == "Conv" and node.input[1].startswith(KEPT)
    }
    behind = [node.name for node in graph.node if set(node.input) & set(convolutions)]
    return [*convolutions.values(), *behind]


def fuse(path: Path) -> None:
    """Replace a graph by what onnxruntime makes of it on any processor."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path)
    used = {node.domain for node in graph.graph.node}
    needed = [stated for stated in graph.opset_import if stated.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(needed)
    store_half(graph)
    onnx.save(graph, path)


def quantise(network: Narrow, output: Path, images: Iterable[NDArray[np.uint8]]) -> None:
    """Write a detector's graph in 8 bits; ranges are those on batches [b h w 3] of images."""
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder) / "single.onnx"
        export(network, single, half=False)
        compute_in_eight_bits(single, output, images, operations=OPERATIONS, kept=kept)
    fuse(output)
    subtract_in_one_pass(output)


def main() -> None:
    """Read the command line, write the graph and its card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ferplus", type=Path)
    parser.add_argument("weights", type=Path, help="by one of the scripts that train")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--unarranged", type=Path, help="write this graph alone, to train on from")
    arguments = parser.parse_args()
    network = narrow(arguments.weights)
    if arguments.unarranged:
        quantise(network, arguments.unarranged, pictures(arguments.ferplus))
        return
    quantise(network, arguments.output, pictures(arguments.ferplus))
    arrange(arguments.output)
    card = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    del card["difference_to_torch"]
    content = arguments.output.read_bytes()
    card |= OUTPUTS | {
        "name": f"{card['name']}, narrower and in eight bits",
        "origin": WEIGHTS.name,
        "origin_sha256": card["sha256"],
        "training_data": f"{card['training_data']}; its finest level learned the answers of "
        f"{WEIGHTS.name} on composed pictures, FERPlus train faces before scikit-learn's two "
        "photographs or drawn noise; no labels used",
        "data_terms": f"{card['data_terms']}; faces of FERPlus (FER2013), collected from the web "
        "for research",
        "ranges": f"{COUNT} pictures of FERPlus train; no labels used",
        "precision": "int8 (kernels of 7 bits, the heads' of 8); first stage float32",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "script": "tools/weights/make_detector_int8.py",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(card, indent=2)
    arguments.output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
