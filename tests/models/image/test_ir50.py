"""IR-50: shapes, a slow reference, and the names of published files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fervor.config import Encoder
from fervor.errors import ModelError, UsageError
from fervor.models.image import build_image_encoder
from fervor.models.image.ir50 import IR50, UNITS, from_published, published_names


SMALL = (2, 1, 2)
"""Units of a network with every kind of unit."""


def random_network(units: tuple[int, ...] = SMALL) -> IR50:
    """Every tensor away from its initial value."""
    torch.manual_seed(0)
    trunk = IR50(units).eval()
    for tensor in trunk.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return trunk


def normed(maps: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    mean, variance, weight, bias = (part[:, None, None] for part in parts)
    return (maps - mean) / (variance + 1e-5).sqrt() * weight + bias


def activated(maps: Tensor, slope: Tensor) -> Tensor:
    return torch.where(maps > 0, maps, maps * slope[:, None, None])


def slow(state: dict[str, Tensor], image: Tensor, units: tuple[int, ...]) -> list[Tensor]:
    """The network as ArcFace describes it, from the tensors by their published names."""
    maps = F.conv2d(image, state["input_layer.0.weight"], padding=1)
    maps = activated(normed(maps, state, "input_layer.1"), state["input_layer.2.weight"])
    found = []
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            stride, name = 2 if unit == 0 else 1, f"body{stage}.{unit}"
            other = normed(maps, state, f"{name}.res_layer.0")
            other = F.conv2d(other, state[f"{name}.res_layer.1.weight"], padding=1)
            other = activated(other, state[f"{name}.res_layer.2.weight"])
            other = F.conv2d(other, state[f"{name}.res_layer.3.weight"], padding=1, stride=stride)
            other = normed(other, state, f"{name}.res_layer.4")
            if f"{name}.shortcut_layer.0.weight" in state:
                shortcut = F.conv2d(maps, state[f"{name}.shortcut_layer.0.weight"], stride=stride)
                shortcut = normed(shortcut, state, f"{name}.shortcut_layer.1")
            else:
                shortcut = F.max_pool2d(maps, 1, stride)
            maps = other + shortcut
        found.append(maps)
    return found


@torch.no_grad()
def test_it_is_the_slow_network() -> None:
    trunk, image = random_network().double(), torch.randn(2, 3, 33, 32).double()
    expected = slow(trunk.state_dict(), image, SMALL)
    for found, wanted in zip(trunk(image), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_the_scales_are_those_of_the_parents() -> None:
    shapes = [tuple(maps.shape[1:]) for maps in IR50().eval()(torch.zeros(1, 3, 112, 112))]
    assert shapes == [(64, 56, 56), (128, 28, 28), (256, 14, 14)]
    fourth = IR50((1, 1, 1, 1)).eval()(torch.zeros(1, 3, 112, 112))[-1]
    assert fourth.shape == (1, 512, 7, 7)


def test_the_parameters_follow_a_formula() -> None:
    def unit(inputs: int, outputs: int) -> int:
        residual = 2 * inputs + 9 * inputs * outputs + outputs + 9 * outputs**2 + 2 * outputs
        return residual + (inputs * outputs + 2 * outputs if inputs != outputs else 0)

    expected, inputs = 3 * 64 * 9 + 2 * 64 + 64, 64
    for count, width in zip(UNITS, (64, 128, 256), strict=True):
        expected += unit(inputs, width) + (count - 1) * unit(width, width)
        inputs = width
    assert sum(parameter.numel() for parameter in IR50().parameters()) == expected


def published(trunk: IR50, *, apart: bool) -> dict[str, Tensor]:
    """What a published file is known to hold: all 24 units, numbered through or by stage."""
    whole = IR50((*UNITS, 3))
    state = {**whole.state_dict(), **trunk.state_dict()}
    renamed = {}
    for key, tensor in state.items():
        stage, _, rest = key.partition(".")
        if stage.startswith("body") and not apart:
            number, _, rest = rest.partition(".")
            first = sum((*UNITS, 3)[: int(stage[4:]) - 1])
            key = f"body.{first + int(number)}.{rest}"
        renamed[key] = tensor
    renamed["output_layer.3.weight"] = torch.zeros(512, 4)
    return renamed


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_published_names_loads(apart: bool, prefix: str, tmp_path: Path) -> None:
    trunk = random_network(UNITS)
    state = {f"{prefix}{key}": value for key, value in published(trunk, apart=apart).items()}
    torch.save({"state_dict": state}, tmp_path / "ir50.pth")
    encoder = build_image_encoder(Encoder(name="ir50", weights=str(tmp_path / "ir50.pth")))
    for key, tensor in trunk.state_dict().items():
        assert torch.equal(encoder.state_dict()[f"trunk.{key}"], tensor), key
    report = encoder.report
    assert report is not None
    assert len(report.loaded) == len(trunk.state_dict())
    assert "output_layer.3.weight" in report.left_over
    assert any(name.startswith("body4.0.") for name in report.left_over)
    assert set(report.missing) == {"mean", "deviation"}


def test_a_file_that_lacks_a_unit_is_one_line(tmp_path: Path) -> None:
    state = published(random_network(UNITS), apart=False)
    del state["body.20.res_layer.1.weight"]
    torch.save(state, tmp_path / "ir50.pth")
    with pytest.raises(ModelError, match=r"1 missing \(trunk\.body3\.13\.res_layer\.1") as caught:
        build_image_encoder(Encoder(name="ir50", weights=str(tmp_path / "ir50.pth")))
    assert "\n" not in str(caught.value)


def test_names_are_mapped_by_stage() -> None:
    names = ["body.0.a", "body.2.a", "body.3.a", "body.6.a", "body.7.a", "body.20.a", "body.21.a"]
    expected = ["body1.0.a", "body1.2.a", "body2.0.a", "body2.3.a", "body3.0.a", "body3.13.a"]
    assert list(published_names(names).values()) == [*expected, "body4.0.a"]
    assert from_published({"body1.0.a": torch.zeros(1)}).keys() == {"body1.0.a"}


@torch.no_grad()
def test_the_encoder_normalises_and_pools() -> None:
    encoder = build_image_encoder(Encoder(name="ir50", size=32)).eval()
    image = torch.rand(2, 3, 32, 32)
    plain = (image - torch.tensor((0.485, 0.456, 0.406))[:, None, None]) / torch.tensor(
        (0.229, 0.224, 0.225)
    )[:, None, None]
    expected = encoder.get_submodule("trunk")(plain)
    for found, wanted in zip(encoder.scales(image), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    features = encoder(image)
    torch.testing.assert_close(features.pooled, expected[-1].mean((2, 3)))
    assert features.grid == (4, 4)


def test_lower_stages_can_be_frozen() -> None:
    encoder = build_image_encoder(Encoder(name="ir50", size=32, frozen_blocks=2)).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder(torch.rand(2, 3, 32, 32)).pooled.sum().backward()
    moved = {
        key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved and all(key.startswith("trunk.body3.") for key in moved)
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == name.startswith("trunk.body3."), name


def test_a_picture_that_is_too_small_is_one_line() -> None:
    with pytest.raises(UsageError, match="size is 8, ir50 expects at least 16"):
        build_image_encoder(Encoder(name="ir50", size=8))
