"""The landmark network: shapes, published names, frozen for good, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fervor.config import Landmarks
from fervor.errors import ModelError, UsageError
from fervor.models import mobilefacenet
from fervor.models.mobilefacenet import LandmarkEncoder, MobileFaceNet, build_landmark_encoder


def published_keys() -> set[str]:
    """The tensors of the published file, spelt out from the layers that its code names."""

    def unit(name: str, *, prelu: bool = True) -> list[str]:
        statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        keys = [f"{name}.conv.weight", *(f"{name}.bn.{part}" for part in statistics)]
        return [*keys, f"{name}.prelu.weight"] if prelu else keys

    def bottleneck(name: str) -> list[str]:
        parts = [*unit(f"{name}.conv"), *unit(f"{name}.conv_dw")]
        return [*parts, *unit(f"{name}.project", prelu=False)]

    keys = [*unit("conv1"), *unit("conv2_dw"), *unit("conv_6_sep")]
    for name in ("conv_23", "conv_34", "conv_45"):
        keys += bottleneck(name)
    for name, count in {"conv_3": 4, "conv_4": 6, "conv_5": 2}.items():
        for number in range(count):
            keys += bottleneck(f"{name}.model.{number}")
    keys += unit("output_layer.conv_6_dw", prelu=False)
    keys += ["output_layer.linear.weight"]
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {*keys, *(f"output_layer.bn.{part}" for part in statistics)}


def random_network(points: int = 68) -> MobileFaceNet:
    torch.manual_seed(0)
    network = MobileFaceNet(points).eval()
    for tensor in network.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return network


def test_its_names_are_the_published_ones() -> None:
    assert set(MobileFaceNet().state_dict()) == published_keys()


@torch.no_grad()
def test_the_maps_are_those_of_the_parents() -> None:
    network = MobileFaceNet().eval()
    maps = network(torch.zeros(2, 3, 112, 112))
    shapes = [tuple(part.shape[1:]) for part in maps]
    assert shapes == [(64, 28, 28), (128, 14, 14), (512, 7, 7)]
    assert network.points(torch.zeros(2, 3, 112, 112)).shape == (2, 68, 2)


def slow(state: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The network in plain functions, layer by layer."""

    def unit(maps: Tensor, name: str, *, stride: int = 1, padding: int = 0) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        groups = maps.shape[1] // weight.shape[1]
        maps = F.conv2d(maps, weight, stride=stride, padding=padding, groups=groups)
        statistics = (state[f"{name}.bn.{p}"] for p in ("running_mean", "running_var"))
        maps = F.batch_norm(maps, *statistics, state[f"{name}.bn.weight"], state[f"{name}.bn.bias"])
        slope = state.get(f"{name}.prelu.weight")
        return maps if slope is None else F.prelu(maps, slope)

    def bottleneck(maps: Tensor, name: str, stride: int) -> Tensor:
        found = unit(maps, f"{name}.conv")
        found = unit(found, f"{name}.conv_dw", stride=stride, padding=1)
        return unit(found, f"{name}.project")

    def repeated(maps: Tensor, name: str) -> Tensor:
        count = len({key.split(".")[2] for key in state if key.startswith(f"{name}.")})
        for number in range(count):
            maps = maps + bottleneck(maps, f"{name}.model.{number}", 1)
        return maps

    maps = unit(image, "conv1", stride=2, padding=1)
    maps = unit(maps, "conv2_dw", padding=1)
    fine = repeated(bottleneck(maps, "conv_23", 2), "conv_3")
    middle = repeated(bottleneck(fine, "conv_34", 2), "conv_4")
    coarse = repeated(bottleneck(middle, "conv_45", 2), "conv_5")
    coarse = unit(coarse, "conv_6_sep")
    row = unit(coarse, "output_layer.conv_6_dw")[:, :, 0, 0] @ state["output_layer.linear.weight"].T
    head = "output_layer.bn"
    row = (row - state[f"{head}.running_mean"]) / (state[f"{head}.running_var"] + 1e-5).sqrt()
    row = row * state[f"{head}.weight"] + state[f"{head}.bias"]
    return fine, middle, coarse, row


