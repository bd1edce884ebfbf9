"""Pictures into batches, anchors into boxes, overlaps removed: against slow loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fervor.faces import anchors


Box = tuple[float, ...]


def shared(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x, y, width, height, by the definition."""
    width = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_any_size(height: int, width: int) -> None:
    frame = anchors.letterbox(height, width, low=320, high=640)
    assert 320 <= max(frame.inner) <= 640
    assert min(frame.inner) >= 1
    for inner, outer in zip(frame.inner, frame.outer, strict=True):
        assert outer % 32 == 0
        assert 0 <= outer - inner < 32
    # Both axes are scaled alike, up to rounding to whole pixels.
    longer = max(height, width) / max(frame.inner)
    assert abs(min(height, width) / longer - min(frame.inner)) <= 1


def test_anchors_by_loop() -> None:
    expected = [
        ((column + 0.5) * stride, (row + 0.5) * stride, side)
        for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
        for row in range(64 // stride)
        for column in range(96 // stride)
        for side in sides
    ]
    np.testing.assert_array_equal(anchors.anchors(64, 96), expected)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0.1, 0.9))
def test_suppress_by_loop(seed: int, count: int, iou: float) -> None:
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 50, (count, 2))
    corners = np.concatenate([low, low + generator.uniform(1, 40, (count, 2))], axis=1)
    score = generator.permutation(count) / max(count, 1)
    boxes = [(x, y, right - x, bottom - y) for x, y, right, bottom in corners.tolist()]
    expected: list[int] = []
    for index in sorted(range(count), key=lambda i: -score[i]):
        if all(shared(boxes[index], boxes[kept]) <= iou for kept in expected):
            expected.append(index)
    assert anchors.nms(corners, score, iou).tolist() == expected


def test_suppress_boxes_inside_others() -> None:
    corners = np.array([[0, 0, 100, 100], [40, 40, 70, 70], [85, 85, 125, 125], [-90, 0, 20, 300]])
    score = np.array([0.9, 0.8, 0.7, 0.6])
    assert anchors.nms(corners, score, 0.4).tolist() == [0, 1, 2, 3]
    assert anchors.nms(corners, score, 0.4, inside=0.7).tolist() == [0, 2, 3]
    assert anchors.nms(corners, score[[1, 0, 2, 3]], 0.4, inside=0.7).tolist() == [1, 2, 3]


def test_decode_by_loop() -> None:
    generator = np.random.default_rng(0)
    anchor = anchors.anchors(32, 64)
    box, points = generator.normal(size=(len(anchor), 4)), generator.normal(size=(len(anchor), 10))
    corners, marks = anchors.decode(anchor, box, points)
    for (x, y, side), code, five, corner, mark in zip(
        anchor, box, points, corners, marks, strict=True
    ):
        middle = (x + 0.1 * code[0] * side, y + 0.1 * code[1] * side)
        size = (side * np.exp(0.2 * code[2]), side * np.exp(0.2 * code[3]))
        assert corner[:2] == pytest.approx([middle[0] - size[0] / 2, middle[1] - size[1] / 2])
        assert corner[2:] == pytest.approx([middle[0] + size[0] / 2, middle[1] + size[1] / 2])
        for index in range(5):
            expected = (x + 0.1 * five[2 * index] * side, y + 0.1 * five[2 * index + 1] * side)
            assert mark[index] == pytest.approx(expected)


def test_a_picture_lies_in_the_corner_of_its_batch() -> None:
    image = np.full((100, 50, 3), 7, np.uint8)
    frame = anchors.letterbox(100, 50, low=320, high=640)
    target = np.zeros((*frame.outer, 3), np.uint8)
    anchors.place(image, frame, target)
    assert (frame.inner, frame.outer) == ((320, 160), (320, 160))
    assert (target == 7).all()
    frame = anchors.letterbox(100, 50, low=100, high=100)
    target = np.zeros((*frame.outer, 3), np.uint8)
    anchors.place(image, frame, target)
    assert frame.outer == (128, 64)
    assert (target[:100, :50] == 7).all()
    assert (target[100:] == anchors.PADDING).all()
    assert (target[:100, 50:] == anchors.PADDING).all()


@pytest.mark.parametrize("ratio", [1.0, 1.3, 1.5625, 2.0, 3.7, 6.0])
def test_shrinking_takes_means_of_areas(ratio: float) -> None:
    """Close to exact areas where a picture is smooth; the same where they are whole pixels."""
    height, width = round(90 * ratio), round(120 * ratio)
    y, x = np.mgrid[:height, :width]
    waves = 128 + 100 * np.sin(9 * x / width) * np.cos(5 * y / height)
    smooth = np.repeat(waves[:, :, None], 3, axis=2).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, smooth.shape, dtype=np.uint8)
    frame = anchors.letterbox(height, width, low=32, high=120)
    for image, tolerance in ((smooth, 5), (noise, 1 if ratio in (1.0, 2.0, 6.0) else 255)):
        target = np.zeros((*frame.outer, 3), np.uint8)
        anchors.place(image, frame, target)
        decoded = np.zeros_like(target)
        anchors.place(Image.fromarray(image), frame, decoded)
        np.testing.assert_array_equal(decoded, target)
        exact = Image.fromarray(image).resize((120, 90), Image.Resampling.BOX)
        shrunk = target[:90, :120].astype(int)
        assert np.abs(shrunk - np.asarray(exact)).max() <= tolerance
        assert shrunk.mean() == pytest.approx(image.mean(), abs=1)
