"""Drawings show boxes where the faces are, in colours that can be told apart, at any size."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fervor import render
from fervor.labels import EXPRESSIONS
from fervor.prediction import Prediction
from fervor.render import annotated, colour_of, contact_sheet, ink_on, legend, tile
from tests.test_smoothing import face


def shown(label: str, box: tuple[float, float, float, float], share: float = 0.9) -> Prediction:
    rest = (1 - share) / (len(EXPRESSIONS) - 1)
    shares = {name: share if name == label else rest for name in EXPRESSIONS}
    return replace(face(None, share, track=None), label=label, box=box, probabilities=shares)


def drawn(image: np.ndarray, *predictions: Prediction) -> np.ndarray:
    shares = [prediction.probabilities for prediction in predictions]
    return np.asarray(annotated(image, predictions, shares))


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (pixels == colour).all(axis=-1)


@pytest.mark.parametrize("label", EXPRESSIONS)
def test_a_box_is_where_the_face_is_in_its_colour(label: str) -> None:
    image = np.full((600, 800, 3), 90, np.uint8)
    pixels = drawn(image, shown(label, (300, 200, 150, 180)))
    changed = (pixels != image).any(axis=-1)
    assert (image == 90).all()  # a copy is drawn on
    colour = colour_of(label, EXPRESSIONS)
    inner = has(pixels, colour)
    for line in (
        inner[202, 305:445],
        inner[378, 305:445],
        inner[205:375, 302],
        inner[205:375, 448],
    ):
        assert line.mean() > 0.95
    assert not changed[210:370, 310:440].any()  # the face itself stays free
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 200 - 40
    assert rows.max() <= 380 + 20
    assert columns.min() >= 299


def test_the_bar_is_divided_by_the_shares() -> None:
    image = np.full((600, 800, 3), 90, np.uint8)
    pixels = drawn(image, shown("sadness", (100, 100, 200, 200), share=0.65))
    bar = pixels[305, 100:301]
    wide = {name: int(has(bar, colour_of(name, EXPRESSIONS)).sum()) for name in EXPRESSIONS}
    assert wide["sadness"] == pytest.approx(130, abs=4)
    assert all(wide[name] == pytest.approx(10, abs=4) for name in EXPRESSIONS if name != "sadness")


def test_smoothed_shares_decide_what_is_drawn() -> None:
    image = np.full((600, 800, 3), 90, np.uint8)
    prediction = shown("anger", (100, 100, 200, 200))
    smooth = shown("neutral", (100, 100, 200, 200)).probabilities
    pixels = np.asarray(annotated(image, [prediction], [smooth]))
    assert has(pixels[102, 105:295], colour_of("neutral", EXPRESSIONS)).mean() > 0.95


def test_an_uncertain_face_has_no_expression_s_colour() -> None:
    image = np.full((600, 800, 3), 90, np.uint8)
    prediction = replace(shown("anger", (100, 100, 200, 200)), label="uncertain")
    assert has(drawn(image, prediction)[102, 105:295], render.DARK).mean() > 0.95


def test_without_a_face_nothing_is_drawn() -> None:
    image = np.full((600, 800, 3), 90, np.uint8)
    empty = replace(shown("anger", (0, 0, 1, 1)), box=None, probabilities={})
    np.testing.assert_array_equal(drawn(image, empty), image)


@pytest.mark.parametrize(("side", "large"), [(48, 384), (100, 400), (359, 718), (360, 360)])
def test_small_pictures_are_enlarged(side: int, large: int) -> None:
    image = np.full((side, side, 3), 90, np.uint8)
    box = (side * 0.25, side * 0.25, side * 0.5, side * 0.5)
    pixels = drawn(image, shown("anger", box))
    assert pixels.shape == (large, large, 3)
    middle = has(pixels[large // 2], colour_of("anger", EXPRESSIONS))
    assert np.flatnonzero(middle)[0] == pytest.approx(large / 4, abs=4)


@settings(max_examples=60)
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.tuples(*[st.floats(-50, 500)] * 2, *[st.floats(0.1, 600)] * 2),
    st.integers(0, 7),
)
def test_any_size_and_place(
    width: int, height: int, box: tuple[float, float, float, float], number: int
) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    prediction = replace(shown(EXPRESSIONS[number], box), track=number)
    times = drawn(image, prediction).shape[0] / height
    assert times == int(times) >= 1


def linear(colour: tuple[int, int, int]) -> np.ndarray:
    share = np.array(colour) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


# H. Brettel, F. Vienot, J. D. Mollon, "Computerized simulation of color appearance for dichromats",
# 1997, in the one-plane form of Vienot, Brettel, Mollon, 1999 (protanopia, deuteranopia).
RGB_TO_LMS = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714],
                       [0.0299566, 0.184309, 1.46709]])  # fmt: skip
BLIND = {
    "protanopia": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
    "deuteranopia": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
}


@pytest.mark.parametrize("kind", BLIND)
def test_colours_differ_for_the_colour_blind(kind: str) -> None:
    """Euclidean distances of what they see, in gamma-coded RGB of 0..1."""
    seen = {}
    for name in EXPRESSIONS:
        lms = BLIND[kind] @ RGB_TO_LMS @ linear(colour_of(name, EXPRESSIONS))
        seen[name] = (np.linalg.inv(RGB_TO_LMS) @ lms).clip(0, 1) ** (1 / 2.2)
    for one, other in combinations(EXPRESSIONS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 0.08, (one, other)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_ink_is_the_one_with_more_contrast(colour: tuple[int, int, int]) -> None:
    luminance = float(linear(colour) @ [0.2126, 0.7152, 0.0722])
    on_black, on_white = (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05)
    contrast = on_black if ink_on(colour) == render.BLACK else on_white
    assert contrast >= max(on_black, on_white) - 0.1
    assert contrast >= 4.5


def test_other_names_take_colours_by_their_place() -> None:
    names = ("bored", "confused", "proud")
    assert len({colour_of(name, names) for name in names}) == 3
    assert colour_of("uncertain", names) == render.DARK


class TestSheet:
    def test_tiles_lie_in_rows(self) -> None:
        tiles = [Image.new("RGB", (192, 232), (9 * n, 0, 0)) for n in range(8)]
        sheet = np.asarray(contact_sheet(tiles, columns=3))
        assert sheet.shape == (3 * 240 + 8, 3 * 200 + 8, 3)
        assert sheet[8 + 240 + 5, 8 + 200 + 5].tolist() == [9 * 4, 0, 0]
        assert sheet[-20, -20].tolist() == [255, 255, 255]

    def test_a_tile_shows_the_face_and_its_answer(self) -> None:
        image = np.zeros((400, 600, 3), np.uint8)
        image[100:200, 300:400] = (0, 200, 0)
        pixels = np.asarray(tile(image, [shown("fear", (300, 100, 100, 100))]))
        assert pixels.shape == (232, 192, 3)
        assert has(pixels[:192], (0, 200, 0)).mean() == pytest.approx(0.25, abs=0.03)
        assert has(pixels[194:210], colour_of("fear", EXPRESSIONS)).mean() > 0.5

    def test_damaged_and_faceless_pictures_have_their_tile(self) -> None:
        empty = replace(shown("anger", (0, 0, 1, 1)), box=None, label=None, prob=None)
        empty = replace(empty, probabilities={}, source="/a/\udcff\n" + 200 * "x" + ".jpg")
        for image in (None, np.full((3, 900, 3), 7, np.uint8)):
            assert tile(image, [replace(empty, status="no_face")]).size == (192, 232)

    def test_names_are_shortened_in_the_middle(self) -> None:
        long = "a" * 100 + "end.jpg"
        short = render._short(long, 12)
        assert short.startswith("aaa")
        assert short.endswith("end.jpg")
        assert "..." in short
        assert render._short("a.jpg", 12) == "a.jpg"


def test_legend_breaks_lines_and_shows_every_colour() -> None:
    for width in (300, 2000):
        pixels = np.asarray(legend(EXPRESSIONS, 18, width))
        assert pixels.shape[1] == width
        assert all(has(pixels, colour_of(name, EXPRESSIONS)).any() for name in EXPRESSIONS)
