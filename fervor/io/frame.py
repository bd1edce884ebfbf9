"""One frame of a stream, and which frames of a video make the stream."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.errors import UsageError
from fervor.io.image import Decoded, shape_of


__all__ = ["WEBCAM", "Frame", "Span"]

WEBCAM = "webcam:"
"""How the source of a webcam begins."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, or one frame of a video.

    Attributes:
        source: the path as it was given or found; empty for an array.
        frame: number within the source, from 0.
        time_s: seconds from the start of a video; None for an image.
        picture: as it was decoded, turned upright; None where it could not be read.
        error: the reason, one line; None where it could.
        live: whether it comes from a webcam, so that somebody may wait for the answer.
    """

    source: str
    frame: int
    time_s: float | None
    picture: Decoded | None
    error: str | None
    live: bool = False

    @cached_property
    def image(self) -> NDArray[np.uint8] | None:
        """The image as an array: RGB, uint8, [h w 3]; None where it could not be read."""
        return np.array(self.picture) if isinstance(self.picture, Image.Image) else self.picture

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels; 0, 0 where it could not be read."""
        return (0, 0) if self.picture is None else shape_of(self.picture)

    @property
    def moving(self) -> bool:
        """Whether it belongs to a video or a webcam."""
        return self.time_s is not None

    @property
    def pixels(self) -> int:
        """How many pixels it holds."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True)
class Span:
    """Which frames of a video are read: every N-th of those in `start` <= time < `end` (seconds).

    Raises:
        UsageError: a number out of its range.
    """

    every: int = 1
    start: float = 0.0
    end: float = math.inf

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"every={self.every}: expected 1 (each frame) or more")
        if not (math.isfinite(self.start) and self.start >= 0):
            raise UsageError(f"start={self.start}: expected seconds, 0 or more")
        if not self.end > self.start:
            raise UsageError(f"end={self.end}: expected seconds after start={self.start}")
