"""Drawings show boxes where the faces are, in colours that can be told apart, at any size."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fervor.inference.prediction import Prediction
from fervor.labels import EXPRESSIONS
from fervor.outputs import drawing
from fervor.outputs.drawing import annotated, arranged, colour_of, font, ink_on, legend
from tests.inference.test_smoothing import face


def shown(label: str, box: tuple[float, float, float, float], fraction: float = 0.9) -> Prediction:
    rest = (1 - fraction) / (len(EXPRESSIONS) - 1)
    probabilities = {name: fraction if name == label else rest for name in EXPRESSIONS}
    return replace(
        face(None, fraction, track=None), label=label, box=box, probabilities=probabilities
    )


def drawn(image: np.ndarray, *predictions: Prediction) -> np.ndarray:
    probabilities = [prediction.probabilities for prediction in predictions]
    return np.asarray(annotated(image, predictions, probabilities))


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
    pixels = drawn(image, shown("sadness", (100, 100, 200, 200), fraction=0.65))
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
    assert has(drawn(image, prediction)[102, 105:295], drawing.DARK).mean() > 0.95


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
    times = drawn(image, prediction).shape[1] / width
    assert times == int(times) >= 1


def scene(count: int, seed: int, *, track: bool = False) -> tuple[np.ndarray, list[Prediction]]:
    """A noisy picture and `count` faces, in rows as people stand for a photograph, or anywhere."""
    random = np.random.default_rng([count, seed])
    width, height = (1600, 1200) if seed % 2 else (800, 600)
    image = random.integers(60, 200, (height, width, 3), dtype=np.uint8)
    across = int(np.ceil(np.sqrt(count * 1.5)))
    cell = np.array([width / across, height / np.ceil(count / across)])
    faces = []
    for number in range(count):
        side = cell.min() * random.uniform(0.4, 1.0)  # up to side by side
        corner = cell * [number % across, number // across] + (cell - side) / 2
        if seed % 3 == 0:  # anywhere, over one another and over the edge
            corner = random.uniform(-0.3 * side, [width - 0.7 * side, height - 0.7 * side])
        label = EXPRESSIONS[number % len(EXPRESSIONS)]
        box = (float(corner[0]), float(corner[1]), float(0.8 * side), float(side))
        prediction = shown(label, box, fraction=random.uniform(0.3, 1.0))
        faces.append(replace(prediction, track=number if track else None, face=number))
    return image, faces


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5, 8, 13, 20, 30, 40])
def test_no_face_of_a_group_is_drawn_over(count: int, track: bool) -> None:
    """Only the lines of boxes, of a thirtieth of a face, lie over faces; here no pixel else."""
    for seed in range(4):
        image, faces = scene(count, seed, track=track)
        changed = (drawn(image, *faces) != image).any(axis=-1)
        lines = np.zeros(changed.shape, bool)
        inside = np.zeros(changed.shape, bool)
        for face_ in faces:
            x, y, width, height = face_.box or (0, 0, 0, 0)
            line = 4 + round(min(width, height) / 30)
            rows, columns = np.ogrid[: changed.shape[0], : changed.shape[1]]
            outer = (columns >= x - 1) & (columns <= x + width + 1)
            outer = outer & (rows >= y - 1) & (rows <= y + height + 1)
            inner = (columns > x + line) & (columns < x + width - line)
            inner = inner & (rows > y + line) & (rows < y + height - line)
            inside |= inner
            lines |= outer & ~inner
        assert not (changed & inside & ~lines).any()


@pytest.mark.parametrize("count", [2, 8, 20, 40])
def test_words_lie_beside_their_face_and_are_whole(count: int) -> None:
    probabilities = 0
    for seed in range(4):
        image, faces = scene(count, seed, track=True)
        canvas = (image.shape[1], image.shape[0])
        placed = drawing.arranged(canvas, faces, [face_.probabilities for face_ in faces])
        words = [part for one in placed for part in (one.tag, one.bar, one.list) if part]
        for left, top, right, bottom in words:
            assert 0 <= left < right < canvas[0] and 0 <= top < bottom < canvas[1]
        for one, other in combinations(words, 2):
            assert overlap_of(one, other) == 0
        for one in placed:
            if one.tag is not None:
                assert font(one.letters).getlength(one.text) < one.tag[2] - one.tag[0]
                x, y, width, height = one.box
                reach = one.gap + 1
                near = (x - reach, y - reach, x + width + reach, y + height + reach)
                assert overlap_of(one.tag, near) > 0
        probabilities += sum(one.tag is not None for one in placed)
    assert probabilities > 0.7 * 4 * count  # of these scenes, where many lie over one another


def overlap_of(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


@pytest.mark.parametrize("label", ["happiness", "a very long description of what a face may show"])
def test_a_face_that_fills_its_picture_has_its_words_below(label: str) -> None:
    image = np.full((48, 48, 3), 90, np.uint8)
    face_ = replace(shown("happiness", (0, 0, 48, 48)), label=label)
    pixels = drawn(image, face_)
    assert pixels.shape[1] == 384 and pixels.shape[0] > 384 + 20
    inside = pixels[20:364, 20:364]
    assert (inside == 90).all()
    assert has(pixels[384:], colour_of(label, EXPRESSIONS)).any()
    video = annotated(image, [face_], [face_.probabilities], extend=False)
    assert video.size == (384, 384)  # frames keep their size


def test_landmarks_are_seen_above_all_and_small_beside_a_small_face() -> None:
    image = np.full((1200, 1600, 3), 90, np.uint8)
    faces = [shown("anger", (100, 300, 60, 80)), shown("fear", (800, 300, 400, 500))]
    places = [
        tuple((x + width * u, y + height * v) for u in (0.1, 0.5, 0.9) for v in (0.1, 0.5, 0.9))
        for x, y, width, height in (face_.box or (0, 0, 0, 0) for face_ in faces)
    ]
    probabilities = [face_.probabilities for face_ in faces]
    pixels = np.asarray(annotated(image, faces, probabilities, places))
    for x, y in (point for points in places for point in points):
        assert pixels[round(y), round(x)].tolist() == [255, 255, 255]
    small = has(pixels[310:370, 110:150], (255, 255, 255)).sum()
    large = has(pixels[310:790, 810:1190], (255, 255, 255)).sum()
    assert small < large / 2


def linear(colour: tuple[int, int, int]) -> np.ndarray:
    fraction = np.array(colour) / 255
    return np.where(fraction <= 0.04045, fraction / 12.92, ((fraction + 0.055) / 1.055) ** 2.4)


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
    contrast = on_black if ink_on(colour) == drawing.BLACK else on_white
    assert contrast >= max(on_black, on_white) - 0.1
    assert contrast >= 4.5


def test_other_names_take_colours_by_their_place() -> None:
    names = ("bored", "confused", "proud")
    assert len({colour_of(name, names) for name in names}) == 3
    assert colour_of("uncertain", names) == drawing.DARK


def test_names_are_shortened_in_the_middle() -> None:
    long = "a" * 100 + "end.jpg"
    short = drawing.short(long, 12, 184)
    assert short.startswith("aaa")
    assert short.endswith("end.jpg")
    assert "..." in short
    assert drawing.short("a.jpg", 12, 184) == "a.jpg"


def test_what_no_font_shows_is_a_mark() -> None:
    assert drawing.short("a\udcff\nb", 12, 184) == "a??b"


@pytest.mark.parametrize("track", [None, 3])
def test_a_covered_part_is_said_where_there_is_room(track: int | None) -> None:
    face = replace(shown("happiness", (60, 100, 60, 60)), track=track, covered=("mouth",))
    for width, expected in ((600, "mouth covered?"), (160, " ?")):
        (drawing,) = arranged((width, 400), [face], [face.probabilities])
        assert drawing.text.endswith(expected)
    clear = replace(face, covered=())
    assert "?" not in arranged((600, 400), [clear], [clear.probabilities])[0].text


def test_words_of_any_length_stay_whole() -> None:
    long = "a person who looks " * 9
    pixels = np.asarray(legend([long, "b"], 18, 300))
    assert (pixels[:, -4:] == 255).all()


def test_classes_of_no_probability_are_not_listed() -> None:
    image = np.full((600, 800, 3), 90, np.uint8)
    certain = shown("anger", (300, 200, 150, 180), fraction=1.0)
    pixels = drawn(image, certain)[:, 455:]
    assert not has(pixels, colour_of("happiness", EXPRESSIONS)).any()
    assert has(pixels, colour_of("anger", EXPRESSIONS)).any()


def test_legend_breaks_lines_and_shows_every_colour() -> None:
    for width in (300, 2000):
        pixels = np.asarray(legend(EXPRESSIONS, 18, width))
        assert pixels.shape[1] == width
        assert all(has(pixels, colour_of(name, EXPRESSIONS)).any() for name in EXPRESSIONS)
