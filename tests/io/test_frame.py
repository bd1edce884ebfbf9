"""Frames know what they are; spans refuse what makes no sense."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from fervor.errors import UsageError
from fervor.io.frame import Frame, Span


def test_kinds_of_frames() -> None:
    image = np.zeros((3, 5, 3), np.uint8)
    picture = Frame("a.png", 0, None, image, None)
    video = Frame("a.mp4", 0, 0.0, None, None)
    webcam = Frame("webcam:0", 0, 0.0, image, None, live=True)
    kinds = [(frame.moving, frame.live, frame.pixels) for frame in (picture, video, webcam)]
    decoded = Frame("a.png", 0, None, Image.fromarray(image), None)
    assert picture.shape == decoded.shape == (3, 5)
    assert video.shape == (0, 0)
    assert video.image is None
    assert picture.image is image
    np.testing.assert_array_equal(decoded.image, image)
    assert decoded.image is decoded.image  # made once
    assert kinds == [(False, False, 15), (True, False, 0), (True, True, 15)]


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ({"every": 0}, "every=0: expected 1"),
        ({"start": -1.0}, "start=-1.0: expected seconds, 0 or more"),
        ({"start": float("nan")}, "start=nan: expected"),
        ({"start": float("inf")}, "start=inf: expected"),
        ({"start": 3.0, "end": 3.0}, "end=3.0: expected seconds after start=3.0"),
        ({"end": float("nan")}, "end=nan: expected"),
    ],
)
def test_spans_out_of_range(span: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Span(**span)
