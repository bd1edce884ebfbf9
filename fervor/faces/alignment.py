"""Face crops: the geometry that lays a face on the template, and the pixels cut out by it.

A crop is laid on TEMPLATE, where the points lie on average in FERPlus's images, so that a
photograph's face is framed as the training images are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.faces.types import Face, Floats, Pixels
from fervor.io.image import Decoded


TEMPLATE: Floats = np.array(
    [[0.3058, 0.3617], [0.6942, 0.3617], [0.5000, 0.5914], [0.3454, 0.7867], [0.6546, 0.7867]],
    np.float32,
)
"""Left eye, right eye, nose, left and right corner of the mouth (left as seen) in a crop of side 1.

The mean over FERPlus's training images and their mirror images (tools/weights/make_template.py)
with the square drawn in to 0.88 of its side, which classifies better (docs/decisions/detector.md).
"""

BOX_TEMPLATE: Floats = np.array(
    [[0.0626, -0.0588], [0.9374, -0.0588], [0.0626, 1.0756], [0.9374, 1.0756]],
    np.float32,
)
"""The corners of the box in the same square: top left, top right, bottom left, bottom right."""


def check(image: Decoded) -> tuple[int, int]:
    """Height and width of a non-empty image, RGB of PIL or a uint8 array [h w 3].

    Raises:
        ValueError: it is something else.
    """
    if isinstance(image, Image.Image):
        if image.mode != "RGB" or not image.width * image.height:
            raise ValueError(
                f"a picture of mode {image.mode}, {image.width} x {image.height}: "
                "expected RGB, see rgb_image"
            )
        return image.height, image.width
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"an array of {image.dtype} {list(image.shape)}: expected uint8 [h w 3], see to_rgb"
        )
    return image.shape[0], image.shape[1]


def similarity(
    source: Floats, target: Floats, *, weights: Floats | None = None, angle: float | None = None
) -> NDArray[np.float64]:
    """Least-squares map [2 3] of points [n 2] onto others: one scale, a turn and a shift.

    `weights` [n 2] count x and y of each point apart, `angle` in radians fixes the turn (with it
    the weights are those of the target's axes). Never mirrors. The closed form in two dimensions
    of Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns",
    1991.
    """
    weights = np.ones_like(source) if weights is None else weights
    if angle is None:
        angle = turn(source, target)
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    source = source.astype(np.float64) @ rotation.T
    total = np.maximum(weights.sum(axis=0), 1e-12)
    middle, goal = (weights * source).sum(axis=0) / total, (weights * target).sum(axis=0) / total
    spread = (weights * (source - middle) ** 2).sum()
    scale = (weights * (source - middle) * (target - goal)).sum() / max(spread, 1e-12)
    return np.column_stack([scale * rotation, goal - scale * middle])


def turn(source: Floats, target: Floats) -> float:
    """Angle in radians, from x towards y, that best turns points [n 2] onto others."""
    x, y = (source - source.mean(axis=0)).T
    u, v = (target - target.mean(axis=0)).T
    return float(np.arctan2(x @ v - y @ u, x @ u + y @ v))


def crop(
    image: Decoded, face: Face, size: int, *, rotate: bool = True, margin: float = 0.0
) -> Pixels:
    """The face laid on TEMPLATE, [size size 3]; beyond the image its edge is repeated.

    `margin` is added on each side, as a share of TEMPLATE's square; models are fed crops without.
    `rotate` turns the head upright, without it the square is: FERPlus's own images are not
    turned, yet a turned crop loses nothing on them and holds where a head is tilted far
    (docs/decisions/detector.md).
    """
    return crop_with_map(image, face, size, rotate=rotate, margin=margin)[0]


def crop_with_map(
    image: Decoded, face: Face, size: int, *, rotate: bool = True, margin: float = 0.0
) -> tuple[Pixels, NDArray[np.float64]]:
    """The same, and the map [2 3] from a crop without margin, of side 1, to the image."""
    where = square(face, *check(image), rotate=rotate)
    return cut(image, where, size, margin=margin), where


def cut(image: Decoded, where: NDArray[np.float64], size: int, *, margin: float = 0.0) -> Pixels:
    """The part of an image on which `where` [2 3] lays a square of side 1, [size size 3].

    `margin` is as in `crop`.
    """
    side = 1 + 2 * margin
    wider = np.array([[side, 0, -margin], [0, side, -margin], [0, 0, 1]])
    return warp(image, where @ wider / [size, size, 1], size)


def square(face: Face, height: int, width: int, *, rotate: bool = True) -> NDArray[np.float64]:
    """Map [2 3] from a crop of side 1 to the image: the best fit of five points and box corners.

    Sides of the box that lie on the image's edge are cut off and do not count. Where the fit
    still disagrees with the box (its side is not 0.45 to 1.4 of the box's longer one, or its centre
    is more than half of that away: the points are wrong), it is the upright square at the box.
    """
    x, y, w, h = face.box
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]])
    centre, longer = corners.mean(axis=0), max(w, h)
    angle = turn(TEMPLATE, face.points) if rotate else 0.0
    inside = (corners > 0.5) & (corners < np.array([width, height]) - 0.5)
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = similarity(
        np.concatenate([TEMPLATE, BOX_TEMPLATE]),
        np.concatenate([face.points, (corners - centre) @ back + centre]),
        weights=np.concatenate([np.ones((5, 2)), inside]),
        angle=angle,
    )
    side = float(matrix[0, 0] * np.cos(angle) + matrix[1, 0] * np.sin(angle))  # may be negative
    offset = float(np.abs(matrix @ [0.5, 0.5, 1.0] - centre).max())
    if np.isfinite(matrix).all() and 0.45 <= side / longer <= 1.4 and offset <= 0.5 * longer:
        return matrix
    side = longer / float(BOX_TEMPLATE[2, 1] - BOX_TEMPLATE[0, 1])
    return np.array([[side, 0, centre[0] - side / 2], [0, side, centre[1] - side / 2]])


def warp(image: Decoded, matrix: NDArray[np.float64], size: int) -> Pixels:
    """Sample the image where `matrix` [2 3] sends the pixels of the crop, without aliasing.

    It may stretch width and height unlike, where it does not turn.
    """
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ matrix.T
    step = float(np.hypot(matrix[0, 0], matrix[1, 0]))  # image pixels per crop pixel
    down = float(np.hypot(matrix[0, 1], matrix[1, 1]))  # the same but for a stretched picture
    margin = int(np.ceil(2 * max(1.0, step, down))) + 1
    low = np.floor(corners.min(axis=0)).astype(int) - margin
    high = np.ceil(corners.max(axis=0)).astype(int) + margin
    patch = _piece(image, low, high)
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] - low])
    if abs(matrix[1, 0]) < 1e-6 * step:
        left, top = matrix[:, 2].tolist()
        box = (left, top, left + step * size, top + down * size)
        return np.asarray(patch.resize((size, size), Image.Resampling.BICUBIC, box=box))
    # A turned square: halve the image first, then sample finer than its pixels and average.
    reduction = max(1, int(step / 2))
    finer = 2 * int(np.ceil(step / reduction)) if step > 1 else 1
    sampling = (matrix / [finer, finer, 1] / reduction).ravel().tolist()
    smooth = Image.Resampling.BICUBIC if finer == 1 else Image.Resampling.NEAREST
    if reduction > 1:  # otherwise reduce would copy
        patch = patch.reduce(reduction)
    side = size * finer
    turned = patch.transform((side, side), Image.Transform.AFFINE, sampling, smooth)
    return np.asarray(turned.reduce(finer) if finer > 1 else turned)


def _piece(image: Decoded, low: NDArray[np.int_], high: NDArray[np.int_]) -> Image.Image:
    """From `low` up to `high` (x, y), where the image's edge is repeated beyond it."""
    height, width = check(image)
    left, top = np.clip(low, 0, [width - 1, height - 1]).tolist()
    right, bottom = np.clip(high, [left + 1, top + 1], [width, height]).tolist()
    piece: Decoded
    if isinstance(image, Image.Image):
        piece = image.crop((left, top, right, bottom))
    else:
        piece = image[top:bottom, left:right]
    if [left, top, right, bottom] != [*low.tolist(), *high.tolist()]:
        rows = np.clip(np.arange(low[1], high[1]), top, bottom - 1) - top
        columns = np.clip(np.arange(low[0], high[0]), left, right - 1) - left
        # One axis after the other takes a third of the time of both at once.
        piece = np.asarray(piece)[rows].take(columns, axis=1)
    return piece if isinstance(piece, Image.Image) else Image.fromarray(piece)
