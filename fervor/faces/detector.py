"""The face detector: boxes and five points of every face in an image of any size.

Images are RGB, PIL's or uint8 in 0..255, [h w 3].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from fervor.errors import UsageError
from fervor.faces.alignment import check
from fervor.faces.anchors import Letterbox, letterbox, nms, place, read
from fervor.faces.pyramid import FINEST, SEEN, Tile, finest_scale, pyramid
from fervor.faces.types import Box, Face, Floats, Pixels, iou
from fervor.io.image import Decoded, shape_of
from fervor.io.onnx_session import open_packaged
from fervor.io.prefetch import cores, map_ordered


__all__ = ["FaceDetector", "Mode", "select"]

WEIGHTS = Path(__file__).parents[1] / "weights" / "detector.onnx"
INT8_WEIGHTS = WEIGHTS.with_name("detector_int8.onnx")
LOW, HIGH = 320, 640
"""The network looks at images whose longer side, in pixels, is brought between these."""
SMALLEST = 40
"""Longer side, in pixels of an image, of the smallest face that is found in an image of any size
where no other is asked for."""
MEASURED = 0.8
"""A box's longer side over the true one at least: what smaller boxes than a smallest face count."""
THRESHOLD = 0.65
MIN_SCORE, LEAST = 0.95, 0.12
"""Score, and side as a share of the image's shorter side, of a face that only enlarging shows."""

NEAR_SIDE, NEAR_SPAN = 160, 2.0
"""Looking for a known face again: side of the network's input, and of what it shows in faces."""
NEAR_IOU = 0.3
"""Least intersection over union with where the face was expected."""

MAX_IOU, INSIDE = 0.4, 0.7
"""Intersection over union from which on two boxes are one face; and, of boxes from different tiles,
how much of the smaller one the other covers: parts of a face pass for faces where it is large."""
BATCH_PIXELS = HIGH * HIGH
"""Images run together up to this many pixels, at least one: more take memory and save no time."""
BATCHES_A_STEP = 4
"""Batches that are filled, then run, then read: code that follows the network's is slow once."""

Mode = Literal["all", "largest"]


