"""Random changes of training pictures: geometry, light, blur, erasing."""

import math

import kornia.augmentation as kornia
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from fervor.config import Augment


class Augmentation:
    """Random changes of a batch: uint8 [b k h w] -> float [b k size size] in 0..1.

    Geometry (flip, rotation, scale, shift) and the resize are one interpolation; the rest is
    kornia's. It draws from torch's global generator.
    """

    def __init__(self, config: Augment, size: int) -> None:
        self.config = config
        self.size = size
        changes: list[torch.nn.Module] = []
        if config.crop_padding:
            changes.append(kornia.RandomCrop((size, size), padding=config.crop_padding, p=0.5))
        if config.crop_area:
            kept = (1 - config.crop_area, 1.0)
            changes.append(kornia.RandomResizedCrop((size, size), kept, (3 / 4, 4 / 3), p=1.0))
        if config.brightness:
            low, high = 1 - config.brightness, 1 + config.brightness
            changes.append(kornia.RandomBrightness((low, high), p=1.0))
        if config.contrast:
            low, high = 1 - config.contrast, 1 + config.contrast
            changes.append(kornia.RandomContrast((low, high), p=1.0))
        if config.gamma:
            changes.append(kornia.RandomGamma((1 / (1 + config.gamma), 1 + config.gamma), p=1.0))
        if config.blur:
            changes.append(kornia.RandomGaussianBlur((7, 7), (0.3, 2.5), p=config.blur))
        if config.erase:
            changes.append(kornia.RandomErasing((0.02, config.erase_area), p=config.erase))
        self.changes = changes

    def __call__(self, images: UInt8[Tensor, "b k h w"]) -> Float[Tensor, "b k i j"]:
        return self.changed(warped(images.float() / 255, self.placements(len(images)), self.size))

    def changed(self, image: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        """All but the geometry."""
        for change in self.changes:
            image = change(image)
        return image.clamp(0, 1)

    def placements(self, batch: int) -> Float[Tensor, "b 2 3"]:
        """Flips, rotations, scales and shifts about the centre, for `warped`."""
        config = self.config
        angle = _uniform(batch, config.rotation) * math.pi / 180
        zoom = torch.exp(_uniform(batch, math.log1p(config.scale)))
        mirror = 1 - 2 * (torch.rand(batch) < config.flip).float()
        shift = 2 * _uniform(batch, config.shift), 2 * _uniform(batch, config.shift)
        cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        rows = (
            torch.stack([cosine * mirror, -sine, shift[0]], 1),
            torch.stack([sine * mirror, cosine, shift[1]], 1),
        )
        return torch.stack(rows, 1)


def warped(
    image: Float[Tensor, "b k h w"], placements: Float[Tensor, "b 2 3"], size: int
) -> Float[Tensor, "b k i j"]:
    """Square pictures: each place takes what its placement points at; the border is replicated.

    Places are pairs (x, y) in -1..1 from edge to edge.
    """
    shape = [*image.shape[:2], size, size]
    grid = F.affine_grid(placements, shape, align_corners=False)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _uniform(count: int, bound: float) -> Tensor:
    return (2 * torch.rand(count) - 1) * bound
