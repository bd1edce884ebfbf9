"""MobileFaceNet as an image encoder: files of face recognition, maps, blocks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fervor.config import Encoder
from fervor.errors import ModelError, UsageError
from fervor.models.image import build_image_encoder
from fervor.models.image.mobilefacenet import HALF
from fervor.models.mobilefacenet import MobileFaceNet


def published(trunk: MobileFaceNet) -> dict[str, Tensor]:
    """A file of face recognition: the trunk, and the identity's embedding by its names."""
    state = {
        key: tensor
        for key, tensor in trunk.state_dict().items()
        if not key.startswith("output_layer.")
    }
    embedding = {
        "conv_6_dw.conv.weight": torch.zeros(512, 1, 7, 7),
        "linear.weight": torch.zeros(512, 512),
        "bn.running_mean": torch.zeros(512),
    }
    return state | embedding


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_a_file_of_face_recognition_gives_the_trunks_maps(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = MobileFaceNet().eval()
    state = {f"{prefix}{key}": tensor for key, tensor in published(trunk).items()}
    torch.save({"state_dict": state}, tmp_path / "mobilefacenet.pth.tar")
    config = Encoder(name="mobilefacenet", weights=str(tmp_path / "mobilefacenet.pth.tar"))
    encoder = build_image_encoder(config).eval()
    image = torch.rand(2, 3, 112, 112)
    expected = trunk((image - HALF[0]) / HALF[0])
    for found, wanted in zip(encoder.scales(image), expected, strict=True):
        assert torch.equal(found, wanted)
    features = encoder(image)
    torch.testing.assert_close(features.pooled, expected.coarse.mean((2, 3)))
    assert features.grid == (7, 7) and encoder.width == 512
    assert encoder.report is not None
    assert set(encoder.report.left_over) == {
        "conv_6_dw.conv.weight",
        "linear.weight",
        "bn.running_mean",
    }


def test_a_file_that_lacks_a_block_is_one_line(tmp_path: Path) -> None:
    state = published(MobileFaceNet())
    del state["conv_4.model.3.conv_dw.conv.weight"]
    torch.save(state, tmp_path / "mobilefacenet.pth")
    with pytest.raises(ModelError, match=r"1 missing \(trunk\.conv_4\.model\.3\.conv_dw") as caught:
        weights = str(tmp_path / "mobilefacenet.pth")
        build_image_encoder(Encoder(name="mobilefacenet", weights=weights))
    assert "\n" not in str(caught.value)


def test_frozen_blocks_are_the_first_ones_in_running_order() -> None:
    config = Encoder(name="mobilefacenet", weights="random", frozen_blocks=2)
    encoder = build_image_encoder(config)
    still = {name.split(".")[1] for name, p in encoder.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "conv2_dw", "conv_23"}


def test_an_image_below_sixteen_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="size is 15, mobilefacenet expects at least 16"):
        build_image_encoder(Encoder(name="mobilefacenet", weights="random", size=15))
