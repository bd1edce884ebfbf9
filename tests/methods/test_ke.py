"""KE-FER: each part against a slow loop on a tiny encoder, what is frozen, and published sizes."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fervor.config import Encoder
from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.labels import BASIC, EXPRESSIONS
from fervor.methods.ke import KE
from fervor.models.image import build_image_encoder
from fervor.models.image.base import ImageEncoder
from fervor.prompts import templates
from tests.support.drawn import DrawnSoftText, DrawnText, TinyEncoder, batch


LABELS = ("happiness", "neutral", "anger")


def build(
    labels: tuple[str, ...] = LABELS,
    *,
    width: int = 6,
    text: DrawnText | None = None,
    **options: Any,
) -> KE:
    torch.manual_seed(0)
    return KE(TinyEncoder(width), text or DrawnText(), labels, KE.Options(**options))


@pytest.fixture(scope="module")
def faces() -> Batch:
    return batch(LABELS, 4)


def sentence(label: str, number: int = 9) -> str:
    return templates.fill(templates.template(number), label)


def vector(label: str, number: int = 9) -> list[float]:
    """What the text encoder gives, number by number."""
    found: list[float] = DrawnText().vector(sentence(label, number)).tolist()
    return found


# The objective against a slow loop


def cosine(first: list[float], second: list[float]) -> float:
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return product / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))


def difference(first: list[float], second: list[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]


def neutral_of(method: KE, feature: list[float]) -> list[float]:
    """G (eq. 6) by hand: two layers with a ReLU between them."""
    state = {name: tensor.tolist() for name, tensor in method.to_neutral.state_dict().items()}
    hidden = [
        max(0.0, sum(w * x for w, x in zip(row, feature, strict=True)) + bias)
        for row, bias in zip(state["0.weight"], state["0.bias"], strict=True)
    ]
    return [
        sum(w * x for w, x in zip(row, hidden, strict=True)) + bias
        for row, bias in zip(state["2.weight"], state["2.bias"], strict=True)
    ]


def similarity_by_hand(method: KE, faces: Batch) -> float:
    """L_s (eq. 5), as a mean over the target's shares."""
    total = 0.0
    for feature, target in zip(pooled(method, faces), faces.target.tolist(), strict=True):
        logits = [cosine(feature, vector(name)) / method.options.temperature for name in LABELS]
        peak = max(logits)
        normaliser = peak + math.log(sum(math.exp(logit - peak) for logit in logits))
        total += sum(t * (normaliser - s) for t, s in zip(target, logits, strict=True))
    return total / len(faces.label)


def neutral_losses_by_hand(method: KE, faces: Batch) -> tuple[float, float]:
    """L_t (eq. 9) and L_c (eq. 10, or the alternatives) over what is not neutral."""
    options = method.options
    rows = [
        (feature, neutral_of(method, feature), vector(LABELS[label]))
        for feature, label in zip(pooled(method, faces), faces.label.tolist(), strict=True)
        if LABELS[label] != "neutral"
    ]
    change = [1 - cosine(difference(f, n), difference(t, vector("neutral"))) for f, n, t in rows]
    if options.contrast == "simclr":
        contrast = [
            -math.log(
                math.exp(cosine(t, f) / options.temperature)
                / sum(math.exp(cosine(t, x) / options.temperature) for x in (f, n))
            )
            for f, n, t in rows
        ]
    elif options.self_contrast == "all_pairs":
        contrast = [
            cosine(t, n) - cosine(t, f) + options.margin for _, _, t in rows for f, n, _ in rows
        ]
    else:
        contrast = [cosine(t, n) - cosine(t, f) + options.margin for f, n, t in rows]
    return sum(change) / len(rows), sum(contrast) / len(contrast)


@torch.no_grad()
def pooled(method: KE, faces: Batch) -> list[list[float]]:
    found: list[list[float]] = method.image(faces.image).pooled.tolist()
    return found


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in losses.items()}


VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "all pairs": {"self_contrast": "all_pairs"},
    "simclr": {"contrast": "simclr", "temperature": 0.5},
    "margin": {"margin": 0.3, "temperature": 0.1},
    "weights": {"similarity_weight": 0.5, "transformation_weight": 3.0, "contrast_weight": 0.2},
    "L_s alone": {"transformation_weight": 0.0, "contrast_weight": 0.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_objective_against_a_slow_loop(variant: str, faces: Batch) -> None:
    method = build(**VARIANTS[variant])
    probabilities = faces._replace(target=0.8 * faces.target + 0.2 / len(LABELS))
    found = numbers(method.losses(probabilities))
    similarity = similarity_by_hand(method, probabilities)
    transformation, contrast = neutral_losses_by_hand(method, probabilities)
    assert found["similarity"] == pytest.approx(similarity, rel=1e-4)
    assert found["transformation"] == pytest.approx(transformation, rel=1e-4)
    assert found["contrast"] == pytest.approx(contrast, rel=1e-4)
    options = method.options
    total = options.similarity_weight * similarity + options.contrast_weight * contrast
    total += options.transformation_weight * transformation
    assert found["loss"] == pytest.approx(total, rel=1e-4)


def test_variants_of_the_contrast_differ(faces: Batch) -> None:
    found = [numbers(build(**VARIANTS[name]).losses(faces))["contrast"] for name in VARIANTS]
    assert abs(found[0] - found[1]) > 1e-4
    one_class = Batch(*(part[faces.label == 0] for part in faces[:3]))
    same = [
        numbers(build(self_contrast=name).losses(one_class))["contrast"]
        for name in ("diagonal", "all_pairs")
    ]
    assert same[0] == pytest.approx(same[1], rel=1e-5)


# Neutral faces


def test_neutral_faces_stay_out_of_the_neutral_losses(faces: Batch) -> None:
    method = build()
    neutral = faces.label == LABELS.index("neutral")
    noise = torch.rand(faces.image.shape, generator=torch.Generator().manual_seed(0))
    changed = faces._replace(image=torch.where(neutral[:, None, None, None], noise, faces.image))
    before, after = method.losses(faces), method.losses(changed)
    assert torch.equal(before["transformation"], after["transformation"])
    assert torch.equal(before["contrast"], after["contrast"])
    assert not torch.equal(before["similarity"], after["similarity"])


@pytest.mark.parametrize("contrast", ["self", "simclr"])
def test_a_batch_of_neutral_faces_is_finite(contrast: str, faces: Batch) -> None:
    method = build(contrast=contrast)
    neutral = Batch(*(part[faces.label == LABELS.index("neutral")] for part in faces[:3]))
    losses = method.losses(neutral)
    losses["loss"].backward()
    assert numbers(losses)["transformation"] == 0
    assert numbers(losses)["contrast"] == (2 if contrast == "self" else 0)
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
            assert name.startswith("image.") or not parameter.grad.any(), name


def test_labels_without_neutral_still_know_its_text(faces: Batch) -> None:
    labels = ("happiness", "sadness", "anger")
    method = build(labels)
    assert method.class_vectors().shape == (3, 6)
    assert method.neutral_text.tolist() == pytest.approx(vector("neutral"))
    one_more = build(("neutral", *labels))
    one_more.load_state_dict({**one_more.state_dict(), **trained(method)})
    expected = one_more.losses(
        faces._replace(label=faces.label + 1, target=torch.eye(4)[1:][faces.label])
    )
    found = method.losses(faces)
    torch.testing.assert_close(found["transformation"], expected["transformation"])
    torch.testing.assert_close(found["contrast"], expected["contrast"])
    assert torch.isfinite(method.losses(faces)["loss"])


def trained(method: KE) -> dict[str, Tensor]:
    return {name: parameter.data for name, parameter in method.named_parameters()}


# What is compared, and what is frozen


def test_the_text_side_is_frozen(faces: Batch) -> None:
    text = DrawnText()
    method = build(text=text)
    asked, before = list(text.asked), method.class_vectors().clone()
    assert not {"texts", "neutral_text", "centre"} & dict(method.named_parameters()).keys()
    assert not any(buffer.requires_grad for buffer in method.buffers())
    method.losses(faces)["loss"].backward()
    torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1).step()
    assert torch.equal(method.class_vectors(), before)
    assert text.asked == asked  # once, at the start
    assert {"texts", "neutral_text", "centre"} <= method.state_dict().keys()


