"""Each loss against a slow loop written out here, and the relations it must obey."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fervor.data.batch import soft_target
from fervor.methods.losses import (
    agreement,
    class_means,
    contrastive_loss,
    local_similarities,
    prototype_loss,
    self_contrast_loss,
    similarities,
    soft_contrastive_loss,
    soft_hard_contrast,
    soft_hard_distance,
    text_similarity_loss,
    transformation_loss,
)


def cosine(first: Tensor | Sequence[float], second: Tensor | Sequence[float]) -> float:
    """Cosine of two vectors, number by number."""
    product = sum(float(a) * float(b) for a, b in zip(first, second, strict=True))
    lengths = [math.sqrt(sum(float(a) ** 2 for a in vector)) for vector in (first, second)]
    return product / (lengths[0] * lengths[1])


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, neutral features, texts [5 7] and the neutral text [7], of unequal lengths."""
    generator = torch.Generator().manual_seed(0)
    features, neutral, texts = (3 * torch.randn(3, 5, 7, generator=generator)).double()
    return features, neutral, texts, torch.randn(7, generator=generator).double()


def test_similarities_are_cosines(vectors: tuple[Tensor, ...]) -> None:
    features, _, texts, _ = vectors
    expected = [[cosine(f, t) for t in texts] for f in features]
    assert similarities(features, texts) == pytest.approx(torch.tensor(expected), abs=1e-6)


def test_similarities_ignore_lengths(vectors: tuple[Tensor, ...]) -> None:
    features, _, texts, _ = vectors
    scaled = similarities(7 * features, texts * torch.arange(1, 6)[:, None])
    torch.testing.assert_close(scaled, similarities(features, texts))


def test_similarities_stay_exact_under_autocast(vectors: tuple[Tensor, ...]) -> None:
    features, _, texts, _ = (vector.float() for vector in vectors)
    with torch.autocast("cpu", torch.bfloat16):
        under = similarities(features, texts)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, similarities(features, texts))


def test_text_similarity_against_a_loop() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double() / 0.01
    labels = [0, 2, 1, 1]
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        peak = float(row.max())
        total += math.log(sum(math.exp(float(s) - peak) for s in row)) + peak - float(row[label])
    target = soft_target(torch.tensor(labels), 3).double()
    assert float(text_similarity_loss(logits, target)) == pytest.approx(total / 4)


def test_text_similarity_of_shares_is_their_mixture() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    fraction = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.2, 0.6]])
    parts = sum(
        (fraction[:, number] * -torch.log_softmax(logits, 1)[:, number]).mean()
        for number in range(3)
    )
    torch.testing.assert_close(text_similarity_loss(logits, fraction), parts)


def test_transformation_against_a_loop(vectors: tuple[Tensor, ...]) -> None:
    features, neutral, texts, neutral_text = vectors
    expected = [
        1 - cosine(f - n, t - neutral_text)
        for f, n, t in zip(features, neutral, texts, strict=True)
    ]
    assert float(transformation_loss(*vectors)) == pytest.approx(sum(expected) / 5)


def test_transformation_reaches_its_ends(vectors: tuple[Tensor, ...]) -> None:
    features, _, texts, neutral_text = vectors
    change = texts - neutral_text
    perfect = transformation_loss(features, features - 3 * change, texts, neutral_text)
    opposite = transformation_loss(features, features + change, texts, neutral_text)
    assert float(perfect) == pytest.approx(0, abs=1e-9)
    assert float(opposite) == pytest.approx(2)


def test_self_contrast_against_a_loop(vectors: tuple[Tensor, ...]) -> None:
    features, neutral, texts, _ = vectors
    rows = list(zip(features, neutral, texts, strict=True))
    diagonal = sum(cosine(t, n) - cosine(t, f) + 2 for f, n, t in rows) / 5
    assert float(self_contrast_loss(features, neutral, texts)) == pytest.approx(diagonal)
    pairs = sum(cosine(t, n) - cosine(t, f) + 2 for _, _, t in rows for f, n, _ in rows) / 25
    everyone = self_contrast_loss(features, neutral, texts, all_pairs=True)
    assert float(everyone) == pytest.approx(pairs)
    assert abs(pairs - diagonal) > 1e-3


def test_self_contrast_variants_agree_where_pairs_are_alike(vectors: tuple[Tensor, ...]) -> None:
    features, neutral, texts, _ = vectors
    one_text = texts[:1].expand(5, -1)
    torch.testing.assert_close(
        self_contrast_loss(features, neutral, one_text),
        self_contrast_loss(features, neutral, one_text, all_pairs=True),
    )


def test_self_contrast_bounds(vectors: tuple[Tensor, ...]) -> None:
    _, _, texts, _ = vectors
    assert float(self_contrast_loss(texts, -texts, texts)) == pytest.approx(0, abs=1e-9)
    assert float(self_contrast_loss(-texts, texts, texts)) == pytest.approx(4)
    assert float(self_contrast_loss(texts, texts, texts, margin=0.5)) == pytest.approx(0.5)


