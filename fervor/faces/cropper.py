"""Frames -> the faces in them, cut out as a model expects them; followed through videos."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fervor.faces.alignment import cut, square
from fervor.faces.detector import FaceDetector
from fervor.faces.tracker import WHOLE_EVERY, Detector, FaceTracker
from fervor.faces.types import Box, Face
from fervor.io.frame import Frame


__all__ = ["Cutout", "FaceCutter"]


@dataclass(frozen=True, slots=True)
class Cutout:
    """A face cut out of its frame.

    Attributes:
        box: x, y, width, height in pixels of the frame.
        score: the detector's, in 0..1; None where the frame is the face.
        track: its number within a video; None for a picture.
        pixels: RGB, uint8, square; the whole frame where the frame is the face.
        square: map [2 3] from `pixels`, taken as a square of side 1, to the frame.
    """

    box: Box
    score: float | None
    track: int | None
    pixels: NDArray[np.uint8]
    square: NDArray[np.float64]


class FaceCutter:
    """Finds and cuts out the faces of one stream of frames, which it is given in order.

    Args:
        detector: what finds faces; None takes each frame for one face.
        side: of the cut-out squares, in pixels.
        largest: keep the largest face of each frame only.
        whole_every: see `fervor.faces.tracker.FaceTracker`.
    """

    def __init__(
        self,
        detector: Detector | None,
        *,
        side: int,
        largest: bool = False,
        whole_every: int = WHOLE_EVERY,
    ) -> None:
        self._detector, self._side, self._largest = detector, side, largest
        self._whole_every = whole_every
        self._last: Frame | None = None
        self._tracker: FaceTracker | None = None

    def __call__(self, group: Sequence[Frame]) -> list[list[Cutout]]:
        """The faces of each frame, largest first; none where it could not be read."""
        if self._detector is None:
            return [[_whole(frame)] if frame.picture is not None else [] for frame in group]
        found = iter(_found([frame for frame in group if not frame.moving], self._detector))
        return [
            self._followed(frame, self._detector)
            if frame.moving
            else self._cut(frame, ((face, None) for face in next(found)))
            if frame.picture is not None
            else []
            for frame in group
        ]

    def _followed(self, frame: Frame, detector: Detector) -> list[Cutout]:
        last = self._last
        if last is None or last.source != frame.source or last.frame >= frame.frame:
            self._tracker = None  # another video, or the same one again
        self._last = Frame(frame.source, frame.frame, frame.time_s, None, None)
        if frame.image is None or frame.time_s is None:
            return []
        if self._tracker is None:
            self._tracker = FaceTracker(detector, whole_every=self._whole_every)
        followed = self._tracker(frame.image, frame.time_s)
        return self._cut(frame, ((one.face, one.track) for one in followed))

    def _cut(self, frame: Frame, faces: Iterable[tuple[Face, int | None]]) -> list[Cutout]:
        assert frame.picture is not None, "only frames that could be read are cut"
        kept = list(faces)[: 1 if self._largest else None]
        cutouts = []
        for face, track in kept:
            where = square(face, *frame.shape)
            pixels = cut(frame.picture, where, self._side)
            cutouts.append(Cutout(face.box, face.score, track, pixels, where))
        return cutouts


def _found(stills: Sequence[Frame], detector: Detector) -> list[list[Face]]:
    """Faces of each still that could be read; a stand-in for the detector is given arrays."""
    if isinstance(detector, FaceDetector):
        decoded = [still.picture for still in stills if still.picture is not None]
        return detector.detect(decoded) if decoded else []
    arrays = [still.image for still in stills if still.image is not None]
    return detector.detect(arrays) if arrays else []


def _whole(frame: Frame) -> Cutout:
    assert frame.image is not None, "only frames that could be read hold a face"
    height, width = frame.image.shape[:2]
    track = 0 if frame.moving else None
    whole = np.array([[width, 0, 0], [0, height, 0]], np.float64)
    return Cutout((0.0, 0.0, float(width), float(height)), None, track, frame.image, whole)
