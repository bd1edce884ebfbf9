"""Covers lie where the faces' parts are, and move with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from fervor.data.augmentation import grid_of, occlusion, sampled
from fervor.data.augmentation.occlusion import PARTS, covered, drawn_covers, part_boxes
from fervor.faces.alignment import crop
from fervor.faces.detector import FaceDetector, select


EXAMPLE = Path(__file__).parents[3] / "examples" / "astronaut.jpg"


@pytest.fixture(scope="module")
def portrait() -> torch.Tensor:
    photo = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    face = select(FaceDetector().detect([photo])[0], "largest")[0]
    return torch.tensor(crop(photo, face, 48)).permute(2, 0, 1)[None].contiguous()


def test_parts_of_a_real_face_lie_where_they_should(portrait: torch.Tensor) -> None:
    boxes = dict(zip(PARTS, part_boxes(portrait)[0].tolist(), strict=True))
    assert boxes["right eye"][0] < -0.2 < 0.2 < boxes["left eye"][0]
    assert boxes["eyes"][1] < boxes["nose"][1] < boxes["mouth"][1]
    assert boxes["right half"][0] < boxes["nose"][0] < boxes["left half"][0]
    assert all(0 < half < 1 for box in boxes.values() for half in box[2:])


def test_the_network_looks_once(
    portrait: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = part_boxes(portrait, str(tmp_path))
    monkeypatch.setattr(occlusion, "_points", None)
    assert torch.equal(part_boxes(portrait, str(tmp_path)), first)
    with pytest.raises(TypeError):
        part_boxes(255 - portrait, str(tmp_path))  # other images


def test_a_cover_is_an_ellipse_in_the_images_own_places() -> None:
    """A turned and mirrored image is covered where its face went."""
    covers, shade = torch.tensor([[0.4, -0.2, 0.3, 0.2]]), torch.tensor([0.5])
    placements = torch.tensor([[[-0.8, 0.3, 0.1], [0.3, 0.8, -0.05]]])
    grid = grid_of(placements, 40)
    found = covered(torch.zeros(1, 1, 40, 40), grid, covers, shade)[0, 0]
    for row in range(40):
        for column in range(40):
            x, y = (2 * column + 1) / 40 - 1, (2 * row + 1) / 40 - 1
            u = -0.8 * x + 0.3 * y + 0.1
            v = 0.3 * x + 0.8 * y - 0.05
            inside = ((u - 0.4) / 0.3) ** 2 + ((v + 0.2) / 0.2) ** 2 < 1
            assert float(found[row, column]) == (0.5 if inside else 0.0)
    assert 0 < float((found > 0).float().mean()) < 0.2
    image = sampled(torch.rand(1, 1, 8, 8), grid)
    nothing = torch.tensor([[0.4, -0.2, 0.0, 0.0]])
    assert torch.equal(covered(image, grid, nothing, shade), image)


def test_in_a_batch_only_the_covered_faces_change() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 20, 20)
    grid = grid_of(torch.eye(2, 3) + 0.1 * torch.randn(4, 2, 3), 20)
    covers, shade = torch.rand(4, 4) * 0.5 + 0.2, torch.rand(4)
    covers[[0, 2], 2:] = 0
    together = covered(images, grid, covers, shade)
    assert torch.equal(together[[0, 2]], images[[0, 2]])
    for number in (1, 3):
        part = slice(number, number + 1)
        alone = covered(images[part], grid[part], covers[part], shade[part])
        assert torch.equal(together[part], alone) and not torch.equal(alone, images[part])


@pytest.mark.parametrize("size", [1, 2, 7, 144])
def test_the_grid_is_what_torch_gives(size: int) -> None:
    placements = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(size))
    expected = functional.affine_grid(placements, [3, 1, size, size], align_corners=False)
    torch.testing.assert_close(grid_of(placements, size), expected, rtol=0, atol=2e-6)


def test_covers_are_drawn_at_the_probability_asked_for() -> None:
    torch.manual_seed(0)
    boxes = torch.rand(1, len(PARTS), 4).expand(2000, -1, -1)
    covers, shade = drawn_covers(boxes, 0.3)
    fraction = float((covers[:, 2] > 0).float().mean())
    assert fraction == pytest.approx(0.3, abs=0.04)
    drawn = covers[covers[:, 2] > 0]
    ratio = drawn[:, None, 2:] / boxes[: len(drawn), :, 2:]
    assert bool(((ratio > 0.999) & (ratio < 1.601)).all(2).any(1).all())
    assert 0 <= float(shade.min()) < 0.05 and 0.95 < float(shade.max()) <= 1
