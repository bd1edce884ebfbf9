"""KE-FER's whole objective against slow loops: unequal widths on both sides, centred texts, shares
as targets, mixed pictures; and its gradients against finite differences of these loops."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fervor.data.batch import Batch
from fervor.labels import EXPRESSIONS
from fervor.methods.ke import KE
from fervor.models.image.base import Features, ImageEncoder, Pixels
from fervor.prompts import templates
from tests.support.drawn import DrawnText


LABELS = ("happiness", "neutral", "anger", "fear")
COUNT, TEXT = 7, 5
Floats = NDArray[np.float64]


class Given(ImageEncoder):
    """Features that are parameters themselves, so that their gradient can be read."""

    def __init__(self, width: int) -> None:
        super().__init__(width, Pixels(8, False, (0.5,) * 3, (0.5,) * 3))
        self.pooled = nn.Parameter(torch.randn(COUNT, width) + 0.3)

    def forward(self, image: Tensor) -> Features:
        return Features(self.pooled, self.pooled[:, None], (1, 1))

    def parts(self) -> list[nn.Module]:
        return [nn.Identity(), nn.Identity()]


def batch(kind: str) -> Batch:
    """Every class, neutral among them; one class each, votes, or two classes mixed."""
    generator = torch.Generator().manual_seed(1)
    label = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    target = nn.functional.one_hot(label, 4).float()
    mixture = None
    if kind == "votes":
        target = 0.6 * target + 0.4 * torch.rand(COUNT, 4, generator=generator).softmax(1)
    if kind == "mixup":
        fraction = 0.5 + 0.5 * torch.rand(COUNT, 1, generator=generator)
        mixture = fraction * target + (1 - fraction) * target[[3, 0, 1, 6, 4, 2, 5]]
        target = 0.9 * mixture + 0.025
    return Batch(torch.zeros(COUNT, 3, 8, 8), label, target, mixture=mixture)


def cosine(first: Floats, second: Floats) -> float:
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return float(dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second)))


def linear(state: dict[str, Floats], name: str, x: Floats) -> Floats:
    """W x + b, or x where there is no such layer."""
    if f"{name}.weight" not in state:
        return x
    rows = state[f"{name}.weight"], state[f"{name}.bias"]
    return np.array(
        [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(*rows, strict=True)]
    )


def text(label: str) -> Floats:
    sentence = templates.fill(templates.template(9), label)
    return DrawnText(TEXT).vector(sentence).double().numpy()


def reference(state: dict[str, Floats], faces: Batch, options: KE.Options) -> dict[str, float]:
    """L_s, L_t, L_c and their sum, number by number."""
    centre = np.zeros(TEXT)
    if options.centre:
        centre = sum((text(name) for name in EXPRESSIONS), centre) / len(EXPRESSIONS)
    texts = [linear(state, "text_joint", text(name) - centre) for name in LABELS]
    neutral = linear(state, "text_joint", text("neutral") - centre)
    features = [linear(state, "joint", row) for row in state["image.pooled"]]
    tau = options.temperature
    similarity = 0.0
    for feature, target in zip(features, faces.target.double().numpy(), strict=True):
        logits = [cosine(feature, other) / tau for other in texts]
        total = math.log(sum(math.exp(logit) for logit in logits))
        similarity += sum(t * (total - logit) for t, logit in zip(target, logits, strict=True))
    probabilities = (
        nn.functional.one_hot(faces.label, 4) if faces.mixture is None else faces.mixture
    )
    rows = []
    for feature, fraction in zip(features, probabilities.double().numpy(), strict=True):
        hidden = np.maximum(linear(state, "to_neutral.0", feature), 0)
        calm = linear(state, "to_neutral.2", hidden)
        for label, weight in enumerate(fraction):
            if weight and LABELS[label] != "neutral":
                rows.append((weight, feature, calm, texts[label]))
    whole = sum(row[0] for row in rows)
    change = sum(w * (1 - cosine(f - n, t - neutral)) for w, f, n, t in rows) / whole
    if options.contrast == "simclr":
        contrast = sum(
            w * math.log1p(math.exp((cosine(n, t) - cosine(f, t)) / tau)) for w, f, n, t in rows
        )
    elif options.self_contrast == "all_pairs":
        pairs = itertools.product(rows, rows)
        contrast = sum(
            a[0] * b[0] * (cosine(b[2], a[3]) - cosine(b[1], a[3]) + options.margin)
            for a, b in pairs
        )
        contrast /= whole
    else:
        contrast = sum(w * (cosine(n, t) - cosine(f, t) + options.margin) for w, f, n, t in rows)
    parts = {
        "similarity": similarity / COUNT,
        "transformation": change,
        "contrast": contrast / whole,
    }
    return {
        **parts,
        "loss": options.similarity_weight * parts["similarity"]
        + options.transformation_weight * parts["transformation"]
        + options.contrast_weight * parts["contrast"],
    }


CASES: list[tuple[int, dict[str, Any], str]] = [
    (5, {}, "classes"),
    (8, {}, "votes"),
    (8, {"join": "text"}, "classes"),
    (8, {"join": "text", "centre": True}, "mixup"),
    (8, {"centre": True, "contrast": "simclr"}, "mixup"),
    (3, {"self_contrast": "all_pairs"}, "mixup"),
    (3, {"join": "text", "self_contrast": "all_pairs", "centre": True}, "votes"),
    (5, {"contrast": "simclr", "bottleneck": 2}, "classes"),
]


def built(width: int, options: dict[str, Any]) -> KE:
    torch.manual_seed(3)
    weights = {"similarity_weight": 0.7, "transformation_weight": 1.3, "contrast_weight": 0.4}
    method = KE(
        Given(width),
        DrawnText(TEXT),
        LABELS,
        KE.Options(**{"temperature": 0.2, "bottleneck": 1, **weights, **options}),
    )
    return method


def state_of(method: KE) -> dict[str, Floats]:
    return {name: part.detach().double().numpy() for name, part in method.named_parameters()}


@pytest.mark.parametrize(("width", "options", "kind"), CASES)
def test_the_objective_is_the_loops(width: int, options: dict[str, Any], kind: str) -> None:
    method, faces = built(width, options), batch(kind)
    if width != TEXT:  # a layer that joins, whose bias counts
        joined = method.text_joint if options.get("join") == "text" else method.joint
        assert float(joined.bias.detach().abs().max()) > 0.05
    found = {name: float(value.detach()) for name, value in method.losses(faces).items()}
    expected = reference(state_of(method), faces, method.options)
    assert found == pytest.approx(expected, rel=1e-5)
    vectors = method.class_vectors()
    for label, row in zip(LABELS, vectors, strict=True):
        centre = method.text_centre().double().numpy()
        own = linear(state_of(method), "text_joint", text(label) - centre)
        assert cosine(own, row.detach().double().numpy()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("width", "options", "kind"), CASES)
def test_the_gradients_are_those_of_the_loops(
    width: int, options: dict[str, Any], kind: str
) -> None:
    """Of features, G and the joining layer: nothing is stopped on the way through G."""
    method, faces = built(width, options), batch(kind)
    method.losses(faces)["loss"].backward()  # type: ignore[no-untyped-call]
    state, random = state_of(method), np.random.default_rng(0)
    step = 1e-4
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        for place in random.permutation(parameter.numel())[:4]:
            where = np.unravel_index(place, parameter.shape)
            sides = []
            for sign in (-1, 1):
                moved = {key: value.copy() for key, value in state.items()}
                moved[name][where] += sign * step
                sides.append(reference(moved, faces, method.options)["loss"])
            slope = (sides[1] - sides[0]) / (2 * step)
            assert float(parameter.grad[where]) == pytest.approx(slope, rel=2e-3, abs=2e-4), name
