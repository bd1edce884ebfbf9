"""Where a map is strong the face takes the colour; a drawing holds its parts."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fervor.inference.attribution import Cue, Explanation
from fervor.outputs.explanation_figure import (
    AGAINST,
    FOR,
    GAP,
    LINE,
    PANEL,
    STRONGEST,
    doubtful,
    drawn,
    grey_face,
    overlaid,
)
from tests.inference.test_attribution import answer


def test_colours_follow_the_heat() -> None:
    face = np.full((70, 70, 3), 100, np.uint8)
    heat = np.zeros((7, 7), np.float32)
    heat[1, 1], heat[5, 5] = 2.0, -2.0
    found = np.asarray(overlaid(face, heat, 2.0)).astype(float)
    for place, colour in ((15, FOR), (55, AGAINST)):
        expected = 100 + STRONGEST * (np.array(colour) - 100)
        np.testing.assert_allclose(found[place, place], expected, atol=12)
    np.testing.assert_array_equal(found[35, 35], 100)
    np.testing.assert_array_equal(overlaid(face, np.zeros((7, 7), np.float32), 0.0), face)


def test_the_face_is_what_the_model_sees() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[20:60, 30:70] = (200, 0, 0)
    face = grey_face(picture, np.array([[40, 0, 30], [0, 40, 20]], float))
    assert (face[..., 0] == face[..., 2]).all()
    assert face[120, 120, 0] == 60  # red's luminance
    assert face[0, 0, 0] < 60  # the edge mixes with what is around


@pytest.mark.parametrize("size", [(130, 100), (100, 130)])
def test_a_whole_picture_is_stretched_as_the_model_sees_it(size: tuple[int, int]) -> None:
    """What `--faces precropped` explains: its square is the picture, whatever its shape."""
    picture = Image.effect_noise(size, 60).resize((10, 8)).resize(size).convert("RGB")
    face = grey_face(np.asarray(picture), np.array([[size[0], 0, 0], [0, size[1], 0]], float))
    panel = np.asarray(picture.resize((PANEL, PANEL), Image.Resampling.BICUBIC).convert("L"))
    np.testing.assert_allclose(face[..., 0], panel, atol=2)


def test_a_drawing_has_a_panel_for_each_class_and_a_line_for_each_cue() -> None:
    picture = np.full((60, 60, 3), 128, np.uint8)
    heat = {name: np.full((7, 7), value, np.float32) for name, value in (("a", 1), ("b", -1))}
    cues = [Cue("mouth", "a smile", 0.5, "a")]
    square = np.array([[60, 0, 0], [0, 60, 0]], float)
    short = Explanation(answer(a=0.9, b=0.1), heat, "occlusion", cues, [], square)
    long = Explanation(answer(a=0.9, b=0.1), heat, "occlusion", cues * 4, [], square)
    one, two, tall = drawn(picture, short, top=1), drawn(picture, short), drawn(picture, long)
    assert one.width == two.width and two.height < tall.height  # words below need the room of three
    pixels = np.asarray(two).reshape(-1, 3)
    for colour in (FOR, AGAINST):
        strongest = 128 + STRONGEST * (np.array(colour) - 128)
        assert (np.abs(pixels - strongest).max(1) < 3).sum() > 10_000


@pytest.mark.parametrize(
    ("covered", "line"),
    [
        ([], ""),
        (["mouth"], "the mouth seems covered: the answer is in doubt"),
        (["eyes", "mouth"], "the eyes and the mouth seem covered: the answer is in doubt"),
    ],
)
def test_a_covered_part_is_a_line_of_its_own(covered: list[str], line: str) -> None:
    picture = np.full((60, 60, 3), 128, np.uint8)
    heat = {"a": np.ones((7, 7), np.float32)}
    square = np.array([[60, 0, 0], [0, 60, 0]], float)
    clear = Explanation(answer(a=1.0), heat, "occlusion", [], [], square)
    taller = drawn(picture, replace(clear, covered=covered)).height - drawn(picture, clear).height
    assert doubtful(covered) == line and taller == (LINE if line else 0)


def test_classes_of_no_probability_have_no_map_and_no_part_in_the_scale() -> None:
    picture = np.full((60, 60, 3), 128, np.uint8)
    strengths = (("a", 1.0), ("b", 9.0), ("c", -9.0))
    heat = {name: np.full((7, 7), value, np.float32) for name, value in strengths}
    square = np.array([[60, 0, 0], [0, 60, 0]], float)
    shown = drawn(
        picture, Explanation(answer(a=0.998, b=0.001, c=0.001), heat, "occlusion", [], [], square)
    )
    pixels = np.asarray(shown)
    maps = pixels[LINE + GAP : LINE + GAP + PANEL, PANEL + 2 * GAP :]
    strongest = np.rint(128 + STRONGEST * (np.array(FOR) - 128))
    assert (np.abs(maps[:, :PANEL] - strongest).max(-1) < 2).all()
    assert (maps[:, PANEL:] == 255).all()


def test_long_cues_are_not_cut() -> None:
    picture = np.full((60, 60, 3), 128, np.uint8)
    heat = {"a": np.ones((7, 7), np.float32)}
    square = np.array([[60, 0, 0], [0, 60, 0]], float)
    cue = Cue("mouth", "corners of the mouth that are drawn far apart " * 5, 0.5, "a")
    explained = Explanation(answer(a=1.0), heat, "occlusion", [cue], [cue], square)
    pixels = np.asarray(drawn(picture, explained))
    assert (pixels[:, -GAP:] == 255).all()
