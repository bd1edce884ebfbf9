"""Around the detector's graph: images to batches, anchors to boxes and points, no overlaps.

Coordinates are continuous: the pixel in row i and column j covers [j, j + 1) x [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.faces.types import Floats, Pixels
from fervor.io.image import Decoded


STRIDES = (8, 16, 32)
ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2  # as trained
PADDING = (123, 117, 104)  # the mean colour, which the graph turns to zero
STEP = 32  # sides of the graph's input are multiples of the coarsest stride
CANDIDATES = 1000  # anchors kept before overlaps are removed


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image of `height` x `width` lies in the top left corner of the graph's input."""

    height: int
    width: int
    inner: tuple[int, int]  # rows, columns of the resized image
    outer: tuple[int, int]  # rows, columns with padding

    @property
    def scale(self) -> Floats:
        """Pixels of the image per pixel of the graph's input (x, y)."""
        return np.array([self.width / self.inner[1], self.height / self.inner[0]], np.float32)


def letterbox(height: int, width: int, *, low: int, high: int) -> Letterbox:
    """Scale so that the longer side lies in `low`..`high`, then pad to multiples of 32."""
    longer = max(height, width)
    factor = min(max(longer, low), high) / longer
    rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
    outer = (-(-rows // STEP) * STEP, -(-columns // STEP) * STEP)
    return Letterbox(height, width, (rows, columns), outer)


def place(image: Decoded, frame: Letterbox, target: Pixels) -> None:
    """Write the resized image into `target` [rows columns 3] and fill the rest."""
    rows, columns = frame.inner
    if (frame.height, frame.width) != (rows, columns):
        pil = image if isinstance(image, Image.Image) else Image.fromarray(image)
        if rows > frame.height or columns > frame.width:
            image = pil.resize((columns, rows), Image.Resampling.BILINEAR)
        else:
            image = _shrunk(pil, rows, columns)
    target[:rows, :columns] = np.asarray(image)
    target[rows:] = PADDING
    target[:rows, columns:] = PADDING


def _shrunk(image: Image.Image, rows: int, columns: int) -> Decoded:
    """[rows columns 3], each pixel the mean of two samples of what falls into it, rounded down.

    They lie on its diagonal, a quarter of its side from its centre. Takes a third of exact areas'
    time (docs/decisions/detector.md). Images twice as large or more become means of whole pixels
    first.
    """
    whole = max(1, min(image.height // rows, image.width // columns))
    width, height = image.width / whole, image.height / whole
    if whole > 1:
        image = image.reduce(whole)
    if image.size == (columns, rows):
        return image
    across, down = width / columns, height / rows
    first, second = (
        np.asarray(
            image.transform(
                (columns, rows),
                Image.Transform.AFFINE,
                (across, 0, offset * across, 0, down, offset * down),
                Image.Resampling.NEAREST,
            )
        )
        for offset in (-0.25, 0.25)
    )
    # (a + b) // 2 is ((a ^ b) >> 1) + (a & b), which stays within eight bits.
    mean: Pixels = first ^ second
    mean >>= 1
    mean += first & second
    return mean


@lru_cache(maxsize=16)
def anchors(rows: int, columns: int) -> Floats:
    """Centre x, centre y and side of every anchor [n 3] in the graph's order, in input pixels."""
    levels = []
    for stride, sides in zip(STRIDES, ANCHOR_SIDES, strict=True):
        y, x, side = np.meshgrid(
            (np.arange(rows // stride) + 0.5) * stride,
            (np.arange(columns // stride) + 0.5) * stride,
            sides,
            indexing="ij",
        )
        levels.append(np.stack([x, y, side], axis=-1).reshape(-1, 3))
    result = np.concatenate(levels).astype(np.float32)
    result.flags.writeable = False
    return result


def decode(anchor: Floats, box: Floats, points: Floats) -> tuple[Floats, Floats]:
    """Encoded boxes [n 4] and points [n 10] -> corners x0 y0 x1 y1 [n 4] and points [n 5 2]."""
    centre, side = anchor[:, None, :2], anchor[:, None, 2:]
    middle = centre[:, 0] + box[:, :2] * CENTRE_VARIANCE * side[:, 0]
    half = side[:, 0] * np.exp(box[:, 2:] * SIZE_VARIANCE) / 2
    corners = np.concatenate([middle - half, middle + half], axis=1)
    return corners, centre + points.reshape(-1, 5, 2) * CENTRE_VARIANCE * side


def nms(corners: Floats, score: Floats, iou: float, *, inside: float = np.inf) -> NDArray[np.intp]:
    """Indices of boxes [n 4], best score first, whose iou with no better one is above `iou`.

    `inside` is the most of the smaller one of two boxes that
    the other may cover.
    """
    area = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    order = np.argsort(-score, kind="stable")
    indices = []
    while order.size:
        best, rest = order[0], order[1:]
        indices.append(best)
        low = np.maximum(corners[best, :2], corners[rest, :2])
        high = np.minimum(corners[best, 2:], corners[rest, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = np.maximum(area[best] + area[rest] - shared, 1e-9)
        smaller = np.maximum(np.minimum(area[best], area[rest]), 1e-9)
        order = rest[(shared / union <= iou) & (shared / smaller <= inside)]
    return np.array(indices, dtype=np.intp)


def read(
    score: Floats,
    box: Floats,
    points: Floats,
    frame: Letterbox,
    *,
    threshold: float,
    iou: float,
) -> tuple[Floats, Floats, Floats]:
    """One image's outputs -> corners [k 4], points [k 5 2] in its pixels, scores [k].

    Of anchors two to a cell: `score` [n], encoded `box` [n/2 2 4] and `points` [n/2 2 10].
    """
    candidates = np.flatnonzero(score >= threshold)
    if candidates.size > CANDIDATES:
        candidates = candidates[np.argsort(-score[candidates], kind="stable")[:CANDIDATES]]
    places = np.divmod(candidates, 2)
    corners, marks = decode(anchors(*frame.outer)[candidates], box[places], points[places])
    indices = nms(corners, score[candidates], iou)
    corners = corners[indices].reshape(-1, 2, 2) * frame.scale
    corners = np.clip(corners, 0, np.array([frame.width, frame.height], np.float32))
    return corners.reshape(-1, 4), marks[indices] * frame.scale, score[candidates][indices]
