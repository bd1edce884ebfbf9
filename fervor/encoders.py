"""Image encoders behind one signature: pictures in 0..1 -> Features."""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from fervor.config import Encoder
from fervor.errors import ModelError, UsageError
from fervor.facenets import FaceMobileNet, FaceResNet, load_folded, restore_batchnorm


LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as PIL's mode L and FER2013's grey pictures."""


class Features(NamedTuple):
    """What an encoder sees in a batch: one vector per picture, and one per place of its grid.

    Tokens are in the space of `pooled`, row by row from the top left; grid = (rows, columns).
    """

    pooled: Float[Tensor, "b d"]
    tokens: Float[Tensor, "b n d"]
    grid: tuple[int, int]


class ImageEncoder(nn.Module):
    """Base of all image encoders: normalises RGB pictures in 0..1 itself and gives Features.

    Attributes:
        width: d of the features.
        size: pixels of the square pictures it is made for.
        grey: turns to luminance first.
    """

    mean: Tensor
    deviation: Tensor
    luminance: Tensor

    def __init__(
        self,
        width: int,
        size: int,
        *,
        grey: bool,
        mean: tuple[float, float, float],
        deviation: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.width = width
        self.size = size
        self.grey = grey
        self.frozen = 0
        for name, values in (("mean", mean), ("deviation", deviation), ("luminance", LUMINANCE)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB pictures in 0..1."""
        raise NotImplementedError

    def parts(self) -> list[nn.Module]:
        """The stem and then the blocks, in the order in which they run and are frozen."""
        raise NotImplementedError

    def normalised(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The picture as the pretrained net expects it."""
        if self.grey:
            image = (image * self.luminance).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        return (image - self.mean) / self.deviation

    def freeze(self, blocks: int) -> None:
        """Stop training the stem and the first blocks, their BatchNorm statistics included.

        Raises:
            UsageError: the encoder has fewer blocks.
        """
        parts = self.parts()
        if not 0 <= blocks < len(parts):
            raise UsageError(
                f"frozen_blocks is {blocks}, expected 0 to {len(parts) - 1} for this encoder"
            )
        self.frozen = blocks + 1 if blocks else 0
        for part in parts[: self.frozen]:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ImageEncoder":
        """As every module, but what is frozen stays in eval mode."""
        super().train(mode)
        for part in self.parts()[: self.frozen]:
            part.eval()
        return self


def from_map(maps: Float[Tensor, "b d i j"]) -> Features:
    """Features of a convolutional net: the mean over the last map, and its places as tokens."""
    rows, columns = maps.shape[-2:]
    return Features(maps.mean(dim=(2, 3)), maps.flatten(2).transpose(1, 2), (rows, columns))


class FaceEncoder(ImageEncoder):
    """A face-pretrained trunk; features are the places of its last map and their mean."""

    def __init__(self, trunk: FaceMobileNet | FaceResNet, *, size: int, grey: bool) -> None:
        deviation = 1 / trunk.scale
        super().__init__(
            trunk.width,
            size,
            grey=grey,
            mean=trunk.mean,
            deviation=(deviation, deviation, deviation),
        )
        self.trunk = trunk

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB pictures in 0..1."""
        return from_map(self.trunk(self.normalised(image)))

    def parts(self) -> list[nn.Module]:
        """The stem and then the blocks."""
        return [self.trunk.stem, *self.trunk.blocks]

    @torch.no_grad()
    def restore_batchnorm(self, images: Float[Tensor, "b 3 h w"]) -> None:
        """Prepare folded weights for training with a few hundred training faces in 0..1.

        The eval-mode function stays the same; see `facenets.restore_batchnorm`.
        """
        restore_batchnorm(self.trunk, self.normalised(images))


def _face_mobilenet(config: Encoder) -> ImageEncoder:
    trunk = FaceMobileNet(last_stride=config.last_stride)
    return _face_encoder(trunk, config, packaged="face_mobilenet.safetensors")


def _face_resnet(config: Encoder) -> ImageEncoder:
    # Its last block halves the size; without it the last map is finer.
    trunk = FaceResNet(last_block=config.last_stride == 2)
    return _face_encoder(trunk, config, packaged="dlib_resnet.safetensors")


def _face_encoder(
    trunk: FaceMobileNet | FaceResNet, config: Encoder, *, packaged: str
) -> FaceEncoder:
    if config.weights != "random":
        path = Path(str(files("fervor") / "weights" / packaged))
        path = Path(config.weights) if config.weights else path
        if not path.is_file():
            raise ModelError(f"weights {path} not found: give a folded .safetensors file")
        load_folded(trunk, load_file(path))
    return FaceEncoder(trunk, size=config.size, grey=config.grey)


ENCODERS = {
    "face-mobilenet": _face_mobilenet,
    "face-resnet": _face_resnet,
}


def build_image_encoder(config: Encoder) -> ImageEncoder:
    """The encoder of a configuration, its weights loaded and its lower blocks frozen.

    Raises:
        UsageError: an unknown name or an impossible option.
        ModelError: weights that are missing or do not fit.
    """
    if config.name not in ENCODERS:
        raise UsageError(f"unknown encoder {config.name!r}: expected one of {', '.join(ENCODERS)}")
    if config.last_stride not in (1, 2):
        raise UsageError(f"last_stride is {config.last_stride}, expected 1 or 2")
    encoder = ENCODERS[config.name](config)
    encoder.freeze(config.frozen_blocks)
    return encoder
