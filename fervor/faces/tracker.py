"""Which face is which over time: faces of a video are found, followed, and numbered.

A whole frame is looked at now and then, for faces that are new; in between each known face is
looked for around the place where its motion leads (`Detector.near`), so that every frame has boxes
and points that were seen in it, at a tenth of the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fervor.faces.types import Box, Face, iou


__all__ = ["Cuts", "Detector", "FaceTracker", "Motion", "Tracked", "assign"]

Pixels = NDArray[np.uint8]

WHOLE_EVERY = 10
"""Frames from one look at a whole frame to the next, while a face is followed."""
RETRY = 1.0
"""Seconds from one thorough look at a frame without a face to the next."""
MEMORY = 1.0
"""Seconds for which a face that is out of sight keeps its number."""
MIN_IOU = 0.2
"""Intersection over union with where a track leads that makes a face its next one."""
SAME = 0.5
"""Boxes that overlap by more are the same face."""

MEASURED = 0.03
"""Standard deviation of a detected box: its centre in sides, its sides in their logarithm."""
JERK = 10.0
"""How much a head's velocity changes: variance in (sides per second) squared, in a second."""

BLOCKS, BINS, CHANGED = 4, 8, 0.4
"""A cut: two fifths of the colours changed in at least half of 4 x 4 blocks of the frame."""


class Detector(Protocol):
    """What finds faces: `fervor.faces.detector.FaceDetector`, or a stand-in."""

    def detect(self, images: Sequence[Pixels], *, passes: int = 3) -> list[list[Face]]:
        """Faces of each RGB image [h w 3], largest first; `passes` of 0 may miss small ones."""
        ...

    def near(self, image: Pixels, boxes: Sequence[Box]) -> list[Face | None]:
        """The faces around the places where they are expected."""
        ...


@dataclass(frozen=True, slots=True)
class Tracked:
    """A face and the number of its track within the video, from 0."""

    face: Face
    track: int


class Motion:
    """Where a box moves: a Kalman filter with constant velocity (R. E. Kalman, 1960).

    Its state are the centre in pixels and the logarithm of both sides, each with its rate. All four
    share one covariance [2 2], in units of the face's side: they are measured equally well.
    """

    def __init__(self, box: Box, time: float) -> None:
        self.time = time
        self._mean = np.stack([_measured(box), np.zeros(4)])
        self._covariance = np.diag([MEASURED**2, 1.0])

    @property
    def box(self) -> Box:
        """x, y, width, height at `time`."""
        x, y, width, height = self._mean[0]
        w, h = float(np.exp(width)), float(np.exp(height))
        return (float(x) - w / 2, float(y) - h / 2, w, h)

    def predict(self, time: float) -> None:
        """Move on to a later time."""
        step = max(0.0, time - self.time)
        self.time = time
        move = np.array([[1.0, step], [0.0, 1.0]])
        noise = np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
        self._mean = move @ self._mean
        self._covariance = move @ self._covariance @ move.T + JERK * noise

    def update(self, box: Box) -> None:
        """Take in what was measured at `time`."""
        gain = self._covariance[:, 0] / (self._covariance[0, 0] + MEASURED**2)
        self._mean += np.outer(gain, _measured(box) - self._mean[0])
        self._covariance -= np.outer(gain, self._covariance[0])


def _measured(box: Box) -> NDArray[np.float64]:
    x, y, width, height = box
    return np.array([x + width / 2, y + height / 2, np.log(width), np.log(height)])


def assign(before: Sequence[Box], now: Sequence[Box], least: float) -> dict[int, int]:
    """Pairs of boxes, index before -> index now, those that overlap most first.

    Each box has one partner at most, and partners overlap by `least` or more.
    """
    pairs = [(iou(a, b), i, j) for i, a in enumerate(before) for j, b in enumerate(now)]
    assignment: dict[int, int] = {}
    for shared, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if shared >= least and i not in assignment and j not in assignment.values():
            assignment[i] = j
    return assignment


