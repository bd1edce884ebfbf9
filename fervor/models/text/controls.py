"""Text vectors without knowledge, for control rows: whatever gains with them did not need words.

Shuffled vectors are another encoder's, each given to another expression; a simplex has equal angles
between all expressions.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fervor.errors import UsageError
from fervor.labels import EXPRESSIONS
from fervor.models.text.encoders import TextEncoder


SHIFT = 3
"""Places by which shuffling moves the expressions: none keeps its own vector."""

WIDTH = 384
"""Of a simplex's vectors: MiniLM's."""

_WORD = re.compile(rf"\b(?:(an?) )?({'|'.join(EXPRESSIONS)})\b", re.IGNORECASE)


class ShuffledText:
    """Another text encoder whose sentences speak of the expression three places further on.

    Args:
        text: the encoder that reads the sentences.
    """

    def __init__(self, text: TextEncoder) -> None:
        self._text = text
        self.width = text.width

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """The vectors of the changed sentences.

        Raises:
            UsageError: a sentence names none of the eight expressions.
        """
        return self._text.encode([shuffled(sentence) for sentence in sentences])


class SimplexText:
    """Unit vectors whose cosines are all -1/7, one for each expression, in a fixed random turn."""

    width = WIDTH

    def __init__(self) -> None:
        count = len(EXPRESSIONS)
        corners = torch.eye(count) - 1 / count
        generator = torch.Generator().manual_seed(0)
        turn = torch.linalg.qr(torch.randn(WIDTH, count, generator=generator)).Q
        self._vectors = torch.nn.functional.normalize(corners @ turn.T, dim=-1)

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """The corner of each sentence's expression, whatever else it says.

        Raises:
            UsageError: a sentence names none of the eight expressions.
        """
        return self._vectors[[_place(sentence) for sentence in sentences]].clone()


def shuffled(sentence: str) -> str:
    """The sentence with another expression in place of its own."""
    other = EXPRESSIONS[(_place(sentence) + SHIFT) % len(EXPRESSIONS)]

    def put(match: re.Match[str]) -> str:
        article = ""
        if match[1]:
            article = match[1][0] + ("n " if other[0] in "aeiou" else " ")
        return article + other

    return _WORD.sub(put, sentence, count=1)


def _place(sentence: str) -> int:
    match = _WORD.search(sentence)
    if match is None:
        raise UsageError(
            f"no vector for {sentence!r}: control texts know {', '.join(EXPRESSIONS)} alone"
        )
    return EXPRESSIONS.index(match[2].lower())
