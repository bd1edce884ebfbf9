"""What every image encoder takes and gives: images in 0..1 -> Features."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.errors import UsageError
from fervor.models.state_dict import LoadReport


LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as PIL's mode L; FER2013's images are grey."""


class Features(NamedTuple):
    """What an encoder sees in a batch: one vector per image, and one per place of its grid.

    Tokens are in the space of `pooled`, row by row from the top left; grid = (rows, columns).
    `scores` are a method's logits where `pooled` alone does not give them.
    """

    pooled: Float[Tensor, "b d"]
    tokens: Float[Tensor, "b n d"]
    grid: tuple[int, int]
    scores: Float[Tensor, "b c"] | None = None


@dataclass(frozen=True)
class Pixels:
    """The images that an encoder expects.

    Attributes:
        size: width and height it is made for.
        grey: turn images to luminance first.
        mean: per channel, of images in 0..1; subtracted.
        deviation: per channel; divides.
    """

    size: int
    grey: bool
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


class ImageEncoder(nn.Module):
    """Base of all image encoders; each normalises its images itself.

    Attributes:
        width: d of the features.
        size: width and height of the images it is made for.
        report: what loading its weights did; None where any of them are random.
        architecture: settings of transformers that rebuild it; None for this package's own nets.
        scale_widths: channels of its maps at three scales, from fine to coarse; empty without any.
        scale_strides: pixels between the places of these maps.
    """

    scale_widths: tuple[int, ...] = ()
    scale_strides: tuple[int, ...] = ()
    has_frozen_stage: ClassVar[bool] = False
    """Whether forward is `trainable_stage` after `frozen_stage`, whose maps can be cached."""
    has_folded_batchnorm: ClassVar[bool] = False
    """Whether `restore_batchnorm` prepares it for training."""
    fewest_images = 1
    """What it needs at once to train: 2 where BatchNorm sees one vector for each image."""
    mirror = False
    """Whether it also looks at the mirror image."""
    terms: ClassVar[str] = ""
    """Licence and data terms of the weights that it brings, for the card of a model."""
    mean: Tensor
    deviation: Tensor
    luminance: Tensor

    def __init__(self, width: int, pixels: Pixels, *, keep_statistics: bool = True) -> None:
        super().__init__()
        self.width = width
        self.size = pixels.size
        self.grey = pixels.grey
        self.report: LoadReport | None = None
        self.architecture: Mapping[str, Any] | None = None
        self._frozen = 0
        statistics = {"mean": pixels.mean, "deviation": pixels.deviation}
        for name, values in statistics.items():
            tensor = torch.tensor(values).view(3, 1, 1)
            self.register_buffer(name, tensor, persistent=keep_statistics)
        luminance = torch.tensor(LUMINANCE).view(3, 1, 1)
        self.register_buffer("luminance", luminance, persistent=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB images in 0..1."""
        raise NotImplementedError

    def frozen_stage(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d i j"]:
        """What the frozen blocks make of images, for encoders with `has_frozen_stage`."""
        raise NotImplementedError

    def trainable_stage(self, maps: Float[Tensor, "b d i j"]) -> Features:
        """Features of the maps of the frozen stage, for encoders with `has_frozen_stage`."""
        raise NotImplementedError

    def restore_batchnorm(self, images: Float[Tensor, "b 3 h w"]) -> None:
        """Prepare folded weights for training, for encoders with `has_folded_batchnorm`."""
        raise NotImplementedError

    def scales(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps of RGB images in 0..1 at three scales, for encoders with `scale_widths`."""
        raise NotImplementedError

    def parts(self) -> list[nn.Module]:
        """The stem and then the blocks, in the order in which they run and are frozen."""
        raise NotImplementedError

    def normalised(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The image as the pretrained net expects it."""
        if self.grey:
            # Not expanded: OpenVINO then takes the one channel for what the kernels see.
            image = torch.cat([(image * self.luminance).sum(1, keepdim=True)] * 3, dim=1)
        return (image - self.mean) / self.deviation

    def freeze(self, blocks: int) -> None:
        """Stop training the stem and the first blocks, their BatchNorm statistics included.

        0 freezes nothing.

        Raises:
            UsageError: the encoder has fewer blocks.
        """
        parts = self.parts()
        if not 0 <= blocks < len(parts):
            raise UsageError(
                f"frozen_blocks is {blocks}, expected 0 to {len(parts) - 1} for this encoder"
            )
        self._frozen = blocks + 1 if blocks else 0
        for part in parts[: self._frozen]:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As for every module, but what is frozen stays in eval mode."""
        super().train(mode)
        if self._frozen:
            for part in self.parts()[: self._frozen]:
                part.eval()
        return self


class TransformerEncoder(ImageEncoder):
    """An encoder in three pieces: images -> states -> layers -> features.

    A state per token, the class token's first. Prompts may join the states of any layer.

    Attributes:
        token_width: width of a state.
        layer_arguments: what its layers are called with beside the states.
    """

    token_width: int
    layer_arguments: Mapping[str, Any] = MappingProxyType({})

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer's layers, in the order in which they are applied."""
        raise NotImplementedError

    def embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n k"]:
        """What the first layer gets: class token and patches with their positions."""
        raise NotImplementedError

    def embed_maps(self, maps: Float[Tensor, "b d i j"]) -> Float[Tensor, "b n k"]:
        """The same of the maps of the frozen stage, for encoders with `has_frozen_stage`."""
        raise NotImplementedError

    def finish(self, states: Float[Tensor, "b n k"]) -> Features:
        """The last normalisation and the projection; the class token becomes `pooled`."""
        raise NotImplementedError

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB images in 0..1."""
        return self.prompted(self.embed(image), ())

    def trainable_stage(self, maps: Float[Tensor, "b d i j"]) -> Features:
        """Features of the maps of the frozen stage."""
        return self.prompted(self.embed_maps(maps), ())

    def prompted(
        self,
        states: Float[Tensor, "b n k"],
        prompts: Float[Tensor, "l p k"] | Sequence[Float[Tensor, "p k"]],
    ) -> Features:
        """Features of embedded images with prompts [p k] among the states of the first layers.

        One set of prompts for each layer. They stand behind the patches; what a layer makes of them
        is dropped (MPA-FER, eq. 5).
        """
        length = states.shape[1]
        for place, layer in enumerate(self.layers):
            if place < len(prompts):
                own = prompts[place].expand(states.shape[0], -1, -1)
                states = torch.cat([states, own], dim=1)
            states = layer(states, **self.layer_arguments)[:, :length]
        return self.finish(states)


def square(tokens: int) -> tuple[int, int]:
    """The grid of a square image's patches."""
    side = math.isqrt(tokens)
    assert side * side == tokens, f"{tokens} patches are no square"
    return side, side


def from_map(maps: Float[Tensor, "b d i j"]) -> Features:
    """Features of a convolutional net: the mean over the last map, and its places as tokens."""
    rows, columns = maps.shape[-2:]
    return Features(maps.mean(dim=(2, 3)), maps.flatten(2).transpose(1, 2), (rows, columns))


def mean_with_mirror(features: Features, mirrored: Features) -> Features:
    """The mean of an image's features and its mirror image's, each place with its counterpart."""
    rows, columns = features.grid
    tokens = mirrored.tokens.unflatten(1, (rows, columns)).flip(2).flatten(1, 2)
    pooled = (features.pooled + mirrored.pooled) / 2
    return Features(pooled, (features.tokens + tokens) / 2, features.grid)


def resized(
    image: Float[Tensor, "b c h w"], size: int, *, mode: str = "nearest"
) -> Float[Tensor, "b c s s"]:
    """The image in another size; nearest pixels are what the parents' code takes."""
    if image.shape[2:] == (size, size):
        return image
    if mode == "nearest":  # by whole numbers: a scale in floating point rounds differently in ONNX
        rows, columns = (torch.arange(size) * side // size for side in image.shape[2:])
        return image[:, :, rows][:, :, :, columns]
    return F.interpolate(image, size, mode=mode)