@torch.no_grad()
def test_it_is_the_slow_network() -> None:
    network, image = random_network(), torch.randn(2, 3, 112, 112)
    *maps, row = slow(network.state_dict(), image)
    for found, expected in zip(network(image), maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    points = network.points(image)
    torch.testing.assert_close(points[:, :, 0], row[:, 0::2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(points[:, :, 1], row[:, 1::2], rtol=1e-3, atol=1e-3)


def test_the_parameters_follow_a_formula() -> None:
    def unit(inputs: int, outputs: int, *, area: int = 1, prelu: bool = True) -> int:
        return inputs * outputs * area + (3 if prelu else 2) * outputs

    def bottleneck(inputs: int, outputs: int, inner: int) -> int:
        depthwise = unit(1, inner, area=9)
        return unit(inputs, inner) + depthwise + unit(inner, outputs, prelu=False)

    expected = unit(3, 64, area=9) + unit(1, 64, area=9)
    expected += bottleneck(64, 64, 128) + 4 * bottleneck(64, 64, 128)
    expected += bottleneck(64, 128, 256) + 6 * bottleneck(128, 128, 256)
    expected += bottleneck(128, 128, 512) + 2 * bottleneck(128, 128, 256)
    expected += unit(128, 512) + unit(1, 512, area=49, prelu=False) + 512 * 136 + 2 * 136
    assert sum(parameter.numel() for parameter in MobileFaceNet().parameters()) == expected


@pytest.mark.parametrize("points", [68, 98])
def test_a_file_of_published_names_loads(points: int, tmp_path: Path) -> None:
    network = random_network(points)
    path = tmp_path / "mobilefacenet_model_best.pth.tar"
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, path)
    encoder = build_landmark_encoder(Landmarks("mobilefacenet", str(path)))
    for key, tensor in network.state_dict().items():
        assert torch.equal(encoder.state_dict()[f"trunk.{key}"], tensor), key
    report = encoder.report
    assert report is not None
    assert set(report.missing) == {"mean", "deviation"}
    assert not report.left_over
    assert encoder.points(torch.rand(1, 3, 112, 112)).shape == (1, points, 2)


def test_a_file_may_bring_its_own_statistics(tmp_path: Path) -> None:
    encoder = LandmarkEncoder(random_network())
    encoder.mean.fill_(0.25)
    path = tmp_path / "landmarks.pt"
    torch.save(encoder.state_dict(), path)
    assert build_landmark_encoder(Landmarks("mobilefacenet", str(path))).mean.eq(0.25).all()


def test_it_is_frozen_for_good() -> None:
    encoder = LandmarkEncoder(random_network()).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    image = torch.rand(2, 3, 32, 48)
    maps = encoder(image)
    assert not any(module.training for module in encoder.modules())
    assert not any(part.requires_grad for part in (*maps, *encoder.parameters()))
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in before.items())
    plain = encoder.trunk((image - encoder.mean) / encoder.deviation)
    torch.testing.assert_close(maps.coarse, plain.coarse)
    assert maps.coarse.shape == (2, 512, 2, 3)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown landmark network 'dlib': expected mobilefacenet"):
        build_landmark_encoder(Landmarks("dlib"))
    with pytest.raises(ModelError, match=r"landmarks\.pt not found"):
        build_landmark_encoder(Landmarks("mobilefacenet", str(tmp_path / "landmarks.pt")))
    monkeypatch.setattr(mobilefacenet, "PACKAGED", tmp_path / "landmarks.safetensors")
    expected = re.escape("(landmarks.safetensors is missing): give --landmarks.weights FILE")
    with pytest.raises(ModelError, match=expected) as caught:
        build_landmark_encoder(Landmarks("mobilefacenet"))
    assert "\n" not in str(caught.value)
    state = random_network().state_dict()
    del state["conv1.conv.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ModelError, match=r"1 missing \(trunk\.conv1\.conv\.weight\)"):
        build_landmark_encoder(Landmarks("mobilefacenet", str(tmp_path / "short.pth")))
    (tmp_path / "evil.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="cannot be read"):
        build_landmark_encoder(Landmarks("mobilefacenet", str(tmp_path / "evil.pth")))
