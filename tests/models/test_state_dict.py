"""Weight files in other codes' names: independent networks, the same numbers, a full report."""

import logging
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.config import Encoder
from fervor.errors import ModelError
from fervor.models.image import build_image_encoder
from fervor.models.state_dict import LoadReport, load_state, read_state


class Block(nn.Module):
    """ResNet's basic block in torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1:
            skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        skip = self.downsample(maps) if hasattr(self, "downsample") else maps
        maps = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(maps)) + skip)


class ResNet18(nn.Module):
    """ResNet-18 in torchvision's names, with the classifier of the MS-Celeb-1M files."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for place, (inputs, outputs) in enumerate(pairwise(widths), 1):
            first = Block(inputs, outputs, 1 if place == 1 else 2)
            setattr(self, f"layer{place}", nn.Sequential(first, Block(outputs, outputs, 1)))
        self.fc = nn.Linear(512, 10)

    def forward(self, image: Tensor) -> Tensor:
        maps = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = layer(maps)
        return maps


def stirred(module: nn.Module) -> nn.Module:
    """The module with statistics, scales and biases that are not those of a new one."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            start = 0.5 if name.endswith(("running_var", "weight")) else -0.2
            tensor.uniform_(start, start + 0.4)
    return module.eval()


@pytest.fixture(scope="module")
def resnet() -> ResNet18:
    torch.manual_seed(0)
    return stirred(ResNet18())


def wrapped(state: dict[str, Tensor], form: str, folder: Path) -> Path:
    """The state dict in a file, in one of the forms that are about."""
    path = folder / f"weights{'.safetensors' if form == 'safetensors' else '.pt'}"
    if form == "safetensors":
        save_file(state, path)
    elif form == "bare":
        torch.save(state, path)
    elif form == "module":  # DataParallel's names inside a training checkpoint
        parallel = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "arch": "resnet18", "state_dict": parallel}, path)
    else:
        torch.save({"state_dict_backbone": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "bare", "module", "backbone"])
@torch.no_grad()
def test_torchvision_names_give_the_same_network(
    resnet: ResNet18, form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = wrapped(resnet.state_dict(), form, tmp_path)
    with caplog.at_level(logging.INFO, logger="fervor.models.state_dict"):
        encoder = build_image_encoder(Encoder(name="resnet18", weights=str(path), grey=False))
    image = torch.rand(2, 3, 64, 64)
    expected = resnet((image - encoder.mean) / encoder.deviation)
    features = encoder.eval()(image)
    torch.testing.assert_close(features.pooled, expected.mean((2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.tokens, expected.flatten(2).mT, rtol=1e-3, atol=1e-4)
    report = encoder.report
    assert report is not None
    assert report.left_over == ("fc.bias", "fc.weight")
    assert report.missing == ("deviation", "mean")
    assert len(report.loaded) == len(resnet.state_dict()) - 2
    assert "120 tensors loaded" in caplog.text and "fc.bias, fc.weight" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.0.downsample.0.weight"), "1 missing"),
        (lambda state: state.update({"layer5.0.conv1.weight": torch.ones(1)}), "1 left over"),
        (lambda state: state.update({"conv1.weight": torch.ones(64, 1, 7, 7)}), "1 other shape"),
        (lambda state: state.update({"attention": torch.ones(1)}), r"left over \(attention\)"),
    ],
)
def test_what_does_not_fit_is_an_error(
    resnet: ResNet18, change: Any, message: str, tmp_path: Path
) -> None:
    state = dict(resnet.state_dict())
    change(state)
    path = wrapped(state, "bare", tmp_path)
    with pytest.raises(ModelError, match=message) as raised:
        build_image_encoder(Encoder(name="resnet18", weights=str(path)))
    assert "\n" not in str(raised.value)


def test_batchnorms_step_counters_may_be_missing(resnet: ResNet18, tmp_path: Path) -> None:
    state = {k: v for k, v in resnet.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = wrapped(state, "bare", tmp_path)
    report = build_image_encoder(Encoder(name="resnet18", weights=str(path))).report
    assert report is not None
    assert sum(key.endswith("num_batches_tracked") for key in report.missing) == 20


def test_an_encoders_own_state_dict_loads(tmp_path: Path) -> None:
    encoder = build_image_encoder(Encoder(name="resnet18"))
    path = wrapped(encoder.state_dict(), "bare", tmp_path)
    again = build_image_encoder(Encoder(name="resnet18", weights=str(path)))
    for key, value in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": nn.Linear(2, 2)}, path)  # a pickled object: building it would run code
    with pytest.raises(ModelError, match="hold more than named tensors"):
        read_state(path)
    torch.save({"weight": torch.ones(1), "name": "resnet"}, path)
    with pytest.raises(ModelError, match="more than named tensors"):
        read_state(path)
    torch.save({"module.weight": torch.ones(1), "weight": torch.ones(1)}, path)
    with pytest.raises(ModelError, match="name a tensor twice"):
        read_state(path)
    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(ModelError, match="cannot be read") as raised:
            read_state(tmp_path / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="not found"):
        read_state(tmp_path / "none.pt")


def test_a_report_names_everything() -> None:
    module = nn.ModuleDict({"trunk": nn.Linear(2, 3)})
    state = {"weight": torch.ones(3, 2), "trunk.bias": torch.ones(3), "head.weight": torch.ones(1)}
    report = load_state(module, state, source="here", ignored=r"^head\.")
    assert report == LoadReport("here", ("trunk.bias", "trunk.weight"), (), ("head.weight",))
    assert torch.equal(module["trunk"].weight, torch.ones(3, 2))


WINDOW = 7
HEADS = (3, 6, 12, 24)
DEPTHS = (2, 2, 6, 2)


def official_swin_state() -> dict[str, Tensor]:
    """Random weights in the names of Swin's authors, with the released code's embedding."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs) / math.sqrt(inputs)
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs) * 0.1

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = torch.rand(width) * 0.4 + 0.8
        state[f"{name}.bias"] = torch.randn(width) * 0.1

    state["patch_embed.proj.weight"] = torch.randn(96, 3, 2, 2) / math.sqrt(12)
    state["patch_embed.proj.bias"] = torch.randn(96) * 0.1
    norm("patch_embed.norm", 96)
    for stage, depth in enumerate(DEPTHS):
        width = 96 * 2**stage
        for place in range(depth):
            block = f"layers.{stage}.blocks.{place}"
            norm(f"{block}.norm1", width)
            norm(f"{block}.norm2", width)
            linear(f"{block}.attn.qkv", 3 * width, width)
            linear(f"{block}.attn.proj", width, width)
            linear(f"{block}.mlp.fc1", 4 * width, width)
            linear(f"{block}.mlp.fc2", width, 4 * width)
            table = torch.randn((2 * WINDOW - 1) ** 2, HEADS[stage])
            state[f"{block}.attn.relative_position_bias_table"] = table
            state[f"{block}.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
            if place % 2 and stage < 3:
                state[f"{block}.attn_mask"] = torch.zeros(4, 49, 49)
        if stage < 3:
            norm(f"layers.{stage}.downsample.norm", 4 * width)
            linear(f"layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
    norm("norm", 768)
    linear("head", 512, 768)
    linear("feature.0", 768, 768, bias=False)
    linear("feature.2", 512, 768, bias=False)
    for place, width in ((1, 768), (3, 512)):
        norm(f"feature.{place}", width)
        state[f"feature.{place}.running_mean"] = torch.randn(width) * 0.1
        state[f"feature.{place}.running_var"] = torch.rand(width) + 0.5
        state[f"feature.{place}.num_batches_tracked"] = torch.tensor(7)
    return state


def attention(state: dict[str, Tensor], block: str, maps: Tensor, heads: int, shift: int) -> Tensor:
    """Shifted-window attention over the whole map: a pair of places may meet only in a window.

    No windows are cut and nothing is rolled: whether two places meet, and by which offset, is
    worked out for every pair.
    """
    batch, side, _, width = maps.shape
    rows, columns = (
        axis.flatten() for axis in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij")
    )
    # A shifted window starts at `shift`; what is left at both ends makes windows of its own.
    window = [(axis - shift).div(WINDOW, rounding_mode="floor") for axis in (rows, columns)]
    together = (window[0][:, None] == window[0]) & (window[1][:, None] == window[1])
    offset = [axis[:, None] - axis + WINDOW - 1 for axis in (rows, columns)]
    index = (offset[0] * (2 * WINDOW - 1) + offset[1]).clamp(0, (2 * WINDOW - 1) ** 2 - 1)
    bias = state[f"{block}.attn.relative_position_bias_table"][index].permute(2, 0, 1)
    joined = F.linear(
        maps.flatten(1, 2), state[f"{block}.attn.qkv.weight"], state[f"{block}.attn.qkv.bias"]
    )
    query, key, value = joined.view(batch, side**2, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = query @ key.mT / math.sqrt(width // heads) + bias
    scores = scores.masked_fill(~together, -torch.inf).softmax(-1)
    found = (scores @ value).transpose(1, 2).reshape(maps.shape)
    return F.linear(found, state[f"{block}.attn.proj.weight"], state[f"{block}.attn.proj.bias"])


def swin(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """Swin-T at 112 pixels, patch 2, with the released code's embedding."""

    def norm(name: str, maps: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.layer_norm(maps, weight.shape, weight, state[f"{name}.bias"])

    def linear(name: str, maps: Tensor) -> Tensor:
        return F.linear(maps, state[f"{name}.weight"], state.get(f"{name}.bias"))

    maps = F.conv2d(
        image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=2
    )
    maps = norm("patch_embed.norm", maps.permute(0, 2, 3, 1))
    for stage, depth in enumerate(DEPTHS):
        for place in range(depth):
            block = f"layers.{stage}.blocks.{place}"
            shift = WINDOW // 2 if place % 2 and stage < 3 else 0
            seen = norm(f"{block}.norm1", maps)
            maps = maps + attention(state, block, seen, HEADS[stage], shift)
            hidden = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", maps)))
            maps = maps + linear(f"{block}.mlp.fc2", hidden)
        if stage < 3:
            corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
            maps = torch.cat([maps[:, row::2, column::2] for row, column in corners], dim=-1)
            maps = norm(f"layers.{stage}.downsample.norm", maps)
            maps = linear(f"layers.{stage}.downsample.reduction", maps)
    found = norm("norm", maps).mean((1, 2))
    for place in (0, 2):
        found = linear(f"feature.{place}", found)
        name = f"feature.{place + 1}"
        scale = (state[f"{name}.running_var"] + 2e-5).rsqrt() * state[f"{name}.weight"]
        found = (found - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"]
    return found


@torch.no_grad()
def test_the_authors_swin_names_give_the_same_network(tmp_path: Path) -> None:
    state = official_swin_state()
    path = wrapped(state, "backbone", tmp_path)
    encoder = build_image_encoder(Encoder(name="swin-t-112", weights=str(path), grey=False)).eval()
    image = torch.rand(1, 3, 112, 112)
    expected = swin(state, (image - encoder.mean) / encoder.deviation)
    torch.testing.assert_close(encoder(image).pooled, expected, rtol=1e-3, atol=1e-3)
    assert encoder.report is not None
    left_over = encoder.report.left_over
    assert {"head.weight", "head.bias"} < set(left_over)
    assert all(
        key.endswith(("index", "attn_mask", "head.weight", "head.bias")) for key in left_over
    )
    assert encoder.report.missing == ("deviation", "mean")


def test_a_swin_file_without_its_embedding_is_refused(tmp_path: Path) -> None:
    state = {k: v for k, v in official_swin_state().items() if not k.startswith("feature")}
    with pytest.raises(ModelError, match="missing"):
        weights = str(wrapped(state, "bare", tmp_path))
        build_image_encoder(Encoder(name="swin-t-112", weights=weights))


def test_out_of_reach_of_the_hub_a_local_folder_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once: the hub's own client would try for most of a minute."""
    import socket
    import urllib.request

    from huggingface_hub import constants

    from fervor.models import state_dict as statedicts

    def refused(address: object, patience: float) -> None:
        assert address == ("huggingface.co", 443) and patience <= 5
        raise OSError("unreachable")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refused)
    statedicts._reachable.cache_clear()
    try:
        with pytest.raises(ModelError, match="hub is out of reach; give a local folder") as caught:
            statedicts.model_kind("openai/no-such-model-here")
        assert "\n" not in str(caught.value)
    finally:
        statedicts._reachable.cache_clear()
