"""Scenes of any size with faces in them, composed while the tests run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


ASTRONAUT = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
HEAD = (124, 16, 324, 216)
"""Left, top, right, bottom of a head with its surroundings in ASTRONAUT."""
FACE = (178, 56, 92, 120)
"""x, y, width, height of its face."""

Box = tuple[float, float, float, float]


def background(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Soft blotches of colour, as out of focus."""
    cells = (max(2, height // 160), max(2, width // 160), 3)
    blotches = np.random.default_rng(seed).integers(40, 216, cells, dtype=np.uint8)
    return Image.fromarray(blotches).resize((width, height), Image.Resampling.BICUBIC)


def scene(
    width: int, height: int, faces: Sequence[tuple[int, int, int]], *, seed: int = 0
) -> tuple[Image.Image, list[Box]]:
    """A picture, and the boxes of its faces, given by their longer side and their left top."""
    picture = background(width, height, seed=seed)
    head, boxes = Image.open(ASTRONAUT).convert("RGB").crop(HEAD), []
    for side, x, y in faces:
        scale = side / FACE[3]
        drawn = round((HEAD[2] - HEAD[0]) * scale)
        left, top = round(x - (FACE[0] - HEAD[0]) * scale), round(y - (FACE[1] - HEAD[1]) * scale)
        picture.paste(head.resize((drawn, drawn), Image.Resampling.LANCZOS), (left, top))
        boxes.append((x, y, FACE[2] * scale, side))
    return picture, boxes


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x, y, width, height, by the definition."""
    width = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)
