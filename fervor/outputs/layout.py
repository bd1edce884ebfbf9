"""Where words about faces go in a picture: beside the faces, and never over one of them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fervor.faces.types import Box


__all__ = ["Rectangle", "Room", "around"]

Rectangle = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""


class Room:
    """What is free of a picture of `canvas` (width, height) that shows faces at `boxes`.

    Rectangles that were placed are not free any more.
    """

    def __init__(self, canvas: tuple[int, int], boxes: Sequence[Box]) -> None:
        self._canvas = canvas
        corners = [(x, y, x + width, y + height) for x, y, width, height in boxes]
        self._taken: NDArray[np.float64] = np.array(corners, np.float64).reshape(-1, 4)

    def place(self, rectangles: Iterable[Rectangle]) -> Rectangle | None:
        """Take the first rectangle that is free and whole inside the picture; None without one."""
        for rectangle in rectangles:
            if self._is_free(rectangle):
                self._taken = np.vstack([self._taken, rectangle])
                return rectangle
        return None

    def _is_free(self, rectangle: Rectangle) -> bool:
        left, top, right, bottom = rectangle
        if left < 0 or top < 0 or right > self._canvas[0] - 1 or bottom > self._canvas[1] - 1:
            return False
        taken = self._taken
        apart = (taken[:, 2] < left) | (taken[:, 0] > right)
        apart |= (taken[:, 3] < top) | (taken[:, 1] > bottom)
        return bool(apart.all())


def around(
    box: Box, size: tuple[float, float], canvas: tuple[int, int], gap: float
) -> Iterator[Rectangle]:
    """Places for a rectangle of `size` (width, height) beside a box: above, below, at its sides."""
    (x, y, wide, tall), (width, height) = box, size

    def inside(value: float, length: float, whole: float) -> float:
        """Moved into the picture, for as long as it still touches the box."""
        return min(max(0.0, value), max(0.0, whole - 1 - length))

    columns = [x, x + wide - width, x + (wide - width) / 2]
    rows = [y, y + tall - height, y + (tall - height) / 2]
    for top in (y - gap - height, y + tall + gap):
        for column in columns:
            left = inside(column, width, canvas[0])
            yield left, top, left + width, top + height
    for left in (x + wide + gap, x - gap - width):
        for row in rows:
            top = inside(row, height, canvas[1])
            yield left, top, left + width, top + height
