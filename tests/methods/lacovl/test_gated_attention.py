"""Bi-branch gated cross attention against a slow loop, and its gate at both ends."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fervor.errors import UsageError
from fervor.methods.lacovl.gated_attention import (
    AttentionOptions,
    GatedCrossAttention,
    RelativePositions,
)


WIDTH, HEADS, SIDE = 8, 2, 3
PLACES = SIDE**2


def block(**options: Any) -> GatedCrossAttention:
    """A block whose every parameter matters."""
    torch.manual_seed(0)
    found = GatedCrossAttention(
        WIDTH, heads=HEADS, side=SIDE, options=AttentionOptions(**{"layer_scale": 0.7, **options})
    ).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim < 2 or parameter is found.scores.positions.table:
                parameter.normal_(1.0, 0.3)
            else:
                parameter.normal_(0, 0.5)
    return found


def maps(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, landmarks = torch.randn(2, 2, WIDTH, SIDE, SIDE, generator=generator)
    return image, landmarks


def rows(vector: Tensor) -> list[float]:
    return [float(value) for value in vector]


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def relu2(scores: list[float]) -> list[float]:
    squares = [max(0.0, score) ** 2 for score in scores]
    return [square / (sum(squares) + 1e-6) for square in squares]


def topk(scores: list[float], keep: float) -> list[float]:
    least = sorted(scores, reverse=True)[max(1, round(keep * len(scores))) - 1]
    return softmax([score if score >= least else -math.inf for score in scores])


def slow_scores(
    scores: Any, queries: Tensor, context: Tensor, head: int, place: int
) -> list[float]:
    size = WIDTH // HEADS
    own = slice(head * size, (head + 1) * size)
    query = scores.query(queries)[place, own]
    key = scores.key_value(context)[:, :WIDTH]
    found = []
    for other in range(PLACES):
        row, column = (
            a - b + SIDE - 1 for a, b in zip(divmod(place, SIDE), divmod(other, SIDE), strict=True)
        )
        position = scores.positions.table[row * (2 * SIDE - 1) + column, head]
        found.append(float(query @ key[other, own]) / math.sqrt(size) + float(position))
    return found


def slow(net: GatedCrossAttention, image: Tensor, landmarks: Tensor) -> Tensor:
    """One picture, head and place after the other."""
    options, result = net.options, torch.zeros_like(image)
    for number in range(len(image)):
        tokens = image[number].reshape(WIDTH, PLACES).T
        own = net.norm_image(tokens)
        guide = net.norm_landmarks(landmarks[number].reshape(WIDTH, PLACES).T)
        attended = torch.zeros(PLACES, WIDTH)
        size = WIDTH // HEADS
        for place in range(PLACES):
            fraction = torch.ones(WIDTH)
            if net.gate is not None:
                logits = net.gate(torch.cat([guide[place], own[place]]))
                fraction = torch.sigmoid(logits)
                if options.gate == "head":
                    fraction = torch.stack([fraction[channel // size] for channel in range(WIDTH)])
                fraction = fraction * torch.ones(WIDTH)
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                scores = slow_scores(net.scores, guide, own, head, place)
                values = net.scores.key_value(own)[:, WIDTH:][:, part]
                first = torch.tensor(softmax(scores)) @ values
                second = torch.zeros(size)
                if options.branches == "dense_sparse":
                    sparse = (
                        relu2(scores) if options.sparsity == "relu2" else topk(scores, options.keep)
                    )
                    second = torch.tensor(sparse) @ values
                elif net.reverse is not None:
                    scores = slow_scores(net.reverse, own, guide, head, place)
                    values = net.reverse.key_value(guide)[:, WIDTH:][:, part]
                    second = torch.tensor(softmax(scores)) @ values
                attended[place, part] = fraction[part] * first + (1 - fraction[part]) * second
        carried = own if options.residual == "normed" else tokens
        carried = carried + net.gamma1 * net.output(attended)
        carried = carried + net.gamma2 * net.feed_forward(net.norm(carried))
        result[number] = carried.T.reshape(WIDTH, SIDE, SIDE)
    return result


VARIANTS: list[dict[str, Any]] = [
    {},
    {"gate": "head"},
    {"gate": "token"},
    {"sparsity": "topk", "keep": 0.4},
    {"residual": "normed"},
    {"project_query": False},
    {"branches": "bidirectional"},
    {"branches": "bidirectional", "gate": "token", "residual": "normed"},
    {"branches": "dense_only"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_the_block_is_the_slow_one(options: dict[str, Any]) -> None:
    net, (image, landmarks) = block(**options), maps()
    expected = slow(net, image, landmarks)
    torch.testing.assert_close(net(image, landmarks), expected, rtol=1e-4, atol=1e-4)


def with_gate(net: GatedCrossAttention, logit: float) -> GatedCrossAttention:
    assert net.gate is not None
    nn.init.zeros_(net.gate.weight)
    nn.init.constant_(net.gate.bias, logit)
    return net


@pytest.mark.parametrize("gate", ["channel", "head", "token"])
@torch.no_grad()
def test_the_gate_open_is_the_dense_branch_alone(gate: str) -> None:
    """softmax alone is POSTER++'s block, whose parameters these are."""
    image, landmarks = maps()
    opened = with_gate(block(gate=gate), math.inf)
    dense = GatedCrossAttention(
        WIDTH, heads=HEADS, side=SIDE, options=AttentionOptions(branches="dense_only")
    ).eval()
    state = {
        key: value for key, value in opened.state_dict().items() if not key.startswith("gate.")
    }
    dense.load_state_dict(state)
    assert torch.equal(opened(image, landmarks), dense(image, landmarks))


