"""68 points of each face that was found, in iBUG's order, by the packaged landmark network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fervor.faces.alignment import BOX_TEMPLATE, warp
from fervor.faces.types import Box, Points
from fervor.io.frame import Frame
from fervor.io.image import to_input
from fervor.io.onnx_session import open_packaged


__all__ = ["PointFinder"]

GRAPH = Path(__file__).parents[1] / "weights" / "landmarks.onnx"
SIZE = 112
"""Side in pixels of what the network sees."""

FACES = 64
"""Looked at together."""


class PointFinder:
    """The network, ready to run.

    The image that it sees is the upright square around a face's box in which models see faces; of
    a face that is its whole image, that image.

    Args:
        threads: 0 leaves the number to onnxruntime.
        device: cpu or cuda.
        whole: whether each box is a whole image (`faces="precropped"`).

    Raises:
        ModelError: the graph is missing or damaged.
    """

    def __init__(self, threads: int = 0, *, device: str = "cpu", whole: bool = False) -> None:
        self._whole = whole
        self._session = open_packaged(GRAPH, "the landmark network", threads=threads, device=device)

    def __call__(self, frame: Frame, faces: Sequence[Box | None]) -> list[Points | None]:
        """Points at each box of a frame, rounded to 0.01 pixels; None where there is no box."""
        boxes = [box for box in faces if box is not None]
        landmarks = iter(self.of_boxes(frame.image, boxes) if frame.image is not None else [])
        return [None if box is None else next(landmarks) for box in faces]

    def of_boxes(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[Points]:
        """Points of the faces at boxes (x, y, width, height) of an image [h w 3]."""
        landmarks: list[Points] = []
        for start in range(0, len(boxes), FACES):
            squares = [self._square(box) for box in boxes[start : start + FACES]]
            inputs = np.stack([self._seen(image, square) for square in squares])
            (fractions,) = self._session.run(["points"], {"image": inputs})
            landmarks.extend(map(_placed, fractions, squares))
        return landmarks

    def _seen(self, image: NDArray[np.uint8], square: NDArray[np.float64]) -> NDArray[np.float32]:
        """RGB in 0..1 [3 112 112]."""
        pixels = image if self._whole else warp(image, square / [SIZE, SIZE, 1], SIZE)
        return to_input(pixels, SIZE)

    def _square(self, box: Box) -> NDArray[np.float64]:
        """Map [2 3] from a square of side 1 to the image."""
        x, y, width, height = box
        if self._whole:
            return np.array([[width, 0, x], [0, height, y]])
        low, high = BOX_TEMPLATE[0].astype(float), BOX_TEMPLATE[3].astype(float)
        side = float(np.mean([width, height] / (high - low)))
        corner = np.array([x + width / 2, y + height / 2]) - side * (low + high) / 2
        return np.array([[side, 0, corner[0]], [0, side, corner[1]]])


def _placed(fractions: NDArray[np.float32], square: NDArray[np.float64]) -> Points:
    places = np.round(fractions @ square[:, :2].T + square[:, 2], 2)
    return tuple((float(x), float(y)) for x, y in places)
