"""How a face is cut out of a data set's image: all of it, its annotated box, or what is found.

Images are RGB, uint8 in 0..255, [h w 3], or grey [h w].
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fervor.data.datasets import Box, Sample
from fervor.errors import DataError
from fervor.faces.alignment import crop, warp
from fervor.faces.detector import FaceDetector, select
from fervor.faces.types import Face, Pixels, iou
from fervor.io.image import to_rgb
from fervor.io.sources import read_image


CROP = 48
"""Pixels of a found face's crop: FERPlus's resolution, so that photographs look alike."""

MIN_IOU = 0.2
"""Least overlap, as intersection over union, of a found face with the annotated one (ours)."""


def pixels_of(sample: Sample) -> Pixels:
    """A sample's image, upright, as `predict` reads it: RGB of a file, grey [h w] of a table.

    Raises:
        DataError: the file cannot be read as an image.
    """
    if sample.pixels:
        return np.frombuffer(sample.pixels, np.uint8).reshape(sample.side, sample.side)
    frame = read_image(sample.path)
    if frame.image is None:
        raise DataError(f"{sample.path} cannot be read as a picture: {frame.error}")
    return frame.image


def cut(
    sample: Sample,
    detector: FaceDetector | None,
    *,
    size: int,
    margin: float = 0.0,
    crop_side: int = CROP,
) -> Pixels | None:
    """What a data set's reader stores of an image; None where the detector finds no face.

    With a detector the face is cut out as `predict` does it, [crop_side crop_side 3]; without one
    the image is all of it, or the annotated box with `margin`, [size size 3].
    """
    pixels = pixels_of(sample)
    if detector is not None:
        pixels = to_rgb(pixels)
        face = select_face(detector.detect([pixels])[0], sample.box)
        return None if face is None else crop(pixels, face, crop_side)
    if sample.box is not None:
        return box_crop(to_rgb(pixels), sample.box, size, margin=margin)
    return pixels


def box_crop(image: Pixels, box: Box, size: int, *, margin: float = 0.0) -> Pixels:
    """The square about a box's centre, [size size 3]; beyond the image its edge is repeated.

    Args:
        image: RGB.
        box: x, y, width, height in the image's pixels.
        size: pixels of the crop's side.
        margin: what is added on each side, as a share of the box's longer side.
    """
    x, y, width, height = box
    side = max(width, height) * (1 + 2 * margin)
    left, top = x + (width - side) / 2, y + (height - side) / 2
    step = side / size
    return warp(image, np.array([[step, 0, left], [0, step, top]]), size)


def select_face(faces: Sequence[Face], box: Box | None) -> Face | None:
    """The annotated face among those found, or the largest where nothing is annotated."""
    if box is None:
        largest = select(faces, "largest")
        return largest[0] if largest else None
    best = max(faces, key=lambda face: iou(face.box, box), default=None)
    return best if best is not None and iou(best.box, box) >= MIN_IOU else None


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Whether an image has no colour, however it is stored."""
    if pixels.ndim == 2:
        return True
    return bool((pixels == pixels[:, :, :1]).all())
