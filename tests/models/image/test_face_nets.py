"""The face-pretrained trunks against slow, folded references, and BatchNorm's return."""

import copy
import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.errors import ModelError
from fervor.models.image.face_nets import (
    FaceMobileNet,
    FaceResNet,
    HalvingDepthwise,
    load_folded,
    restore_batchnorm,
)


WEIGHTS = Path(str(files("fervor") / "weights"))
PACKAGED = {
    name: {key: value.float() for key, value in load_file(WEIGHTS / f"{name}.safetensors").items()}
    for name in ("face_mobilenet", "dlib_resnet")
}


def faces(count: int, size: int, seed: int = 0) -> Tensor:
    """Smooth coloured blobs in 0..1: coarse noise, enlarged."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


def affine(maps: Tensor, tensors: dict[str, Tensor], layer: str) -> Tensor:
    scale, bias = tensors[f"{layer}.scale"], tensors[f"{layer}.bias"]
    return maps * scale[:, None, None] + bias[:, None, None]


def folded_mobilenet(tensors: dict[str, Tensor], image: Tensor) -> Tensor:
    """The published net, as its description says: stride-2 layers pad right and bottom by one."""
    weight = tensors["stem.weight"]
    maps = affine(F.conv2d(F.pad(image * 255, (0, 1, 0, 1)), weight, stride=2), tensors, "stem")
    maps = maps.clamp(0, 6)
    for block in range(13):
        layer = f"blocks.{block}.depthwise"
        halve = block in (1, 3, 5, 11)
        padded = F.pad(maps, (0, 1, 0, 1) if halve else (1, 1, 1, 1))
        columns = [
            F.conv2d(channel, kernel[None], stride=2 if halve else 1)
            for channel, kernel in zip(
                padded.split(1, dim=1), tensors[f"{layer}.weight"], strict=True
            )
        ]
        maps = affine(torch.cat(columns, dim=1), tensors, layer).clamp(0, 6)
        layer = f"blocks.{block}.pointwise"
        mixed = torch.einsum("bchw,dc->bdhw", maps, tensors[f"{layer}.weight"][:, :, 0, 0])
        maps = affine(mixed, tensors, layer).clamp(0, 6)
    return maps


def folded_resnet(tensors: dict[str, Tensor], image: Tensor, *, blocks: int = 14) -> Tensor:
    """dlib's net, as its description says."""
    image = (image * 255 - torch.tensor([122.782, 117.001, 104.298])[:, None, None]) / 256
    maps = affine(F.conv2d(image, tensors["stem.weight"], stride=2), tensors, "stem")
    maps = F.max_pool2d(maps.clamp(min=0), 3, 2)
    for block in range(blocks):
        halve = block in (3, 7, 10, 13)
        first, second = f"blocks.{block}.conv1", f"blocks.{block}.conv2"
        weight = tensors[f"{first}.weight"]
        found = F.conv2d(maps, weight, stride=2) if halve else F.conv2d(maps, weight, padding=1)
        found = affine(found, tensors, first).clamp(min=0)
        weight = tensors[f"{second}.weight"]
        found = affine(F.conv2d(found, weight, padding=1), tensors, second)
        skip = F.avg_pool2d(maps, 2) if halve else maps
        shape = [max(sides) for sides in zip(found.shape, skip.shape, strict=True)]
        total = torch.zeros(shape)
        for part in (found, skip):
            total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
        maps = total.clamp(min=0)
    return maps


def mobilenet(last_stride: int = 2) -> FaceMobileNet:
    trunk = FaceMobileNet(last_stride=last_stride)
    load_folded(trunk, PACKAGED["face_mobilenet"])
    return trunk.eval()


def resnet(*, last_block: bool = True) -> FaceResNet:
    trunk = FaceResNet(last_block=last_block)
    load_folded(trunk, PACKAGED["dlib_resnet"])
    return trunk.eval()


def prepared(trunk: FaceMobileNet | FaceResNet, image: Tensor) -> Tensor:
    return (image - torch.tensor(trunk.mean)[:, None, None]) * trunk.scale


