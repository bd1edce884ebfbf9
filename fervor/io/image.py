"""Any image -> RGB -> what a network takes in. The only evaluation-time resize of the project."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.errors import InputError


WHITE = (255, 255, 255, 255)
SIXTEEN_BIT = 257
"""65535 / 255: one step of 8 bits in steps of 16."""
STRIPE = 1_000_000
"""Pixels that are laid on white together."""
NO_PIXEL = "a picture of shape {}: expected at least one pixel"

Decoded = Image.Image | NDArray[np.uint8]
"""An RGB image: PIL's, or uint8 [h w 3]."""


def shape_of(image: Decoded) -> tuple[int, int]:
    """Height and width in pixels."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape[0], image.shape[1]


def to_rgb(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB, uint8 in 0..255, [h w 3]: of a PIL image of any mode, or of an array.

    Arrays are RGB [h w 3], RGBA [h w 4] or grey [h w] or [h w 1]; OpenCV's are BGR, to be turned
    before: `image[:, :, ::-1]`.

    What is transparent shows white; 16 bits become 8 by scale; float images are read as 0..1
    where nothing exceeds 1, as 0..255 otherwise.

    Raises:
        InputError: the array is no uint8 image, or the image has no pixels.
    """
    if isinstance(image, Image.Image):
        return np.array(rgb_image(image))
    pixels = _from_array(image)
    if pixels.size == 0:
        raise InputError(NO_PIXEL.format(pixels.shape))
    return pixels


def rgb_image(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as RGB, in the way of `to_rgb`: itself where it is RGB already.

    Raises:
        InputError: it has no pixels.
    """
    if 0 in image.size:
        raise InputError(NO_PIXEL.format((image.height, image.width, 3)))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    elif image.mode == "La":  # PIL turns premultiplied grey into LA only
        image = image.convert("LA")
    elif image.mode == "LAB":
        image = _from_lab(image)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_input(image: Image.Image | NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """The whole image as a network's input: RGB, float32 in 0..1, [3 size size].

    Bilinear, averaging over all pixels that fall into one when it shrinks; the aspect is not kept.
    """
    pixels = to_rgb(image)
    if pixels.shape[:2] != (size, size):
        resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    return np.divide(pixels.transpose(2, 0, 1), np.float32(255), order="C")


def _from_array(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"a picture of type {type(array).__name__}: expected a path, bytes, an open file, "
            "a PIL image or an array; for several pictures, a list of them"
        )
    planes = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or planes not in (1, 3, 4):
        raise InputError(
            f"an array of {array.dtype} {list(array.shape)}: "
            "expected uint8 in 0..255, RGB [h w 3], RGBA [h w 4] or grey [h w]"
        )
    if planes == 4 and array.size:
        return np.array(rgb_image(Image.fromarray(array, "RGBA")))
    if planes == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _to_eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of 16 bits, of 32 bits (which hold 16 in practice) or floats -> uint8."""
    if values.dtype.kind == "f":
        values = np.clip(np.nan_to_num(values, nan=0, posinf=0, neginf=0), 0, 255)
        scaled = values * 255 if values.max(initial=0) <= 1 else values
    else:
        scaled = np.clip(values.astype(np.float64) / SIXTEEN_BIT, 0, 255)
    eight: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return eight


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent image, some rows at a time: all of it at once takes thrice the memory."""
    result = Image.new("RGB", image.size)
    rows = max(1, STRIPE // image.width)
    for top in range(0, image.height, rows):
        stripe = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", stripe.size, WHITE)
        result.paste(Image.alpha_composite(white, stripe).convert("RGB"), (0, top))
    return result


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert turned is not None, "only a change in place returns nothing"
    return turned
