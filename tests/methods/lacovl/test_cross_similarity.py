"""Cross similarity attention against a slow loop; swapping the pictures swaps the results."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fervor.methods.lacovl.cross_similarity import (
    FLAT,
    CrossSimilarityAttention,
    distances,
    place_weights,
    similarity_of,
)


WIDTH, PLACES = 6, 5


def block(**options: str) -> CrossSimilarityAttention:
    torch.manual_seed(0)
    net = CrossSimilarityAttention(WIDTH, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.5)
    return net


def pair(count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    anchor, partner = torch.randn(2, count, PLACES, WIDTH, generator=generator)
    return anchor, partner


def slow(net: CrossSimilarityAttention, anchor: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """The equations of DCS, number by number."""
    anchor, partner = net.norm1(anchor), net.norm1(partner)
    count = len(anchor)
    distance = torch.zeros(count, PLACES, PLACES)
    for number in range(count):
        for p in range(PLACES):
            for a in range(PLACES):
                key = net.key_value(anchor[number, a])[:WIDTH]
                query = net.key_value(partner[number, p])[:WIDTH]
                distance[number, p, a] = math.sqrt(float((query - key).square().sum()))
    results = (torch.zeros_like(anchor), torch.zeros_like(partner))
    for number in range(count):
        own = distance[number] if net.extremes == "pair" else distance
        lowered = distance[number] - own.min()
        similarity = (own - own.min()).max() - lowered
        sums = ([0.0] * PLACES, [0.0] * PLACES)
        for p in range(PLACES):
            for a in range(PLACES):
                value = float(similarity[p, a])
                sums[0][a] += value / float(similarity[p].norm())
                sums[1][p] += value / float(similarity[:, a].norm())
        for side, tokens in enumerate((anchor, partner)):
            total = sum(math.exp(value) for value in sums[side])
            for place in range(PLACES):
                fraction = math.exp(sums[side][place]) / total
                token = tokens[number, place]
                token = net.norm2(token + fraction * net.key_value(token)[WIDTH:])
                results[side][number, place] = token + net.feed_forward(token)
    return results


@pytest.mark.parametrize("extremes", ["pair", "batch"])
@torch.no_grad()
def test_the_block_is_the_slow_one(extremes: str) -> None:
    net = block(extremes=extremes).train()
    for found, expected in zip(net(*pair()), slow(net, *pair()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("extremes", ["pair", "batch"])
@torch.no_grad()
def test_swapping_the_pictures_swaps_the_results(extremes: str) -> None:
    net, (anchor, partner) = block(extremes=extremes), pair()
    first, second = net(anchor, partner)
    other, one = net(partner, anchor)
    torch.testing.assert_close(first, one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second, other, rtol=1e-5, atol=1e-6)
    assert (first - second).abs().max() > 0.01


@torch.no_grad()
def test_a_pair_s_own_extremes_are_its_own_affair() -> None:
    anchor, partner = pair()
    far = torch.cat([partner[:1] * 40, partner[1:]])
    for extremes, alike in {"pair": True, "batch": False}.items():
        net = block(extremes=extremes).train()
        # a linear layer alone stands before the distances, so that another pair can be far away
        net.norm1 = torch.nn.Identity()  # type: ignore[assignment]
        before, after = net(anchor, partner)[0][1:], net(anchor, far)[0][1:]
        assert torch.allclose(before, after, atol=1e-6) == alike
        net.eval()  # a prediction is of its picture alone, whatever the option
        before, after = net(anchor, partner)[0][1:], net(anchor, far)[0][1:]
        torch.testing.assert_close(before, after)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_shares_sum_to_one_and_rise_with_similarity(count: int, places: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = torch.randn(2, count, places, 4, generator=generator)
    distance = distances(queries, keys)
    similarity = similarity_of(distance)
    assert (similarity >= 0).all()
    assert similarity.amin((1, 2)).eq(0).all()
    for axis in (1, 2):
        weight = place_weights(similarity, distance, axis)
        torch.testing.assert_close(weight.sum(1), torch.ones(count))
    if places > 1:
        nearer = similarity.clone()
        nearer[:, :, 0] = similarity.amax() + 1
        before, after = (place_weights(one, distance, 2)[:, 0] for one in (similarity, nearer))
        assert (after >= before).all()


@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2])
def test_tokens_that_are_all_alike_have_a_small_gradient(spread: float) -> None:
    """The slope is at most a thousand over the distance, at any size of the tokens."""
    generator = torch.Generator().manual_seed(3)
    for size in (0.1, 1.0, 100.0):
        middle = torch.randn(2, 1, 1, 16, generator=generator)
        noise = torch.randn(2, 1, 8, 16, generator=generator)
        tokens = size * (middle + spread * noise)
        tokens.requires_grad_()
        distance = distances(tokens[0], tokens[1])
        weight = place_weights(similarity_of(distance), distance, 1)
        (weight * torch.arange(8)).sum().backward()
        assert tokens.grad is not None
        slope = float(tokens.grad.abs().max() * distance.detach().max())
        assert slope < 8 / FLAT
        if spread < 1e-6:  # what is left is rounding: no place is more alike than another
            torch.testing.assert_close(weight, torch.full((1, 8), 1 / 8), atol=0.01, rtol=0)


def test_distances_are_euclids_and_their_gradient_is_finite_at_zero() -> None:
    queries = torch.randn(2, 4, 3, requires_grad=True)
    keys = torch.randn(2, 5, 3)
    torch.testing.assert_close(distances(queries, keys), torch.cdist(queries, keys))
    distances(queries, queries).sum().backward()
    assert queries.grad is not None and queries.grad.isfinite().all()


def test_a_picture_is_its_own_partner() -> None:
    net, (anchor, _) = block(), pair()
    first, second = net(anchor.requires_grad_(), anchor)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    first.sum().backward()
    assert anchor.grad is not None and anchor.grad.isfinite().all()
    same = torch.ones(1, PLACES, WIDTH)  # no place is nearer than another
    for found in net(same, same):
        assert found.isfinite().all()
        torch.testing.assert_close(found[:, 0], found[:, 1])


def test_the_parameters_follow_a_formula() -> None:
    net = CrossSimilarityAttention(768)
    expected = 2 * 2 * 768 + 768 * 1536 + 1536 + 2 * 4 * 768**2 + 5 * 768
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
