"""IR-50, the "improved residual" network of face recognition, as POSTER++ and QCS use it.

ArcFace's residual unit (Deng et al., 2019, https://arxiv.org/abs/1801.07698), pretrained by others
on MS-Celeb-1M. Names of tensors are those of the published files, as far as their code shows them.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


UNITS = (3, 4, 14)
"""Units of the stages that give the three scales; the published network has a fourth stage of 3."""

WIDTHS = (64, 128, 256, 512)
"""Channels of the stages."""

LEFT_OVER = r"^(trunk\.)?(output_layer\.|body4\.)"
"""What published files hold beside the three stages: the fourth, and the identity's embedding."""


class Thinned(nn.Module):
    """Every second place of a map, or all of them: the shortcut where channels stay."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """The kept places."""
        return maps[:, :, :: self.stride, :: self.stride]


class ResidualUnit(nn.Module):
    """BatchNorm, 3x3, PReLU, 3x3 with the stride, BatchNorm; and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = Thinned(stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The sum of both ways."""
        total: Tensor = self.res_layer(maps) + self.shortcut_layer(maps)
        return total


class IR50(nn.Module):
    """The stem and the stages; each stage halves the map.

    At 112 pixels the three scales are 64 x 56 x 56, 128 x 28 x 28 and 256 x 14 x 14.
    """

    least = 16
    """Smallest image."""

    def __init__(self, units: Sequence[int] = UNITS) -> None:
        super().__init__()
        self.widths = WIDTHS[: len(units)]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        inputs = 64
        for number, (count, width) in enumerate(zip(units, self.widths, strict=True), start=1):
            chain = [ResidualUnit(inputs, width, stride=2)]
            chain += [ResidualUnit(width, width, stride=1) for _ in range(count - 1)]
            self.add_module(f"body{number}", nn.Sequential(*chain))
            inputs = width
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    @property
    def stages(self) -> list[nn.Sequential]:
        """body1, body2 ... in the order in which they run."""
        bodies = [self.get_submodule(f"body{number + 1}") for number in range(len(self.widths))]
        return bodies  # type: ignore[return-value]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b d i j"]]:
        """The map after each stage for normalised images, the finest first."""
        maps, outputs = self.input_layer(image), []
        for stage in self.stages:
            maps = stage(maps)
            outputs.append(maps)
        return outputs


def published_names(names: Sequence[str], units: Sequence[int] = UNITS) -> dict[str, str]:
    """A published file's names -> those of this module.

    Files of face recognition number the units of all stages through (`body.0` to `body.23`);
    POSTER++'s own file has its stages apart (`body1.0` ...), as here.
    """
    first = [sum(units[:stage]) for stage in range(len(units) + 1)]

    def renamed(match: re.Match[str]) -> str:
        number = int(match[1])
        stage = max(place for place, start in enumerate(first) if start <= number)
        return f"body{stage + 1}.{number - first[stage]}."

    return {name: re.sub(r"^body\.(\d+)\.", renamed, name) for name in names}


def from_published(
    state: Mapping[str, Tensor], units: Sequence[int] = UNITS
) -> dict[str, torch.Tensor]:
    """A published file's tensors under the names of this module."""
    names = published_names(list(state), units)
    return {names[name]: tensor for name, tensor in state.items()}
