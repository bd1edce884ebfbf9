"""Control rows' texts: another expression's vector, or equal angles between all."""

import pytest
import torch

from fervor.errors import UsageError
from fervor.labels import EXPRESSIONS
from fervor.models.text.controls import ShuffledText, SimplexText, shuffled
from fervor.models.text.encoders import StoredText, build_text_encoder
from fervor.prompts.templates import TEMPLATES, fill


def test_every_expression_gets_anothers_vector() -> None:
    plain, moved = StoredText(), build_text_encoder("shuffled:minilm-vectors")
    assert isinstance(moved, ShuffledText) and moved.width == plain.width
    for template in TEMPLATES.values():
        said = [fill(template, name) for name in EXPRESSIONS]
        own, other = plain.encode(said), moved.encode(said)
        assert not any(torch.equal(a, b) for a, b in zip(own, other, strict=True))
        assert sorted(own.tolist()) == sorted(other.tolist())
    assert shuffled("A photo of an anger face.") == "A photo of a contempt face."
    assert shuffled("a happiness") == "an anger"


def test_a_simplex_has_equal_angles() -> None:
    text = build_text_encoder("simplex")
    assert isinstance(text, SimplexText)
    vectors = text.encode([fill(TEMPLATES[9], name) for name in EXPRESSIONS])
    cosines = vectors @ vectors.T
    expected = torch.where(torch.eye(8, dtype=torch.bool), 1.0, -1 / 7)
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=0)
    assert torch.equal(vectors, text.encode([fill(TEMPLATES[1], name) for name in EXPRESSIONS]))
    assert vectors.abs().min() > 0  # turned: no feature stands for a class


@pytest.mark.parametrize("name", ["simplex", "shuffled:minilm-vectors"])
def test_other_words_have_no_control(name: str) -> None:
    with pytest.raises(UsageError, match="control texts know neutral, happiness"):
        build_text_encoder(name).encode(["a photo of a bored face"])
