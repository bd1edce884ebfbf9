"""Find the faces of a picture (boxes, five points) and cut them out as the models expect them.

Pictures are RGB, PIL's or uint8 in 0..255, [h w 3]. A crop is laid on TEMPLATE, where the points
lie on average in FERPlus's pictures, so that a photograph's face is framed as the training pictures
are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.detector import Floats, Letterbox, Pixels, letterbox, place, read
from fervor.errors import UsageError
from fervor.preprocess import Decoded, shape_of
from fervor.sessions import open_packaged


__all__ = [
    "TEMPLATE",
    "Box",
    "Face",
    "FaceDetector",
    "Mode",
    "crop",
    "overlap",
    "select",
    "similarity",
]

WEIGHTS = Path(__file__).parent / "weights" / "detector.onnx"
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
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

TEMPLATE: Floats = np.array(
    [[0.3058, 0.3617], [0.6942, 0.3617], [0.5000, 0.5914], [0.3454, 0.7867], [0.6546, 0.7867]],
    np.float32,
)
"""Left eye, right eye, nose, left and right corner of the mouth (left as seen) in a crop of side 1.

The mean over FERPlus's training pictures and their mirror images (scripts/weights/make_template.py)
with the square drawn in to 0.88 of its side, which classifies better (docs/decisions/detector.md).
"""
BOX_TEMPLATE: Floats = np.array(
    [[0.0626, -0.0588], [0.9374, -0.0588], [0.0626, 1.0756], [0.9374, 1.0756]],
    np.float32,
)
"""The corners of the box in the same square: top left, top right, bottom left, bottom right."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a picture, in its pixels; `score` in 0..1.

    Fields:
        box: x, y, width, height; inside the picture.
        points: float32 [5 2], x and y in TEMPLATE's order; may lie outside the picture.
    """

    box: Box
    points: Floats = field(compare=False)
    score: float

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return self.box[2] * self.box[3]


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


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x, y, width, height; 0 where one is empty."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def check(image: Decoded) -> tuple[int, int]:
    """Height and width of a non-empty picture, RGB of PIL or a uint8 array [h w 3].

    Raises:
        ValueError: it is something else.
    """
    if isinstance(image, Image.Image):
        if image.mode != "RGB" or not image.width * image.height:
            raise ValueError(
                f"a picture of mode {image.mode}, {image.width} x {image.height}: "
                "expected RGB, see rgb_image"
            )
    elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"an array of {image.dtype} {list(image.shape)}: expected uint8 [h w 3], see to_rgb"
        )
    return shape_of(image)


def select(faces: Sequence[Face], mode: Mode = "all") -> list[Face]:
    """All faces in their order, or the one with the largest box."""
    if mode not in get_args(Mode):
        raise UsageError(f"faces {mode!r}: expected one of {', '.join(get_args(Mode))}")
    if mode == "largest":
        return [max(faces, key=lambda face: face.area)] if faces else []
    return list(faces)


def similarity(
    source: Floats, target: Floats, *, weights: Floats | None = None, angle: float | None = None
) -> NDArray[np.float64]:
    """Least-squares map [2 3] of points [n 2] onto others: one scale, a turn and a shift.

    `weights` [n 2] count x and y of each point apart, `angle` in radians fixes the turn (with it
    the weights are those of the target's axes). Never mirrors. The closed form in two dimensions
    of Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns",
    1991.
    """
    weights = np.ones_like(source) if weights is None else weights
    if angle is None:
        angle = turn(source, target)
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    source = source.astype(np.float64) @ rotation.T
    total = np.maximum(weights.sum(axis=0), 1e-12)
    middle, goal = (weights * source).sum(axis=0) / total, (weights * target).sum(axis=0) / total
    spread = (weights * (source - middle) ** 2).sum()
    scale = (weights * (source - middle) * (target - goal)).sum() / max(spread, 1e-12)
    return np.column_stack([scale * rotation, goal - scale * middle])


def turn(source: Floats, target: Floats) -> float:
    """Angle in radians, from x towards y, that best turns points [n 2] onto others."""
    x, y = (source - source.mean(axis=0)).T
    u, v = (target - target.mean(axis=0)).T
    return float(np.arctan2(x @ v - y @ u, x @ u + y @ v))


def crop(
    image: Decoded, face: Face, size: int, *, rotate: bool = True, margin: float = 0.0
) -> Pixels:
    """The face laid on TEMPLATE, [size size 3]; beyond the picture its edge is repeated.

    `margin` is added on each side, as a share of TEMPLATE's square; models are fed crops without.
    `rotate` turns the head upright, without it the square is: FERPlus's own pictures are not
    turned, yet a turned crop loses nothing on them and holds where a head is tilted far
    (docs/decisions/detector.md).
    """
    return cut(image, square(face, *check(image), rotate=rotate), size, margin=margin)


def cut(image: Decoded, where: NDArray[np.float64], size: int, *, margin: float = 0.0) -> Pixels:
    """The part of a picture on which `where` [2 3] lays a square of side 1, [size size 3].

    `margin` is as in `crop`.
    """
    side = 1 + 2 * margin
    wider = np.array([[side, 0, -margin], [0, side, -margin], [0, 0, 1]])
    return warp(image, where @ wider / [size, size, 1], size)


def square(face: Face, height: int, width: int, *, rotate: bool = True) -> NDArray[np.float64]:
    """Map [2 3] from a crop of side 1 to the picture: the best fit of five points and box corners.

    Sides of the box that lie on the picture's edge are cut off and do not count. Where the fit
    still disagrees with the box (its side is not 0.45 to 1.4 of the box's longer one, or its centre
    is more than half of that away: the points are wrong), it is the upright square at the box.
    """
    x, y, w, h = face.box
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]])
    centre, longer = corners.mean(axis=0), max(w, h)
    angle = turn(TEMPLATE, face.points) if rotate else 0.0
    inside = (corners > 0.5) & (corners < np.array([width, height]) - 0.5)
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = similarity(
        np.concatenate([TEMPLATE, BOX_TEMPLATE]),
        np.concatenate([face.points, (corners - centre) @ back + centre]),
        weights=np.concatenate([np.ones((5, 2)), inside]),
        angle=angle,
    )
    side = float(matrix[0, 0] * np.cos(angle) + matrix[1, 0] * np.sin(angle))  # may be negative
    offset = float(np.abs(matrix @ [0.5, 0.5, 1.0] - centre).max())
    if np.isfinite(matrix).all() and 0.45 <= side / longer <= 1.4 and offset <= 0.5 * longer:
        return matrix
    side = longer / float(BOX_TEMPLATE[2, 1] - BOX_TEMPLATE[0, 1])
    return np.array([[side, 0, centre[0] - side / 2], [0, side, centre[1] - side / 2]])


def warp(image: Decoded, matrix: NDArray[np.float64], size: int) -> Pixels:
    """Sample the picture where `matrix` [2 3] sends the pixels of the crop, without aliasing."""
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ matrix.T
    step = float(np.hypot(matrix[0, 0], matrix[1, 0]))  # picture pixels per crop pixel
    margin = int(np.ceil(2 * max(1.0, step))) + 1
    low = np.floor(corners.min(axis=0)).astype(int) - margin
    high = np.ceil(corners.max(axis=0)).astype(int) + margin
    patch = _piece(image, low, high)
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] - low])
    if abs(matrix[1, 0]) < 1e-6 * step:
        left, top = matrix[:, 2].tolist()
        box = (left, top, left + step * size, top + step * size)
        return np.asarray(patch.resize((size, size), Image.Resampling.BICUBIC, box=box))
    # A turned square: halve the picture first, then sample finer than its pixels and average.
    reduction = max(1, int(step / 2))
    finer = 2 * int(np.ceil(step / reduction)) if step > 1 else 1
    sampling = (matrix / [finer, finer, 1] / reduction).ravel().tolist()
    smooth = Image.Resampling.BICUBIC if finer == 1 else Image.Resampling.NEAREST
    if reduction > 1:  # otherwise reduce would copy
        patch = patch.reduce(reduction)
    side = size * finer
    turned = patch.transform((side, side), Image.Transform.AFFINE, sampling, smooth)
    return np.asarray(turned.reduce(finer) if finer > 1 else turned)


def _piece(image: Decoded, low: NDArray[np.int_], high: NDArray[np.int_]) -> Image.Image:
    """From `low` up to `high` (x, y), where the picture's edge is repeated beyond it."""
    height, width = shape_of(image)
    left, top = np.clip(low, 0, [width - 1, height - 1]).tolist()
    right, bottom = np.clip(high, [left + 1, top + 1], [width, height]).tolist()
    piece: Decoded
    if isinstance(image, Image.Image):
        piece = image.crop((left, top, right, bottom))
    else:
        piece = image[top:bottom, left:right]
    if [left, top, right, bottom] != [*low.tolist(), *high.tolist()]:
        rows = np.clip(np.arange(low[1], high[1]), top, bottom - 1) - top
        columns = np.clip(np.arange(low[0], high[0]), left, right - 1) - left
        # One axis after the other takes a third of the time of both at once.
        piece = np.asarray(piece)[rows].take(columns, axis=1)
    return piece if isinstance(piece, Image.Image) else Image.fromarray(piece)
