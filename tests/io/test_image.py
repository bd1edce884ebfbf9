"""Any picture becomes RGB in 0..1 of the asked size."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fervor.errors import InputError
from fervor.io.image import to_input, to_rgb


MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"),
)


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """Random bytes as a picture of a mode: floats may be infinite or no number at all."""
    blank = Image.new(mode, (width, height))
    rng = np.random.default_rng(seed)
    return Image.frombytes(mode, blank.size, rng.bytes(len(blank.tobytes())))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=20, deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 130),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_mode_and_size(mode: str, width: int, height: int, size: int, seed: int) -> None:
    image = noise(mode, width, height, seed)
    pixels = to_rgb(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, 3)
    values = to_input(image, size)
    assert values.dtype == np.float32
    assert values.shape == (3, size, size)
    assert values.flags.c_contiguous
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= 1
    np.testing.assert_array_equal(values, to_input(pixels, size))  # image or array: the same


def test_rgb_keeps_its_values() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb(pixels), pixels)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(pixels)), pixels)


def test_input_is_red_green_blue_in_planes() -> None:
    values = to_input(Image.new("RGB", (4, 4), (255, 51, 0)), 8)
    np.testing.assert_allclose(values[:, 3, 3], [1, 0.2, 0], atol=1e-6)


def test_transparent_shows_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    np.testing.assert_array_equal(to_rgb(image)[0], [[255, 255, 255], [10, 20, 30]])


def test_transparent_palette_colour_shows_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    np.testing.assert_array_equal(to_rgb(image)[0], [[255, 255, 255], [0, 100, 0]])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bits_become_eight_by_scale(dtype: type) -> None:
    values: NDArray[Any] = np.array([[0, 257, 32896, 65535]], dtype=dtype)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(values))[0, :, 0], [0, 1, 128, 255])


@pytest.mark.parametrize("values", [[0.0, 0.2, 1.0], [0.0, 51.0, 255.0]])
def test_floats_are_read_in_either_range(values: list[float]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    np.testing.assert_array_equal(to_rgb(image)[0, :, 1], [0, 51, 255])


def test_an_array_with_alpha_shows_white_where_it_is_transparent() -> None:
    array = np.zeros((1, 3, 4), np.uint8)
    array[0, :, 3] = (0, 255, 51)
    np.testing.assert_array_equal(to_rgb(array)[0, :, 0], [255, 0, 204])
    expected = to_rgb(Image.fromarray(array, "RGBA"))
    np.testing.assert_array_equal(to_rgb(array), expected)
    np.testing.assert_array_equal(to_rgb(array[:, ::-1]), expected[:, ::-1])  # a view


def test_grey_array_gets_three_equal_planes() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(to_rgb(grey), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(to_rgb(grey[:, :, None]), to_rgb(grey))


def test_shrinking_averages() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    values = to_input(checks.astype(np.uint8), 8)
    np.testing.assert_allclose(values, 0.5, atol=0.02)  # a plain bilinear gives 0 or 1 here


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 6, 6), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused_in_one_line(array: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"expected") as refused:
        to_rgb(array)
    assert "\n" not in str(refused.value)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="of type list: expected"):
        to_rgb([[0]])  # type: ignore[arg-type]
