"""Find the faces of a picture (boxes, five points, scores) and cut them out as the models expect them.

Pictures are RGB, uint8 in 0..255, [h w 3]. A crop is laid on TEMPLATE, where the points of FERPlus's pictures lie
on average, so that a photograph's face is framed as the training pictures are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnxruntime
from PIL import Image

from fervor.detector import Floats, Letterbox, Pixels, letterbox, place, read
from fervor.errors import ModelError, UsageError


__all__ = ["TEMPLATE", "Face", "FaceDetector", "Mode", "crop", "precropped", "select", "similarity"]

WEIGHTS = Path(__file__).parent / "weights" / "detector.onnx"
LONGEST = 640  # pixels of the longer side the network looks at
THRESHOLD = 0.6
OVERLAP = 0.4
BATCH_PIXELS = 16 * 640 * 640  # pictures run together up to this many pixels

Mode = Literal["all", "largest"]

# Left eye, right eye, nose, left and right corner of the mouth (left as seen) in a square of side 1: the mean of the
# points found on FERPlus's training pictures (scripts/weights/make_template.py).
TEMPLATE: Floats = np.array(
    [[0.326, 0.381], [0.674, 0.381], [0.500, 0.585], [0.362, 0.757], [0.638, 0.757]], np.float32
)


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a picture, in its pixels; `score` in 0..1."""

    box: tuple[float, float, float, float]  # x, y, width, height, inside the picture
    points: Floats = field(compare=False, repr=False)  # [5 2] in TEMPLATE's order
    score: float

    @property
    def area(self) -> float:
        """Box area in square pixels."""
        return self.box[2] * self.box[3]


