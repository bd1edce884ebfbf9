"""Frames -> the faces in them, cut out as a model expects them; followed through videos."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.faces.alignment import crop_with_map
from fervor.faces.detector import FaceDetector
from fervor.faces.places import GivenBoxes, upright_face
from fervor.faces.tracker import WHOLE_EVERY, Detector, FaceTracker, Tracked
from fervor.faces.types import Box, Face
from fervor.io.frame import Frame
from fervor.io.image import Decoded


__all__ = ["FaceCrop", "FaceCropper"]


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """A face cut out of its frame.

    Attributes:
        box: x, y, width, height in pixels of the frame.
        score: the detector's, in 0..1; None where the frame is the face.
        track: its number within a video; None for an image.
        pixels: RGB, uint8, square; the whole frame where the frame is the face.
        square: map [2 3] from `pixels`, taken as a square of side 1, to the frame.
    """

    box: Box
    score: float | None
    track: int | None
    pixels: NDArray[np.uint8]
    square: NDArray[np.float64]


class FaceCropper:
    """Finds and cuts out the faces of one stream of frames, which it is given in order.

    Args:
        detector: what finds faces; None takes each frame for one face.
        side: of the cut-out squares, in pixels.
        most: faces of each frame that are kept, the largest; 0 for all.
        whole_every: see `fervor.faces.tracker.FaceTracker`.
        region: where faces are looked for, x, y, width, height in pixels; None for everywhere.
        given: the faces of each frame, in place of what a detector would find.
    """

    def __init__(
        self,
        detector: Detector | None,
        *,
        side: int,
        most: int = 0,
        whole_every: int = WHOLE_EVERY,
        region: Box | None = None,
        given: GivenBoxes | None = None,
    ) -> None:
        self._region, self._given = region, given
        self._detector, self._side, self._most = detector, side, most
        self._whole_every = whole_every if given is None else 1
        self._last: Frame | None = None
        self._tracker: FaceTracker | None = None
        self._stated = _StatedFaces()

    def __call__(self, group: Sequence[Frame]) -> list[list[FaceCrop]]:
        """The faces of each frame, largest first; none where it could not be read."""
        if self._given is not None:
            return [self._said(frame, self._given) for frame in group]
        if self._detector is None:
            return [_whole(frame) for frame in group]
        stills = [self._part(frame) for frame in group if not frame.moving]
        faces_of_stills = iter(_detected(stills, self._detector))
        return [
            self._followed(frame, self._detector)
            if frame.moving
            else self._cut_still(frame, faces_of_stills)
            for frame in group
        ]

    def still(self, frame: Frame) -> list[FaceCrop]:
        """The faces of one image, as a call gives them for a group."""
        if self._given is not None:
            return self._said(frame, self._given)
        if self._detector is None:
            return _whole(frame)
        return self._cut_still(frame, iter(_detected([self._part(frame)], self._detector)))

    def _cut_still(self, frame: Frame, faces_of_stills: Iterator[list[Face]]) -> list[FaceCrop]:
        """The next image's faces, of those that could be read; none of one that could not."""
        if frame.picture is None:
            return []
        return self._cut(frame, ((self._back(face), None) for face in next(faces_of_stills)))

    def _followed(self, frame: Frame, detector: Detector) -> list[FaceCrop]:
        followed = self._tracked(frame, detector)
        if frame.picture is None:
            return []
        return self._cut(frame, ((self._back(one.face), one.track) for one in followed))

    def _tracked(self, frame: Frame, detector: Detector) -> list[Tracked]:
        """The faces of a video's next frame; places are those within the region."""
        last = self._last
        if last is None or last.source != frame.source or last.frame >= frame.frame:
            self._tracker = None  # another video, or the same one again
        self._last = Frame(frame.source, frame.frame, frame.time_s, None, None)
        if frame.image is None or frame.time_s is None:
            return []
        if self._tracker is None:
            self._tracker = FaceTracker(detector, whole_every=self._whole_every)
        image = self._part(frame).image
        assert image is not None, "a part of a picture is one"
        return self._tracker(image, frame.time_s)

    def _said(self, frame: Frame, given: GivenBoxes) -> list[FaceCrop]:
        """The given faces of a frame; those of a video that have no track are followed."""
        those = given.of(frame.source, frame.frame)
        faces, tracks = [upright_face(one.box) for one in those], [one.track for one in those]
        first = given.next_track(frame.source) if frame.moving else None
        if first is not None:
            untracked = [index for index, track in enumerate(tracks) if track is None]
            self._stated.faces = [faces[index] for index in untracked]
            numbers = {id(one.face): one.track for one in self._tracked(frame, self._stated)}
            for index in untracked if numbers else ():
                tracks[index] = first + numbers[id(faces[index])]
        if frame.picture is None:
            return []
        cut = self._cut(frame, zip(faces, tracks, strict=True))
        return [replace(one, score=None) for one in cut]

    def _part(self, frame: Frame) -> Frame:
        """The frame's region alone."""
        if self._region is None or frame.picture is None:
            return frame
        left, top, right, bottom = self._corners(frame)
        image = frame.picture
        part: Decoded
        if isinstance(image, Image.Image):
            part = image.crop((left, top, right, bottom))
        else:
            part = np.ascontiguousarray(image[top:bottom, left:right])
        return Frame(frame.source, frame.frame, frame.time_s, part, None)

    def _corners(self, frame: Frame) -> tuple[int, int, int, int]:
        """left, top, right, bottom of the region inside a frame, in whole pixels; never empty."""
        assert self._region is not None, "only a region has corners"
        (x, y, wide, tall), (height, width) = self._region, frame.shape
        left, top = min(max(0, int(x)), width - 1), min(max(0, int(y)), height - 1)
        right, bottom = min(math.ceil(x + wide), width), min(math.ceil(y + tall), height)
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def _back(self, face: Face) -> Face:
        """A face of the region, where it is in the whole frame."""
        if self._region is None:
            return face
        left, top = max(0, int(self._region[0])), max(0, int(self._region[1]))
        x, y, width, height = face.box
        shift = np.array([left, top], np.float32)
        return Face((x + left, y + top, width, height), face.points + shift, face.score)

    def _cut(self, frame: Frame, faces: Iterable[tuple[Face, int | None]]) -> list[FaceCrop]:
        assert frame.picture is not None, "only frames that could be read are cut"
        those = list(faces)[: self._most or None]
        crops = []
        for face, track in those:
            pixels, where = crop_with_map(frame.picture, face, self._side)
            crops.append(FaceCrop(face.box, face.score, track, pixels, where))
        return crops


class _StatedFaces:
    """In a detector's place: the faces that are given for the next frame of a video."""

    def __init__(self) -> None:
        self.faces: list[Face] = []

    def detect(self, images: Sequence[Any], *, passes: int = 3) -> list[list[Face]]:
        return [self.faces for _ in images]

    def near(self, image: Any, boxes: Sequence[Box]) -> list[Face | None]:
        return [None for _ in boxes]


def _detected(stills: Sequence[Frame], detector: Detector) -> list[list[Face]]:
    """Faces of each still that could be read; a stand-in for the detector is given arrays."""
    if isinstance(detector, FaceDetector):
        decoded = [still.picture for still in stills if still.picture is not None]
        return detector.detect(decoded) if decoded else []
    arrays = [still.image for still in stills if still.image is not None]
    return detector.detect(arrays) if arrays else []


def _whole(frame: Frame) -> list[FaceCrop]:
    """The frame as one face; none where it could not be read."""
    if frame.image is None:
        return []
    height, width = frame.image.shape[:2]
    track = 0 if frame.moving else None
    whole = np.array([[width, 0, 0], [0, height, 0]], np.float64)
    return [FaceCrop((0.0, 0.0, float(width), float(height)), None, track, frame.image, whole)]
