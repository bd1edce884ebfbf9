"""Seeded changes of a face image at five severities: occlusion, pose, light, and loss of detail.

Images are RGB, uint8 in 0..255, [h w 3], and keep their shape. What is random (a place, a side, a
shade, the noise) depends on seed, corruption and the image's number, never on the severity, so
that a severity changes one thing: how strong it is. Amounts are ours; the kinds are those against
which the papers claim to be robust (occlusion, pose, illumination) and those of everyday images.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fervor.errors import UsageError
from fervor.faces.alignment import TEMPLATE


__all__ = ["CORRUPTIONS", "GROUPS", "SEVERITIES", "Corruption", "corrupt"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Change = Callable[[Floats, float, np.random.Generator, Floats], Floats]
"""Image in 0..1, amount, what is random, five points in pixels -> image in 0..1."""

SEVERITIES = (1, 2, 3, 4, 5)
DARK, CLOTH = 0.05, 0.85
"""Brightness of sunglasses and of a face mask."""
CAMERA = 2.0
"""Distance of the camera from the face, in widths of the image, when it turns aside."""


@dataclass(frozen=True)
class Corruption:
    """One kind of change.

    Attributes:
        group: occlusion, pose, illumination, detail or colour.
        amounts: what the severities 1 to 5 mean, in the unit that `change` names.
        change: the function.
    """

    group: str
    amounts: tuple[float, float, float, float, float]
    change: Change


def corrupt(
    image: Pixels,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    number: int = 0,
    points: Floats | None = None,
) -> Pixels:
    """The image under one corruption.

    Args:
        image: a cropped face.
        name: a key of CORRUPTIONS.
        severity: 1 to 5.
        seed: of everything that is random.
        number: the image's number in its split.
        points: eyes, nose and corners of the mouth [5 2] in pixels, in the order of
            `faces.TEMPLATE`; None for their usual places in a crop.

    Raises:
        UsageError: an unknown name or severity.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"unknown corruption {name!r}: expected one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UsageError(f"severity is {severity}, expected 1 to {SEVERITIES[-1]}")
    height, width = image.shape[:2]
    places = TEMPLATE * [width, height] if points is None else points
    random = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    kind = CORRUPTIONS[name]
    changed = kind.change(image / 255.0, kind.amounts[severity - 1], random, places)
    eight: Pixels = np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)
    return eight


def _grid(image: Floats) -> tuple[Floats, Floats]:
    """x and y of the pixels' centres, [h w] each."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return x, y


def _covered(image: Floats, inside: Floats, shade: float) -> Floats:
    """Paint where `inside` [h w] is above 0, fully from 1 on: edges are one pixel soft."""
    fraction = np.clip(inside, 0, 1)[:, :, None]
    painted: Floats = image * (1 - fraction) + shade * fraction
    return painted


def _face_axes(image: Floats, points: Floats, origin: Floats) -> tuple[Floats, Floats, float]:
    """Along and down the face from an origin, [h w] each, in faces' units; the unit in pixels.

    The unit is the longer of the eyes' distance and the way from eyes to mouth, so that a head
    turned aside keeps its size.
    """
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    across, down = points[1] - points[0], mouth - eyes
    unit = float(max(np.hypot(*across), np.hypot(*down), 1e-6))
    axis = down / max(float(np.hypot(*down)), 1e-6)
    x, y = _grid(image)
    x, y = (x - origin[0]) / unit, (y - origin[1]) / unit
    return x * axis[1] - y * axis[0], x * axis[0] + y * axis[1], unit


def _rectangle(u: Floats, v: Floats, half: tuple[float, float], unit: float) -> Floats:
    """How far inside |u| <= half[0], |v| <= half[1] a pixel lies; in pixels, 0.5 on the edge."""
    inside: Floats = np.minimum(half[0] - np.abs(u), half[1] - np.abs(v)) * unit + 0.5
    return inside


def _block(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """A square of one shade somewhere; amount: its side as a share of the image's."""
    x, y = _grid(image)
    height, width = image.shape[:2]
    left, top = random.random(2) * (1 - amount)
    inside = np.minimum(
        np.minimum(x - left * width, (left + amount) * width - x),
        np.minimum(y - top * height, (top + amount) * height - y),
    )
    return _covered(image, inside + 0.5, float(random.random()))


