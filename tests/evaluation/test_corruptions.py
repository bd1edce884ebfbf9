"""Corruptions: deterministic, stronger with severity, and where their names say."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fervor.errors import UsageError
from fervor.evaluation.corruptions import CAMERA, CORRUPTIONS, SEVERITIES, corrupt
from fervor.faces.alignment import TEMPLATE
from fervor.labels import EXPRESSIONS
from tests.support.drawn import face


Pixels = NDArray[np.uint8]


def colour_face(number: int, side: int = 96) -> Pixels:
    """A drawn face with a tint."""
    grey = face(EXPRESSIONS[number % 8], number, side=side)
    return np.rint(grey[:, :, None] * np.array([1.0, 0.8, 0.6])).astype(np.uint8)


def distance(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(float) - second).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_lies_further_from_the_clean_picture(name: str) -> None:
    faces = [colour_face(number) for number in range(12)]
    means = [
        np.mean(
            [
                distance(corrupt(image, name, severity, number=number), image)
                for number, image in enumerate(faces)
            ]
        )
        for severity in SEVERITIES
    ]
    assert means[0] > 0
    assert all(later > earlier for earlier, later in pairwise(means)), means


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_picture_and_leaves_the_original(name: str) -> None:
    image = colour_face(3)
    before = image.copy()
    first = corrupt(image, name, 3, seed=5, number=7)
    assert np.array_equal(first, corrupt(image, name, 3, seed=5, number=7))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", ["block", "eyes", "mouth", "rotation", "side_light", "noise"])
def test_what_is_random_depends_on_seed_and_picture(name: str) -> None:
    image = colour_face(0)
    by_number = {corrupt(image, name, 4, number=number).tobytes() for number in range(8)}
    by_seed = {corrupt(image, name, 4, seed=seed).tobytes() for seed in range(8)}
    assert len(by_number) > 1 and len(by_seed) > 1


@given(
    name=st.sampled_from(sorted(CORRUPTIONS)),
    severity=st.sampled_from(SEVERITIES),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_any_picture_keeps_its_shape(
    name: str, severity: int, height: int, width: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    changed = corrupt(image, name, severity, seed=seed)
    assert changed.shape == image.shape and changed.dtype == np.uint8


COVERED = {
    "eyes": [(0.5, 0.3617)],
    "mouth": [(0.5, 0.7867)],
    "lower_face": [(0.5, 0.7867), (0.5, 0.6)],
    "sunglasses": [(0.3058, 0.3617), (0.6942, 0.3617)],
}
"""Places, in shares of the crop, that the strongest occlusion hides."""
SEEN = {
    "eyes": [(0.5, 0.7867)],
    "mouth": [(0.3058, 0.3617), (0.6942, 0.3617)],
    "lower_face": [(0.3058, 0.25), (0.6942, 0.25)],
    "sunglasses": [(0.5, 0.7867)],
}


@pytest.mark.parametrize("name", COVERED)
def test_an_occlusion_hides_what_it_is_named_after(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    changed = corrupt(noise, name, 5)
    for x, y in COVERED[name]:
        patch = changed[int(96 * y) - 1 : int(96 * y) + 2, int(96 * x) - 1 : int(96 * x) + 2]
        assert len(np.unique(patch)) == 1, (x, y)
    for x, y in SEEN[name]:
        place = slice(int(96 * y) - 1, int(96 * y) + 2), slice(int(96 * x) - 1, int(96 * x) + 2)
        assert np.array_equal(changed[place], noise[place]), (x, y)


def test_an_occlusion_follows_the_points() -> None:
    """A face turned by a quarter has its eyes at the right; the mouth stays free."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    middle = np.array([0.5, 0.5])
    turned = ((TEMPLATE - middle) @ np.array([[0, 1], [-1, 0]]) + middle) * 96
    changed = corrupt(noise, "sunglasses", 5, points=turned)
    expected = np.rot90(corrupt(np.rot90(noise, 1).copy(), "sunglasses", 5), -1)
    assert np.array_equal(changed, expected)


def test_a_block_has_the_side_that_its_severity_names() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    for severity, side in zip(SEVERITIES, CORRUPTIONS["block"].amounts, strict=True):
        changed = corrupt(white, "block", severity, seed=1)
        hidden = (255 - changed[:, :, 0].astype(float)).sum()
        shade = 255 - float(changed.min())
        assert hidden / shade == pytest.approx((100 * side) ** 2, rel=0.01)


def test_a_turn_is_that_of_pillow() -> None:
    image = colour_face(1)
    changed = corrupt(image, "rotation", 1, number=2)
    candidates = [
        np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC))
        for angle in (10, -10)
    ]
    inner = slice(24, 72)  # beyond, Pillow paints black and we go on with the edge
    gaps = [distance(changed[inner, inner], other[inner, inner]) for other in candidates]
    assert min(gaps) < 0.5 < max(gaps)


def test_yaw_is_a_plane_seen_by_a_camera() -> None:
    """Against a loop that casts a ray through every pixel."""
    ramp = np.linspace(0, 255, 64)
    image = np.repeat(np.stack(np.broadcast_arrays(ramp[None], ramp[:, None]), 2), [2, 1], axis=2)
    image = image.astype(np.uint8)
    changed = corrupt(image, "yaw", 2).astype(float)
    angle, far = np.radians(CORRUPTIONS["yaw"].amounts[1]), CAMERA * 64
    gaps = []
    for sign in (-1, 1):
        sine, cosine = np.sin(sign * angle), np.cos(angle)
        worst = 0.0
        for row in range(8, 56, 5):
            for column in range(16, 48, 5):
                u, v = column + 0.5 - 32, row + 0.5 - 32
                # the ray (u, v, far) * t meets the plane at (p cos, q, far + p sin)
                p = u * far / (far * cosine - u * sine)
                q = v * (far + p * sine) / far
                across, down = np.clip((np.array([p, q]) + 31.5) / 63, 0, 1) * 255
                seen = changed[row, column, [0, 2]]
                worst = max(worst, abs(seen[0] - across), abs(seen[1] - down))
        gaps.append(worst)
    assert min(gaps) < 4 < max(gaps)


def test_light_and_detail_against_their_formulas() -> None:
    image = colour_face(2)
    fraction = image / 255
    dark = np.rint(fraction ** CORRUPTIONS["darkness"].amounts[0] * 255)
    assert distance(corrupt(image, "darkness", 1), dark.astype(np.uint8)) < 1e-9
    flat = fraction + 0.3 * (fraction.mean() - fraction)
    assert distance(corrupt(image, "contrast", 1), np.rint(flat * 255).astype(np.uint8)) < 1e-9
    grey = corrupt(image, "grey", 5)
    assert np.ptp(grey, axis=2).max() == 0
    assert np.abs(grey[:, :, 0] - np.asarray(Image.fromarray(image).convert("L"), float)).max() <= 1


def test_the_lowest_resolution_keeps_sixteen_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    changed = Image.fromarray(corrupt(noise, "low_resolution", 5))
    small = Image.fromarray(noise).resize((16, 16), Image.Resampling.BOX)
    again = small.resize((48, 48), Image.Resampling.BICUBIC)
    assert distance(np.asarray(changed), np.asarray(again)) == 0


def test_wrong_names_and_severities_are_one_line() -> None:
    image = colour_face(0)
    with pytest.raises(UsageError, match="unknown corruption 'fog': expected one of block, eyes"):
        corrupt(image, "fog", 1)
    for severity in (0, 6):
        with pytest.raises(UsageError, match="expected 1 to 5"):
            corrupt(image, "blur", severity)
