"""How a face is cut out: annotated boxes against a slow loop, the annotated face among others."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fervor.data.cropping import CROP, box_crop, cut, is_grey, pixels_of, select_face
from fervor.data.datasets import Sample
from fervor.errors import DataError
from fervor.faces.alignment import TEMPLATE, crop
from fervor.faces.detector import FaceDetector
from fervor.faces.types import Face, iou
from tests.support.drawn import face


EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
SIDES = st.floats(1, 50)
BOXES = st.tuples(st.floats(-20, 60), st.floats(-20, 60), SIDES, SIDES)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_box_at_its_own_size_is_copied_pixel_by_pixel() -> None:
    """Beyond the picture the edge is repeated; against a loop over pixels."""
    image = noise(40, 50)
    for box in [(5.0, 6.0, 20.0, 20.0), (-7.0, 30.0, 20.0, 20.0), (45.0, -3.0, 20.0, 20.0)]:
        found = box_crop(image, box, 20)
        for row in range(20):
            for column in range(20):
                y = min(max(int(box[1]) + row, 0), 39)
                x = min(max(int(box[0]) + column, 0), 49)
                assert np.array_equal(found[row, column], image[y, x])


def test_a_box_becomes_a_square_about_its_centre() -> None:
    image = noise(60, 60)
    tall = box_crop(image, (20.0, 10.0, 10.0, 30.0), 30)
    assert np.array_equal(tall, image[10:40, 10:40])
    wider = box_crop(image, (20.0, 20.0, 20.0, 20.0), 30, margin=0.25)
    assert np.array_equal(wider, image[15:45, 15:45])


def test_a_large_box_shrinks_without_aliasing() -> None:
    checks = np.indices((400, 400)).sum(0)[:, :, None] % 2 * np.full(3, 255)
    found = box_crop(checks.astype(np.uint8), (0.0, 0.0, 400.0, 400.0), 40)
    assert found.std() < 12  # grey, where every tenth pixel would be black or white


@given(BOXES, BOXES)
def test_overlap_is_intersection_over_union(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> None:
    found = iou(first, second)
    assert 0 <= found <= 1 + 1e-9
    assert found == pytest.approx(iou(second, first))
    assert iou(first, first) == pytest.approx(1)
    boxes = [tuple(round(value) for value in box) for box in (first, second)]
    cells = [
        {(x, y) for x in range(b[0], b[0] + b[2]) for y in range(b[1], b[1] + b[3])} for b in boxes
    ]
    counted = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
    assert iou(*map(_floats, boxes)) == pytest.approx(counted)


def _floats(box: tuple[int, ...]) -> tuple[float, float, float, float]:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def found_at(*boxes: tuple[float, float, float, float]) -> list[Face]:
    return [Face(box, TEMPLATE * 10, 0.9) for box in boxes]


def test_the_annotated_face_is_chosen_not_the_largest() -> None:
    faces = found_at((0, 0, 90, 90), (100, 100, 20, 24))
    assert select_face(faces, None) is faces[0]
    assert select_face(faces, (98, 100, 24, 24)) is faces[1]
    assert select_face(faces, (200, 200, 30, 30)) is None
    assert select_face([], (0, 0, 5, 5)) is None
    assert select_face([], None) is None


def test_the_annotated_face_of_a_photograph(tmp_path: Path) -> None:
    """Two portraits side by side: the box says which one is meant."""
    photo = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    both = np.concatenate([photo, photo[:, ::-1]], axis=1)
    Image.fromarray(both).save(tmp_path / "both.png")
    detector = FaceDetector()
    faces = detector.detect([both])[0]
    assert len(faces) == 2
    for one in faces:
        x, y, width, height = one.box
        sample = Sample(str(tmp_path / "both.png"), "anger", box=(x - 9, y + 5, width, height))
        expected = crop(both, one, CROP)
        assert np.array_equal(cut(sample, detector, size=112), expected)
    nowhere = Sample(str(tmp_path / "both.png"), "anger", box=(0.0, 0.0, 20.0, 20.0))
    assert cut(nowhere, detector, size=112) is None


def test_without_a_detector_the_box_is_cut_out(tmp_path: Path) -> None:
    image = noise(60, 60)
    Image.fromarray(image).save(tmp_path / "a.png")
    sample = Sample(str(tmp_path / "a.png"), "anger", box=(20.0, 20.0, 20.0, 20.0))
    assert np.array_equal(cut(sample, None, size=20), image[20:40, 20:40])
    assert np.array_equal(cut(sample, None, size=30, margin=0.25), image[15:45, 15:45])
    whole = Sample(sample.path, "anger")
    assert np.array_equal(cut(whole, None, size=20), image)


def test_pictures_stand_upright_as_predict_reads_them(tmp_path: Path) -> None:
    turned = Image.fromarray(noise(20, 40))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "phone.png", exif=exif)
    found = pixels_of(Sample(str(tmp_path / "phone.png"), "anger"))
    assert np.array_equal(found, np.rot90(noise(20, 40), -1))


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.jpg cannot be read as a picture: not a picture"):
        pixels_of(Sample(str(tmp_path / "a.jpg"), "anger"))
    with pytest.raises(DataError, match=r"b\.jpg cannot be read as a picture: .*No such file"):
        pixels_of(Sample(str(tmp_path / "b.jpg"), "anger"))


def test_grey_is_told_by_the_pixels() -> None:
    grey = face("fear")
    assert is_grey(grey) and is_grey(np.dstack([grey] * 3))
    tinted = np.dstack([grey] * 3)
    tinted[-1, -1, 2] ^= 1
    assert not is_grey(tinted)
