"""VLES and ECP: the teacher's attention, the text bias, and why class vectors are renormalised."""

import math

import pytest
import torch
from torch.nn import functional as F

from fervor.methods.lacovl.vision_language import (
    TeacherAttention,
    TextBias,
    conditioned,
    text_logits,
)


WIDTH, JOINT, CLASSES = 32, 5, 3


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_teacher_s_attention_is_torchs_with_the_same_weights() -> None:
    torch.manual_seed(0)
    net = TeacherAttention(WIDTH, heads=4, teacher_width=7)
    attend = torch.nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    block = net.attention
    attend.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
    attend.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
    attend.out_proj.load_state_dict(block.output.state_dict())
    vector, tokens = vectors(2, WIDTH), vectors(2, 6, 7, seed=1)
    context = F.layer_norm(
        tokens @ net.projection.weight.T + net.projection.bias, (WIDTH,), eps=1e-6
    )
    query = F.layer_norm(vector, (WIDTH,), eps=1e-6)[:, None]
    expected = vector + attend(query, context, context)[0][:, 0]
    expected = expected + net.feed_forward(F.layer_norm(expected, (WIDTH,), eps=1e-6))
    torch.testing.assert_close(net(vector, tokens), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_with_a_single_token_the_query_is_not_asked() -> None:
    """Why keys are a sequence: over one key the softmax is 1, whatever the query says."""
    torch.manual_seed(0)
    net = TeacherAttention(WIDTH, heads=4, teacher_width=7)
    first, second = vectors(1, WIDTH), vectors(1, WIDTH, seed=2)

    def taken(vector: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        context = net.norm_context(net.projection(tokens))
        return net.attention(net.norm_query(vector)[:, None], context)

    one, many = vectors(1, 1, 7, seed=3), vectors(1, 6, 7, seed=3)
    torch.testing.assert_close(taken(first, one), taken(second, one))
    assert (taken(first, many) - taken(second, many)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["shared", "per_class"])
def test_the_bias_is_nothing_at_first_and_learns(kind: str) -> None:
    net = TextBias(WIDTH, JOINT, kind=kind)  # type: ignore[arg-type]
    texts = F.normalize(vectors(CLASSES, JOINT), dim=-1)
    bias = net(vectors(2, WIDTH), texts)
    assert bias.shape == (2, 1 if kind == "shared" else CLASSES, JOINT)
    assert not bias.any()
    bias.sum().backward()
    assert net.second.weight.grad is not None and net.second.weight.grad.any()


def test_the_bias_of_a_class_is_a_slow_loop() -> None:
    torch.manual_seed(0)
    net = TextBias(WIDTH, JOINT, kind="per_class")
    torch.nn.init.normal_(net.second.weight)
    vector, texts = vectors(2, WIDTH), vectors(CLASSES, JOINT, seed=1)
    found = net(vector, texts)
    for picture in range(2):
        for number in range(CLASSES):
            inputs = torch.cat([vector[picture], texts[number]])
            hidden = torch.relu(net.first.weight @ inputs + net.first.bias)
            expected = net.second.weight @ hidden + net.second.bias
            torch.testing.assert_close(found[picture, number], expected)
    shared = TextBias(WIDTH, JOINT, kind="shared")
    torch.nn.init.normal_(shared.second.weight)
    expected = shared.second(torch.relu(shared.first(vector)))
    torch.testing.assert_close(shared(vector, texts)[:, 0], expected)


def test_logits_are_scaled_cosines_with_the_picture_s_own_class_vectors() -> None:
    vector, texts = vectors(2, JOINT), vectors(CLASSES, JOINT, seed=1)
    bias = vectors(2, CLASSES, JOINT, seed=2)
    found = text_logits(vector, conditioned(texts, bias, alpha=0.3), 7.0)
    for picture in range(2):
        for number in range(CLASSES):
            moved = texts[number] + 0.3 * bias[picture, number]
            product = float(vector[picture] @ moved)
            lengths = math.sqrt(float(vector[picture].square().sum() * moved.square().sum()))
            assert float(found[picture, number]) == pytest.approx(7 * product / lengths, rel=1e-4)


def test_a_shared_bias_without_renormalising_does_nothing() -> None:
    """It adds v . bias to every class's logit, and softmax takes that away again."""
    vector = vectors(4, JOINT)
    texts = F.normalize(vectors(CLASSES, JOINT, seed=1), dim=-1)
    bias = 3 * vectors(4, 1, JOINT, seed=2)

    def probabilities(alpha: float, *, renormalise: bool) -> torch.Tensor:
        moved = conditioned(texts, bias, alpha=alpha, renormalise=renormalise)
        return text_logits(vector, moved, 10.0).softmax(-1)

    plain = probabilities(0.0, renormalise=True)
    torch.testing.assert_close(probabilities(0.5, renormalise=False), plain, rtol=1e-4, atol=1e-5)
    assert (probabilities(0.5, renormalise=True) - plain).abs().max() > 0.05
    own = 3 * vectors(4, CLASSES, JOINT, seed=2)
    moved = conditioned(texts, own, alpha=0.5, renormalise=False)
    assert (text_logits(vector, moved, 10.0).softmax(-1) - plain).abs().max() > 0.05


def test_without_renormalising_a_shared_bias_gets_no_gradient_from_cross_entropy() -> None:
    vector, texts = vectors(4, JOINT), F.normalize(vectors(CLASSES, JOINT, seed=1), dim=-1)
    target = torch.tensor([0, 1, 2, 0])
    for renormalise in (True, False):
        bias = vectors(4, 1, JOINT, seed=2).requires_grad_()
        moved = conditioned(texts, bias, alpha=0.5, renormalise=renormalise)
        F.cross_entropy(text_logits(vector, moved, 10.0), target).backward()
        assert bias.grad is not None
        assert (bias.grad.abs().max() > 1e-2) == renormalise
        assert (bias.grad.abs().max() < 1e-6) != renormalise


def test_the_parameters_follow_a_formula() -> None:
    def count(net: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in net.parameters())

    teacher = TeacherAttention(768, heads=8, teacher_width=768)
    assert count(teacher) == 5 * (768**2 + 768) + 3 * 2 * 768 + 2 * 4 * 768**2 + 5 * 768
    assert count(TextBias(768, 512, kind="shared")) == 768 * 48 + 48 + 48 * 512 + 512
    assert count(TextBias(768, 512, kind="per_class")) == (768 + 512) * 48 + 48 + 48 * 512 + 512
