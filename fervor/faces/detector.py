"""Find the faces of a picture (boxes, five points) and cut them out as the models expect them.

Pictures are RGB, PIL's or uint8 in 0..255, [h w 3]. A crop is laid on TEMPLATE, where the points
lie on average in FERPlus's pictures, so that a photograph's face is framed as the training pictures
are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fervor.errors import UsageError
from fervor.faces.alignment import check
from fervor.faces.anchors import Letterbox, letterbox, place, read
from fervor.faces.types import Box, Face, Floats, Pixels, overlap
from fervor.io.image import Decoded
from fervor.io.onnx_session import open_packaged


__all__ = ["FaceDetector", "Mode", "select"]

WEIGHTS = Path(__file__).parents[1] / "weights" / "detector.onnx"
INT8_WEIGHTS = WEIGHTS.with_name("detector_int8.onnx")
LOW, HIGH = 320, 640
"""The network looks at pictures whose longer side, in pixels, is brought between these."""
HIGHEST, SEEN = 2560, 32
"""Where a smallest face is asked for: the longer side at most, and that of such a face."""
THRESHOLD = 0.65
SURE, LEAST = 0.95, 0.12
"""Score, and side as a share of the picture's shorter side, of a face that only enlarging shows."""

NEAR_SIDE, NEAR_SPAN = 160, 2.0
"""Looking for a known face again: side of the network's input, and of what it shows in faces."""
NEAR_OVERLAP = 0.3
"""Least intersection over union with where the face was expected."""

OVERLAP = 0.4
BATCH_PIXELS = HIGH * HIGH
"""Pictures run together up to this many pixels, at least one: more take memory and save no time."""

Mode = Literal["all", "largest"]


