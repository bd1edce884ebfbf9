"""Context that learns: where it stands, what it starts from, and that it runs through the tower."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fervor.errors import UsageError
from fervor.models.text.encoders import build_text_encoder
from fervor.models.text.prompt_learning import (
    STD,
    SoftPrompts,
    content,
    mean_of_words,
    soft_text,
)
from tests.support import tiny
from tests.support.drawn import DrawnSoftText, DrawnText


WORDS = ("fear", "great joy")


def test_the_context_stands_between_start_and_word() -> None:
    text = DrawnSoftText()
    prompts = SoftPrompts(text, WORDS, length=3)
    tokens, mask = prompts.embeddings()
    plain, counted = text.embed_words(["fear.", "great joy."])
    assert torch.equal(tokens[:, 0], plain[:, 0])
    for row in tokens:
        assert torch.equal(row[1:4], prompts.context)
    assert torch.equal(tokens[:, 4:], plain[:, 1:])
    assert mask.sum(1).tolist() == (counted.sum(1) + 3).tolist()
    torch.testing.assert_close(
        prompts.vectors(text)[1], text.encode_embeddings(tokens[1:], mask[1:])[0]
    )


def test_a_context_of_its_own_for_each_word() -> None:
    prompts = SoftPrompts(DrawnSoftText(), WORDS, length=3, class_specific=True)
    assert prompts.context.shape == (2, 3, 4)
    tokens = prompts.embeddings()[0]
    assert torch.equal(tokens[:, 1:4], prompts.context)
    assert not torch.equal(prompts.context[0], prompts.context[1])


def test_a_context_of_words_is_the_sentence_itself() -> None:
    text = DrawnSoftText()
    prompts = SoftPrompts(text, WORDS, start="a photo of", suffix=" face.")
    sentences = [f"a photo of {word} face." for word in WORDS]
    torch.testing.assert_close(prompts.vectors(text), text.encode(sentences))


def test_noise_fills_what_the_words_leave() -> None:
    torch.manual_seed(0)
    long = DrawnSoftText(longest=10_000)
    prompts = SoftPrompts(long, WORDS, length=500, start="a photo of")
    begun = long.embed_words(["a photo of"])[0][0, 1:4]
    assert torch.equal(prompts.context[:3], begun)
    assert float(prompts.context[3:].detach().std()) == pytest.approx(STD, rel=0.1)


def test_held_vectors_are_constants() -> None:
    text = DrawnSoftText()
    prompts = SoftPrompts(text, WORDS, length=2)
    with prompts.held(text):
        before, calls = prompts.vectors(text), text.calls
        with torch.no_grad():
            prompts.context.add_(1)
        assert torch.equal(prompts.vectors(text), before)
        assert not before.requires_grad and text.calls == calls
    assert not torch.allclose(prompts.vectors(text), before)
    assert prompts.vectors(text).requires_grad


def test_words_are_neither_ends_nor_padding() -> None:
    mask = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    assert content(mask).int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]]
    embeddings = torch.arange(10.0).view(2, 5, 1)
    assert mean_of_words(embeddings, mask).tolist() == [[1.5], [6.0]]


def test_too_many_words_for_the_context() -> None:
    with pytest.raises(UsageError, match="context 'a photo of' has 3 tokens, expected at most 2"):
        SoftPrompts(DrawnSoftText(), WORDS, length=2, start="a photo of")


def test_a_text_encoder_without_a_tower() -> None:
    with pytest.raises(UsageError, match=r"method x learns prompts .* DrawnText has none"):
        soft_text(DrawnText(), "method x")


@pytest.mark.parametrize("family", ["clip", "align", "blip"])
def test_in_the_towers_of_transformers(family: str, tmp_path: Path) -> None:
    """Prompts of known words give what the words give; gradient reaches the context alone."""
    torch.manual_seed(0)
    folder = {"clip": tiny.save_clip, "align": tiny.save_align, "blip": tiny.save_blip}[family]
    text: Any = build_text_encoder(folder(tmp_path / family))
    words = ("fear", "anger")
    prompts = SoftPrompts(text, words, start="a photo of", suffix=" face.")
    expected = text.encode([f"a photo of {word} face." for word in words])
    torch.testing.assert_close(prompts.vectors(text), expected, rtol=1e-4, atol=1e-5)
    prompts.vectors(text)[0].sum().backward()
    assert prompts.context.grad is not None and (prompts.context.grad.abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in text.parameters())
