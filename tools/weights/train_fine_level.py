"""Train a narrower finest level for the face detector, by what the whole detector answers.

    python tools/weights/train_fine_level.py FERPLUS fine_level.safetensors

The finest of RetinaFace's three levels, which finds faces of up to some 45 pixels, takes a third of
its time. Here half as many channels learn its answers (scores, boxes, points), while trunk and
coarser levels stay as they are; a map within, seen through one more layer, learns the whole
detector's too, which is only a help (Romero et al., "FitNets: Hints for Thin Deep Nets", 2015). No
label is used. Pictures are composed: FERPlus train faces of 16 to 64 pixels, tinted, before
scikit-learn's two photographs or drawn noise; none of them is among those that
benchmarks/measure_detector.py reads. Some 30 minutes of two cores. Needs fervor[train].
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional


sys.path.insert(0, str(Path(__file__).parent))
from make_detector import OUTPUT, Context, Detector, convolution, fuse


WIDTH = 32
ANCHORS = 2
OUTPUTS = (1, 4, 10)
"""Numbers an anchor answers: the logit of a face, its box, its points."""

STEPS, RATE = 8000, 2e-3
HINT = 0.5
SURE = 8.0
"""Logits count up to here: what is beyond is sure either way."""
NEAR = 0.1
"""From this score of the whole detector on boxes and points are learned."""

Pixels = NDArray[np.uint8]


class Heads(nn.Module):
    """All answers of one level in one convolution: [b rows * columns anchors * 15]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(width, ANCHORS * sum(OUTPUTS), 1)

    def forward(self, features: Tensor) -> Tensor:
        answers: Tensor = self.layer(features)
        return answers.permute(0, 2, 3, 1).flatten(1, 2)


class FineLevel(nn.Module):
    """From the trunk's finest map and the middle level to the answers of the finest level."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.lateral = convolution(64, width, kernel=1)
        self.narrowed = nn.Conv2d(64, width, 1)
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
        self.context = Context(width)
        self.heads = Heads(width)
        for part in self.modules():
            if isinstance(part, nn.Sequential):
                for place, layer in enumerate(part):
                    if isinstance(layer, nn.LeakyReLU):
                        part[place] = nn.ReLU()  # eight bits compute it with the convolution

    def smoothed(self, fine: Tensor, middle: Tensor) -> Tensor:
        """The map within, [b width rows columns]."""
        coarse = functional.interpolate(self.narrowed(middle), scale_factor=2.0)
        smoothed: Tensor = self.smooth(self.lateral(fine) + coarse)
        return smoothed

    def forward(self, fine: Tensor, middle: Tensor) -> Tensor:
        answers: Tensor = self.heads(self.context(self.smoothed(fine, middle)))
        return answers


def merged(detector: Detector, level: int) -> Heads:
    """A level's three heads as one; two logits (background, face) become their difference."""
    score, box, points = (heads[level] for heads in (detector.score, detector.box, detector.points))
    heads = Heads(score.get_parameter("weight").shape[1])
    parts = [
        [getattr(score, name)[1::2] - getattr(score, name)[::2]]
        + [getattr(head, name) for head in (box, points)]
        for name in ("weight", "bias")
    ]
    weight, bias = (torch.cat(part) for part in parts)
    heads.layer.load_state_dict({"weight": weight, "bias": bias})
    return heads