class Cuts:
    """Tells whether a frame belongs to another scene than the one before.

    Compares colour histograms block by block; a person who moves, and slow changes of light, leave
    most blocks alike. A fade is no cut, and neither is one between two shots alike in colour.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float64] | None = None

    def __call__(self, image: Pixels) -> bool:
        """Whether this frame [h w 3] starts a scene; not so the first one."""
        last, self._last = self._last, _histograms(image)
        if last is None:
            return False
        changed = np.abs(last - self._last).sum(axis=-1).mean(axis=-1) / 2
        return bool(np.median(changed) > CHANGED)


def _histograms(image: Pixels) -> NDArray[np.float64]:
    """Shares of the colours [blocks, channels, bins]."""
    rows = np.linspace(0, image.shape[0] - 1, 16 * BLOCKS).astype(int)
    columns = np.linspace(0, image.shape[1] - 1, 16 * BLOCKS).astype(int)
    small = image[rows[:, None], columns].reshape(BLOCKS, 16, BLOCKS, 16, 3)
    bins = small.transpose(0, 2, 4, 1, 3).reshape(BLOCKS**2 * 3, -1).astype(np.intp) * BINS // 256
    bins += np.arange(BLOCKS**2 * 3)[:, None] * BINS
    counts = np.bincount(bins.ravel(), minlength=BLOCKS**2 * 3 * BINS)
    histograms: NDArray[Any] = counts.reshape(BLOCKS**2, 3, BINS) / (16 * 16)
    return histograms


@dataclass(slots=True, eq=False)
class _Track:
    number: int
    motion: Motion
    seen: float = field(default=0.0)


class FaceTracker:
    """Follows the faces of one video, whose frames it is given in order.

    Args:
        detector: what finds faces.
        whole_every: frames from one look at a whole frame to the next; 1 looks at each. A frame
            without a face, a scene's first and one where a face was lost are looked at in any case,
            but while none was in sight for MEMORY without the tiles of a large frame.
    """

    def __init__(self, detector: Detector, *, whole_every: int = WHOLE_EVERY) -> None:
        self._detector = detector
        self._whole_every = whole_every
        self._cuts = Cuts()
        self._tracks: list[_Track] = []
        self._next = 0
        self._since = 0
        self._since_tiles = whole_every
        self._time = 0.0
        self._thorough = -RETRY

    def __call__(self, image: Pixels, time: float) -> list[Tracked]:
        """The faces of the next frame [h w 3], at `time` in seconds, largest first."""
        if self._cuts(image):
            self._tracks.clear()
            self._thorough = time - RETRY
            self._since_tiles = self._whole_every
        visible = [track for track in self._tracks if track.seen == self._time]
        for track in visible:  # what is out of sight is awaited where it was seen last
            track.motion.predict(time)
        self._time, self._since = time, self._since + 1
        self._since_tiles += 1
        due = not visible or self._since >= self._whole_every
        matches = self._whole(image, {}, thorough=False) if due else {}
        matches |= self._near(image, [track for track in visible if track not in matches], matches)
        lost = any(track not in matches for track in visible)
        if lost and not (due and matches):
            matches |= self._whole(image, matches, thorough=not matches)
        self._keep(matches)
        faces = [Tracked(face, track.number) for track, face in matches.items()]
        return sorted(faces, key=lambda tracked: (-tracked.face.area, tracked.track))

    def _near(
        self, image: Pixels, tracks: Sequence[_Track], others: dict[_Track, Face]
    ) -> dict[_Track, Face]:
        """Known faces around the places where they are expected; one face is one track's only.

        Where two tracks see the same face, it is that track's whose motion leads nearest to it.
        """
        if not tracks:
            return {}
        boxes = [track.motion.box for track in tracks]
        seen = [
            (iou(box, face.box), track, face)
            for track, box, face in zip(
                tracks, boxes, self._detector.near(image, boxes), strict=True
            )
            if face is not None
        ]
        matches: dict[_Track, Face] = {}
        for _, track, face in sorted(seen, key=lambda one: (-one[0], one[1].number)):
            if _is_new(face, [*others.values(), *matches.values()]):
                matches[track] = face
        return matches

    def _whole(
        self, image: Pixels, matches: dict[_Track, Face], *, thorough: bool
    ) -> dict[_Track, Face]:
        """Faces anywhere, besides those already found; what belongs to no track begins one."""
        thorough = thorough or self._time - self._thorough >= RETRY
        tiles = thorough or bool(self._tracks) or self._since_tiles >= self._whole_every
        (faces,) = self._detector.detect([image], passes=3 if thorough else int(tiles))
        if thorough:
            self._thorough = self._time
        if tiles:
            self._since_tiles = 0
        self._since = 0
        faces = [face for face in faces if _is_new(face, list(matches.values()))]
        tracks = [track for track in self._tracks if track not in matches]
        pairs = assign(
            [track.motion.box for track in tracks], [face.box for face in faces], MIN_IOU
        )
        matched = {tracks[i]: faces[j] for i, j in pairs.items()}
        for index, face in enumerate(faces):
            if index not in pairs.values():
                matched[self._begin(face)] = face
        return matched

    def _begin(self, face: Face) -> _Track:
        track = _Track(self._next, Motion(face.box, self._time))
        self._tracks.append(track)
        self._next += 1
        return track

    def _keep(self, matches: dict[_Track, Face]) -> None:
        for track, face in matches.items():
            track.motion.predict(self._time)
            track.motion.update(face.box)
            track.seen = self._time
        self._tracks = [track for track in self._tracks if self._time - track.seen <= MEMORY]


def _is_new(face: Face, others: Sequence[Face]) -> bool:
    return all(iou(face.box, other.box) <= SAME for other in others)