class FaceDetector:
    """The embedded detector; `threads` 0 leaves their number to onnxruntime."""

    def __init__(
        self,
        threads: int = 0,
        *,
        longest: int = LONGEST,
        threshold: float = THRESHOLD,
        overlap: float = OVERLAP,
        weights: Path = WEIGHTS,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(weights), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no public root
            raise ModelError(
                f"detector {weights} cannot be read ({error}): reinstall fervor"
            ) from error
        self.longest, self.threshold, self.overlap = longest, threshold, overlap

    def detect(self, images: Sequence[Pixels]) -> list[list[Face]]:
        """Faces of each picture, largest first; pictures of one padded size run as one batch."""
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        frames = []
        for index, image in enumerate(images):
            check(image)
            frames.append(letterbox(*image.shape[:2], self.longest))
            groups[frames[-1].outer].append(index)
        found: list[list[Face]] = [[] for _ in images]
        for (rows, columns), members in groups.items():
            step = max(1, BATCH_PIXELS // (rows * columns))
            for start in range(0, len(members), step):
                chunk = members[start : start + step]
                faces = self._run([images[i] for i in chunk], [frames[i] for i in chunk])
                for index, these in zip(chunk, faces, strict=True):
                    found[index] = these
        return found

    def _run(self, images: list[Pixels], frames: list[Letterbox]) -> list[list[Face]]:
        batch = np.empty((len(images), *frames[0].outer, 3), np.uint8)
        for target, image, frame in zip(batch, images, frames, strict=True):
            place(image, frame, target)
        score, box, points = self.session.run(["score", "box", "points"], {"image": batch})
        return [
            collect(*read(*row, frame, threshold=self.threshold, overlap=self.overlap))
            for *row, frame in zip(score, box, points, frames, strict=True)
        ]


def check(image: Pixels) -> None:
    """Raises ValueError for anything but a non-empty uint8 array [h w 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"got an array {image.dtype} {image.shape}, expected uint8 [h w 3]: use to_rgb"
        )


def collect(corners: Floats, points: Floats, score: Floats) -> list[Face]:
    """Arrays of one picture -> faces, largest first."""
    faces = [
        Face((float(x0), float(y0), float(x1 - x0), float(y1 - y0)), marks, float(s))
        for (x0, y0, x1, y1), marks, s in zip(corners, points, score, strict=True)
        if x1 > x0 and y1 > y0
    ]
    return sorted(faces, key=lambda face: -face.area)


def select(faces: Sequence[Face], mode: Mode = "all") -> list[Face]:
    """All faces in their order, or the one with the largest box."""
    if mode not in get_args(Mode):
        raise UsageError(f"got the face mode {mode!r}, expected one of {', '.join(get_args(Mode))}")
    if mode == "largest":
        return [max(faces, key=lambda face: face.area)] if faces else []
    return list(faces)


def similarity(source: Floats, target: Floats, *, rotate: bool = True) -> Floats:
    """Least-squares map of points [n 2] onto others: [2 3], scale and rotation beside the shift.

    Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns", 1991, in two
    dimensions, where it has a closed form; without `rotate` scale and shift alone. Never mirrors.
    """
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    x, y = (source - middle).T.astype(np.float64)
    u, v = (target - goal).T.astype(np.float64)
    spread = max(float(x @ x + y @ y), 1e-12)
    real = float(x @ u + y @ v) / spread
    imaginary = float(x @ v - y @ u) / spread if rotate else 0.0
    linear = np.array([[real, -imaginary], [imaginary, real]])
    return np.column_stack([linear, goal - linear @ middle]).astype(np.float32)


def crop(image: Pixels, face: Face, size: int, *, rotate: bool = False) -> Pixels:
    """The face laid on TEMPLATE, [size size 3]: antialiased where it shrinks, edges replicated beyond the picture."""
    check(image)
    # Crop pixels -> picture pixels: the frame is found in the picture, so that errors count in its pixels.
    matrix = frame_of(face, rotate=rotate) / np.array([size, size, 1])
    return warp(image, matrix, size)


def frame_of(face: Face, *, rotate: bool = False) -> Floats:
    """Map [2 3] from the unit square of a crop to the picture: from the points, or from the box where they fail.

    The points fail when they lie on a line, or when the square they ask for disagrees with the box (profiles, faces
    cut by the edge): its side must be between 0.5 and 1.6 of the box's longer side, and hold the box's centre.
    """
    matrix = similarity(TEMPLATE, face.points, rotate=rotate)
    x, y, width, height = face.box
    longer = max(width, height)
    side = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    centre = np.array([x + width / 2, y + height / 2])
    offset = float(np.abs(matrix @ [0.5, 0.5, 1.0] - centre).max())
    if matrix[0, 0] > 0 and 0.5 * longer <= side <= 1.6 * longer and offset <= 0.5 * longer:
        return matrix
    return np.array(
        [[longer, 0, centre[0] - longer / 2], [0, longer, centre[1] - longer / 2]], np.float32
    )


def warp(image: Pixels, matrix: Floats, size: int) -> Pixels:
    """Sample the picture where `matrix` [2 3] (crop pixels -> picture pixels) sends each pixel of the crop."""
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ matrix.T
    step = float(np.hypot(matrix[0, 0], matrix[1, 0]))  # picture pixels per crop pixel
    margin = int(np.ceil(2 * max(1.0, step))) + 1
    low = np.floor(corners.min(axis=0)).astype(int) - margin
    high = np.ceil(corners.max(axis=0)).astype(int) + margin
    height, width = image.shape[:2]
    rows = np.clip(np.arange(low[1], high[1]), 0, height - 1)
    columns = np.clip(np.arange(low[0], high[0]), 0, width - 1)
    patch = Image.fromarray(image[rows[:, None], columns])
    matrix = matrix.astype(np.float64)
    matrix[:, 2] -= low
    if abs(matrix[1, 0]) < 1e-6 * step:
        box = (*matrix[:, 2], *(matrix[:, 2] + step * size))
        return np.asarray(patch.resize((size, size), Image.Resampling.BICUBIC, box=box))
    reduction = max(1, int(step / 2))
    if reduction > 1:
        patch = patch.reduce(reduction)
    # Sample finer than asked and average, so that shrinking does not alias.
    finer = max(1, int(np.ceil(step / reduction)))
    data = tuple((matrix / [finer, finer, 1] / reduction).ravel())
    large = patch.transform(
        (size * finer, size * finer), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    )
    return np.asarray(large.reduce(finer) if finer > 1 else large)


def precropped(image: Pixels, size: int) -> Pixels:
    """A picture that is one face already, resized as a whole to [size size 3]."""
    check(image)
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
