"""Changes that photographs bring: fewer pixels, JPEG, sharpening, contrast, colour casts.

Pure functions on batches of images in 0..1, whose strengths are given image by image. The
first three run on images as they are stored (48 px of FERPlus), where they cost a tenth of what
they would at the network's size.
"""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


BLOCK = 8
"""Side of JPEG's blocks in pixels."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Parts of red, green and blue in the grey picture (ITU-R BT.601)."""

LUMINANCE_STEPS = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of the coefficients at quality 50, row by row (ITU-T T.81, table K.1)."""


def fewer_pixels(
    image: Float[Tensor, "b _ h w"], side: Int[Tensor, " b"]
) -> Float[Tensor, "b _ h w"]:
    """Each image shrunk to `side` rows and enlarged again; columns in proportion.

    Shrinking averages over all pixels that fall into one, enlarging is bilinear, as in
    `preprocess.to_input`. A side of the image's own or more changes nothing.
    """
    height, width = image.shape[2:]
    rows = torch.stack([_there_and_back(height, int(small)) for small in side])
    columns = torch.stack(
        [_there_and_back(width, max(1, round(int(small) * width / height))) for small in side]
    )
    return rows[:, None] @ image @ columns[:, None].mT


@cache
def _there_and_back(length: int, small: int) -> Float[Tensor, "n n"]:
    """What shrinking a line of pixels to `small` and enlarging it again makes of each of them."""
    if small >= length:
        return torch.eye(length)
    lines = torch.eye(length)[None, None]  # a column for each pixel
    shrunk = F.interpolate(lines, (small, length), mode="bilinear", antialias=True)
    return F.interpolate(shrunk, (length, length), mode="bilinear")[0, 0]


def jpeg(image: Float[Tensor, "b _ h w"], quality: Float[Tensor, " b"]) -> Float[Tensor, "b k h w"]:
    """Each image after JPEG's loss at a quality of 1 to 100, every channel as luminance is coded.

    Blocks start at the top left corner; the right and lower edges are repeated to fill the last.
    Channels are not changed to luminance and chroma, so that a grey image stays grey.
    """
    height, width = image.shape[2:]
    padding = (0, -width % BLOCK, 0, -height % BLOCK)
    padded = F.pad(image, padding, mode="replicate") * 255 - 128
    transform = _cosines()
    blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # b k i j 8 8
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    steps = torch.tensor(LUMINANCE_STEPS, dtype=image.dtype).view(BLOCK, BLOCK)
    steps = (steps * scale[:, None, None]).round().clamp(1, 255)[:, None, None, None]
    coded = (transform @ blocks @ transform.T / steps).round() * steps
    decoded = transform.T @ coded @ transform
    whole = decoded.transpose(3, 4).reshape(padded.shape)
    return ((whole + 128) / 255)[:, :, :height, :width].clamp(0, 1)


@cache
def _cosines() -> Float[Tensor, "8 8"]:
    """The discrete cosine transform (type II, orthonormal) of eight values, as a matrix."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    waves = torch.cos(torch.pi * (2 * place[None] + 1) * place[:, None] / (2 * BLOCK))
    waves[0] /= 2**0.5
    matrix: Tensor = (waves * (2 / BLOCK) ** 0.5).float()
    return matrix


def sharpened(
    image: Float[Tensor, "b _ h w"], strength: Float[Tensor, " b"]
) -> Float[Tensor, "b _ h w"]:
    """Unsharp masking: each image plus `strength` times what a mean over 3 x 3 pixels removes."""
    mean = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return (image + strength[:, None, None, None] * (image - mean)).clamp(0, 1)


def contrasted(
    image: Float[Tensor, "b k h w"], factor: Float[Tensor, " b"]
) -> Float[Tensor, "b k h w"]:
    """Each image, grey or RGB, times its factor about the mean of its grey picture.

    It is what torchvision and Pillow call contrast; the result is clipped to 0..1.
    """
    grey = image
    if image.shape[1] == len(LUMINANCE):
        grey = (image * image.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    mean = grey.mean((1, 2, 3), keepdim=True)
    return (mean + factor[:, None, None, None] * (image - mean)).clamp(0, 1)


def colour_cast(
    image: Float[Tensor, "b _ h w"], gains: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 3 h w"]:
    """Each channel times its gain, in RGB; a grey image becomes one that is tinted."""
    return (image * gains[:, :, None, None]).clamp(0, 1)
