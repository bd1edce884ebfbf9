"""Covers lie where the faces' parts are, and move with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