def answers(levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [b n], encoded boxes [b n 4] and points [b n 10] of levels from `Heads`."""
    every = torch.cat(levels, dim=1)
    score, box, points = every.split([ANCHORS * width for width in OUTPUTS], dim=2)
    box, points = (part.unflatten(2, (ANCHORS, -1)).flatten(1, 2) for part in (box, points))
    return score.flatten(1), box, points


def whole() -> Detector:
    """The detector as it is shipped, normalisation folded into its convolutions."""
    graph = onnx.load(OUTPUT).graph
    state = {
        tensor.name.removesuffix(".half"): torch.tensor(
            numpy_helper.to_array(tensor).astype(np.float32)
        )
        for tensor in graph.initializer
    }
    network = Detector().eval()
    fuse(network)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network.requires_grad_(False)


class Narrow(nn.Module):
    """The detector with another finest level; inputs and outputs are those of `Detector`."""

    def __init__(self, detector: Detector, fine: FineLevel) -> None:
        super().__init__()
        self.maps, self.fine = Maps(detector), fine
        self.context = nn.ModuleList(detector.context[name] for name in ("2", "3"))
        self.heads = nn.ModuleList(merged(detector, level) for level in (1, 2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, *coarser = self.maps(image)
        levels = [self.fine(low, coarser[0])]
        for level, context, heads in zip(coarser, self.context, self.heads, strict=True):
            levels.append(heads(context(level)))
        score, box, points = answers(levels)
        return torch.sigmoid(score), box, points


class Maps(nn.Module):
    """Pictures [b h w 3] -> the trunk's finest map, and the middle and coarse levels."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.trunk, self.pyramid = detector.trunk, detector.pyramid
        self.mean: Tensor
        self.register_buffer("mean", detector.mean, persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.trunk(image.permute(0, 3, 1, 2).float() - self.mean)
        coarse = self.pyramid.lateral["3"](coarse)
        doubled = functional.interpolate(coarse, scale_factor=2.0)
        return fine, self.pyramid.smooth["2"](self.pyramid.lateral["2"](middle) + doubled), coarse


@dataclass(frozen=True, slots=True)
class Layout:
    """What a batch shows.

    Attributes:
        side: of its pictures, pixels.
        pictures: how many.
        smallest: side of the smallest face, pixels; `largest` of the largest.
        fewest: faces of a picture; `most` are one more than there may be.
    """

    side: int
    pictures: int
    smallest: int
    largest: int
    fewest: int
    most: int


class Scenes(torch.utils.data.Dataset[Tensor]):
    """Batches [b h w 3] of composed pictures with faces; each follows from its number.

    Backgrounds are scikit-learn's two photographs, or drawn noise.
    """

    layouts: tuple[Layout, ...] = (Layout(192, 16, 16, 64, fewest=1, most=7),)
    photographed = 0.7
    """Share of the backgrounds that are no noise."""

    def __init__(self, root: Path, batches: int) -> None:
        self.faces = sorted((root / "FER2013Train").glob("*.png"))
        self.photographs = [Image.fromarray(image) for image in load_sample_images().images]
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Tensor:
        chance = np.random.default_rng(number)
        layout = self.layouts[number % len(self.layouts)]
        scenes = [self._scene(chance, layout) for _ in range(layout.pictures)]
        return torch.from_numpy(np.stack(scenes))

    def _scene(self, chance: np.random.Generator, layout: Layout) -> Pixels:
        scene = self._background(chance, layout.side)
        for _ in range(chance.integers(layout.fewest, layout.most)):
            self._paste(scene, chance, layout)
        if chance.random() < 0.2:
            scene = scene.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 1.0)))
        pixels = np.asarray(scene, np.float32)
        pixels = (pixels - 128) * chance.uniform(0.6, 1.2) + 128 + chance.uniform(-30, 30)
        pixels += chance.normal(0, chance.choice([0, 0, 3, 8]), pixels.shape)
        return pixels.clip(0, 255).astype(np.uint8)

    def _photograph(self, chance: np.random.Generator) -> Image.Image:
        return self.photographs[chance.integers(len(self.photographs))]

    def _background(self, chance: np.random.Generator, size: int) -> Image.Image:
        if chance.random() < self.photographed:
            photograph = self._photograph(chance)
            side = chance.uniform(0.15, 1) * min(photograph.size)
            x, y = (chance.uniform(0, length - side) for length in photograph.size)
            scene = photograph.resize((size, size), box=(x, y, x + side, y + side))
            return scene.rotate(90 * int(chance.integers(4)))
        grain = int(2 ** chance.uniform(1, 6))
        noise = chance.normal(chance.uniform(40, 215, 3), chance.uniform(2, 40), (grain, grain, 3))
        drawn = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        return drawn.resize((size, size), Image.Resampling.BICUBIC)

    def _sharpened(self, patch: Image.Image, chance: np.random.Generator) -> Image.Image:
        return patch

    def _paste(self, scene: Image.Image, chance: np.random.Generator, layout: Layout) -> None:
        with Image.open(self.faces[chance.integers(len(self.faces))]) as opened:
            face = np.asarray(opened.convert("L"))
        face = np.pad(face, int(chance.integers(6, 17)), mode="edge")
        green = chance.uniform(0.65, 1)
        skin = np.array([1, green, green * chance.uniform(0.75, 1.05)])
        tinted = (face[:, :, None] * (skin / skin.mean())).clip(0, 255).astype(np.uint8)
        ratio = (layout.largest / layout.smallest) ** chance.random()
        side = round(layout.smallest * ratio * len(face) / 48)
        patch = Image.fromarray(tinted).resize((side, side), Image.Resampling.BICUBIC)
        patch = self._sharpened(patch, chance)
        if chance.random() < 0.5:
            patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        edge = max(1, side // 12)
        mask = Image.new("L", (side, side))
        mask.paste(255, (edge, edge, side - edge, side - edge))
        if chance.random() < 0.3:
            angle = chance.normal(0, 15)
            patch, mask = (part.rotate(angle, Image.Resampling.BICUBIC) for part in (patch, mask))
        if chance.random() < 0.8:
            mask = mask.filter(ImageFilter.GaussianBlur(edge / 2))
        x, y = (int(chance.integers(-side // 4, scene.width - 3 * side // 4)) for _ in range(2))
        scene.paste(patch, (x, y), mask)


def distance(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Tensor:
    """What is minimised: surest where either sees a face; boxes and points where the whole does."""
    score, box, points = ours
    goal, right_box, right_points = theirs
    near = torch.sigmoid(goal)
    weight = 0.05 + near + torch.sigmoid(score.detach())
    apart = functional.smooth_l1_loss(
        score.clamp(-SURE, SURE), goal.clamp(-SURE, SURE), reduction="none"
    )
    places = (near > NEAR).float()[:, :, None]
    found = places.sum().clamp(min=1)
    boxes = (functional.smooth_l1_loss(box, right_box, reduction="none") * places).sum()
    marks = (functional.smooth_l1_loss(points, right_points, reduction="none") * places).sum()
    return (weight * apart).sum() / weight.sum() + boxes / (4 * found) + marks / (10 * found)


class Whole(nn.Module):
    """What the whole detector makes of the trunk's finest map and the middle level."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.lateral, self.smooth = detector.pyramid.lateral["1"], detector.pyramid.smooth["1"]
        self.context, self.heads = detector.context["1"], merged(detector, 0)

    def forward(self, fine: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        doubled = functional.interpolate(middle, scale_factor=2.0)
        smoothed = self.smooth(self.lateral(fine) + doubled)
        return smoothed, self.heads(self.context(smoothed))


def train(root: Path, output: Path, steps: int) -> None:
    """Train and write the weights; prints the loss, and how many sure anchors are found."""
    torch.manual_seed(0)
    detector = whole()
    maps, right, fine = Maps(detector), Whole(detector), FineLevel()
    seen_through = nn.Conv2d(WIDTH, 64, 1)
    learned = [*fine.parameters(), *seen_through.parameters()]
    optimizer = torch.optim.AdamW(learned, RATE, weight_decay=1e-4)
    scenes = torch.utils.data.DataLoader(Scenes(root, steps), batch_size=None, num_workers=1)
    total, sure, found = 0.0, 0, 0
    for step, images in enumerate(scenes, start=1):
        rate = RATE * min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            low, middle, _ = maps(images)
            goal, outputs = right(low, middle)
            theirs = answers([outputs])
        smoothed = fine.smoothed(low, middle)
        ours = answers([fine.heads(fine.context(smoothed))])
        hint = functional.mse_loss(seen_through(smoothed), goal) / goal.var()
        loss = distance(ours, theirs) + HINT * hint
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        sure += int((theirs[0] > 1).sum())
        found += int(((theirs[0] > 1) & (ours[0] > 0)).sum())
        if step % 100 == 0:
            print(f"{step}: {total / 100:.4f}, {found} of {sure} anchors", flush=True)
            total, sure, found = 0.0, 0, 0
    fine.eval()
    fuse(fine)
    save_file(fine.state_dict(), output)


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