@pytest.mark.parametrize("size", [96, 112, 113, 128])
@torch.no_grad()
def test_mobilenet_is_the_folded_net(size: int) -> None:
    trunk, image = mobilenet(), faces(2, size)
    expected = folded_mobilenet(PACKAGED["face_mobilenet"], image)
    found = trunk(prepared(trunk, image))
    assert found.shape == expected.shape == (2, 1024, size // 32, size // 32)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4


@pytest.mark.parametrize("size", [103, 112, 150])
@torch.no_grad()
def test_resnet_is_the_folded_net(size: int) -> None:
    trunk, image = resnet(), faces(2, size)
    expected = folded_resnet(PACKAGED["dlib_resnet"], image)
    found = trunk(prepared(trunk, image))
    assert found.shape == expected.shape
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4


@torch.no_grad()
def test_resnet_without_its_last_block_gives_the_map_before_it() -> None:
    trunk, image = resnet(last_block=False), faces(2, 112)
    expected = folded_resnet(PACKAGED["dlib_resnet"], image, blocks=13)
    found = trunk(prepared(trunk, image))
    assert found.shape == (2, 256, 3, 3)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4


@pytest.mark.parametrize("trunk", [FaceMobileNet(), FaceResNet(), FaceResNet(last_block=False)])
@torch.no_grad()
def test_the_smallest_size_is_the_smallest(trunk: FaceMobileNet | FaceResNet) -> None:
    assert min(trunk.eval()(torch.zeros(1, 3, trunk.least, trunk.least)).shape) > 0
    if isinstance(trunk, FaceResNet):
        with pytest.raises(RuntimeError, match="Kernel size"):
            trunk.eval()(torch.zeros(1, 3, trunk.least - 1, trunk.least - 1))


@pytest.mark.parametrize("size", [96, 112, 128])
@torch.no_grad()
def test_the_dilated_net_holds_the_published_one_at_every_second_place(size: int) -> None:
    image = faces(2, size) * 255
    fine, coarse = mobilenet(last_stride=1)(image), mobilenet(last_stride=2)(image)
    assert fine.shape[-2:] == (size // 16, size // 16)
    torch.testing.assert_close(fine[:, :, 1::2, 1::2], coarse, rtol=1e-4, atol=1e-4)


@given(st.integers(2, 17), st.integers(2, 17))
def test_halving_is_the_same_in_training_and_evaluation(height: int, width: int) -> None:
    layer = HalvingDepthwise(4)
    maps = torch.randn(2, 4, height, width)
    before: list[Tensor] = []
    layer.norm = nn.Identity()  # type: ignore[assignment]
    for mode in (True, False):
        layer.train(mode).zero_grad()
        halved = layer(maps)
        (halved * torch.linspace(-1, 1, halved.numel()).view_as(halved)).sum().backward()
        assert layer.conv.weight.grad is not None
        before += [halved.detach(), layer.conv.weight.grad.clone()]
    assert before[0].shape[-2:] == (height // 2, width // 2)
    torch.testing.assert_close(before[0], before[2])
    torch.testing.assert_close(before[1], before[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [mobilenet, resnet])
def test_restored_batchnorm_changes_nothing_and_has_true_statistics(build: type) -> None:
    trunk = build()
    images = prepared(trunk, faces(24, 112))
    others = prepared(trunk, faces(4, 112, seed=1))
    with torch.no_grad():
        before = trunk(others)
        wild = copy.deepcopy(trunk).train()(images)
        restore_batchnorm(trunk, images)
        after, evaluated = trunk(others), trunk(images)
        trained = copy.deepcopy(trunk).train()(images)
    assert ((after - before).norm() / before.norm()).item() < 1e-4
    # On the very pictures that gave the statistics, batch statistics are the running ones.
    assert ((trained - evaluated).norm() / evaluated.norm()).item() < 1e-3
    assert ((wild - evaluated).norm() / evaluated.norm()).item() > 0.1  # without it: another net


def test_restoring_leaves_every_modules_mode_alone() -> None:
    trunk = mobilenet().train()
    trunk.blocks[2].eval()
    modes = [module.training for module in trunk.modules()]
    restore_batchnorm(trunk, faces(2, 96))
    assert [module.training for module in trunk.modules()] == modes
    assert not trunk.blocks[2].depthwise.norm._forward_pre_hooks


def test_folded_weights_must_fit() -> None:
    tensors = PACKAGED["face_mobilenet"]
    short = {key: value for key, value in tensors.items() if key != "blocks.3.pointwise.bias"}
    with pytest.raises(ModelError, match=r"missing \['blocks\.3\.pointwise\.bias'\]"):
        load_folded(FaceMobileNet(), short)
    with pytest.raises(ModelError, match=r"left over \['head'\]"):
        load_folded(FaceMobileNet(), {**tensors, "head": torch.zeros(1)})
    with pytest.raises(ModelError, match="made for FaceResNet"):
        load_folded(FaceResNet(), tensors)
    narrow = {**tensors, "stem.weight": torch.zeros(16, 3, 3, 3)}
    with pytest.raises(ModelError, match=r"stem\.weight has shape \(16, 3, 3, 3\), expected"):
        load_folded(FaceMobileNet(), narrow)


def test_only_the_last_block_may_be_left_over() -> None:
    _, left_over = load_folded(FaceResNet(last_block=False), PACKAGED["dlib_resnet"])
    assert len(left_over) == 6
    assert all(key.startswith("blocks.13.") for key in left_over)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_record_beside_the_weights_is_right(name: str) -> None:
    record = json.loads((WEIGHTS / f"{name}.json").read_text())
    content = (WEIGHTS / f"{name}.safetensors").read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["parameters"] == sum(tensor.numel() for tensor in PACKAGED[name].values())
