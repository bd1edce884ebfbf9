"""Boxes, faces and points, shared by everything that finds or shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]
Points = tuple[tuple[float, float], ...]
"""x and y of each of a face's landmarks, in pixels."""

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face in an image, in its pixels; `score` in 0..1.

    Fields:
        box: x, y, width, height; inside the image.
        points: float32 [5 2], x and y in TEMPLATE's order; may lie outside the image.
    """

    box: Box
    points: Floats = field(compare=False)
    score: float

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return self.box[2] * self.box[3]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x, y, width, height; 0 where one is empty."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)