def test_contrastive_against_a_loop(vectors: tuple[Tensor, ...]) -> None:
    features, neutral, texts, _ = vectors
    total = 0.0
    for f, n, t in zip(features, neutral, texts, strict=True):
        positive, negative = (math.exp(cosine(t, x) / 0.5) for x in (f, n))
        total -= math.log(positive / (positive + negative))
    loss = contrastive_loss(features, neutral, texts, temperature=0.5)
    assert float(loss) == pytest.approx(total / 5)
    same = contrastive_loss(features, features, texts, temperature=0.5)
    assert float(same) == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", ["transformation", "self", "all_pairs", "contrastive"])
def test_a_batch_without_expressive_faces_is_finite(name: str) -> None:
    empty, text = torch.zeros(0, 7, requires_grad=True), torch.zeros(0, 7)
    loss = {
        "transformation": lambda: transformation_loss(empty, empty, text, torch.ones(7)),
        "self": lambda: self_contrast_loss(empty, empty, text),
        "all_pairs": lambda: self_contrast_loss(empty, empty, text, all_pairs=True),
        "contrastive": lambda: contrastive_loss(empty, empty, text, temperature=0.1),
    }[name]()
    loss.backward()
    assert torch.isfinite(loss)
    assert empty.grad is not None
    assert torch.isfinite(empty.grad).all()


