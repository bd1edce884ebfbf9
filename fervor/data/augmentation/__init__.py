"""Random changes of training images: quality, geometry, covers, light, blur, erasing, casts."""

import math

import kornia.augmentation as kornia
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from fervor.config import LEAST_ERASED, Augment
from fervor.data.augmentation.degradations import (
    colour_cast,
    contrasted,
    fewer_pixels,
    jpeg,
    sharpened,
)
from fervor.data.augmentation.occlusion import covered, drawn_covers
from fervor.faces.alignment import TEMPLATE


class Augmentation:
    """Random changes of a batch: uint8 [b k h w] -> float [b k size size] in 0..1.

    First the stored image loses quality, then geometry (flip, rotation, scale, shift, a
    detector's errors) and the resize are one interpolation; crops, brightness, gamma, blur and
    erasing are kornia's; a colour cast, which makes k 3, comes last. It draws from torch's global
    generator, and draws nothing for a change whose strength is 0.
    """

    def __init__(self, config: Augment, size: int) -> None:
        self.config = config
        self.size = size
        changes: list[torch.nn.Module] = []
        if config.crop_padding:
            changes.append(_HalfCropped(size, config.crop_padding))
        if config.crop_area:
            area = (1 - config.crop_area, 1.0)
            changes.append(kornia.RandomResizedCrop((size, size), area, (3 / 4, 4 / 3), p=1.0))
        if config.brightness:
            low, high = 1 - config.brightness, 1 + config.brightness
            changes.append(kornia.RandomBrightness((low, high), p=1.0))
        if config.contrast:
            changes.append(_OtherContrast(config.contrast))
        if config.gamma:
            changes.append(kornia.RandomGamma((1 / (1 + config.gamma), 1 + config.gamma), p=1.0))
        if config.blur:
            changes.append(kornia.RandomGaussianBlur((7, 7), (0.3, 2.5), p=config.blur))
        if config.erase and config.erase_area:
            area = (LEAST_ERASED, config.erase_area)
            changes.append(kornia.RandomErasing(area, p=config.erase))
        self.changes = changes

    def __call__(
        self, images: UInt8[Tensor, "b _ h w"], boxes: Float[Tensor, "b p 4"] | None = None
    ) -> Float[Tensor, "b k i j"]:
        """The batch changed; `boxes` say where the faces' parts lie, for `occlude`."""
        image = self.degraded(images.float() / 255)
        grid = self.grid(image)
        placed = sampled(image, grid)
        if self.config.occlude:
            assert boxes is not None, "whoever covers parts of faces says where they are"
            placed = covered(placed, grid, *drawn_covers(boxes, self.config.occlude))
        placed = self.changed(placed)
        if not self.config.colour:
            return placed
        return colour_cast(placed, 1 + _uniform((len(placed), 3), self.config.colour))

    def degraded(self, image: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b k h w"]:
        """The stored images with fewer details."""
        config, (batch, _, height, _) = self.config, image.shape
        if config.low_resolution:
            least = min(config.low_resolution_side, height)
            side = least * (height / least) ** torch.rand(batch)  # even in its logarithm
            mask = torch.rand(batch) < config.low_resolution
            image = fewer_pixels(image, torch.where(mask, side.round().long(), height))
        if config.sharpen:
            strength = 2 * torch.rand(batch) * (torch.rand(batch) < config.sharpen)
            image = sharpened(image, strength)
        if config.jpeg:
            quality = torch.randint(20, 91, (batch,)).float()
            mask = torch.rand(batch) < config.jpeg
            image = torch.where(mask[:, None, None, None], jpeg(image, quality), image)
        return image

    def changed(self, image: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        """Light, blur and erasing."""
        for change in self.changes:
            image = change(image)
        return image.clamp(0, 1)

    def grid(self, image: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b i j 2"]:
        """Where each pixel of the result comes from, x and y in -1..1 from edge to edge."""
        batch = len(image)
        grid = grid_of(self.placements(batch), self.size)
        if not self.config.partial:
            return grid
        fraction = self.config.partial_area * torch.rand(batch)
        fraction = fraction * (torch.rand(batch) < self.config.partial)
        side = torch.randint(4, (batch,))
        bound = torch.ones(batch, 4)  # left, top, right, bottom, as distances from the centre
        bound[torch.arange(batch), side] -= 2 * fraction
        bound = bound[:, None, None]
        return torch.maximum(torch.minimum(grid, bound[..., 2:]), -bound[..., :2])

    def placements(self, batch: int) -> Float[Tensor, "b 2 3"]:
        """Flips, rotations, scales and shifts about the centre, for `warped`."""
        config = self.config
        angle = _uniform((batch,), config.rotation) * math.pi / 180
        zoom = torch.exp(_uniform((batch,), math.log1p(config.scale)))
        mirror = 1 - 2 * (torch.rand(batch) < config.flip).float()
        shift = 2 * _uniform((batch,), config.shift), 2 * _uniform((batch,), config.shift)
        cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        rows = (
            torch.stack([cosine * mirror, -sine, shift[0]], 1),
            torch.stack([sine * mirror, cosine, shift[1]], 1),
        )
        placements = torch.stack(rows, 1)
        return placements if not config.jitter else laid_anew(placements, config.jitter)


class _HalfCropped(torch.nn.Module):
    """A crop of padded images for about half of a batch, at a place of its own for each.

    kornia's own probability is that of all images of a batch together.
    """

    def __init__(self, size: int, padding: int) -> None:
        super().__init__()
        self.crop = kornia.RandomCrop((size, size), padding=padding, p=1.0)

    def forward(self, image: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        cropped: Tensor = self.crop(image)
        mask = torch.rand(len(image)) < 0.5
        return torch.where(mask[:, None, None, None], cropped, image)


class _OtherContrast(torch.nn.Module):
    """Contrast times a factor for each image, up to `strength` from 1.

    kornia's RandomContrast multiplies about black, which is a change of brightness.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, image: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        return contrasted(image, 1 + _uniform((len(image),), self.strength))


def laid_anew(placements: Float[Tensor, "b 2 3"], std: float) -> Float[Tensor, "b 2 3"]:
    """Placements after a crop whose five points were found with errors.

    The crop is the best similarity (least squares) from `faces.TEMPLATE` to the points with normal
    errors of that standard deviation, a share of the width.
    """
    points = torch.from_numpy(2 * TEMPLATE - 1)
    errors = 2 * std * torch.randn(len(placements), *points.shape)
    middle = points.mean(0)
    centred = torch.view_as_complex((points - middle).contiguous())
    moved = torch.view_as_complex(errors)
    factor = 1 + (centred.conj() * moved).sum(1) / centred.abs().square().sum()
    turn = torch.stack(
        [torch.stack([factor.real, -factor.imag], 1), torch.stack([factor.imag, factor.real], 1)], 1
    )
    shift = middle + errors.mean(1) - turn @ middle
    moved_placements = turn @ placements
    moved_placements[:, :, 2] += shift
    return moved_placements


def grid_of(placements: Float[Tensor, "b 2 3"], size: int) -> Float[Tensor, "b i j 2"]:
    """What each pixel's placement points at, x and y in -1..1 from edge to edge.

    What `torch.nn.functional.affine_grid` gives, up to rounding, in a quarter of its time.
    """
    steps = torch.arange(size, device=placements.device, dtype=placements.dtype)
    steps = (2 * steps + 1) / size - 1
    along, down = (placements[:, None, :, axis] * steps[:, None] for axis in (0, 1))
    return along[:, None] + (down + placements[:, None, :, 2])[:, :, None]


def sampled(
    image: Float[Tensor, "b _ h w"], grid: Float[Tensor, "b i j 2"]
) -> Float[Tensor, "b k i j"]:
    """The image at the grid's places, bilinear; the border is replicated."""
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def warped(
    image: Float[Tensor, "b _ h w"], placements: Float[Tensor, "b 2 3"], size: int
) -> Float[Tensor, "b k i j"]:
    """Square images: each place takes what its placement points at."""
    return sampled(image, grid_of(placements, size))


def _uniform(shape: tuple[int, ...], bound: float) -> Tensor:
    return (2 * torch.rand(shape) - 1) * bound