@pytest.mark.parametrize("branches", ["dense_sparse", "bidirectional"])
@torch.no_grad()
def test_the_gate_closed_is_the_second_branch_alone(branches: str) -> None:
    image, landmarks = maps()
    closed = with_gate(block(branches=branches), -math.inf)
    before = closed(image, landmarks)
    mixture = closed.mixture(image, landmarks)
    assert mixture.gate is not None and not mixture.gate.any()
    other = with_gate(block(branches=branches), 0.0)
    assert (other(image, landmarks) - before).abs().max() > 1e-3
    # a first branch that gave anything else would change nothing
    second = mixture.second
    assert second is not None
    values = (closed.reverse or closed.scores).key_value(
        closed._tokens(image, landmarks)[1][1 if branches == "bidirectional" else 0]
    )[..., WIDTH:]
    heads = values.unflatten(2, (HEADS, -1)).transpose(1, 2)
    attended = (second @ heads).transpose(1, 2).flatten(2)
    tokens = image.flatten(2).mT
    carried = tokens + closed.gamma1 * closed.output(attended)
    carried = carried + closed.gamma2 * closed.feed_forward(closed.norm(carried))
    torch.testing.assert_close(before, carried.mT.unflatten(2, (SIDE, SIDE)))


def test_a_new_gate_mixes_nearly_equally() -> None:
    net = GatedCrossAttention(WIDTH, heads=HEADS, side=SIDE)
    gate = net.mixture(*maps()).gate
    assert gate is not None
    assert (gate - 0.5).abs().max() < 0.1


@torch.no_grad()
def test_sparse_rows() -> None:
    net, (image, landmarks) = block(), maps()
    with torch.no_grad():
        net.scores.positions.table.zero_()
    second = net.mixture(image, landmarks).second
    assert second is not None
    assert second.min() == 0 and (second == 0).float().mean() > 0.2
    assert (second.sum(-1) <= 1 + 1e-6).all()
    net.scores.positions.table.fill_(-1e3)  # no positive score at all
    second = net.mixture(image, landmarks).second
    assert second is not None and not second.any()
    assert net(image, landmarks).isfinite().all()
    kept = block(sparsity="topk", keep=0.34).mixture(image, landmarks).second
    assert kept is not None
    assert ((kept > 0).sum(-1) == 3).all()
    torch.testing.assert_close(kept.sum(-1), torch.ones(2, HEADS, PLACES))


@torch.no_grad()
def test_keeping_all_scores_is_dense() -> None:
    image, landmarks = maps()
    mixture = block(sparsity="topk", keep=1.0).mixture(image, landmarks)
    assert mixture.second is not None
    torch.testing.assert_close(mixture.first, mixture.second)


def test_relative_positions_depend_on_the_offset_alone() -> None:
    positions = RelativePositions(SIDE, HEADS)
    with torch.no_grad():
        positions.table.copy_(torch.arange(positions.table.numel()).view_as(positions.table))
    bias, seen = positions(), {}
    for place in range(PLACES):
        for other in range(PLACES):
            offset = (place // SIDE - other // SIDE, place % SIDE - other % SIDE)
            value = float(bias[1, place, other].detach())
            assert seen.setdefault(offset, value) == value
    assert len(set(seen.values())) == len(seen) == (2 * SIDE - 1) ** 2


def test_gradients_reach_everything() -> None:
    for options in VARIANTS:
        net, (image, landmarks) = block(**options).train(), maps()
        net(image, landmarks.requires_grad_()).square().sum().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (options, name)
        assert landmarks.grad is not None and landmarks.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"branches": "bidirectional"}, {"branches": "dense_only"}])
def test_the_parameters_follow_a_formula(options: dict[str, Any]) -> None:
    width, heads, side = 64, 2, 28
    net = GatedCrossAttention(width, heads=heads, side=side, options=AttentionOptions(**options))
    direction = 3 * (width**2 + width) + (2 * side - 1) ** 2 * heads
    gate = 2 * width * width + width
    rest = 3 * 2 * width + width**2 + width + 2 * 4 * width**2 + 5 * width + 2 * width
    expected = {
        "dense_sparse": direction + gate + rest,
        "bidirectional": 2 * direction + gate + rest,
        "dense_only": direction + rest,
    }[net.options.branches]
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert torch.equal(net.gamma1, torch.full((width,), 1e-5))


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5])
def test_a_share_that_keeps_nothing_is_refused(keep: float) -> None:
    with pytest.raises(UsageError, match=f"keep is {keep}, expected a share above 0"):
        AttentionOptions(keep=keep)
