"""Faces are found where they are, once, and cut out as the models expect them."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fervor.errors import ModelError, UsageError
from fervor.faces import alignment, detector
from fervor.faces.alignment import TEMPLATE, crop, similarity
from fervor.faces.anchors import PADDING
from fervor.faces.detector import FaceDetector, select
from fervor.faces.types import Box, Face
from tests.support.scenes import background, iou, scene


ASTRONAUT = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
BOX = (178, 56, 92, 120)
"""The face of ASTRONAUT, read off the picture."""


@pytest.fixture(scope="module")
def finder() -> FaceDetector:
    return FaceDetector(1)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return np.asarray(Image.open(ASTRONAUT).convert("RGB"))


@pytest.fixture(scope="module")
def face(finder: FaceDetector, astronaut: np.ndarray) -> Face:
    (only,) = finder.detect([astronaut])[0]
    return only


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def pasted(side: int, x: int, y: int, *, angle: float = 0.0) -> np.ndarray:
    """A flat picture of 480 x 640 with the head of ASTRONAUT in a square of `side` at x, y."""
    head = Image.open(ASTRONAUT).convert("RGB").crop((124, 16, 324, 216))
    head = head.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    picture = Image.new("RGB", (640, 480), (128, 128, 128))
    picture.paste(head.resize((side, side), Image.Resampling.LANCZOS), (x, y))
    return np.asarray(picture)


def shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes x, y, width, height, by the definition."""
    width = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


