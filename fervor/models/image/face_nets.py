"""Face-pretrained trunks as plain modules: image in, last map out.

The packaged weight files hold every BatchNorm folded into a scale and a bias. The modules here put
BatchNorm back: `load_folded` gives exactly the folded function, `restore_batchnorm` then sets the
statistics that training needs without changing it.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.errors import ModelError


class ConvNorm(nn.Module):
    """A convolution without bias, then BatchNorm: the unit in which folded weights are stored."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation, groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Normalised maps, no activation."""
        normalised: Tensor = self.norm(self.conv(maps))
        return normalised


class HalvingDepthwise(ConvNorm):
    """A 3x3 depthwise convolution of stride 2 that pads right and bottom by one (TensorFlow's
    "same" on even sizes; sizes are rounded down).

    Training computes every place and keeps each second one: the same numbers, and on CPUs a four
    times faster backward pass than a strided depthwise convolution has.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, stride=2, groups=channels)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """Normalised maps of half the size."""
        if self.training:
            weight, groups = self.conv.weight, self.conv.groups
            halved = F.conv2d(maps, weight, padding=1, groups=groups)[:, :, 1::2, 1::2]
        else:
            halved = self.conv(F.pad(maps, (0, 1, 0, 1)))
        normalised: Tensor = self.norm(halved)
        return normalised


class SeparableBlock(nn.Module):
    """MobileNet-v1's block: depthwise 3x3, pointwise 1x1, each with BatchNorm and ReLU6."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise: ConvNorm
        if stride == 2:
            self.depthwise = HalvingDepthwise(inputs)
        else:
            self.depthwise = ConvNorm(
                inputs, inputs, padding=dilation, dilation=dilation, groups=inputs
            )
        self.pointwise = ConvNorm(inputs, outputs, kernel=1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Values in 0..6."""
        return F.relu6(self.pointwise(F.relu6(self.depthwise(maps))))


class ConvStem(ConvNorm):
    """MobileNet-v1's first layer: 3x3, stride 2, padded right and bottom by one."""

    def __init__(self) -> None:
        super().__init__(3, 32, stride=2)

    def forward(self, maps: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 32 i j"]:
        """Values in 0..6 at half the size."""
        return F.relu6(super().forward(F.pad(maps, (0, 1, 0, 1))))


class FaceMobileNet(nn.Module):
    """MobileNet-v1 1.0 (3.2 M parameters), pretrained on faces by the HSE face group.

    `last_stride` 2 is the net as published: the last map is the input / 32. With 1, block 11 keeps
    its size and block 12 is dilated instead: 7 x 7 places at 112 pixels.
    """

    width = 1024
    mean = (0.0, 0.0, 0.0)
    scale = 255.0
    """The input is RGB 0..1; the net was trained on (input - mean) * scale."""
    least = 32
    """Smallest image; the pretraining is known to carry from 96."""

    def __init__(self, *, last_stride: int = 1) -> None:
        super().__init__()
        self.last_stride = last_stride
        widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
        strides = {1: 2, 3: 2, 5: 2, 11: last_stride}
        dilations = {12: 2 if last_stride == 1 else 1}
        self.stem = ConvStem()
        self.blocks = nn.ModuleList(
            SeparableBlock(
                inputs, outputs, stride=strides.get(place, 1), dilation=dilations.get(place, 1)
            )
            for place, (inputs, outputs) in enumerate(pairwise(widths))
        )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1024 i j"]:
        """The last map for normalised images of any size from `least`."""
        maps = self.stem(image)
        for block in self.blocks:
            maps = block(maps)
        return maps  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """dlib's residual block: two 3x3 convolutions and a skip that is pooled and zero-padded."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        stride, padding = (2, 0) if halve else (1, 1)
        self.conv1 = ConvNorm(inputs, outputs, stride=stride, padding=padding)
        self.conv2 = ConvNorm(outputs, outputs, padding=1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Values >= 0."""
        skip = F.avg_pool2d(maps, 2) if self.halve else maps
        maps = self.conv2(F.relu(self.conv1(maps)))
        return F.relu(_padded(maps, skip) + _padded(skip, maps))


def _padded(maps: Tensor, other: Tensor) -> Tensor:
    """Maps with zeros at the right, the bottom and the end, where the other is larger."""
    channels, rows, columns = (
        max(theirs - ours, 0) for ours, theirs in zip(maps.shape[1:], other.shape[1:], strict=True)
    )
    return F.pad(maps, (0, columns, 0, rows, 0, channels))


class ResidualStem(ConvNorm):
    """dlib's first layer: 7x7, stride 2, then max-pool 3x3, stride 2; nothing is padded."""

    def __init__(self) -> None:
        super().__init__(3, 32, kernel=7, stride=2)

    def forward(self, maps: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 32 i j"]:
        """Values >= 0 at a quarter of the size."""
        return F.max_pool2d(F.relu(super().forward(maps)), 3, 2)


class FaceResNet(nn.Module):
    """dlib's face-recognition ResNet (29 convolutions, 5.6 M parameters, CC0).

    At 112 pixels the last map is a single place. Without the last block it is 3 x 3 places, of the
    same width; what is pooled and what is local always come from the same map.
    """

    width = 256
    mean = (122.782 / 255, 117.001 / 255, 104.298 / 255)
    scale = 255 / 256
    """The input is RGB 0..1; the net was trained on (input - mean) * scale."""

    def __init__(self, *, last_block: bool = True) -> None:
        super().__init__()
        self.least = 103 if last_block else 55
        widths = (*(32,) * 4, *(64,) * 4, *(128,) * 3, *(256,) * (4 if last_block else 3))
        self.stem = ResidualStem()
        self.blocks = nn.ModuleList(
            ResidualBlock(inputs, outputs, halve=place in (3, 7, 10, 13))
            for place, (inputs, outputs) in enumerate(pairwise(widths))
        )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 256 i j"]:
        """The last map for normalised images of any size from `least`."""
        maps = self.stem(image)
        for block in self.blocks:
            maps = block(maps)
        return maps  # type: ignore[no-any-return]


class _Layer(NamedTuple):
    """A named convolution with BatchNorm."""

    name: str
    unit: ConvNorm


def _layers(trunk: nn.Module) -> list[_Layer]:
    """The trunk's convolutions with BatchNorm, in the order in which they run."""
    return [
        _Layer(name, unit) for name, unit in trunk.named_modules() if isinstance(unit, ConvNorm)
    ]


@torch.no_grad()
def load_folded(
    trunk: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fill the trunk with folded weights: per layer `weight`, `scale` and `bias`.

    Gives the names that were used, and those left over. BatchNorm gets mean 0 and a variance that
    makes it the identity before its scale and bias: the eval-mode function is the folded one.

    Raises:
        ModelError: a tensor is missing, left over or of another shape. The last block's tensors
            may be left over where the trunk goes without that block.
    """
    layers = _layers(trunk)
    blocks = len(trunk.get_submodule("blocks")._modules)
    names = {f"{name}.{part}" for name, _ in layers for part in ("weight", "scale", "bias")}
    missing = sorted(names - tensors.keys())
    left_over = sorted(tensors.keys() - names)
    strange = [key for key in left_over if not key.startswith(f"blocks.{blocks}.")]
    if missing or strange:
        raise ModelError(
            f"folded weights do not fit: missing {missing or 'none'}, left over "
            f"{strange or 'none'}; give a file made for {type(trunk).__name__}"
        )
    for name, unit in layers:
        if tensors[f"{name}.weight"].shape != unit.conv.weight.shape:
            raise ModelError(
                f"folded weight {name}.weight has shape {tuple(tensors[f'{name}.weight'].shape)}, "
                f"expected {tuple(unit.conv.weight.shape)}; give a file made for "
                f"{type(trunk).__name__}"
            )
        unit.conv.weight.copy_(tensors[f"{name}.weight"])
        unit.norm.weight.copy_(tensors[f"{name}.scale"])
        unit.norm.bias.copy_(tensors[f"{name}.bias"])
        assert unit.norm.running_mean is not None and unit.norm.running_var is not None
        unit.norm.running_mean.zero_()
        unit.norm.running_var.fill_(1 - unit.norm.eps)
    return tuple(sorted(names)), tuple(left_over)


@torch.no_grad()
def restore_batchnorm(trunk: nn.Module, images: Float[Tensor, "b 3 h w"]) -> None:
    """Set each layer's running statistics to what its convolution gives for normalised faces.

    Weight and bias change with them, so that the eval-mode function stays what it was. Layers are
    visited in the order in which they run, each on the output of the already restored ones.
    Without this the first training steps destroy the pretraining.
    """

    def restore(norm: nn.BatchNorm2d, arguments: tuple[Tensor]) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        variance, mean = torch.var_mean(arguments[0], dim=(0, 2, 3), correction=0)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        norm.bias.add_(scale * (mean - norm.running_mean))
        norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    training = {name: module.training for name, module in trunk.named_modules()}
    hooks = [unit.norm.register_forward_pre_hook(restore) for _, unit in _layers(trunk)]
    try:
        trunk.eval()
        trunk(images)
    finally:
        for hook in hooks:
            hook.remove()
        for name, module in trunk.named_modules():
            module.training = training[name]
