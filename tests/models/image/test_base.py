"""Pictures in another size, the same in torch and in an exported graph."""

import pytest
import torch

from fervor.models.image.base import resized


@pytest.mark.parametrize(("side", "size"), [(224, 112), (112, 96), (48, 48), (7, 20), (100, 33)])
def test_resizing_takes_the_nearest_pixel_as_torch_does(side: int, size: int) -> None:
    image = torch.arange(2.0 * 3 * side * side).view(2, 3, side, side)
    wanted = torch.tensor([place * side // size for place in range(size)])
    found = resized(image, size)
    assert torch.equal(found, image[:, :, wanted][:, :, :, wanted])
    if side % size == 0:  # elsewhere torch's scale in floating point may take a neighbour
        assert torch.equal(found, torch.nn.functional.interpolate(image, size))


def test_resizing_can_interpolate() -> None:
    image = torch.rand(1, 3, 20, 20)
    wanted = torch.nn.functional.interpolate(image, 30, mode="bilinear")
    assert torch.equal(resized(image, 30, mode="bilinear"), wanted)
