"""Prompts that learn: context among a text encoder's word embeddings.

Their visual counterparts join the states of an image encoder's layers in
`features.TransformerEncoder.prompted`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fervor.errors import UsageError
from fervor.models.text.encoders import SoftTextEncoder, TextEncoder


STD = 0.02
"""Of the noise that prompts start from (CoOp; MPA-FER by a public re-implementation)."""


class SoftPrompts(nn.Module):
    """One prompt per word: [start] context word suffix [end], whose context learns (CoOp's form).

    Args:
        text: the frozen text encoder.
        words: what stands behind the context, one prompt each.
        length: tokens of the context; 0 for as many as `start` has.
        class_specific: a context of its own for each word.
        start: words whose embeddings the context starts from; noise fills the rest.
        suffix: what follows the word.

    Raises:
        UsageError: `start` has more tokens than `length`, or a prompt more than the text encoder.
    """

    words: Tensor
    mask: Tensor

    def __init__(
        self,
        text: SoftTextEncoder,
        words: Sequence[str],
        *,
        length: int = 0,
        class_specific: bool = False,
        start: str = "",
        suffix: str = ".",
    ) -> None:
        super().__init__()
        embeddings, mask = text.embed_words([f"{word}{suffix}" for word in words])
        self.register_buffer("words", embeddings, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        begun = _content_of(text, start) if start else embeddings[0, :0]
        length = length or len(begun)
        if len(begun) > length:
            raise UsageError(
                f"the context {start!r} has {len(begun)} tokens, expected at most {length}: give "
                "fewer words or a longer context"
            )
        shape = (len(words), length) if class_specific else (length,)
        context = STD * torch.randn(*shape, text.token_width, device=embeddings.device)
        context[..., : len(begun), :] = begun
        self.context = nn.Parameter(context)
        self._held: Tensor | None = None
        with torch.no_grad():
            text.encode_embeddings(*self.embeddings())  # too long a prompt is refused at once

    def embeddings(self) -> tuple[Float[Tensor, "c t k"], Float[Tensor, "c t"]]:
        """The prompts' tokens, and 1 where a token counts."""
        context = self.context.expand(len(self.words), -1, -1)
        tokens = torch.cat([self.words[:, :1], context, self.words[:, 1:]], dim=1)
        counted = self.mask[:, :1].expand(-1, context.shape[1])
        return tokens, torch.cat([self.mask[:, :1], counted, self.mask[:, 1:]], dim=1)

    def vectors(self, text: SoftTextEncoder) -> Float[Tensor, "c d"]:
        """What the text encoder makes of the prompts, not normalised; fp32 under autocast too."""
        if self._held is not None:
            return self._held
        with torch.autocast(self.context.device.type, enabled=False):
            return text.encode_embeddings(*self.embeddings())

    @contextmanager
    def held(self, text: SoftTextEncoder) -> Iterator[None]:
        """Within it the vectors are constants: the text encoder runs once, and in no graph."""
        self._held = self.vectors(text).detach()
        try:
            yield
        finally:
            self._held = None


def content(mask: Float[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
    """Which tokens are words: neither start nor end nor padding."""
    place = torch.arange(mask.shape[1], device=mask.device)
    inside: Tensor = (place > 0) & (place < mask.sum(1, keepdim=True) - 1)
    return inside


def mean_of_words(
    embeddings: Float[Tensor, "n t k"], mask: Float[Tensor, "n t"]
) -> Float[Tensor, "n k"]:
    """The mean embedding of each sentence's words: prompts of any length can be compared (ours)."""
    words = content(mask).unsqueeze(-1).to(embeddings.dtype)
    return (embeddings * words).sum(1) / words.sum(1)


def soft_text(text: TextEncoder, purpose: str) -> SoftTextEncoder:
    """The text encoder, when it takes embeddings in place of words.

    Raises:
        UsageError: it does not.
    """
    if isinstance(text, SoftTextEncoder):
        return text
    raise UsageError(
        f"{purpose} learns prompts through a text tower, {type(text).__name__} has none: choose "
        "text vlm or minilm, or a local folder or hub name of CLIP"
    )


def _content_of(text: SoftTextEncoder, sentence: str) -> Float[Tensor, "t k"]:
    embeddings, mask = text.embed_words([sentence])
    return embeddings[0][content(mask)[0]]
