"""The methods' losses as pure functions on tensors, one equation each.

Equation numbers are those of docs/methods/ke.md (KE-FER, arXiv 2409.08598) and, where a docstring
says MPA, of docs/methods/mpa.md (MPA-FER, arXiv 2506.21017).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def similarities(
    features: Float[Tensor, "b d"], texts: Float[Tensor, "c d"]
) -> Float[Tensor, "b c"]:
    """Cosine of every image with every text (eq. 4), in -1..1; fp32 under autocast too.

    In bfloat16 a cosine is off by up to 0.004, which a temperature of 0.01 turns into 0.4.
    """
    with torch.autocast(features.device.type, enabled=False):
        return F.normalize(features.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def text_similarity_loss(
    logits: Float[Tensor, "b c"], target: Float[Tensor, "b c"]
) -> Float[Tensor, ""]:
    """L_s (eq. 5): cross-entropy of similarity / temperature with the class, or with shares.

    A one-hot target gives the paper's equation. 0 for a perfect image, log c at equal logits.
    """
    return F.cross_entropy(logits, target)


def transformation_loss(
    features: Float[Tensor, "m d"],
    neutral_features: Float[Tensor, "m d"],
    texts: Float[Tensor, "m d"],
    neutral_text: Float[Tensor, " d"],
    *,
    weight: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """L_t (eq. 9): mean of 1 - cos(f - G(f), t_y - t_neutral), both differences unnormalised.

    0 where the change from expression to neutral points alike in images and texts, about 1 for
    random directions, 2 for opposite ones; 0 for m = 0.
    """
    if not len(features):
        return features.sum() * 0.0
    # halves: the angle is the same, and the difference of two finite numbers stays finite
    change = features / 2 - neutral_features / 2
    expected = texts / 2 - neutral_text / 2
    return _mean(1.0 - F.cosine_similarity(change, expected, dim=-1), weight)


def _mean(values: Tensor, weight: Float[Tensor, " m"] | None) -> Tensor:
    """The mean over the rows of values [m ...], weighted where there are weights."""
    if weight is None:
        return values.mean(0)
    return (weight.reshape(-1, *[1] * (values.ndim - 1)) * values).sum(0) / weight.sum()


def self_contrast_loss(
    features: Float[Tensor, "m d"],
    neutral_features: Float[Tensor, "m d"],
    texts: Float[Tensor, "m d"],
    *,
    margin: float = 2.0,
    all_pairs: bool = False,
    weight: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """L_c (eq. 10): mean of cos(t_y, G(f)) - cos(t_y, f) + margin.

    The default pairs each image with its own text (paper). `all_pairs` averages over every text
    with every image of the batch, as the released code does. With margin 2 the value lies in
    0..4: 0 is perfect, 2 is random; `margin` for m = 0.
    """
    if not len(features):
        return features.sum() * 0.0 + margin
    texts = F.normalize(texts, dim=-1)
    difference = F.normalize(neutral_features, dim=-1) - F.normalize(features, dim=-1)
    if all_pairs:
        return (_mean(texts, weight) * _mean(difference, weight)).sum() + margin
    return _mean((texts * difference).sum(-1), weight) + margin


def contrastive_loss(
    features: Float[Tensor, "m d"],
    neutral_features: Float[Tensor, "m d"],
    texts: Float[Tensor, "m d"],
    *,
    temperature: float,
    weight: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """The paper's SimCLR-like alternative to L_c (its Figure 4; our reading of it).

    Mean of -log(e^(cos(t_y, f)/tau) / (e^(cos(t_y, f)/tau) + e^(cos(t_y, G(f))/tau))). 0 is
    perfect, log 2 is random; 0 for m = 0.
    """
    if not len(features):
        return features.sum() * 0.0
    positive = F.cosine_similarity(features, texts, dim=-1)
    negative = F.cosine_similarity(neutral_features, texts, dim=-1)
    return _mean(F.softplus((negative - positive) / temperature), weight)


def soft_hard_contrast(
    soft: Float[Tensor, "c d"],
    hard: Float[Tensor, "c d"],
    *,
    temperature: float,
    over: Literal["soft", "hard", "both"] = "soft",
    reduction: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, ""]:
    """L_ta and L_pa (MPA, eq. 1 to 3a): each class's soft prompt against its own hard prompt.

    -sum_d log P, P = e^(cos(soft_d, hard_d)/tau) / sum_c e^(cos(soft_c, hard_d)/tau), whose softmax
    runs over the soft prompts; over the hard ones with `hard`, the mean of both with `both`. 0 is
    perfect, c log c (log c as a mean) is all prompts alike.
    """
    scores = similarities(hard, soft) / temperature
    own = torch.arange(len(scores), device=scores.device)
    directions = {"soft": [scores], "hard": [scores.T], "both": [scores, scores.T]}[over]
    losses = [F.cross_entropy(logits, own, reduction=reduction) for logits in directions]
    return torch.stack(losses).mean()


def soft_hard_distance(soft: Float[Tensor, "c d"], hard: Float[Tensor, "c d"]) -> Float[Tensor, ""]:
    """L_pa (MPA, eq. 3b): L1 distance of unit vectors, summed over d, mean over the classes.

    0 is perfect; unit length and the mean are ours.
    """
    return (F.normalize(soft, dim=-1) - F.normalize(hard, dim=-1)).abs().sum(-1).mean()


def class_means(
    features: Float[Tensor, "n d"], label: Int[Tensor, " n"], classes: int
) -> Float[Tensor, "c d"]:
    """Prototypes (MPA, eq. 6): the mean feature of each class; zeros for a class without any."""
    members = F.one_hot(label, classes).to(features.dtype)
    return members.T @ features / members.sum(0).clamp_min(1).unsqueeze(-1)


def prototype_loss(
    features: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "b d"],
    *,
    distance: Literal["cosine", "l1"] = "cosine",
    weight: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """L_v (MPA, eq. 7): how far each image is from the prototype of its class, batch mean.

    cosine: 1 - cos, 0 is perfect, 1 random. l1: distance of unit vectors summed over d.
    """
    if distance == "l1":
        gap = F.normalize(features, dim=-1) - F.normalize(prototypes, dim=-1)
        return _mean(gap.abs().sum(-1), weight)
    return _mean(1.0 - F.cosine_similarity(features, prototypes, dim=-1), weight)


def local_similarities(
    tokens: Float[Tensor, "b n d"], texts: Float[Tensor, "c d"], k: int
) -> Float[Tensor, "b c"]:
    """sim_local (MPA, eq. 8 and 9): mean cosine of each text with its k most similar patches.

    Patches are chosen anew for each image and text; all of them where there are fewer than k.
    In -1..1, fp32 under autocast too.
    """
    scores = similarities(tokens.flatten(0, 1), texts).unflatten(0, tokens.shape[:2])
    nearest: Tensor = scores.topk(min(k, tokens.shape[1]), dim=1).values
    return nearest.mean(1)


def agreement(first: Float[Tensor, "b c"], second: Float[Tensor, "m c"]) -> Float[Tensor, "b m"]:
    """Fidelity of every distribution with every other: (sum over c of sqrt(p_c q_c))^2 (ours).

    1 for equal distributions, 0 for such that share no class; with a one-hot q it is p's share of
    that class.
    """
    return (first.sqrt() @ second.sqrt().T).square()


def soft_contrastive_loss(
    logits: Float[Tensor, "b m"], agreement: Float[Tensor, "b m"]
) -> Float[Tensor, ""]:
    """CLIP's two-way contrast with soft targets, so that equal expressions are no negatives (ours).

    Mean over both directions of KL(target || softmax): an image's target over the captions is its
    agreement with each, scaled to sum 1, and so is a caption's over the images. What finds little
    agreement counts little. 0 where every softmax equals its target, which any
    logits = log agreement + constant does.
    """
    return (_towards(logits, agreement) + _towards(logits.T, agreement.T)) / 2


def _towards(logits: Float[Tensor, "b m"], agreement: Float[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Mean of KL(agreement / its sum || softmax) over the rows, by their sum up to 1."""
    total = agreement.sum(1)
    target = agreement / total.clamp_min(1e-12)[:, None]
    divergence = F.kl_div(logits.log_softmax(1), target, reduction="none").sum(1)
    weight = total.clamp(max=1)
    return (divergence * weight).sum() / weight.sum().clamp_min(1e-12)
