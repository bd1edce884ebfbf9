"""MobileFaceNet as a landmark network: points of a face, and the maps that they come from.

The shape is that of the network behind POSTER, POSTER++ and LaCoVL-FER (Chen et al., 2018,
https://arxiv.org/abs/1804.07573, with 136 outputs). Names of tensors are those of the published
file mobilefacenet_model_best.pth.tar, as far as its code shows them.
"""

from pathlib import Path
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor.config import Landmarks
from fervor.errors import ModelError, UsageError
from fervor.models.state_dict import LoadReport, load_state, read_state


SIZE = 112
"""Width and height of the images whose points are found; maps can be had of other sizes too."""

PACKAGED = Path(__file__).parents[1] / "weights" / "landmarks.safetensors"
"""The network that ships with the package."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation that the parents' code gives its images, where a file says nothing."""


class LandmarkMaps(NamedTuple):
    """Maps at three scales: 64, 128 and 512 channels at 1/4, 1/8 and 1/16 of the image."""

    fine: Float[Tensor, "b 64 h w"]
    middle: Float[Tensor, "b 128 i j"]
    coarse: Float[Tensor, "b 512 k l"]


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, and PReLU unless it is left out."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu: nn.Module = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Normalised, activated maps."""
        output: Tensor = self.prelu(self.bn(self.conv(maps)))
        return output


class Bottleneck(nn.Module):
    """Widen by 1x1, 3x3 depthwise, narrow by 1x1 without activation; with a skip or halving."""

    def __init__(self, inputs: int, outputs: int, *, inner: int, halve: bool) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs, inner)
        self.conv_dw = ConvUnit(
            inner, inner, kernel=3, stride=2 if halve else 1, padding=1, groups=inner
        )
        self.project = ConvUnit(inner, outputs, linear=True)
        self.halve = halve

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Maps of half the size, or the input plus what was found."""
        output: Tensor = self.project(self.conv_dw(self.conv(maps)))
        return output if self.halve else maps + output


class Repeated(nn.Module):
    """Several bottlenecks with skips."""

    def __init__(self, width: int, *, count: int, inner: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(Bottleneck(width, width, inner=inner, halve=False) for _ in range(count))
        )

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Maps of the same shape."""
        output: Tensor = self.model(maps)
        return output


class PointHead(nn.Module):
    """A weighted sum over all 7 x 7 places per channel, then a linear layer with BatchNorm."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv_6_dw = ConvUnit(512, 512, kernel=7, groups=512, linear=True)
        self.linear = nn.Linear(512, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, maps: Float[Tensor, "b 512 7 7"]) -> Float[Tensor, "b p"]:
        """Coordinates in one row."""
        output: Tensor = self.bn(self.linear(self.conv_6_dw(maps).flatten(1)))
        return output


class MobileFaceNet(nn.Module):
    """Normalised images -> maps at three scales, or points."""

    def __init__(self, points: int = 68) -> None:
        super().__init__()
        self.conv1 = ConvUnit(3, 64, kernel=3, stride=2, padding=1)
        self.conv2_dw = ConvUnit(64, 64, kernel=3, padding=1, groups=64)
        self.conv_23 = Bottleneck(64, 64, inner=128, halve=True)
        self.conv_3 = Repeated(64, count=4, inner=128)
        self.conv_34 = Bottleneck(64, 128, inner=256, halve=True)
        self.conv_4 = Repeated(128, count=6, inner=256)
        self.conv_45 = Bottleneck(128, 128, inner=512, halve=True)
        self.conv_5 = Repeated(128, count=2, inner=256)
        self.conv_6_sep = ConvUnit(128, 512)
        self.output_layer = PointHead(2 * points)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> LandmarkMaps:
        """The maps; height and width are multiples of 16."""
        fine = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(image))))
        middle = self.conv_4(self.conv_34(fine))
        coarse = self.conv_6_sep(self.conv_5(self.conv_45(middle)))
        return LandmarkMaps(fine, middle, coarse)

    def points(self, image: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b n 2"]:
        """x and y of each point as shares of the image, from its top left corner."""
        pairs: Tensor = self.output_layer(self(image).coarse).unflatten(1, (-1, 2))
        return pairs


class LandmarkEncoder(nn.Module):
    """A frozen landmark network that normalises its images itself; always in eval mode."""

    mean: Tensor
    deviation: Tensor
    widths = (64, 128, 512)
    strides = (4, 8, 16)

    def __init__(self, trunk: MobileFaceNet) -> None:
        super().__init__()
        self.trunk = trunk
        self.report: LoadReport | None = None
        for name, values in zip(("mean", "deviation"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """What is frozen stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> LandmarkMaps:
        """Maps of RGB images in 0..1."""
        maps: LandmarkMaps = self.trunk((image - self.mean) / self.deviation)
        return maps

    @torch.no_grad()
    def points(self, image: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b n 2"]:
        """Points of RGB images in 0..1; see `MobileFaceNet.points`."""
        return self.trunk.points((image - self.mean) / self.deviation)


def build_landmark_encoder(config: Landmarks) -> LandmarkEncoder:
    """The landmark network of a configuration with its weights.

    A file's own number of points is taken; weights may lack the trunk's prefix, as published files
    do, and the pixel statistics.

    Raises:
        UsageError: an unknown name.
        ModelError: weights that are missing or do not fit.
    """
    if config.name != "mobilefacenet":
        raise UsageError(
            f"unknown landmark network {config.name!r}: expected mobilefacenet, or none"
        )
    if config.weights == "random":
        return LandmarkEncoder(MobileFaceNet())
    path = Path(config.weights) if config.weights else PACKAGED
    if not config.weights and not path.is_file():
        raise ModelError(
            f"this installation holds no landmark network ({path.name} is missing): give "
            "--landmarks.weights FILE, or --landmarks.name none to go without landmarks"
        )
    state = read_state(path)
    head = next((t for key, t in state.items() if key.endswith("output_layer.bn.bias")), None)
    encoder = LandmarkEncoder(MobileFaceNet(68 if head is None else len(head) // 2))
    encoder.report = load_state(encoder, state, source=str(path))
    return encoder.requires_grad_(False).eval()
