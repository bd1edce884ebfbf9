"""Train the int8 detector's first stage with plain rectifiers where leaky ones take the most time.

    git show 4bc9cef:fervor/weights/detector_int8.onnx > fine.onnx
    python tools/weights/train_first_stage.py FERPLUS BACKGROUNDS fine.onnx first.safetensors

An experiment, whose graph does not ship (docs/decisions/detector.md). onnxruntime computes a plain
rectifier with the convolution before it, a leaky one in a pass of its own, and the first stage's
full maps are the largest of all. So it becomes plain behind the first three convolutions. They get
16 channels, the width of a register: copies in the first, both signs in the second, so that the
second one's slope stands in the third one's kernels and nothing changes at first. The other two
slopes fade out over the first part of the training, in which the stage learns the whole detector's
map behind it, each channel by its variance. Nothing behind it changes: it stays as in a graph by
`make_detector_int8.py --unarranged`. No label is used. Pictures are composed: FERPlus train faces
of 16 to 320 pixels, tinted, before the pictures of a folder, scikit-learn's two photographs or
drawn noise; none of them may be among those that benchmarks/measure_detector.py and
benchmarks/detection.py read. Needs fervor[train].
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor, nn


sys.path.insert(0, str(Path(__file__).parent))
from make_detector import SLOPE, fuse
from train_fine_level import FineLevel, Layout, Narrow, Scenes, whole


LANES = 16
"""Channels of the first convolutions: what a register of AVX-512 holds."""
STEPS, RATE = 5000, 2e-3
"""The latter is each tensor's share of its own size that a step changes."""
FADED = 0.25
"""Part of the training over which the slopes of rectifiers fade out."""
SHARP = 96
"""Side of a face from which on it may be sharpened."""
LARGEST = 960
"""Longer side of a background, pixels: larger ones are shrunk as they are read."""


def widen(stage: nn.Module) -> None:
    """Give the first three convolutions of the first stage LANES channels; what they do stays."""
    first, depthwise, pointwise = (stage.get_submodule(name) for name in ("0.0", "1.0", "1.3"))
    assert all(isinstance(layer, nn.Conv2d) for layer in (first, depthwise, pointwise))
    copies = nn.Conv2d(3, LANES, 3, 2, 1)
    signs = nn.Conv2d(LANES, LANES, 3, 1, 1, groups=LANES)
    mixed = nn.Conv2d(LANES, LANES, 1)
    with torch.no_grad():
        for new, old, other in ((copies, first, 1.0), (signs, depthwise, -1.0)):
            for name in ("weight", "bias"):
                part = old.get_parameter(name)
                new.get_parameter(name).copy_(torch.cat([part, other * part]))
        kernels = pointwise.get_parameter("weight")
        mixed.weight.copy_(torch.cat([kernels, -SLOPE * kernels], dim=1))
        mixed.get_parameter("bias").copy_(pointwise.get_parameter("bias"))
    stage.get_submodule("0")._modules["0"] = copies
    stage.get_submodule("1")._modules.update({"0": signs, "2": nn.ReLU(), "3": mixed})


def rectifiers(network: nn.Module) -> list[nn.LeakyReLU]:
    """The leaky ones."""
    return [part for part in network.modules() if isinstance(part, nn.LeakyReLU)]


def rectify(network: nn.Module) -> None:
    """Put plain rectifiers in the place of leaky ones."""
    for part in network.modules():
        if isinstance(part, nn.Sequential):
            for place, layer in enumerate(part):
                if isinstance(layer, nn.LeakyReLU):
                    part[place] = nn.ReLU()


def plain_parts(network: Narrow) -> list[nn.Module]:
    """Where rectifiers become plain: at the first stage's full maps."""
    return [network.maps.trunk.stage1.get_submodule(name) for name in ("0", "1")]


def rates(network: nn.Module) -> list[dict[str, Any]]:
    """A group of each tensor, whose rate is a share of its numbers' root mean square.

    Normalization is folded into convolutions, whose kernels differ by a factor of 10,000: with one
    rate for all the first convolution would change by half in each step.
    """
    return [
        {"params": [part], "most": RATE * float(part.detach().square().mean().sqrt())}
        for part in network.parameters()
    ]


