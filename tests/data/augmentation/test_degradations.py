"""Losses of quality against slow readings, and what a strength of nothing leaves alone."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.fft import dctn, idctn

from fervor.data.augmentation.degradations import (
    LUMINANCE_STEPS,
    colour_cast,
    contrasted,
    fewer_pixels,
    jpeg,
    sharpened,
)
from tests.support.drawn import pictures


LABELS = ("neutral", "happiness", "anger")


def images(count: int = 4) -> torch.Tensor:
    return pictures(LABELS, count).images[:count].float() / 255


def test_fewer_pixels_is_pillows_resize_there_and_back() -> None:
    image, sides = images(), (16, 23, 47, 48)
    found = fewer_pixels(image, torch.tensor(sides))
    for before, after, side in zip(image, found, sides, strict=True):
        picture = Image.fromarray(before[0].numpy(), "F")
        small = picture.resize((side, side), Image.Resampling.BILINEAR)
        expected = np.asarray(small.resize((48, 48), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(after[0].numpy(), expected, atol=2e-5)
    assert torch.equal(found[3], image[3])
    wide = torch.rand(1, 3, 20, 40)
    assert fewer_pixels(wide, torch.tensor([10])).shape == wide.shape


@pytest.mark.parametrize("shape", [(48, 48), (21, 35)])
def test_jpeg_is_the_standards_transform_block_by_block(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(3, 2, 9, 9), shape, mode="bilinear")
    qualities = (20.0, 50.0, 90.0)
    found = jpeg(image, torch.tensor(qualities))
    table = np.array(LUMINANCE_STEPS, float).reshape(8, 8)
    for before, after, quality in zip(image.numpy(), found.numpy(), qualities, strict=True):
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        steps = np.clip(np.round(table * scale / 100), 1, 255)
        for plane, decoded in zip(before, after, strict=True):
            height, width = plane.shape
            whole = np.pad(plane * 255 - 128, ((0, -height % 8), (0, -width % 8)), mode="edge")
            for top in range(0, height, 8):
                for left in range(0, width, 8):
                    block = whole[top : top + 8, left : left + 8]
                    coded = np.round(dctn(block, norm="ortho") / steps) * steps
                    whole[top : top + 8, left : left + 8] = idctn(coded, norm="ortho")
            expected = np.clip((whole[:height, :width] + 128) / 255, 0, 1)
            off = np.abs(decoded - expected) > 1e-3  # a tie may round the other way
            assert off.mean() < 0.02


def test_jpeg_loses_as_much_as_pillows(tmp_path: object) -> None:
    """Of the two losses the larger is at most half as large again."""
    import io

    image = images(6)
    for quality in (20, 60, 90):
        found = jpeg(image, torch.full((6,), float(quality)))
        for before, after in zip(image, found, strict=True):
            pixels = (before[0] * 255).round().byte().numpy()
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
            decoded = torch.from_numpy(np.array(Image.open(buffer))).float() / 255
            theirs = float((decoded - before[0]).square().mean().sqrt())
            ours = float((after[0] - before[0]).square().mean().sqrt())
            assert theirs / 1.5 < ours < 1.5 * theirs


def test_sharpening_is_unsharp_masking() -> None:
    image, strength = images(2), torch.tensor([0.0, 1.5])
    found = sharpened(image, strength)
    torch.testing.assert_close(found[0], image[0])
    padded = np.pad(image[1, 0].numpy(), 1, mode="edge")
    for row, column in ((0, 0), (10, 31), (47, 47)):
        mean = padded[row : row + 3, column : column + 3].mean()
        value = float(image[1, 0, row, column])
        expected = min(1.0, max(0.0, value + 1.5 * (value - mean)))
        assert float(found[1, 0, row, column]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_is_pillows_and_leaves_the_mean(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(60, 180, (3, channels, 20, 30), generator=generator, dtype=torch.uint8)
    factors = (0.5, 1.0, 1.3)
    found = contrasted(image.float() / 255, torch.tensor(factors))
    for before, after, factor in zip(image, found, factors, strict=True):
        picture = Image.fromarray(before.permute(1, 2, 0).squeeze().numpy())
        expected = np.asarray(ImageEnhance.Contrast(picture).enhance(factor)).reshape(20, 30, -1)
        gap = after.permute(1, 2, 0).numpy() - expected / 255
        assert np.abs(gap).max() < 1.6 / 255  # Pillow rounds the mean, and cuts the result
    grey = contrasted(torch.full((1, 1, 4, 4), 0.5), torch.tensor([0.8]))
    torch.testing.assert_close(grey, torch.full((1, 1, 4, 4), 0.5))


def test_a_cast_tints_grey_pictures() -> None:
    image = images(2)
    gains = torch.tensor([[1.0, 1.0, 1.0], [1.2, 1.0, 0.5]])
    found = colour_cast(image, gains)
    assert found.shape == (2, 3, 48, 48)
    assert torch.equal(found[0], image[0].expand(3, -1, -1))
    torch.testing.assert_close(found[1, 2], 0.5 * image[1, 0])
    torch.testing.assert_close(found[1, 0], (1.2 * image[1, 0]).clamp(max=1))
