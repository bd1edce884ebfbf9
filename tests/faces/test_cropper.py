"""Faces are cut out of pictures in batches, and out of videos one frame after the other."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fervor.faces.alignment import crop
from fervor.faces.cropper import FaceCropper
from fervor.faces.types import Box, Face
from fervor.io.frame import Frame
from tests.faces.test_tracker import at


class Fixed:
    """Finds the same two faces everywhere, and counts how it is asked."""

    FACES = (at(60, 10, 60), at(10, 10, 40))

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.near_asked = 0

    def detect(self, images: Sequence[NDArray[np.uint8]], *, passes: int = 3) -> list[list[Face]]:
        self.asked.append(len(images))
        return [list(self.FACES) for _ in images]

    def near(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[Face | None]:
        self.near_asked += 1
        return [next(face for face in self.FACES if abs(face.box[0] - b[0]) < 9) for b in boxes]


NOISE = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)


def picture(name: str) -> Frame:
    return Frame(name, 0, None, NOISE, None)


def video(count: int, source: str = "a.mp4") -> list[Frame]:
    return [Frame(source, number, number / 25, NOISE, None) for number in range(count)]


def test_pictures_are_looked_at_together_and_frames_in_turn() -> None:
    detector = Fixed()
    cropper = FaceCropper(detector, side=24)
    broken = Frame("c.png", 0, None, None, "damaged")
    found = cropper([picture("a.png"), *video(5), broken, picture("b.png")])
    assert detector.asked == [2, 1]
    assert detector.near_asked == 4
    assert [len(faces) for faces in found] == [2] * 6 + [0, 2]
    assert [[face.track for face in faces] for faces in found] == (
        [[None, None]] + [[0, 1]] * 5 + [[]] + [[None, None]]
    )


def test_pixels_are_the_crop_of_the_face() -> None:
    for frame in (picture("a.png"), video(1)[0]):
        (faces,) = FaceCropper(Fixed(), side=24)([frame])
        for face, expected in zip(faces, Fixed.FACES, strict=True):
            assert (face.box, face.score) == (expected.box, expected.score)
            np.testing.assert_array_equal(face.pixels, crop(NOISE, expected, 24))


@pytest.mark.parametrize("most", [0, 1, 2])
def test_the_largest_are_kept(most: int) -> None:
    found = FaceCropper(Fixed(), side=24, most=most)([picture("a.png"), *video(3)])
    expected = [face.box for face in Fixed.FACES[: most or None]]
    assert [[face.box for face in faces] for faces in found] == [expected] * 4


def test_a_whole_look_as_often_as_asked() -> None:
    detector = Fixed()
    FaceCropper(detector, side=24, whole_every=3)(video(9))
    assert (len(detector.asked), detector.near_asked) == (3, 6)


def test_another_video_and_the_same_one_again_begin_anew() -> None:
    detector = Fixed()
    cropper = FaceCropper(detector, side=24)
    cropper([*video(3), *video(3, "b.mp4")])
    cropper(video(3, "b.mp4"))
    assert detector.asked == [1, 1, 1]


def test_without_a_detector_a_frame_is_a_face() -> None:
    found = FaceCropper(None, side=24)(
        [picture("a.png"), video(1)[0], Frame("c", 0, None, None, "")]
    )
    ((still,), (moving,), none) = found
    assert (still.box, still.score, still.track) == ((0.0, 0.0, 150.0, 100.0), None, None)
    assert still.pixels is NOISE
    assert moving.track == 0
    assert none == []
