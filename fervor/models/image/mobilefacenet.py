"""MobileFaceNet of face recognition as an image encoder; its weights are a user's file.

Chen et al., 2018 (https://arxiv.org/abs/1804.07573). The trunk is that of
`fervor.models.mobilefacenet`; names of tensors are those of public re-implementations.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fervor.config import Encoder
from fervor.errors import UsageError
from fervor.models.image.base import Features, ImageEncoder, Pixels, from_map
from fervor.models.mobilefacenet import MobileFaceNet
from fervor.models.state_dict import load_state, read_state


HALF = (0.5, 0.5, 0.5)
"""Mean and deviation that face recognition's code gives its images, where a file says nothing."""

LEFT_OVER = r"^(trunk\.)?(output_layer|conv_6_dw|linear|bn)\."
"""What published files hold behind the trunk: the identity's embedding."""

LEAST = 16
"""Smallest image in pixels."""


class MobileFaceNetEncoder(ImageEncoder):
    """MobileFaceNet up to its last map; features are the places of that map and their mean."""

    scale_widths = (64, 128, 512)
    scale_strides = (4, 8, 16)

    def __init__(self, *, size: int, grey: bool) -> None:
        super().__init__(self.scale_widths[-1], Pixels(size, grey, HALF, HALF))
        self.trunk = MobileFaceNet()
        del self.trunk.output_layer

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB images in 0..1."""
        return from_map(self.scales(image)[-1])

    def scales(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps at 1/4, 1/8 and 1/16 of the image."""
        return list(self.trunk(self.normalised(image)))

    def parts(self) -> list[nn.Module]:
        """The first convolution and then the blocks."""
        return list(self.trunk.children())


def build_mobilefacenet(
    config: Encoder, *, architecture: Mapping[str, Any] | None = None
) -> MobileFaceNetEncoder:
    """MobileFaceNet, random or from a file of face recognition.

    Raises:
        UsageError: a size below 16.
        ModelError: weights that are missing or do not fit.
    """
    if config.size < LEAST:
        raise UsageError(f"size is {config.size}, mobilefacenet expects at least {LEAST}")
    encoder = MobileFaceNetEncoder(size=config.size, grey=config.grey)
    if config.weights in ("", "random"):
        return encoder
    state = read_state(Path(config.weights))
    encoder.report = load_state(encoder, state, source=config.weights, ignored=LEFT_OVER)
    return encoder
