"""The landmark-guided encoder: shapes of the published size, its tokens, and how scales merge."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fervor.methods.lacovl.gated_attention import AttentionOptions
from fervor.methods.lacovl.landmark_guided import CHANNELS, LandmarkGuidedEncoder


IR50 = {"widths": (64, 128, 256), "strides": (2, 4, 8)}
MOBILENET = {"widths": (128, 256, 1024), "strides": (4, 8, 16)}
PUBLISHED: dict[str, Any] = {"resolution": 112, "width": 768, "depth": 2, "heads": 8}
SMALL: dict[str, Any] = {"resolution": 32, "width": 16, "depth": 1, "heads": 2}


def encoder(
    sizes: dict[str, Any], front: dict[str, Any] = IR50, **changes: Any
) -> LandmarkGuidedEncoder:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "landmark_width": 512,
        "merge": "concat",
        "drop_path": 0.25,
        "attention": AttentionOptions(layer_scale=0.5),
        "gated": True,
        **front,
        **sizes,
        **changes,
    }
    return LandmarkGuidedEncoder(given.pop("widths"), given.pop("strides"), **given)


def maps(front: dict[str, Any], resolution: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(w, resolution // s) for w, s in zip(front["widths"], front["strides"], strict=True)]
    return [torch.randn(2, width, side, side, generator=generator) for width, side in shapes]


LANDMARKS = {"widths": (64, 128, 512), "strides": (4, 8, 16)}


@pytest.mark.parametrize("front", [IR50, MOBILENET], ids=["ir50", "mobilenet"])
@torch.no_grad()
def test_the_shapes_are_the_published_ones(front: dict[str, Any]) -> None:
    net = encoder(PUBLISHED, front).eval()
    image, landmarks = maps(front, 112), maps(LANDMARKS, 112)
    shapes = [[tuple(part.shape[1:]) for part in side] for side in net.meeting(image, landmarks)]
    assert shapes[0] == shapes[1] == [(64, 28, 28), (128, 14, 14), (256, 7, 7)]
    assert [block.heads for block in net.fuse] == [2, 4, 8]
    assert [block.drop_path.probability for block in net.fuse] == [0, 0.125, 0.25]
    summary = net(image, landmarks)
    assert summary.vector.shape == (2, 768)
    assert summary.tokens.shape == (2, 147, 768)
    assert net.places(summary.tokens).shape == (2, 49, 768)
    assert net.transformer.positions.shape == (1, 148, 768)


@torch.no_grad()
def test_the_embedded_setting_has_147_tokens_of_256() -> None:
    net = encoder({**PUBLISHED, "width": 256}, MOBILENET).eval()
    assert net(maps(MOBILENET, 112), maps(LANDMARKS, 112)).tokens.shape == (2, 147, 256)


@torch.no_grad()
def test_the_tokens_are_those_of_the_scales_in_order() -> None:
    net = encoder(SMALL).eval()
    image, landmarks = maps(IR50, 32), maps(LANDMARKS, 32)
    entered: list[Tensor] = []
    net.transformer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    net(image, landmarks)
    own, guides = net.meeting(image, landmarks)
    for scale in range(3):
        guided = net.fuse[scale](own[scale], guides[scale])
        embedded = net.embed[scale](guided)
        assert embedded.shape == (2, 16, 2, 2)
        for place in range(4):
            found = entered[0][:, 4 * scale + place]
            torch.testing.assert_close(found, embedded[:, :, place // 2, place % 2])
    merged = encoder(SMALL, merge="sum").eval()
    state = {k: v for k, v in net.state_dict().items() if k != "transformer.positions"}
    merged.load_state_dict({**state, "transformer.positions": merged.transformer.positions})
    merged.transformer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    assert merged(image, landmarks).tokens.shape == (2, 4, 16)
    torch.testing.assert_close(entered[1], sum(entered[0].chunk(3, dim=1)))
    assert (merged.groups, net.groups) == (1, 3)


@torch.no_grad()
def test_places_are_means_over_the_scales() -> None:
    net, tokens = encoder(SMALL), torch.randn(2, 12, 16)
    found = net.places(tokens)
    for place in range(4):
        expected = (tokens[:, place] + tokens[:, 4 + place] + tokens[:, 8 + place]) / 3
        torch.testing.assert_close(found[:, place], expected)


@torch.no_grad()
def test_without_landmarks_the_query_is_the_image_s() -> None:
    net, image = encoder(SMALL, landmark_width=None).eval(), maps(IR50, 32)
    own, guides = net.meeting(image)
    assert all(map(torch.equal, own, guides))
    other = encoder(SMALL).eval()
    other.load_state_dict({**other.state_dict(), **net.state_dict()})
    other.narrow = nn.Identity()  # type: ignore[assignment]
    torch.testing.assert_close(net(image).tokens, other(image, own).tokens)
    strange = other(image, maps({**LANDMARKS, "widths": CHANNELS}, 32, seed=5)).tokens
    assert (strange - net(image).tokens).abs().max() > 1e-3


def test_the_parameters_follow_a_formula() -> None:
    def conv(inputs: int, outputs: int, area: int = 9) -> int:
        return inputs * outputs * area + outputs

    def block(width: int, heads: int, side: int) -> int:
        attention = 4 * (width**2 + width) + (2 * side - 1) ** 2 * heads + 2 * width**2 + width
        return attention + 8 * width**2 + 5 * width + 3 * 2 * width + 2 * width

    def layer(width: int) -> int:
        return 4 * (width**2 + width) + 8 * width**2 + 5 * width + 4 * width

    width = 768
    expected = sum(conv(channels, channels) for channels in CHANNELS) + conv(512, 256)
    expected += block(64, 2, 28) + block(128, 4, 14) + block(256, 8, 7)
    expected += conv(64, width) + conv(width, width) + conv(128, width) + conv(256, width, 1)
    expected += width + 148 * width + 2 * layer(width) + 2 * width + 2 * (width**2 + width)
    assert sum(parameter.numel() for parameter in encoder(PUBLISHED).parameters()) == expected
    pointwise = sum(conv(i, o, 1) for i, o in zip((128, 256, 1024), CHANNELS, strict=True))
    expected += pointwise - sum(conv(channels, channels) for channels in CHANNELS)
    net = encoder(PUBLISHED, MOBILENET)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


@torch.no_grad()
def test_mixtures_are_those_of_its_blocks() -> None:
    net = encoder(SMALL).eval()
    image, landmarks = maps(IR50, 32), maps(LANDMARKS, 32)
    found = net.mixtures(image, landmarks)
    assert [mixture.first.shape[-1] for mixture in found] == [64, 16, 4]
    for mixture, block, *pair in zip(found, net.fuse, *net.meeting(image, landmarks), strict=True):
        assert torch.equal(mixture.first, block.mixture(*pair).first)
        torch.testing.assert_close(mixture.first.sum(-1), torch.ones(mixture.first.shape[:-1]))
