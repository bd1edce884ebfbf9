"""Train a first stage with plain rectifiers for the int8 face detector.

    python tools/weights/train_first_stage.py FERPLUS first_stage.safetensors

The first stage, whose maps are large, computes in single precision, and onnxruntime computes a
plain rectifier with the convolution before it but a leaky one in a pass of its own. Here all
rectifiers but the last become plain: their slope below zero fades out over the first part of the
training. The first two convolutions get 16 channels in place of 8, which cost nothing where a
processor computes 16 at a time. The stage starts from the whole detector's and learns its map, and
what the rest of the whole detector answers to it, which stays as it is. No label is used. Pictures
are those of train_fine_level.py, in other colours. Some 12 minutes of two cores of an AMD EPYC with
AVX-512. Needs fervor[train].
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional


sys.path.insert(0, str(Path(__file__).parent))
from make_detector import SLOPE, Detector
from train_fine_level import Scenes, Whole, answers, distance, merged, whole


STEPS, RATE = 5000, 0.01
"""The latter in parts of a tensor's own size: kernels on pixels are far smaller than the others."""
FADED = 0.3
"""Part of the training over which the slope fades out."""
MAP = 10.0
"""Weight of the map's error, in parts of its variance, beside that of the answers."""
FIRST = 16
"""Channels of the first two convolutions."""


class Coloured(Scenes):
    """The same pictures with their colours changed places and weighted."""

    def __getitem__(self, number: int) -> Tensor:
        images = super().__getitem__(number).float()
        chance = np.random.default_rng(number + 10**6)
        for row in range(len(images)):
            if chance.random() < 0.5:
                images[row] = images[row][..., torch.from_numpy(chance.permutation(3))]
            images[row] *= torch.tensor(chance.uniform(0.7, 1.3, 3), dtype=torch.float32)
        return images.clamp(0, 255).round().to(torch.uint8)


def first_stage(detector: Detector) -> nn.Sequential:
    """One that answers as the detector's does: the channels that are new count nothing yet."""
    layers: list[nn.Module] = []
    for place, old in enumerate(convolutions(detector.trunk.stage1)):
        kernels, biases = old.weight, old.bias
        assert biases is not None, "its normalisation is folded in"
        if place == 0:
            kernels, biases = torch.cat([kernels, -kernels]), torch.cat([biases, -biases])
        elif place == 1:
            kernels, biases = torch.cat([kernels, kernels]), torch.cat([biases, 0 * biases])
        elif place == 2:
            kernels = torch.cat([kernels, 0 * kernels], 1)
        groups = len(kernels) if old.groups > 1 else 1
        width = kernels.shape[1] * groups
        side = kernels.shape[-1]
        new = nn.Conv2d(width, len(kernels), side, old.stride[0], side // 2, groups=groups)
        new.load_state_dict({"weight": kernels, "bias": biases})
        layers += [new, nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """In their order."""
    return [part for part in network.modules() if isinstance(part, nn.Conv2d)]


class Rest(nn.Module):
    """What the whole detector answers to the map of a first stage, on each level."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.right = detector, Whole(detector)
        self.context = nn.ModuleList(detector.context[name] for name in ("2", "3"))
        self.heads = nn.ModuleList(merged(detector, level) for level in (1, 2))

    def forward(self, fine: Tensor) -> list[Tensor]:
        middle = self.detector.trunk.stage2(fine)
        coarse = self.detector.pyramid.lateral["3"](self.detector.trunk.stage3(middle))
        doubled = functional.interpolate(coarse, scale_factor=2.0)
        pyramid = self.detector.pyramid
        middle = pyramid.smooth["2"](pyramid.lateral["2"](middle) + doubled)
        _, finest = self.right(fine, middle)
        parts = zip(self.heads, self.context, (middle, coarse), strict=True)
        return [finest, *(heads(context(level)) for heads, context, level in parts)]


def train(root: Path, output: Path, steps: int) -> None:
    """Train and write the weights; prints errors, and how many sure anchors are found."""
    torch.manual_seed(0)
    detector = whole()
    stage, rest = first_stage(detector), Rest(detector).requires_grad_(False)
    *leaky, _ = (part for part in stage if isinstance(part, nn.LeakyReLU))
    groups = [
        {"params": [part], "most": RATE * part.detach().square().mean().sqrt().item()}
        for part in stage.parameters()
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0)
    scenes = torch.utils.data.DataLoader(Coloured(root, steps), batch_size=None, num_workers=1)
    apart, other, sure, same = 0.0, 0.0, 0, 0
    for step, images in enumerate(scenes, start=1):
        rate = min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = group["most"] * rate
        for part in leaky:
            part.negative_slope = SLOPE * max(0.0, 1 - step / (FADED * steps))
        image = images.permute(0, 3, 1, 2).float() - detector.mean
        with torch.no_grad():
            right = detector.trunk.stage1(image)
            goals = rest(right)
        ours = stage(image)
        error = ((ours - right) ** 2 / (right.var((0, 2, 3), keepdim=True) + 1e-3)).mean()
        differences = torch.zeros(())
        for answered, goal in zip(rest(ours), goals, strict=True):
            found, theirs = answers([answered]), answers([goal])
            differences = differences + distance(found, theirs)
            sure += int((theirs[0] > 1).sum())
            same += int(((theirs[0] > 1) & (found[0] > 0)).sum())
        optimizer.zero_grad()
        (MAP * error + differences).backward()
        optimizer.step()
        apart, other = apart + error.item(), other + differences.item()
        if step % 100 == 0:
            print(f"{step}: map {apart / 100:.5f}, answers {other / 100:.4f}, {same} of {sure}")
            apart, other, sure, same = 0.0, 0.0, 0, 0
    save_file(stage.state_dict(), output)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ferplus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    train(arguments.ferplus, arguments.output, arguments.steps)


if __name__ == "__main__":
    main()