def _eyes(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """A bar of one shade over both eyes; amount: its size, 1 covers brows and temples."""
    u, v, unit = _face_axes(image, points, points[:2].mean(axis=0))
    return _covered(image, _rectangle(u, v, (0.95 * amount, 0.35 * amount), unit), random.random())


def _mouth(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """A bar of one shade over the mouth; amount: its size, 1 covers it and its surroundings."""
    u, v, unit = _face_axes(image, points, points[3:].mean(axis=0))
    return _covered(image, _rectangle(u, v, (0.65 * amount, 0.35 * amount), unit), random.random())


def _lower_face(
    image: Floats, amount: float, random: np.random.Generator, points: Floats
) -> Floats:
    """A light mask from the chin up; amount: its upper edge above the mouth, 1 reaches the eyes."""
    mouth = points[3:].mean(axis=0)
    u, v, unit = _face_axes(image, points, mouth)
    inside = np.minimum(np.minimum(v + amount, 1.2 - v), 1.1 - np.abs(u)) * unit + 0.5
    return _covered(image, inside, CLOTH)


def _sunglasses(
    image: Floats, amount: float, random: np.random.Generator, points: Floats
) -> Floats:
    """Two dark glasses and their bridge; amount: their size, 1 covers eyes and brows."""
    u, v, unit = _face_axes(image, points, points[:2].mean(axis=0))
    inside = _rectangle(u, v + 0.05, (0.5, 0.04 * amount), unit)
    for eye in points[:2]:
        u, v, unit = _face_axes(image, points, eye)
        radius = np.hypot(u / (0.45 * amount), v / (0.36 * amount))
        inside = np.maximum(inside, (1 - radius) * 0.36 * amount * unit + 0.5)
    return _covered(image, inside, DARK)


def _resampled(image: Floats, coefficients: tuple[float, ...]) -> Floats:
    """Bicubic; the eight coefficients send a pixel to where it comes from. The edge goes on."""
    height, width = image.shape[:2]
    border = max(height, width)
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    a, b, c, d, e, f, g, h = coefficients
    # the same map, with the source's origin moved by the border
    moved = (a + border * g, b + border * h, c + border, d + border * g, e + border * h, f + border)
    eight = Image.fromarray(np.rint(padded * 255).astype(np.uint8))
    turned = eight.transform(
        (width, height), Image.Transform.PERSPECTIVE, (*moved, g, h), Image.Resampling.BICUBIC
    )
    return np.asarray(turned) / 255.0


def _rotation(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Turned in the plane, to one side or the other; amount in degrees."""
    angle = np.radians(amount) * random.choice([-1, 1])
    x, y = image.shape[1] / 2, image.shape[0] / 2
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    left, top = x - cosine * x + sine * y, y - sine * x - cosine * y
    return _resampled(image, (cosine, -sine, left, sine, cosine, top, 0.0, 0.0))


def _yaw(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """The image as a plane turned aside, seen by a camera before it; amount in degrees."""
    angle = float(np.radians(amount) * random.choice([-1, 1]))
    x, y, far = image.shape[1] / 2, image.shape[0] / 2, CAMERA * image.shape[1]
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    # the plane's point (p, q) is seen at far * (p cos, q) / (far + p sin); solved for p and q, with
    # the origin in the image's middle and the denominator far cos - x sin scaled to far cos
    g = -sine / (far * cosine)
    norm = 1 - g * x
    a = (1 / cosine + x * g) / norm
    c = (-x / cosine + x * (1 - g * x)) / norm
    return _resampled(
        image,
        (
            a,
            0.0,
            c,
            y * g / norm,
            1 / norm,
            (-y + y * (1 - g * x)) / norm,
            g / norm,
            0.0,
        ),
    )


def _darkness(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Darker middle tones; amount: the exponent."""
    dark: Floats = image**amount
    return dark


def _glare(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Brighter middle tones; amount: 1 / exponent."""
    bright: Floats = image ** (1 / amount)
    return bright


def _side_light(
    image: Floats, amount: float, random: np.random.Generator, points: Floats
) -> Floats:
    """Light from one side; amount: the share of it that is missing at the other."""
    x, _ = _grid(image)
    across = x / image.shape[1]
    shadow = across if random.random() < 0.5 else 1 - across
    lit: Floats = image * (1 - amount * shadow)[:, :, None]
    return lit


def _contrast(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Drawn towards the mean; amount: the share of the contrast that is lost."""
    flat: Floats = image + amount * (image.mean() - image)
    return flat


def _blur(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Gaussian; amount: its deviation as a share of the image's width."""
    eight = Image.fromarray(np.rint(image * 255).astype(np.uint8))
    blurred = eight.filter(ImageFilter.GaussianBlur(amount * image.shape[1]))
    return np.asarray(blurred) / 255.0


def _noise(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Gaussian, the same in all channels (sensors of grey images); amount: its deviation."""
    noisy: Floats = image + amount * random.standard_normal(image.shape[:2])[:, :, None]
    return noisy


def _jpeg(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Compressed; amount: 100 - quality."""
    file = io.BytesIO()
    eight = Image.fromarray(np.rint(image * 255).astype(np.uint8))
    eight.save(file, "JPEG", quality=round(100 - amount))
    with Image.open(file) as decoded:
        return np.asarray(decoded.convert("RGB")) / 255.0


def _low_resolution(
    image: Floats, amount: float, random: np.random.Generator, points: Floats
) -> Floats:
    """Shrunk and enlarged again; amount: 48 / the shorter side in pixels (3 is 16 px)."""
    height, width = image.shape[:2]
    factor = min(1.0, 48 / amount / min(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    eight = Image.fromarray(np.rint(image * 255).astype(np.uint8))
    shrunk = eight.resize(small, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BICUBIC)) / 255.0


def _grey(image: Floats, amount: float, random: np.random.Generator, points: Floats) -> Floats:
    """Towards luminance (ITU-R BT.601); amount: the share of the colour that is lost."""
    luminance = (image * [0.299, 0.587, 0.114]).sum(axis=2, keepdims=True)
    dull: Floats = image + amount * (luminance - image)
    return dull


CORRUPTIONS: dict[str, Corruption] = {
    "block": Corruption("occlusion", (0.2, 0.3, 0.4, 0.5, 0.6), _block),
    "eyes": Corruption("occlusion", (0.4, 0.55, 0.7, 0.85, 1.0), _eyes),
    "mouth": Corruption("occlusion", (0.4, 0.55, 0.7, 0.85, 1.0), _mouth),
    "lower_face": Corruption("occlusion", (-0.1, 0.1, 0.3, 0.5, 0.7), _lower_face),
    "sunglasses": Corruption("occlusion", (0.4, 0.55, 0.7, 0.85, 1.0), _sunglasses),
    "rotation": Corruption("pose", (10, 20, 30, 40, 50), _rotation),
    "yaw": Corruption("pose", (15, 25, 35, 45, 55), _yaw),
    "darkness": Corruption("illumination", (1.5, 2.0, 2.7, 3.6, 5.0), _darkness),
    "glare": Corruption("illumination", (1.5, 2.0, 2.7, 3.6, 5.0), _glare),
    "side_light": Corruption("illumination", (0.4, 0.55, 0.7, 0.85, 0.95), _side_light),
    "contrast": Corruption("illumination", (0.3, 0.5, 0.65, 0.8, 0.9), _contrast),
    "blur": Corruption("detail", (0.01, 0.02, 0.03, 0.045, 0.06), _blur),
    "noise": Corruption("detail", (0.04, 0.08, 0.12, 0.18, 0.26), _noise),
    "jpeg": Corruption("detail", (50, 70, 82, 90, 95), _jpeg),
    "low_resolution": Corruption("detail", (1.25, 1.5, 2.0, 2.4, 3.0), _low_resolution),
    "grey": Corruption("colour", (0.2, 0.4, 0.6, 0.8, 1.0), _grey),
}

GROUPS = tuple(dict.fromkeys(kind.group for kind in CORRUPTIONS.values()))