def widened(network: Narrow, *, plain: bool = False) -> Narrow:
    """The network with LANES channels first and, if `plain`, with its plain rectifiers."""
    widen(network.maps.trunk.stage1)
    for part in plain_parts(network) if plain else ():
        rectify(part)
    return network


def stored(network: Narrow) -> dict[str, Tensor]:
    """The weights; kernels of the first stage, which stays in single precision, as halves."""
    return {
        name: part.half().float() if "stage1" in name and part.dim() > 1 else part
        for name, part in network.state_dict().items()
    }


def fine_level(path: Path) -> FineLevel:
    """The finest level of a graph in 8 bits, in single precision."""
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fine = FineLevel().eval()
    fuse(fine)
    state = {name: constants[f"fine.{name}"] for name in ("heads.layer.weight", "heads.layer.bias")}
    for node in graph.node:
        if node.op_type == "QLinearConv" and node.input[3].startswith("fine."):
            name = node.input[3].removeprefix("fine.").removesuffix(".weight_quantized")
            kernels, steps = (constants[node.input[place]] for place in (3, 4))
            state[f"{name}.weight"] = kernels * steps[:, None, None, None]
            state[f"{name}.bias"] = constants[node.input[8]] * steps * constants[node.input[1]]
    fine.load_state_dict({name: torch.tensor(value).float() for name, value in state.items()})
    return fine


class Composed(Scenes):
    """Scenes with small and with large faces, most of them before the pictures of a folder."""

    layouts = (
        Layout(192, 16, 16, 64, fewest=0, most=7),
        Layout(384, 4, 40, 320, fewest=0, most=4),
    )
    photographed = 0.85

    def __init__(self, root: Path, backgrounds: Path, batches: int) -> None:
        super().__init__(root, batches)
        self.others = sorted(path for path in backgrounds.iterdir() if path.is_file())

    def _photograph(self, chance: np.random.Generator) -> Image.Image:
        if chance.random() < 0.25:
            return super()._photograph(chance)
        with Image.open(self.others[chance.integers(len(self.others))]) as opened:
            opened.draft("RGB", (LARGEST, LARGEST))
            picture = opened.convert("RGB")
        picture.thumbnail((LARGEST, LARGEST))
        return picture

    def _sharpened(self, patch: Image.Image, chance: np.random.Generator) -> Image.Image:
        """The patch of a large face, half of the time: enlarged ones lack all detail."""
        if patch.width <= SHARP or chance.random() >= 0.5:
            return patch
        percent = int(chance.integers(50, 250))
        return patch.filter(ImageFilter.UnsharpMask(patch.width / 48, percent))


def train(scenes: Composed, earlier: Path, output: Path) -> None:
    """Train and write the weights of all; prints the error as a share of the map's variance."""
    torch.manual_seed(0)
    steps, detector = len(scenes), whole()
    small = widened(Narrow(whole(), fine_level(earlier))).requires_grad_(False)
    stage = small.maps.trunk.stage1.requires_grad_(True)
    leaky = [layer for part in plain_parts(small) for layer in rectifiers(part)]
    optimizer = torch.optim.AdamW(rates(stage), RATE, weight_decay=0.0)
    total = 0.0
    loader = torch.utils.data.DataLoader(scenes, batch_size=None, num_workers=1)
    for step, images in enumerate(loader, start=1):
        rate = min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = group["most"] * rate
        for layer in leaky:
            layer.negative_slope = SLOPE * max(0.0, 1 - step / (FADED * steps))
        pixels = images.permute(0, 3, 1, 2).float() - detector.mean
        with torch.no_grad():
            goal = detector.trunk.stage1(pixels)
            variance = goal.var(dim=(0, 2, 3), keepdim=True) + 1e-6
        loss = ((stage(pixels) - goal) ** 2 / variance).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if step % 200 == 0:
            print(f"{step}: {total / 200:.5f} of the map's variance", flush=True)
            total = 0.0
    for part in plain_parts(small):
        rectify(part)
    save_file(stored(small.eval()), output)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ferplus", type=Path)
    parser.add_argument("backgrounds", type=Path, help="a folder of pictures, best without people")
    parser.add_argument("earlier", type=Path, help="a graph by make_detector_int8.py, not arranged")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    train(Composed(given.ferplus, given.backgrounds, given.steps), given.earlier, given.output)


if __name__ == "__main__":
    main()
