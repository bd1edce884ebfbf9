"""Image encoders by name, with their weights."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor import plugins
from fervor.config import Encoder
from fervor.errors import UsageError
from fervor.models.image.base import Features, ImageEncoder, Pixels, from_map, mean_with_mirror
from fervor.models.image.face_nets import FaceMobileNet, FaceResNet, load_folded, restore_batchnorm
from fervor.models.image.huggingface import IMAGENET
from fervor.models.image.ir50 import IR50, LEFT_OVER, from_published
from fervor.models.state_dict import LoadReport, load_state, read_state


__all__ = [
    "FaceEncoder",
    "Features",
    "ImageEncoder",
    "build_image_encoder",
    "check_encoder",
]

PACKAGED = ("face-mobilenet", "face-resnet", "vlm")
"""Encoders whose weights come with the package; a run of another one names them."""


class FaceEncoder(ImageEncoder):
    """A face-pretrained trunk; features are the places of its last map and their mean."""

    has_frozen_stage = has_folded_batchnorm = True

    def __init__(
        self, trunk: FaceMobileNet | FaceResNet, *, size: int, grey: bool, mirror: bool = False
    ) -> None:
        std = 1 / trunk.scale
        pixels = Pixels(size, grey, trunk.mean, (std, std, std))
        super().__init__(trunk.width, pixels, keep_statistics=False)
        self.trunk = trunk
        self.mirror = mirror
        if isinstance(trunk, FaceMobileNet) and trunk.last_stride == 1:
            self.scale_widths, self.scale_strides = (128, 256, 1024), (4, 8, 16)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB images in 0..1."""
        features = self.trainable_stage(self.frozen_stage(image))
        if self.training or not self.mirror:
            return features
        mirrored = self.trainable_stage(self.frozen_stage(image.flip(3)))
        return mean_with_mirror(features, mirrored)

    def frozen_stage(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d i j"]:
        """What the frozen parts make of images; the normalised images where none is frozen."""
        maps = self.normalised(image)
        for part in self.parts()[: self._frozen]:
            maps = part(maps)
        return maps

    def trainable_stage(self, maps: Float[Tensor, "b d i j"]) -> Features:
        """Features of the maps of the frozen stage, without those of the mirror image."""
        for part in self.parts()[self._frozen :]:
            maps = part(maps)
        return from_map(maps)

    def scales(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The last maps at 1/4, 1/8 and 1/16 of the image, where the last stride is 1."""
        maps, by_size = self.normalised(image), {}
        for part in self.parts():
            maps = part(maps)
            by_size[maps.shape[2]] = maps
        return list(by_size.values())[1:]

    def parts(self) -> list[nn.Module]:
        """The stem and then the blocks."""
        return [self.trunk.stem, *self.trunk.blocks]

    @torch.no_grad()
    def restore_batchnorm(self, images: Float[Tensor, "b 3 h w"]) -> None:
        """Prepare folded weights for training with a few hundred training faces in 0..1.

        The eval-mode function stays the same; see `facenets.restore_batchnorm`.
        """
        restore_batchnorm(self.trunk, self.normalised(images))


class IR50Encoder(ImageEncoder):
    """IR-50 up to its third stage; features are the places of the last map and their mean."""

    scale_widths = (64, 128, 256)
    scale_strides = (2, 4, 8)

    def __init__(self, trunk: IR50, *, size: int, grey: bool) -> None:
        super().__init__(trunk.widths[-1], Pixels(size, grey, *IMAGENET))
        self.trunk = trunk

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB images in 0..1."""
        return from_map(self.scales(image)[-1])

    def scales(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The map after each stage: 1/2, 1/4 and 1/8 of the image."""
        maps: list[Tensor] = self.trunk(self.normalised(image))
        return maps

    def parts(self) -> list[nn.Module]:
        """The stem and then the stages."""
        return [self.trunk.input_layer, *self.trunk.stages]


def build_ir50(config: Encoder, *, architecture: Mapping[str, Any] | None = None) -> IR50Encoder:
    """IR-50, random or from a file that names its stages together or apart."""
    if config.size < IR50.least:
        raise UsageError(f"size is {config.size}, ir50 expects at least {IR50.least}")
    encoder = IR50Encoder(IR50(), size=config.size, grey=config.grey)
    if config.weights in ("", "random"):
        return encoder
    state = from_published(read_state(Path(config.weights)))
    encoder.report = load_state(encoder, state, source=config.weights, ignored=LEFT_OVER)
    return encoder


def build_face_encoder(
    config: Encoder, *, architecture: Mapping[str, Any] | None = None
) -> FaceEncoder:
    """A face-pretrained trunk, packaged, random or from a file."""
    trunk: FaceMobileNet | FaceResNet
    if config.name == "face-mobilenet":
        trunk, packaged = FaceMobileNet(last_stride=config.last_stride), "face_mobilenet"
    else:  # its last block halves the size: without it the last map is finer
        trunk, packaged = FaceResNet(last_block=config.last_stride == 2), "dlib_resnet"
    if config.size < trunk.least:
        raise UsageError(f"size is {config.size}, {config.name} expects at least {trunk.least}")
    encoder = FaceEncoder(trunk, size=config.size, grey=config.grey, mirror=config.mirror)
    if config.weights == "random":
        return encoder
    path = Path(str(files("fervor") / "weights" / f"{packaged}.safetensors"))
    path = Path(config.weights) if config.weights else path
    state = read_state(path)
    if any(key.endswith(".scale") for key in state):
        loaded, left_over = load_folded(trunk, state)
        encoder.report = LoadReport(str(path), loaded, left_over=left_over)
        encoder.report.log()
    else:
        encoder.report = load_state(encoder, state, source=str(path))
    return encoder


def check_encoder(config: Encoder) -> None:
    """Refuse a name that nobody knows, and random weights where nobody asked for them.

    Raises:
        UsageError: no such encoder; or it has no weights in the package, and none are named.
    """
    plugins.reference("image_encoders", config.name)
    if config.name in plugins.IMAGE_ENCODERS and config.name not in PACKAGED and not config.weights:
        raise UsageError(
            f"encoder {config.name} has no weights of its own: name a file or folder with "
            "--encoder.weights, or start from nothing with --encoder.weights random"
        )


def build_image_encoder(
    config: Encoder, *, architecture: Mapping[str, Any] | None = None
) -> ImageEncoder:
    """The encoder of a configuration, its weights loaded and its lower blocks frozen.

    `architecture` is another such encoder's attribute: it rebuilds, with random weights, a model of
    transformers whose folder is not at hand.

    Raises:
        UsageError: an unknown name or an impossible option.
        ModelError: weights that are missing or do not fit.
    """
    builder = plugins.load("image_encoders", config.name)
    if config.last_stride not in (1, 2):
        raise UsageError(f"last_stride is {config.last_stride}, expected 1 or 2")
    encoder: ImageEncoder = (
        builder(config) if architecture is None else builder(config, architecture=architecture)
    )
    if not isinstance(encoder, ImageEncoder):
        raise UsageError(f"encoder {config.name} is no fervor.models.image.ImageEncoder")
    encoder.freeze(config.frozen_blocks)
    return encoder
