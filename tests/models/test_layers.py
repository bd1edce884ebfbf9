"""Transformer pieces against slow loops."""

import math

import pytest
import torch
from torch import Tensor

from fervor.models.layers import (
    Attention,
    DropPath,
    Gate,
    Layer,
    TokenTransformer,
    merge_heads,
    split_heads,
)


WIDTH, HEADS = 12, 3


def slow_attention(block: Attention, queries: Tensor, context: Tensor) -> Tensor:
    """One picture, one head and one query after the other."""
    found = torch.zeros_like(queries)
    key, value = block.key_value(context).chunk(2, dim=-1)
    query, size = block.query(queries), WIDTH // HEADS
    for picture in range(len(queries)):
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            for place in range(queries.shape[1]):
                scores = [
                    float(query[picture, place, own] @ key[picture, other, own]) / math.sqrt(size)
                    for other in range(context.shape[1])
                ]
                total = sum(math.exp(score) for score in scores)
                for other, score in enumerate(scores):
                    fraction = math.exp(score) / total
                    found[picture, place, own] += fraction * value[picture, other, own]
    return block.output(found)


@torch.no_grad()
def test_attention_is_the_slow_one() -> None:
    torch.manual_seed(0)
    block, queries, context = (
        Attention(WIDTH, HEADS),
        torch.randn(2, 4, WIDTH),
        torch.randn(2, 5, WIDTH),
    )
    expected = slow_attention(block, queries, context)
    torch.testing.assert_close(block(queries, context), expected, rtol=1e-4, atol=1e-5)


def test_attention_is_torchs_with_the_same_weights() -> None:
    torch.manual_seed(0)
    block, other = (
        Attention(WIDTH, HEADS),
        torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
    )
    weight = torch.cat([block.query.weight, block.key_value.weight])
    bias = torch.cat([block.query.bias, block.key_value.bias])
    other.load_state_dict(
        {
            "in_proj_weight": weight,
            "in_proj_bias": bias,
            "out_proj.weight": block.output.weight,
            "out_proj.bias": block.output.bias,
        }
    )
    queries, context = torch.randn(2, 4, WIDTH), torch.randn(2, 6, WIDTH)
    torch.testing.assert_close(block(queries, context), other(queries, context, context)[0])


def test_attention_in_bfloat16_is_that_in_single_precision() -> None:
    torch.manual_seed(0)
    block = Attention(WIDTH, HEADS)
    torch.nn.init.normal_(block.query.weight)  # so that weights differ from place to place
    queries, context = torch.randn(2, 4, WIDTH), torch.randn(2, 6, WIDTH)

    def answer_and_gradient(*, bfloat16: bool) -> tuple[Tensor, Tensor]:
        asked = queries.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            answer = block(asked, context)
        answer.float().square().sum().backward()
        assert asked.grad is not None
        return answer.detach().float(), asked.grad

    for narrow, exact in zip(
        answer_and_gradient(bfloat16=True), answer_and_gradient(bfloat16=False), strict=True
    ):
        torch.testing.assert_close(narrow, exact, rtol=0.05, atol=0.02 * float(exact.abs().max()))


def test_the_width_must_hold_whole_heads() -> None:
    with pytest.raises(ValueError, match="width 10 is no multiple of 3 heads"):
        Attention(10, 3)


def test_heads_come_apart_and_together() -> None:
    tokens = torch.randn(2, 5, WIDTH)
    parts = split_heads(tokens, HEADS)
    assert parts.shape == (2, HEADS, 5, WIDTH // HEADS)
    assert torch.equal(parts[1, 2, 3], tokens[1, 3, 8:])
    assert torch.equal(merge_heads(parts), tokens)


def test_a_path_is_dropped_for_whole_pictures_and_its_mean_stays() -> None:
    torch.manual_seed(0)
    branch = torch.ones(4000, 2, 3)
    drop = DropPath(0.25)
    found = drop(branch)
    kept = found[:, 0, 0]
    assert torch.equal(found, kept[:, None, None].expand_as(branch))
    assert set(kept.tolist()) == {0.0, torch.tensor(4 / 3).item()}
    assert found.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(branch), branch)
    assert torch.equal(DropPath(0)(branch), branch)


@torch.no_grad()
def test_the_gate_is_a_share_of_each_number() -> None:
    torch.manual_seed(0)
    gate, vector = Gate(4), torch.randn(3, 4)
    for row, found in zip(vector, gate(vector), strict=True):
        inner = [
            max(0.0, float(line @ row + b))
            for line, b in zip(gate.first.weight, gate.first.bias, strict=True)
        ]
        for place in range(4):
            logit = float(gate.second.weight[place] @ torch.tensor(inner) + gate.second.bias[place])
            assert float(found[place]) == pytest.approx(
                float(row[place]) / (1 + math.exp(-logit)), abs=1e-5
            )


@torch.no_grad()
def test_a_transformer_is_its_layers_one_after_the_other() -> None:
    torch.manual_seed(0)
    net = TokenTransformer(WIDTH, tokens=5, depth=2, heads=HEADS, dropout=0.5).eval()
    tokens = torch.randn(2, 5, WIDTH)
    states = torch.cat([net.class_token.repeat(2, 1, 1), tokens], 1) + net.positions
    for layer in net.layers:
        assert isinstance(layer, Layer)
        normed = layer.norm1(states)
        states = states + slow_attention(layer.attention, normed, normed)
        states = states + layer.feed_forward(layer.norm2(states))
    states = torch.nn.functional.layer_norm(
        states, (WIDTH,), net.norm.weight, net.norm.bias, eps=1e-6
    )
    vector, found = net(tokens)
    torch.testing.assert_close(found, states[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vector, net.gate(states[:, 0]), rtol=1e-4, atol=1e-5)
    plain = TokenTransformer(WIDTH, tokens=5, depth=2, heads=HEADS, gated=False).eval()
    plain.load_state_dict(
        {key: value for key, value in net.state_dict().items() if not key.startswith("gate.")}
    )
    torch.testing.assert_close(plain(tokens).vector, states[:, 0], rtol=1e-4, atol=1e-5)


def test_the_parameters_follow_a_formula() -> None:
    net = TokenTransformer(768, tokens=147, depth=2, heads=8)
    layer = 4 * (768**2 + 768) + 2 * 2 * 768 + 2 * 4 * 768**2 + 5 * 768
    expected = 768 + 148 * 768 + 2 * layer + 2 * 768 + 2 * (768**2 + 768)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