class TestDetect:
    def test_finds_the_face_once_with_points_in_order(self, face: Face) -> None:
        assert shared(face.box, BOX) > 0.8
        assert 0.9 < face.score <= 1
        assert face.points.shape == (5, 2)
        x, y, width, height = face.box
        assert (face.points > [x, y]).all()
        assert (face.points < [x + width, y + height]).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = face.points
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < nose[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])

    @pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5), (1, 2000), (7, 7), (200, 333)])
    @pytest.mark.parametrize("kind", ["black", "white", "noise"])
    def test_pictures_without_a_face(
        self, finder: FaceDetector, size: tuple[int, int], kind: str
    ) -> None:
        shape = (*size, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        image = {"black": noise * 0, "white": noise * 0 + 255, "noise": noise}[kind]
        assert finder.detect([image.astype(np.uint8)]) == [[]]

    def test_no_picture(self, finder: FaceDetector) -> None:
        assert finder.detect([]) == []

    @pytest.mark.parametrize("side", [60, 110, 200, 300, 440])
    @pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
    def test_any_size_and_place(self, finder: FaceDetector, side: int, place: float) -> None:
        x, y = int(place * (640 - side)), int(place * (480 - side))
        (found,) = finder.detect([pasted(side, x, y)])[0]
        scale = side / 200
        expected = (x + (BOX[0] - 124) * scale, y + (BOX[1] - 16) * scale, 92 * scale, 120 * scale)
        assert shared(found.box, expected) > 0.7

    @pytest.mark.parametrize("angle", [-30, 30])
    def test_tilted_and_grey(self, finder: FaceDetector, angle: float) -> None:
        grey = Image.fromarray(pasted(200, 200, 100, angle=angle)).convert("L").convert("RGB")
        (found,) = finder.detect([np.asarray(grey)])[0]
        eyes = found.points[1] - found.points[0]
        # PIL turns counter-clockwise, where y points down that is a negative angle.
        assert np.degrees(np.arctan2(eyes[1], eyes[0])) == pytest.approx(-angle, abs=8)

    def test_a_face_that_fills_a_large_picture(self, finder: FaceDetector, face: Face) -> None:
        x, y, width, height = (round(value) for value in face.box)
        picture = np.asarray(Image.open(ASTRONAUT).convert("RGB"))[y : y + height, x : x + width]
        (found,) = finder.detect([resized(picture, 12 * width, 12 * height)])[0]
        assert found.area > 0.7 * 144 * width * height

    def test_batch_equals_single(self, finder: FaceDetector, astronaut: np.ndarray) -> None:
        images = [
            astronaut,
            pasted(150, 20, 30),
            np.zeros((480, 640, 3), np.uint8),
            resized(astronaut, 300, 200),
            pasted(300, 200, 100),
            astronaut[:, ::-1],
        ]
        together = finder.detect(images)
        alone = [finder.detect([image])[0] for image in images]
        assert [len(found) for found in together] == [1, 1, 0, 1, 1, 1]
        for many, one in zip(together, alone, strict=True):
            for a, b in zip(many, one, strict=True):
                np.testing.assert_allclose(a.box, b.box, atol=1e-2)
                np.testing.assert_allclose(a.points, b.points, atol=1e-2)
                assert a.score == pytest.approx(b.score, abs=1e-4)

    @pytest.mark.parametrize(("images_a_batch", "count"), [(2, 3), (1, 6)])
    def test_batches_larger_than_the_limit(
        self,
        finder: FaceDetector,
        astronaut: np.ndarray,
        monkeypatch: pytest.MonkeyPatch,
        images_a_batch: int,
        count: int,
    ) -> None:
        monkeypatch.setattr(detector, "BATCH_PIXELS", images_a_batch * 512 * 512)
        images = [np.roll(astronaut, 40 * i, axis=1) for i in range(count)]
        found = [one[0].box[0] for one in finder.detect(images)]
        np.testing.assert_allclose(np.diff(found), 40, atol=4)

    def test_mirrored_picture(
        self, finder: FaceDetector, astronaut: np.ndarray, face: Face
    ) -> None:
        (other,) = finder.detect([astronaut[:, ::-1]])[0]
        x, y, width, height = face.box
        assert shared(other.box, (512 - x - width, y, width, height)) > 0.85
        swapped = other.points[[1, 0, 2, 4, 3]] * [-1, 1] + [512, 0]
        np.testing.assert_allclose(swapped, face.points, atol=0.05 * width)

    @pytest.mark.parametrize("size", [(256, 256), (420, 480), (1500, 1500), (1900, 1500)])
    def test_scaled_picture(
        self, finder: FaceDetector, astronaut: np.ndarray, face: Face, size: tuple[int, int]
    ) -> None:
        (other,) = finder.detect([resized(astronaut, *size)])[0]
        scale = np.array(size) / 512
        assert shared(other.box, tuple(np.array(face.box) * np.tile(scale, 2))) > 0.7
        np.testing.assert_allclose(other.points / scale, face.points, atol=0.06 * face.box[2])

    def test_largest_first(self, finder: FaceDetector) -> None:
        picture = pasted(120, 20, 40).copy()
        picture[100:400, 300:600] = resized(pasted(300, 0, 0)[:300, :300], 300, 300)
        found = finder.detect([picture])[0]
        assert len(found) == 2
        assert found[0].area > 2 * found[1].area
        assert select(found, "all") == found
        assert select(found[::-1], "largest") == found[:1]
        assert select([], "largest") == []

    def test_no_more_than_asked_for(self, finder: FaceDetector) -> None:
        picture = pasted(120, 20, 40).copy()
        picture[100:400, 300:600] = resized(pasted(300, 0, 0)[:300, :300], 300, 300)
        found = finder.detect([picture])[0]
        assert FaceDetector(1, most=1).detect([picture]) == [found[:1]]

    @pytest.mark.parametrize("high", [200, 640, 900])
    def test_pictures_of_pil_are_arrays(self, astronaut: np.ndarray, high: int) -> None:
        finder = FaceDetector(1, high=high)
        assert finder.detect([astronaut]) == finder.detect([Image.fromarray(astronaut)])

    def test_eight_bits_find_nearly_the_same(self, finder: FaceDetector) -> None:
        eight = FaceDetector(1, weights=detector.INT8_WEIGHTS)
        for side, x, y in ((120, 20, 40), (200, 300, 100), (300, 100, 100)):
            ((face,), (other,)) = (one.detect([pasted(side, x, y)])[0] for one in (finder, eight))
            assert face.score != other.score  # it is another graph
            assert shared(face.box, other.box) > 0.85
            np.testing.assert_allclose(face.points, other.points, atol=0.04 * face.box[3])

    def test_wrong_use(self, finder: FaceDetector, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="all, largest"):
            select([], "biggest")  # type: ignore[arg-type]
        for shape, kind in (((4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8)):
            with pytest.raises(ValueError, match=r"uint8 \[h w 3\]"):
                finder.detect([np.zeros(shape, kind)])
        for mode, size in (("L", (4, 4)), ("RGB", (0, 4))):
            with pytest.raises(ValueError, match="expected RGB"):
                finder.detect([Image.new(mode, size)])
        (tmp_path / "detector.onnx").write_bytes(b"not a graph")
        with pytest.raises(ModelError, match="reinstall"):
            FaceDetector(1, weights=tmp_path / "detector.onnx")

    @pytest.mark.parametrize("weights", [detector.WEIGHTS, detector.INT8_WEIGHTS])
    def test_weights_are_those_of_the_card(self, weights: Path) -> None:
        card = json.loads(weights.with_suffix(".json").read_text())
        content = weights.read_bytes()
        assert hashlib.sha256(content).hexdigest() == card["sha256"]
        assert len(content) == card["bytes"] < 2_000_000


def test_the_mean_is_subtracted_in_the_pass_that_reads_bytes() -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(detector.WEIGHTS).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (turned,) = (n for n in graph.node if n.op_type == "Transpose" and "image" in n.input)
    (centred,) = (node for node in graph.node if turned.output[0] in node.input)
    assert centred.op_type == "DequantizeLinear"
    assert stored[centred.input[1]].tolist() == [1, 1, 1]
    assert tuple(stored[centred.input[2]]) == PADDING  # so that what is filled up is nothing


def by_singular_values(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama's own formula, by the singular values of the covariance."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, values, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = (values * np.diag(sign)).sum() / (a**2).sum()
    shift = target.mean(axis=0) - scale * rotation @ source.mean(axis=0)
    return np.column_stack([scale * rotation, shift])


class TestSimilarity:
    @given(st.integers(0, 2**32 - 1), st.integers(2, 9))
    def test_against_the_formula(self, seed: int, count: int) -> None:
        source, target = np.random.default_rng(seed).normal(size=(2, count, 2))
        np.testing.assert_allclose(
            similarity(source, target), by_singular_values(source, target), atol=1e-6
        )

    @given(
        st.floats(0.2, 5), st.floats(-3, 3), st.floats(-90, 90), st.floats(-90, 90), st.booleans()
    )
    def test_recovers_a_map(
        self, scale: float, angle: float, x: float, y: float, fix: bool
    ) -> None:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.column_stack([scale * turn, [x, y]])
        target = TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
        found = similarity(TEMPLATE, target, angle=angle if fix else None)
        np.testing.assert_allclose(found, matrix, atol=1e-4)

    def test_weights_leave_coordinates_out(self) -> None:
        target = 3 * TEMPLATE + [5, 7]
        target[2, 0] = 1000
        weights = np.ones((5, 2))
        weights[2, 0] = 0
        found = similarity(TEMPLATE, target, weights=weights, angle=0.0)
        np.testing.assert_allclose(found, [[3, 0, 5], [0, 3, 7]], atol=1e-4)


def at(points: np.ndarray, box: tuple[float, float, float, float]) -> Face:
    return Face(box, np.asarray(points, np.float32), 1.0)


def on_template(x: float, y: float, side: float) -> Face:
    """A face whose points and box lie exactly on the template in the square of `side` at x, y."""
    low, high = alignment.BOX_TEMPLATE[0], alignment.BOX_TEMPLATE[3]
    left, top = (low * side + [x, y]).tolist()
    width, height = ((high - low) * side).tolist()
    return at(TEMPLATE * side + [x, y], (left, top, width, height))


class TestCrop:
    def test_a_face_on_the_template_gives_the_square_itself(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (200, 220, 3), dtype=np.uint8)
        found = crop(picture, on_template(30, 40, 96), 96)
        difference = np.abs(found.astype(int) - picture[40:136, 30:126])
        assert difference.max() <= 1

    @pytest.mark.parametrize("rotate", [False, True])
    def test_shrinking_averages(self, rotate: bool) -> None:
        # A checkerboard of single pixels: whatever samples it without averaging shows moire.
        rows, columns = np.indices((1000, 1000))
        picture = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
        face = on_template(100, 100, 700.3)
        if rotate:
            turned = similarity(TEMPLATE, TEMPLATE, angle=0.3)
            face = at((face.points - 450) @ turned[:, :2].T + 450, face.box)
        found = crop(picture, face, 48, rotate=rotate)
        assert found.shape == (48, 48, 3)
        assert np.abs(found.astype(int) - 127).max() < 12

    @pytest.mark.parametrize("rotate", [False, True])
    @pytest.mark.parametrize("size", [48, 112, 224])
    def test_eyes_lie_on_the_template(self, finder: FaceDetector, size: int, rotate: bool) -> None:
        picture = pasted(200, 200, 100, angle=20)
        (tilted,) = finder.detect([picture])[0]
        cut = crop(picture, tilted, size, rotate=rotate)
        assert cut.shape == (size, size, 3)
        border = size // 4
        framed = np.pad(cut, ((border, border), (border, border), (0, 0)), mode="edge")
        (again,) = finder.detect([framed])[0]
        points = (again.points - border) / size
        if rotate:
            np.testing.assert_allclose(points[:2], TEMPLATE[:2], atol=0.06)
            np.testing.assert_allclose(points, TEMPLATE, atol=0.13)
        np.testing.assert_allclose(points.mean(axis=0), TEMPLATE.mean(axis=0), atol=0.05)

    def test_same_square_at_any_scale(self, finder: FaceDetector) -> None:
        squares = []
        for side in (60, 100, 200, 400):
            (found,) = finder.detect([pasted(side, 60, 30)])[0]
            matrix = alignment.square(found, 480, 640)
            squares.append([matrix[0, 0] / side, *((matrix[:, 2] - [60, 30]) / side)])
        # The square is 0.6 of the pasted head: its side and corner vary by a tenth of that at most.
        assert np.ptp(squares, axis=0).max() < 0.06

    def test_edges_are_repeated(self) -> None:
        picture = np.full((60, 80, 3), 200, np.uint8)
        for rotate in (False, True):
            assert (crop(picture, on_template(-30, -20, 90), 48, rotate=rotate) == 200).all()

    def test_a_box_cut_off_by_the_edge_does_not_count(self) -> None:
        whole = on_template(-20, 50, 100)
        x, y, width, height = whole.box
        cut = at(whole.points, (0.0, y, width + x, height))
        matrix = alignment.square(cut, 300, 300)
        np.testing.assert_allclose(matrix, [[100, 0, -20], [0, 100, 50]], atol=0.01)

    @pytest.mark.parametrize(
        "points",
        [np.zeros((5, 2)), np.full((5, 2), np.nan), 150 - TEMPLATE * 900, TEMPLATE * 5000],
        ids=["one place", "none", "upside down", "far too large"],
    )
    @pytest.mark.parametrize("rotate", [False, True])
    def test_wrong_points_fall_back_to_the_box(self, points: np.ndarray, rotate: bool) -> None:
        matrix = alignment.square(at(points, (50.0, 60.0, 80.0, 100.0)), 300, 300, rotate=rotate)
        side = 100 / np.ptp(alignment.BOX_TEMPLATE[:, 1])
        expected = [[side, 0, 90 - side / 2], [0, side, 110 - side / 2]]
        np.testing.assert_allclose(matrix, expected, rtol=1e-6)

    def test_profile_points_on_a_line_keep_a_square_around_the_box(self) -> None:
        points = [[60, 90], [62, 90], [50, 110], [61, 135], [62, 135]]
        matrix = alignment.square(at(points, (50.0, 60.0, 80.0, 100.0)), 300, 300)
        assert 70 < matrix[0, 0] < 120

    @settings(deadline=None, max_examples=60)
    @given(
        st.integers(1, 300),
        st.integers(1, 300),
        st.floats(-50, 300),
        st.floats(-50, 300),
        st.floats(1, 900),
        st.integers(1, 120),
        st.booleans(),
    )
    def test_any_size(
        self, width: int, height: int, x: float, y: float, side: float, size: int, rotate: bool
    ) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        cut = crop(picture, on_template(x, y, side), size, rotate=rotate)
        assert cut.shape == (size, size, 3)
        assert cut.dtype == np.uint8
        decoded = crop(Image.fromarray(picture), on_template(x, y, side), size, rotate=rotate)
        np.testing.assert_array_equal(decoded, cut)


def assert_found(found: list[Face], boxes: list[Box]) -> None:
    """Each face once, nothing else."""
    for box in boxes:
        assert sum(iou(face.box, box) > 0.45 for face in found) == 1, box
    assert len(found) == len(boxes)


class TestLargePictures:
    @pytest.mark.parametrize("weights", [detector.WEIGHTS, detector.INT8_WEIGHTS])
    def test_faces_of_all_sizes(self, weights: Path) -> None:
        placed = [
            (40, 100, 100), (44, 2300, 1700), (60, 1240, 600), (100, 500, 1630), (130, 300, 600),
            (180, 1700, 150), (260, 2000, 900), (420, 900, 1100),
        ]  # fmt: skip
        picture, boxes = scene(2500, 1900, placed)
        detector = FaceDetector(1, weights=weights)
        (found,) = detector.detect([picture])
        assert_found(found, boxes)
        assert [face.area for face in found] == sorted((face.area for face in found), reverse=True)
        assert detector.detect([np.asarray(picture)]) == [found]

    def test_a_face_on_the_edges_of_tiles(self, finder: FaceDetector) -> None:
        # Tiles share the columns 1120 to 1280: faces begin before, in and behind them.
        for side in (40, 80, 124):
            placed = [(side, 900 + 41 * row, 30 + 150 * row) for row in range(9)]
            picture, boxes = scene(2400, 1500, placed, seed=side)
            assert_found(finder.detect([picture])[0], boxes)

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_panorama(self, finder: FaceDetector, turned: bool) -> None:
        placed = [(50, 300, 200), (150, 3111, 90), (90, 7000, 300), (40, 9900, 30), (230, 5000, 99)]
        picture, boxes = scene(10_000, 500, placed)
        if turned:
            (tall, wide) = (Image.new("RGB", (500, 10_000)), picture)
            tall.paste(wide.crop((0, 0, 500, 500)), (0, 0))
            tall.paste(wide.crop((3000, 0, 3500, 500)), (0, 6000))
            (_, y, width, height) = boxes[1]
            picture, boxes = tall, [boxes[0], (111.0, y + 6000, width, height)]
        assert_found(finder.detect([picture])[0], boxes)

    @pytest.mark.parametrize("side", [44, 70, 120, 220, 380])
    def test_what_is_found_in_a_picture_is_found_in_a_larger_one(
        self, finder: FaceDetector, side: int
    ) -> None:
        small, boxes = scene(640, 480, [(side, 100, 60)])
        (before,) = finder.detect([small])[0]
        assert iou(before.box, boxes[0]) > 0.45
        for x, y in ((1033, 777), (1760, 1120)):
            large = background(2400, 1600, seed=1)
            large.paste(small, (x, y))
            (after,) = finder.detect([large])[0]
            left, top, width, height = before.box
            assert iou(after.box, (left + x, top + y, width, height)) > 0.6
            np.testing.assert_allclose(after.points - [x, y], before.points, atol=0.08 * side)

    def test_faces_side_by_side_are_all_kept(self, finder: FaceDetector) -> None:
        places = [(30 + 110 * column, 40 + 115 * row) for row in range(9) for column in range(14)]
        placed = [(60, x, y) for x, y in places]
        picture, boxes = scene(1600, 1100, placed)
        assert_found(finder.detect([picture])[0], boxes)

    def test_parts_of_a_face_are_none_of_their_own(self) -> None:
        points = np.zeros((5, 2), np.float32)
        whole, beside = Face((0, 0, 99, 138), points, 0.99), Face((95, 0, 99, 138), points, 0.7)
        mouth, around = Face((8, 82, 85, 54), points, 0.94), Face((0, 0, 160, 190), points, 0.71)
        assert detector._merged([[mouth], [around, beside], [whole]], 0.4) == [whole, beside]
        assert detector._merged([[mouth, whole]], 0.4) == [mouth, whole]  # one look: as it was

    @pytest.mark.parametrize("shape", [(1, 30_000), (30_000, 1), (18, 5000), (9000, 40), (1, 1)])
    @pytest.mark.parametrize("smallest", [0.0, 16.0])
    def test_any_shape(self, shape: tuple[int, int], smallest: float) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert FaceDetector(1, smallest=smallest).detect([picture]) == [[]]

    def test_a_picture_without_a_face(self, finder: FaceDetector) -> None:
        assert finder.detect([background(5000, 900)]) == [[]]

    @pytest.mark.parametrize("at_once", [1, 3])
    def test_beside_small_pictures(self, astronaut: np.ndarray, at_once: int) -> None:
        picture, boxes = scene(1900, 1000, [(48, 700, 300), (48, 1330, 600)])
        finder = FaceDetector(1, at_once=at_once)
        found = finder.detect([astronaut, picture, pasted(150, 20, 30), picture])
        assert [len(one) for one in found] == [1, 2, 1, 2]
        assert_found(found[1], boxes)
        assert found[1] == found[3] == finder.detect([picture])[0]

    def test_of_ferplus(self, finder: FaceDetector) -> None:
        """Pictures of FERPlus on a large one: what is found alone is found there too."""
        root = os.environ.get("FERVOR_FERPLUS")
        if not root:
            pytest.skip("needs FERVOR_FERPLUS")
        paths = sorted((Path(root) / "FER2013Valid").glob("*.png"))[:24]
        patches = [enlarged(path) for path in paths]
        alone = sum(bool(found) for found in finder.detect([np.asarray(one) for one in patches]))
        large = background(3000, 2000)
        for number, patch in enumerate(patches):
            large.paste(patch, (60 + 480 * (number % 6), 40 + 490 * (number // 6)))
        assert len(finder.detect([large])[0]) >= alone - 1 >= 20


def enlarged(path: Path) -> Image.Image:
    """A face of 48 px as a picture of 144 px, its edge repeated for 72 px around it."""
    face = np.asarray(Image.open(path).convert("RGB").resize((144, 144), Image.Resampling.BICUBIC))
    return Image.fromarray(np.pad(face, ((72, 72), (72, 72), (0, 0)), mode="edge"))


class TestSmallest:
    @pytest.mark.parametrize("smallest", [16.0, 24.0])
    def test_smaller_faces_are_found_where_they_are_asked_for(self, smallest: float) -> None:
        for number, side in enumerate((16, 20) if smallest < 20 else (24, 28)):
            placed = [(side, 40 + 140 * column, 50 + 130 * column) for column in range(4)]
            picture, boxes = scene(640, 480, placed, seed=number)
            assert_found(FaceDetector(1, smallest=smallest).detect([picture])[0], boxes)

    def test_in_a_small_picture(self) -> None:
        picture, boxes = scene(200, 120, [(20, 130, 60)])
        assert_found(FaceDetector(1, smallest=20).detect([picture], passes=1)[0], boxes)

    def test_what_is_found(self) -> None:
        sizes = [FaceDetector(1, smallest=smallest).smallest_side for smallest in (0, 24, 100, 5)]
        assert sizes == [40, 24, 100, 16]

    def test_large_faces_are_found_alike_on_less_of_the_picture(self, finder: FaceDetector) -> None:
        picture = pasted(300, 100, 100)
        faster = FaceDetector(1, smallest=100)
        sizes = []
        run = faster._session.run
        faster._session = SimpleNamespace(
            run=lambda names, given: (sizes.append(given["image"].shape), run(names, given))[1]
        )
        ((whole,), (few,)) = finder.detect([picture])[0], faster.detect([picture])[0]
        assert shared(whole.box, few.box) > 0.8
        assert sizes == [(1, 256, 320, 3)]  # 240 rows, padded to a multiple of 32

    def test_smaller_faces_do_not_count(self) -> None:
        assert FaceDetector(1, smallest=250).detect([pasted(300, 100, 100)]) == [[]]
        picture, boxes = scene(2000, 1200, [(90, 100, 100), (200, 1100, 800)])
        assert_found(FaceDetector(1, smallest=150).detect([picture])[0], boxes[1:])

    @pytest.mark.parametrize("smallest", [-1.0, float("nan"), float("inf")])
    def test_out_of_range(self, smallest: float) -> None:
        with pytest.raises(UsageError, match="smallest"):
            FaceDetector(1, smallest=smallest)