class FaceDetector:
    """The embedded detector.

    Args:
        threads: 0 leaves their number to onnxruntime.
        threshold: least score of a face.
        overlap: intersection over union from which on two boxes are one face.
        high: what the longer side of a picture is brought to at most.
        smallest: longer side, in pixels of the picture, of the smallest face that counts. It is
            then what the picture is scaled by, up to HIGHEST, in place of `high`: large faces are
            found faster, small ones in large pictures at all. 0 asks for none.
        most: faces of a picture that are kept at most, the largest; 0 keeps all.
        device: cpu or cuda.
        weights: the graph, or INT8_WEIGHTS, which is faster and finds nearly the same.
    """

    def __init__(
        self,
        threads: int = 0,
        *,
        threshold: float = THRESHOLD,
        overlap: float = OVERLAP,
        high: int = HIGH,
        smallest: float = 0.0,
        most: int = 0,
        device: str = "cpu",
        weights: Path = WEIGHTS,
    ) -> None:
        if not 0 <= smallest < np.inf:
            raise UsageError(f"smallest={smallest}: expected pixels, or 0 for faces of any size")
        self._session = open_packaged(weights, "the face detector", threads=threads, device=device)
        self.threshold, self.overlap, self.high = threshold, overlap, high
        self.smallest, self.most = smallest, most

    def detect(self, images: Sequence[Decoded], *, looks: int = 3) -> list[list[Face]]:
        """Faces of each picture, an array or PIL's, largest first.

        A picture without a face is looked at again at the lowest size, where a face that fills all
        of it is found, and then at twice its size, where blurred ones are. What looks like a face
        only there must be surer and larger (SURE, LEAST): textures pass for faces too. `looks`
        of 1 or 2 stops after as many.
        """
        sizes = [check(image) for image in images]
        found: list[list[Face]] = [[] for _ in images]
        tried: list[set[Letterbox]] = [set() for _ in images]
        for look in range(looks):
            frames = {}
            for index, (height, width) in enumerate(sizes):
                high = self._high(max(height, width))
                low, high = ((LOW, high), (LOW, LOW), (2 * high, 2 * high))[look]
                least = min(low, high, max(LOW, 2 * max(height, width)))
                frame = letterbox(height, width, low=least, high=high)
                if not found[index] and frame not in tried[index]:
                    frames[index] = frame
                    tried[index].add(frame)
            for index, faces in self._look(images, frames):
                enlarged = look == 2
                side = max(LEAST * min(sizes[index]) if enlarged else 0.0, self.smallest)
                sure = SURE if enlarged else 0.0
                found[index] = [
                    face for face in faces if face.score >= sure and max(face.box[2:]) >= side
                ]
        return [faces[: self.most or None] for faces in found]

    def _high(self, longer: int) -> int:
        """What a picture's longer side is brought to at most."""
        if not self.smallest:
            return self.high
        return round(min(max(LOW, longer * SEEN / self.smallest), HIGHEST))

    def near(self, image: Pixels, boxes: Sequence[Box]) -> list[Face | None]:
        """For each box, where a face is expected, the face that is there now.

        Looks at a square of NEAR_SPAN times the box's longer side around it, at a low resolution:
        a twelfth of the work on a whole picture of 640 x 480. What is found is what `detect` finds
        there, up to the lower resolution.
        """
        check(image)
        regions = [_region(box, image.shape[0], image.shape[1]) for box in boxes]
        patches = [image[y : y + height, x : x + width] for x, y, width, height in regions]
        frames = {
            index: letterbox(*patch.shape[:2], low=NEAR_SIDE, high=NEAR_SIDE)
            for index, patch in enumerate(patches)
            if patch.size
        }
        found: list[Face | None] = [None] * len(boxes)
        for index, faces in self._look(patches, frames):
            x, y = regions[index][:2]
            moved = [_moved(face, x, y) for face in faces]
            best = max(moved, key=lambda face: overlap(face.box, boxes[index]), default=None)
            if best is not None and overlap(best.box, boxes[index]) >= NEAR_OVERLAP:
                found[index] = best
        return found

    def _look(
        self, images: Sequence[Decoded], frames: dict[int, Letterbox]
    ) -> Iterable[tuple[int, list[Face]]]:
        """Pictures of one padded size run as one batch."""
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, frame in frames.items():
            groups[frame.outer].append(index)
        for (rows, columns), members in groups.items():
            step = max(1, BATCH_PIXELS // (rows * columns))
            for start in range(0, len(members), step):
                chunk = members[start : start + step]
                batch = np.empty((len(chunk), rows, columns, 3), np.uint8)
                for target, index in zip(batch, chunk, strict=True):
                    place(images[index], frames[index], target)
                outputs = self._session.run(["score", "box", "points"], {"image": batch})
                for index, score, box, points in zip(chunk, *outputs, strict=True):
                    yield index, self._faces(score, box, points, frames[index])

    def _faces(self, score: Floats, box: Floats, points: Floats, frame: Letterbox) -> list[Face]:
        boxes, marks, scores = read(
            score, box, points, frame, threshold=self.threshold, overlap=self.overlap
        )
        faces = [
            Face((float(x0), float(y0), float(x1 - x0), float(y1 - y0)), five, float(value))
            for (x0, y0, x1, y1), five, value in zip(boxes, marks, scores, strict=True)
            if x1 > x0 and y1 > y0
        ]
        return sorted(faces, key=lambda face: -face.area)


def _region(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """x, y, width, height of the square around a box, in whole pixels inside the picture."""
    x, y, w, h = box
    half = NEAR_SPAN * max(w, h) / 2
    low = np.floor([x + w / 2 - half, y + h / 2 - half]).clip(0, [width, height]).astype(int)
    high = np.ceil([x + w / 2 + half, y + h / 2 + half]).clip(0, [width, height]).astype(int)
    return (int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _moved(face: Face, x: float, y: float) -> Face:
    left, top, width, height = face.box
    points = face.points + np.array([x, y], np.float32)
    return Face((left + x, top + y, width, height), points, face.score)


def select(faces: Sequence[Face], mode: Mode = "all") -> list[Face]:
    """All faces in their order, or the one with the largest box."""
    if mode not in get_args(Mode):
        raise UsageError(f"faces {mode!r}: expected one of {', '.join(get_args(Mode))}")
    if mode == "largest":
        return [max(faces, key=lambda face: face.area)] if faces else []
    return list(faces)
