"""The landmark-guided adaptive encoder (LGAE) of LaCoVL-FER: maps of two networks -> tokens.

The front is that of POSTER++ (arXiv 2301.12149) and QCS (arXiv 2411.01988): three scales, landmark
maps beside image maps, 49 tokens of each scale, a vision transformer.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor.methods.lacovl.gated_attention import AttentionOptions, GatedCrossAttention, Mixture
from fervor.models.layers import Summary, TokenTransformer


Merge = Literal["concat", "sum"]

CHANNELS = (64, 128, 256)
"""Of the maps that meet, from fine to coarse."""

STRIDES = (4, 8, 16)
"""Their places are that many pixels apart."""

HEAD_WIDTH = 32
"""2, 4 and 8 heads."""


class LandmarkGuidedEncoder(nn.Module):
    """Image maps and landmark maps of an image -> class token and patch tokens."""

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        *,
        landmark_width: int | None,
        resolution: int,
        width: int,
        depth: int,
        heads: int,
        merge: Merge,
        drop_path: float,
        attention: AttentionOptions,
        gated: bool,
        normalise: bool = False,
    ) -> None:
        """Layers for image maps of such channels and strides.

        Args:
            widths: channels of the image's maps, from fine to coarse.
            strides: pixels between their places.
            landmark_width: channels of the coarsest landmark map; None without landmarks.
            resolution: width and height of the images that the maps are of.
            width: of a token.
            depth: layers of the transformer.
            heads: of each layer.
            merge: the tokens of the three scales one after the other, or added up.
            drop_path: of the coarsest scale; the finest has none and the middle one half of it.
            attention: how landmarks guide.
            gated: whether the class token, which then is asked for, has its gate.
            normalise: BatchNorm behind the first convolution of each of the image's maps (ours).
        """
        super().__init__()
        self.merge: Merge = merge
        self.groups = len(CHANNELS) if merge == "concat" else 1
        side = resolution // STRIDES[-1]
        self.grid = (side, side)
        self.reduce = nn.ModuleList(
            _reduction(inputs, outputs, own // stride, normalise=normalise)
            for inputs, outputs, stride, own in zip(widths, CHANNELS, strides, STRIDES, strict=True)
        )
        self.narrow: nn.Conv2d | None = None
        if landmark_width is not None:
            self.narrow = nn.Conv2d(landmark_width, CHANNELS[-1], 3, padding=1)
        self.fuse = nn.ModuleList(
            GatedCrossAttention(
                channels,
                heads=channels // HEAD_WIDTH,
                side=resolution // stride,
                drop_path=drop_path * place / 2,
                options=attention,
            )
            for place, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True))
        )
        fine, middle, coarse = CHANNELS
        self.embed = nn.ModuleList(
            (
                nn.Sequential(_halving(fine, width), _halving(width, width)),
                _halving(middle, width),
                nn.Conv2d(coarse, width, 1),
            )
        )
        self.transformer = TokenTransformer(
            width, tokens=self.groups * side**2, depth=depth, heads=heads, gated=gated
        )

    def forward(
        self,
        image: Sequence[Float[Tensor, "b _ _ _"]],
        landmarks: Sequence[Float[Tensor, "b _ _ _"]] = (),
    ) -> Summary:
        """The class token, and the tokens: of one scale after the other, each row by row."""
        tokens = []
        for maps, guide, fuse, embed in zip(
            *self.meeting(image, landmarks), self.fuse, self.embed, strict=True
        ):
            tokens.append(embed(fuse(maps, guide)).flatten(2).transpose(1, 2))
        joined = torch.cat(tokens, dim=1) if self.merge == "concat" else sum(tokens[1:], tokens[0])
        summary: Summary = self.transformer(joined)
        return summary

    def meeting(
        self, image: Sequence[Tensor], landmarks: Sequence[Tensor] = ()
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The maps that meet at each scale, of one shape; without landmarks the image's twice."""
        own = [reduce(maps) for reduce, maps in zip(self.reduce, image, strict=True)]
        if self.narrow is None:
            return own, own
        fine, middle, coarse = landmarks
        return own, [fine, middle, self.narrow(coarse)]

    def mixtures(self, image: Sequence[Tensor], landmarks: Sequence[Tensor] = ()) -> list[Mixture]:
        """Attention and gate at each scale, from fine to coarse, to be looked at and measured."""
        mixtures: list[Mixture] = []
        for maps, guide, fuse in zip(*self.meeting(image, landmarks), self.fuse, strict=True):
            assert isinstance(fuse, GatedCrossAttention)
            mixtures.append(fuse.mixture(maps, guide))
        return mixtures

    def places(self, tokens: Float[Tensor, "b n w"]) -> Float[Tensor, "b p w"]:
        """The mean over the scales at each place of the grid."""
        scales: Tensor = tokens.unflatten(1, (self.groups, -1))
        return scales.mean(1)


def _reduction(inputs: int, outputs: int, stride: int, *, normalise: bool) -> nn.Module:
    """3x3 with stride 2 where places are too dense (parents' code); 1x1 where they fit (ours)."""
    layer = _halving(inputs, outputs) if stride == 2 else nn.Conv2d(inputs, outputs, 1)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs)) if normalise else layer


def _halving(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, 2, padding=1)