class FaceDetector:
    """The embedded detector.

    Args:
        threads: 0 leaves their number to onnxruntime.
        threshold: least score of a face.
        iou: intersection over union from which on two boxes are one face.
        high: what the longer side of a whole image is brought to at most.
        smallest: longer side, in pixels of the image, of the smallest face that is found in an
            image of any size, 16 at the least; boxes that are smaller by a fifth are left out.
            0 finds every face of SMALLEST, and smaller ones where they are seen on the way.
        most: faces of an image that are kept at most, the largest; 0 keeps all.
        device: cpu or cuda.
        weights: the graph, or INT8_WEIGHTS, which is faster and finds nearly the same.
        at_once: tiles of a large image that are looked at side by side; 0 for as many as threads.
    """

    def __init__(
        self,
        threads: int = 0,
        *,
        threshold: float = THRESHOLD,
        iou: float = MAX_IOU,
        high: int = HIGH,
        smallest: float = 0.0,
        most: int = 0,
        device: str = "cpu",
        weights: Path = WEIGHTS,
        at_once: int = 0,
    ) -> None:
        if not 0 <= smallest < np.inf:
            raise UsageError(f"smallest={smallest}: expected pixels, or 0 for faces of any size")
        self._session = open_packaged(weights, "the face detector", threads=threads, device=device)
        self._outputs = list(self._session.outputs)
        self.threshold, self.iou, self.high = threshold, iou, high
        self.smallest, self.most = smallest, most
        self._at_once = at_once or threads or cores()

    @property
    def smallest_side(self) -> float:
        """Longer side in pixels of the smallest face that is found in an image of any size."""
        return max(self.smallest or SMALLEST, SEEN / FINEST)

    def detect(self, images: Sequence[Decoded], *, passes: int = 3) -> list[list[Face]]:
        """Faces of each image, an array or PIL's, largest first.

        The first look is at the whole image, and at the tiles of its pyramid where the smallest
        face would be too small in it. An image without a face is looked at again at the lowest
        size, where a face that fills all of it is found, and then at twice its size, where blurred
        ones are. What looks like a face only there must be surer and larger (MIN_SCORE, LEAST):
        textures pass for faces too. `passes` of 1 or 2 stops after as many, 0 after the whole
        image.
        """
        sizes = [check(image) for image in images]
        faces_of_images: list[list[Face]] = [[] for _ in images]
        tried: list[set[Letterbox]] = [set() for _ in images]
        for look in range(max(1, passes)):
            if all(faces_of_images):
                break
            views: list[tuple[int, Tile]] = []
            for index, (height, width) in enumerate(sizes):
                whole = self._whole(height, width, look)
                if faces_of_images[index] or whole.frame in tried[index]:
                    continue
                tried[index].add(whole.frame)
                if look == 0 < passes:
                    views += ((index, tile) for tile in self._pyramid(height, width))
                views.append((index, whole))
            parts: defaultdict[int, list[list[Face]]] = defaultdict(list)
            for (index, tile), faces in zip(views, self._look(images, views), strict=True):
                height, width = sizes[index]
                parts[index].append(
                    [
                        face
                        for face in faces
                        if tile.scale is None
                        or tile.answers_for(face.box, face.score, height=height, width=width)
                    ]
                )
            for index, several in parts.items():
                enlarged = look == 2
                side = max(LEAST * min(sizes[index]) if enlarged else 0.0, MEASURED * self.smallest)
                sure = MIN_SCORE if enlarged else 0.0
                faces_of_images[index] = [
                    face
                    for face in _merged(several, self.iou)
                    if face.score >= sure and max(face.box[2:]) >= side
                ]
        return [faces[: self.most or None] for faces in faces_of_images]

    def _whole(self, height: int, width: int, look: int) -> Tile:
        """The whole image, as it is looked at for the first, second or third time."""
        longer = max(height, width)
        low, high = min(LOW, self.high), self.high
        if self.smallest:
            low = high = min(max(LOW, round(longer * finest_scale(self.smallest))), high)
        if look == 1:
            low = high = LOW
        elif look == 2:
            low, high = min(2 * high, max(LOW, 2 * longer)), 2 * high
        return Tile(0, 0, letterbox(height, width, low=low, high=high))

    def _pyramid(self, height: int, width: int) -> Iterator[Tile]:
        smallest = self.smallest or SMALLEST
        return pyramid(height, width, smallest=smallest, coarsest=self.high)

    def near(self, image: Pixels, boxes: Sequence[Box]) -> list[Face | None]:
        """For each box, where a face is expected, the face that is there now.

        Looks at a square of NEAR_SPAN times the box's longer side around it, at a low resolution:
        a twelfth of the work on a whole image of 640 x 480. What is found is what `detect` finds
        there, up to the lower resolution.
        """
        height, width = check(image)
        expected, tiles = [], []
        for index, box in enumerate(boxes):
            x, y, w, h = _region(box, height, width)
            if w * h:
                expected.append(index)
                tiles.append(Tile(x, y, letterbox(h, w, low=NEAR_SIDE, high=NEAR_SIDE)))
        nearest_faces: list[Face | None] = [None] * len(boxes)
        parts = [_part(image, tile) for tile in tiles]
        for index, faces in zip(expected, self._look(parts, [*enumerate(tiles)]), strict=True):
            best = max(faces, key=lambda face: iou(face.box, boxes[index]), default=None)
            if best is not None and iou(best.box, boxes[index]) >= NEAR_IOU:
                nearest_faces[index] = best
        return nearest_faces

    def _look(
        self, images: Sequence[Decoded], views: Sequence[tuple[int, Tile]]
    ) -> list[list[Face]]:
        """For each view, an image's number and a part of it, the faces in it.

        Parts of one padded size run as one batch; where there are tiles of a pyramid, several
        batches run at a time.
        """
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, (_, tile) in enumerate(views):
            groups[tile.frame.outer].append(number)
        chunks = []
        for (rows, columns), members in groups.items():
            step = max(1, BATCH_PIXELS // (rows * columns))
            chunks += [members[start : start + step] for start in range(0, len(members), step)]
        count = self._at_once if any(tile.scale is not None for _, tile in views) else 1
        together = 1 if count > 1 else BATCHES_A_STEP
        seen = [[views[number] for number in chunk] for chunk in chunks]
        several = [seen[start : start + together] for start in range(0, len(seen), together)]
        faces_of_views: list[list[Face]] = [[] for _ in views]
        ran: Iterator[list[list[list[Face]]]] = map(self._run, repeat(images), several)
        if count > 1:
            ran = map_ordered(partial(self._run, images), several, count)
        for chunk, answers in zip(chunks, chain.from_iterable(ran), strict=True):
            for number, faces in zip(chunk, answers, strict=True):
                faces_of_views[number] = faces
        return faces_of_views

    def _run(
        self, images: Sequence[Decoded], several: Sequence[Sequence[tuple[int, Tile]]]
    ) -> list[list[list[Face]]]:
        """Batches of parts of the same padded size each, step by step."""
        batches = [_batch(images, views) for views in several]
        answers = [self._answers(batch) for batch in batches]
        return [
            [
                [
                    _moved(face, tile.x, tile.y)
                    for face in self._faces(score, box, points, tile.frame)
                ]
                for (_, tile), score, box, points in zip(views, *answer, strict=True)
            ]
            for views, answer in zip(several, answers, strict=True)
        ]

    def _answers(self, batch: Pixels) -> tuple[Floats, Floats, Floats]:
        """Of anchors, two to a cell, scores [b n], boxes [b n/2 2 4] and points [b n/2 2 10]."""
        score, *places = self._session.run(self._outputs, {"image": batch})
        if len(places) == 1:  # a cell's numbers side by side, scores' logits first
            places = np.split(places[0], [2, 10], axis=2)[1:]
        box, points = (part.reshape(len(batch), score.shape[1] // 2, 2, -1) for part in places)
        return score, box, points

    def _faces(self, score: Floats, box: Floats, points: Floats, frame: Letterbox) -> list[Face]:
        boxes, marks, scores = read(
            score, box, points, frame, threshold=self.threshold, iou=self.iou
        )
        faces = [
            Face((float(x0), float(y0), float(x1 - x0), float(y1 - y0)), five, float(value))
            for (x0, y0, x1, y1), five, value in zip(boxes, marks, scores, strict=True)
            if x1 > x0 and y1 > y0
        ]
        return sorted(faces, key=lambda face: -face.area)


def _region(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """x, y, width, height of the square around a box, in whole pixels inside the image."""
    x, y, w, h = box
    half = NEAR_SPAN * max(w, h) / 2
    low = np.floor([x + w / 2 - half, y + h / 2 - half]).clip(0, [width, height]).astype(int)
    high = np.ceil([x + w / 2 + half, y + h / 2 + half]).clip(0, [width, height]).astype(int)
    return (int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _batch(images: Sequence[Decoded], views: Sequence[tuple[int, Tile]]) -> Pixels:
    """Parts of images as the graph's input [b h w 3]."""
    (index, tile), frame = views[0], views[0][1].frame
    image = images[index]  # cut already where the tile is of no level
    if len(views) == 1 and tile.scale is None and shape_of(image) == frame.inner == frame.outer:
        return np.ascontiguousarray(image)[None]
    batch = np.empty((len(views), *frame.outer, 3), np.uint8)
    for target, (index, tile) in zip(batch, views, strict=True):
        image = images[index]
        place(image if tile.scale is None else _part(image, tile), tile.frame, target)
    return batch


def _part(image: Decoded, tile: Tile) -> Decoded:
    left, top, right, bottom = tile.region
    if (bottom - top, right - left) == shape_of(image):
        return image
    if isinstance(image, Image.Image):
        return image.crop(tile.region)
    return image[top:bottom, left:right]


def _merged(parts: Sequence[Sequence[Face]], iou: float) -> list[Face]:
    """Each face of several parts once, the surest of those that overlap, largest first."""
    if len(parts) == 1:
        return list(parts[0])
    faces = [face for part in parts for face in part]
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (face.box for face in faces)])
    score = np.array([face.score for face in faces])
    indices = nms(corners.reshape(-1, 4), score, iou, inside=INSIDE)
    return sorted((faces[index] for index in indices), key=lambda face: -face.area)


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