def test_the_encoder_learns_from_every_part(faces: Batch) -> None:
    """No stop-gradient: L_t and L_c train the encoder and G."""
    method = build()
    losses = method.losses(faces)
    for name, reaches in {
        "similarity": [method.image],
        "transformation": [method.image, method.to_neutral],
        "contrast": [method.image, method.to_neutral],
    }.items():
        parameters = [parameter for module in reaches for parameter in module.parameters()]
        gradients = torch.autograd.grad(losses[name], parameters, retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert all(gradient.any() for gradient in gradients), name


def test_logits_are_cosines_over_the_temperature(faces: Batch) -> None:
    method = build(temperature=0.05)
    logits = method(faces.image)
    expected = [[cosine(f, vector(name)) / 0.05 for name in LABELS] for f in pooled(method, faces)]
    torch.testing.assert_close(logits, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    features = method.features(faces.image)
    scaled = features._replace(pooled=7 * features.pooled)
    torch.testing.assert_close(method.logits(scaled), logits)
    torch.testing.assert_close(method.class_vectors().norm(dim=1), torch.ones(3))


def test_permuting_the_labels_permutes_the_logits(faces: Batch) -> None:
    order = [2, 0, 1]
    first, second = build(), build(tuple(LABELS[place] for place in order))
    torch.testing.assert_close(second(faces.image), first(faces.image)[:, order])
    places = torch.tensor([order.index(label) for label in range(3)])
    moved = Batch(faces.image, places[faces.label], faces.target[:, order])
    for name, value in first.losses(faces).items():
        torch.testing.assert_close(second.losses(moved)[name], value)


@pytest.mark.parametrize("number", [1, 5, 9])
def test_the_template_is_the_one_asked_for(number: int) -> None:
    text = DrawnText()
    method = build(text=text, template=number)
    assert set(text.asked) == {sentence(name, number) for name in LABELS}
    assert method.texts.tolist() == [pytest.approx(vector(name, number)) for name in LABELS]


def test_centring_subtracts_the_mean_of_the_eight_expressions(faces: Batch) -> None:
    plain, centred = build(), build(centre=True)
    mean = torch.tensor([vector(name) for name in EXPRESSIONS]).mean(0)
    torch.testing.assert_close(centred.text_centre(), mean)
    assert not plain.text_centre().any()
    torch.testing.assert_close(centred.texts, plain.texts - mean)
    torch.testing.assert_close(centred.neutral_text, plain.neutral_text - mean)
    torch.testing.assert_close(build(BASIC, centre=True).text_centre(), mean)
    # a difference of texts knows no centre
    found = [method.losses(faces)["transformation"] for method in (plain, centred)]
    torch.testing.assert_close(*found)


# Widths


def test_equal_widths_need_no_layer() -> None:
    method = build()
    assert isinstance(method.joint, nn.Identity) and isinstance(method.text_joint, nn.Identity)


@pytest.mark.parametrize(("join", "width"), [("image", 6), ("text", 10)])
def test_unequal_widths_are_joined_on_either_side(join: str, width: int, faces: Batch) -> None:
    method = build(width=10, join=join)
    features = method.features(faces.image)
    assert features.pooled.shape == (12, width)
    assert features.tokens.shape[-1] == width
    assert method.class_vectors().shape == (3, width)
    assert method.text_centre().shape == (6,)
    before = method.class_vectors().clone()
    method.losses(faces)["loss"].backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    assert torch.equal(method.class_vectors(), before) == (join == "image")
    joined = method.joint if join == "image" else method.text_joint
    assert all(parameter.grad is not None for parameter in joined.parameters())


@pytest.mark.parametrize(("bottleneck", "hidden"), [(4, 128), (1, 512), (1000, 1)])
def test_the_transformation_is_a_bottleneck_of_the_text_width(bottleneck: int, hidden: int) -> None:
    method = build(width=9, text=DrawnText(512), bottleneck=bottleneck)
    sizes = [
        tuple(layer.weight.shape) for layer in method.to_neutral if isinstance(layer, nn.Linear)
    ]
    assert sizes == [(hidden, 512), (512, hidden)]
    assert isinstance(method.to_neutral[1], nn.ReLU)


@pytest.mark.parametrize(
    ("name", "size", "millions"), [("resnet18", 224, 11.3), ("swin-t-112", 112, 28.6)]
)
def test_published_sizes(name: str, size: int, millions: float) -> None:
    """Encoder and G with texts of width 512, as the paper counts."""
    with torch.device("meta"):
        encoder: ImageEncoder = build_image_encoder(Encoder(name=name, weights="random", size=size))
    method = KE(encoder, DrawnText(512), BASIC, KE.Options())
    assert encoder.width == 512
    assert round(sum(parameter.numel() for parameter in method.parameters()) / 1e6, 1) == millions


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature is 0\.0, expected a number above 0"),
        ({"temperature": -1.0}, "expected a number above 0"),
        ({"bottleneck": 0}, "bottleneck is 0, expected 1 or more"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KE.Options(**options)


def test_an_unknown_template() -> None:
    with pytest.raises(UsageError, match="no template 10: expected 1 to 9"):
        build(template=10)


def test_defaults_are_the_papers() -> None:
    expected = {"temperature": 0.01, "margin": 2.0, "template": 9, "bottleneck": 4}
    expected |= dict.fromkeys(
        ["similarity_weight", "transformation_weight", "contrast_weight"], 1.0
    )
    options = dataclasses.asdict(KE.Options())
    assert {name: options[name] for name in expected} == expected
    assert (options["contrast"], options["self_contrast"]) == ("self", "diagonal")


# Prompts that learn


def learned(text: DrawnSoftText, **options: Any) -> KE:
    torch.manual_seed(0)
    settings = KE.Options(**{"template": 1, "text": "learned", **options})
    return KE(TinyEncoder(), text, LABELS, settings)


@pytest.mark.parametrize("centre", [False, True])
def test_prompts_that_learn_start_as_the_template(centre: bool, faces: Batch) -> None:
    method = learned(DrawnSoftText(), centre=centre)
    torch.manual_seed(0)
    options = KE.Options(template=1, centre=centre)
    fixed = KE(TinyEncoder(), DrawnSoftText(), LABELS, options)
    fixed.to_neutral.load_state_dict(method.to_neutral.state_dict())
    torch.testing.assert_close(method.class_vectors(), fixed.class_vectors())
    torch.testing.assert_close(method.text_centre(), fixed.text_centre())
    for name, value in fixed.losses(faces).items():
        torch.testing.assert_close(method.losses(faces)[name], value, rtol=1e-4, atol=1e-4)


def test_the_context_learns_and_the_text_tower_does_not(faces: Batch) -> None:
    method = learned(DrawnSoftText(), centre=True)
    assert method.frozen() == ("text",)
    before, tower = method.class_vectors().detach(), method.get_submodule("text").state_dict()
    tower = {name: tensor.clone() for name, tensor in tower.items()}
    losses = method.losses(faces)
    assert method.soft is not None
    for name in ("similarity", "transformation", "contrast"):
        (gradient,) = torch.autograd.grad(losses[name], method.soft.context, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any(), name
    losses["loss"].backward()
    torch.optim.SGD(method.parameter_groups(0.1), 0.1, weight_decay=0.1).step()
    assert not torch.allclose(method.class_vectors(), before)
    for name, tensor in method.get_submodule("text").state_dict().items():
        assert torch.equal(tensor, tower[name])
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert "soft.context" in trained and not any(name.startswith("text.") for name in trained)


def test_learned_texts_are_constant_where_asked(faces: Batch) -> None:
    text = DrawnSoftText()
    method = learned(text)
    expected, start = method(faces.image), text.calls
    with method.constant_text():
        for _ in range(3):
            torch.testing.assert_close(method(faces.image), expected)
    assert text.calls == start + 1


def test_stored_vectors_cannot_learn() -> None:
    with pytest.raises(UsageError, match=r"options\.text learned .* DrawnText has none"):
        KE(TinyEncoder(), DrawnText(), LABELS, KE.Options(text="learned"))


def test_own_sentences_are_the_mean_of_their_vectors() -> None:
    said = {name: [f"{name} one", f"{name} two"] for name in EXPRESSIONS}
    method = build(template=said, centre=True)
    encoder = DrawnText()
    means = {name: encoder.encode(texts).mean(0) for name, texts in said.items()}
    centre = torch.stack([*means.values()]).mean(0)
    expected = torch.stack([means[name] for name in LABELS]) - centre
    torch.testing.assert_close(method.texts, expected)
    assert method.sentences[0] == "happiness one / happiness two"
    one = build(template="here is [CLS]")
    torch.testing.assert_close(one.texts[2], encoder.vector("here is anger"))
    with pytest.raises(UsageError, match="no sentences for 'fear'"):
        build(("fear", "anger"), template={"anger": ["x"], "neutral": ["y"]})