def test_zero_features_give_finite_gradients() -> None:
    features = torch.zeros(3, 7, requires_grad=True)
    texts = torch.randn(3, 7, generator=torch.Generator().manual_seed(3))
    loss = (
        transformation_loss(features, torch.zeros(3, 7), texts, texts[0] + 1)
        + self_contrast_loss(features, features * 0, texts)
        + text_similarity_loss(similarities(features, texts) / 0.01, torch.eye(3))
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


# MPA-FER


def log_fraction(scores: list[float], own: int) -> float:
    return scores[own] - math.log(sum(math.exp(score) for score in scores))


@pytest.mark.parametrize("over", ["soft", "hard", "both"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_soft_hard_contrast_against_a_slow_loop(over: Any, reduction: Any) -> None:
    soft, hard = drawn(4, 5, seed=1), drawn(4, 5, seed=2)
    s, h = soft.tolist(), hard.tolist()
    by_soft = by_hard = 0.0
    for d in range(4):
        by_soft -= log_fraction([cosine(s[c], h[d]) / 0.3 for c in range(4)], d)
        by_hard -= log_fraction([cosine(s[d], h[c]) / 0.3 for c in range(4)], d)
    total = {"soft": by_soft, "hard": by_hard, "both": (by_soft + by_hard) / 2}[over]
    found = soft_hard_contrast(soft, hard, temperature=0.3, over=over, reduction=reduction)
    assert float(found) == pytest.approx(total if reduction == "sum" else total / 4, rel=1e-5)


def test_soft_hard_contrast_at_its_ends() -> None:
    apart = torch.eye(4)
    assert float(soft_hard_contrast(apart, apart, temperature=0.01)) == pytest.approx(0, abs=1e-6)
    alike = torch.ones(4, 3)
    found = soft_hard_contrast(alike, apart[:, :3] + 1, temperature=0.07)
    assert float(found) == pytest.approx(4 * math.log(4))
    mean = soft_hard_contrast(alike, alike, temperature=0.07, reduction="mean")
    assert float(mean) == pytest.approx(math.log(4))


def test_soft_hard_distance_against_a_slow_loop() -> None:
    soft, hard = drawn(3, 5, seed=1), drawn(3, 5, seed=2)
    total = 0.0
    for s, h in zip(soft.tolist(), hard.tolist(), strict=True):
        one, two = (math.sqrt(sum(x * x for x in v)) for v in (s, h))
        total += sum(abs(a / one - b / two) for a, b in zip(s, h, strict=True))
    assert float(soft_hard_distance(soft, hard)) == pytest.approx(total / 3, rel=1e-5)
    assert float(soft_hard_distance(soft, 3 * soft)) == pytest.approx(0, abs=1e-6)


def test_class_means_against_a_slow_loop() -> None:
    features, label = drawn(7, 3, seed=1), torch.tensor([0, 2, 2, 0, 0, 3, 2])
    found = class_means(features, label, 5)
    for number in range(5):
        members = [
            row for row, y in zip(features.tolist(), label.tolist(), strict=True) if y == number
        ]
        mean = [sum(column) / len(members) for column in zip(*members, strict=True)] or [0.0] * 3
        assert found[number].tolist() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("distance", ["cosine", "l1"])
def test_prototype_loss_knows_direction_alone(distance: Any) -> None:
    features, prototypes = drawn(6, 4, seed=1), drawn(6, 4, seed=2)
    found = prototype_loss(features, prototypes, distance=distance)
    scaled = prototype_loss(3 * features, 0.1 * prototypes, distance=distance)
    assert float(found) == pytest.approx(float(scaled), rel=1e-5)
    assert float(prototype_loss(features, features, distance=distance)) == pytest.approx(
        0, abs=1e-6
    )
    if distance == "cosine":
        rows = zip(features.tolist(), prototypes.tolist(), strict=True)
        mean = sum(1 - cosine(f, p) for f, p in rows) / 6
        assert float(found) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 9, 20])
def test_local_similarities_against_a_slow_loop(k: int) -> None:
    tokens, texts = drawn(2 * 9, 4, seed=1).view(2, 9, 4), drawn(3, 4, seed=2)
    found = local_similarities(tokens, texts, k)
    for number, places in enumerate(tokens.tolist()):
        for column, text in enumerate(texts.tolist()):
            best = sorted((cosine(place, text) for place in places), reverse=True)[:k]
            assert float(found[number, column]) == pytest.approx(sum(best) / len(best), rel=1e-5)


def test_local_similarities_do_not_know_the_order_of_places() -> None:
    tokens, texts = drawn(18, 4, seed=1).view(2, 9, 4), drawn(3, 4, seed=2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        local_similarities(tokens[:, order], texts, 4), local_similarities(tokens, texts, 4)
    )


@pytest.fixture
def probabilities() -> tuple[Tensor, Tensor]:
    """Distributions over four classes: of five pictures and of seven captions."""
    generator = torch.Generator().manual_seed(2)
    first, second = torch.rand(12, 4, generator=generator).double().square().split([5, 7])
    second[:4] = torch.eye(4)
    return first / first.sum(1, keepdim=True), second / second.sum(1, keepdim=True)


def test_agreement_against_a_loop(probabilities: tuple[Tensor, Tensor]) -> None:
    found = agreement(*probabilities)
    for row, first in enumerate(probabilities[0].tolist()):
        for column, second in enumerate(probabilities[1].tolist()):
            root = sum(math.sqrt(p * q) for p, q in zip(first, second, strict=True))
            assert float(found[row, column]) == pytest.approx(root**2)


def test_agreement_is_one_for_equals_and_the_share_for_a_pure_caption(
    probabilities: tuple[Tensor, Tensor],
) -> None:
    pictures, captions = probabilities
    torch.testing.assert_close(agreement(pictures, pictures).diagonal(), torch.ones(5).double())
    torch.testing.assert_close(agreement(pictures, captions[:4]), pictures)
    torch.testing.assert_close(agreement(pictures, captions), agreement(captions, pictures).T)


def slow_soft_contrast(logits: list[list[float]], agreed: list[list[float]]) -> float:
    """One direction, number by number."""
    total, weights = 0.0, 0.0
    for row, wanted in zip(logits, agreed, strict=True):
        partition = math.log(sum(math.exp(value) for value in row))
        mass = sum(wanted)
        divergence = 0.0
        for value, fraction in zip(row, wanted, strict=True):
            if fraction:
                target = fraction / mass
                divergence += target * (math.log(target) - (value - partition))
        total += min(mass, 1) * divergence
        weights += min(mass, 1)
    return total / weights


def test_soft_contrast_against_a_loop(probabilities: tuple[Tensor, Tensor]) -> None:
    wanted = agreement(*probabilities)
    wanted[:, 5] = 0  # a caption that fits no picture
    logits = 4 * torch.randn(5, 7, generator=torch.Generator().manual_seed(3)).double()
    expected = slow_soft_contrast(logits.tolist(), wanted.tolist())
    expected += slow_soft_contrast(logits.T.tolist(), wanted.T.tolist())
    assert float(soft_contrastive_loss(logits, wanted)) == pytest.approx(expected / 2)


def test_soft_contrast_vanishes_where_logits_follow_agreement(
    probabilities: tuple[Tensor, Tensor],
) -> None:
    wanted = agreement(*probabilities)
    perfect = soft_contrastive_loss(wanted.log() + 3, wanted)
    assert float(perfect) == pytest.approx(0, abs=1e-9)
    assert float(soft_contrastive_loss(torch.zeros(5, 7).double(), wanted)) > 0.05


def test_soft_contrast_is_symmetric_and_ignores_order(probabilities: tuple[Tensor, Tensor]) -> None:
    wanted = agreement(*probabilities)
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(4)).double()
    loss = soft_contrastive_loss(logits, wanted)
    torch.testing.assert_close(soft_contrastive_loss(logits.T, wanted.T), loss)
    rows, columns = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([6, 2, 0, 1, 5, 3, 4])
    moved = soft_contrastive_loss(logits[rows][:, columns], wanted[rows][:, columns])
    torch.testing.assert_close(moved, loss)


def test_equal_expressions_are_no_negatives() -> None:
    """Four pictures of two expressions, each with its caption: the right blocks give no loss."""
    votes = torch.eye(2)[[0, 0, 1, 1]]
    logits = torch.tensor([[9.0, 9, -9, -9]] * 2 + [[-9.0, -9, 9, 9]] * 2)
    assert float(soft_contrastive_loss(logits, agreement(votes, votes))) < 1e-6


def test_soft_contrast_of_nothing_in_common_is_zero() -> None:
    logits = torch.ones(2, 3, requires_grad=True)
    loss = soft_contrastive_loss(logits, torch.zeros(2, 3))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and logits.grad.isfinite().all()
