"""MPA-FER: "Multimodal Prompt Alignment for Facial Expression Recognition", Ma, He, Sun and Li,
ICCV 2025, https://arxiv.org/abs/2506.21017.

Published: prompts that learn in front of the class words and among the patches of a frozen
image-text model; soft prompts drawn to hard ones that describe the expression, images drawn to
their class's prototype, and patches that are matched with the texts beside the whole image. No
code was released. What reports of the paper leave open or dispute is an option, and its default
names its source: (reported) public reports of the paper, (re-implementation) assumptions of a
public one, (ours). Equations and sources: docs/methods/mpa.md.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.methods.base import Method
from fervor.methods.losses import (
    class_means,
    local_similarities,
    prototype_loss,
    similarities,
    soft_hard_contrast,
    soft_hard_distance,
    text_similarity_loss,
)
from fervor.models.image import Features, ImageEncoder
from fervor.models.image.base import TransformerEncoder
from fervor.models.text.encoders import TextEncoder
from fervor.models.text.prompt_learning import STD, SoftPrompts, mean_of_words, soft_text
from fervor.prompts import templates


Alignment = Literal["contrastive", "l1", "none"]


UNCHANGED = 0.999
"""Cosine of images with and without visual prompts above which these do nothing (ours)."""


class MPA(Method):
    """A frozen image-text model with prompts on both sides; nothing else learns."""

    @dataclass(frozen=True)
    class Options:
        """Settings of MPA-FER.

        Attributes:
            temperature: tau of the prediction (CLIP's logit scale of 100; reported).
            context_length: tokens of the soft context (reported: 10).
            class_context: a context of its own for each class (open; shared: re-implementation).
            context_words: words that the context starts from; the rest, or all, is noise of
                deviation 0.02 (reported).
            visual_prompts: visual prompts of a layer (reported: 8).
            visual_learning_rate: of the visual prompts; 0 for the run's (ours: their gradient is a
                thousandth of the text context's).
            visual_depth: layers that get them, from the first on; -1 for all, 0 for none (open;
                all: ours).
            hard_prompts: class, expression or description: the three kinds of hard prompts
                (reported: description).
            descriptions: a file of fervor describe; empty for the bank (ours; the paper's are not
                public).
            alignment_weight: beta, of L_t (reported: 1).
            token_alignment: L_ta: contrastive (reported), l1 (ours) or none.
            prompt_alignment: L_pa: contrastive (re-implementation), l1 (one report) or none.
            alignment_softmax: whether their softmax runs over the soft prompts (two reports), the
                hard ones (one report), or both in turn (ours).
            alignment_reduction: sum over the classes (eq. 2) or mean.
            alignment_temperature: tau of L_ta and L_pa (0.07: ours; 0.01 makes the first step
                explode: re-implementation).
            prototype_weight: gamma, of L_v (reported: 1).
            prototype_distance: cosine or l1 (reported as alternatives).
            prototype_pictures: images of each class that a prototype is the mean of; 0 for all
                (reported as a table's last row).
            top_k: patches of each class and image (reported: 16); 0 for the image alone.
        """

        temperature: float = 0.01
        context_length: int = 10
        class_context: bool = False
        context_words: str = ""
        visual_prompts: int = 8
        visual_learning_rate: float = 0.0
        visual_depth: int = -1
        hard_prompts: templates.HardPrompt = "description"
        descriptions: str = ""
        alignment_weight: float = 1.0
        token_alignment: Alignment = "contrastive"
        prompt_alignment: Alignment = "contrastive"
        alignment_softmax: Literal["soft", "hard", "both"] = "soft"
        alignment_reduction: Literal["sum", "mean"] = "sum"
        alignment_temperature: float = 0.07
        prototype_weight: float = 1.0
        prototype_distance: Literal["cosine", "l1"] = "cosine"
        prototype_pictures: int = 0
        top_k: int = 16

        def __post_init__(self) -> None:
            for name in ("temperature", "alignment_temperature"):
                if getattr(self, name) <= 0:
                    raise UsageError(f"{name} is {getattr(self, name)}, expected a number above 0")
            for name, least in {
                "context_length": 1,
                "visual_prompts": 0,
                "visual_depth": -1,
                "alignment_weight": 0,
                "prototype_weight": 0,
                "prototype_pictures": 0,
                "top_k": 0,
            }.items():
                if getattr(self, name) < least:
                    raise UsageError(f"{name} is {getattr(self, name)}, expected {least} or more")

    options: Options
    image: TransformerEncoder
    visual: nn.Parameter | None
    hard_tokens: Tensor
    hard_vectors: Tensor
    prototypes: Tensor

    def __init__(
        self, image: ImageEncoder, text: TextEncoder, labels: Sequence[str], options: Options
    ) -> None:
        super().__init__(image, text, labels, options)
        if not isinstance(image, TransformerEncoder):
            raise UsageError(
                f"method mpa puts prompts among a transformer's tokens, {type(image).__name__} has "
                "none: choose encoder vlm or clip"
            )
        self.text = soft_text(text, "method mpa")
        if image.width != text.width:
            raise UsageError(
                f"the image encoder gives {image.width} numbers, the text encoder {text.width}: "
                "method mpa needs the two towers of one image-text model"
            )
        for tower in (image, text):
            if isinstance(tower, nn.Module):
                tower.requires_grad_(False)
        self.soft = SoftPrompts(
            self.text,
            self.labels,
            length=options.context_length,
            class_specific=options.class_context,
            start=options.context_words,
        )
        self.register_parameter("visual", _visual_prompts(image, options))
        for name in ("hard_tokens", "hard_vectors", "prototypes"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self._prepared = False
        self.train(self.training)

    def frozen(self) -> tuple[str, ...]:
        """Both towers."""
        return ("image", "text")

    def word_tensors(self) -> tuple[str, ...]:
        """None: a context that is shared stands in front of any word."""
        if self.options.class_context:
            raise UsageError("has a context for each of its classes, and none for other words")
        return ()

    def train(self, mode: bool = True) -> Self:
        """As for every module, but the towers stay in eval mode."""
        super().train(mode)
        self.image.eval()
        return self

    # Once before the first step

    def images_to_prepare(self) -> int | None:
        """Those of which the prototypes are the means."""
        options = self.options
        return options.prototype_pictures if options.prototype_weight else None

    def prepare(
        self, batches: Iterable[Batch], *, kept: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Encode the hard prompts; take the means of each class's plain images (eq. 6)."""
        if self._aligned():
            self._encode_hard_prompts()
        self._prepared = True
        if self.images_to_prepare() is None:
            return {}
        if kept is None:
            kept = {"prototypes": self._prototypes(batches)}
        self.prototypes = kept["prototypes"].to(self.soft.context.device)
        return kept

    def _aligned(self) -> bool:
        options = self.options
        return options.alignment_weight > 0 and {
            options.token_alignment,
            options.prompt_alignment,
        } != {"none"}

    @torch.no_grad()
    def _encode_hard_prompts(self) -> None:
        options = self.options
        file = Path(options.descriptions) if options.descriptions else None
        self.sentences = tuple(templates.hard_prompts(options.hard_prompts, self.labels, file))
        with torch.autocast(self.soft.context.device.type, enabled=False):
            embeddings, mask = self.text.embed_words(self.sentences)
            self.hard_tokens = mean_of_words(embeddings, mask)
            self.hard_vectors = self.text.encode_embeddings(embeddings, mask)

    @torch.no_grad()
    def _prototypes(self, batches: Iterable[Batch]) -> Float[Tensor, "c d"]:
        """Class means of the frozen tower's vectors, without prompts, not normalised (ours)."""
        device = self.soft.context.device
        self.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pooled, label = [], []
        for batch in batches:
            pooled.append(self.encode(batch.to(device)).pooled.float().cpu())
            label.append(batch.label.cpu())
        return class_means(torch.cat(pooled), torch.cat(label), len(self.labels))

    # Prediction

    def class_vectors(self) -> Float[Tensor, "c d"]:
        """What the text tower makes of the soft prompts, unit length."""
        return F.normalize(self.soft.vectors(self.text), dim=-1)

    @contextmanager
    def constant_text(self) -> Iterator[None]:
        """The text tower runs once."""
        with self.soft.held(self.text):
            yield

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """The prompted tower's class token and patches (eq. 5), each of unit length."""
        return self._prompted(self.image.embed(image))

    def batch_features(self, batch: Batch) -> Features:
        """The same of a batch."""
        if batch.maps is None:
            return self.features(batch.images())
        return self._prompted(self.image.embed_maps(batch.maps))

    def _prompted(self, states: Float[Tensor, "b n k"]) -> Features:
        features = self.image.prompted(states, () if self.visual is None else self.visual)
        pooled, tokens = (F.normalize(part.float(), dim=-1) for part in features[:2])
        return Features(pooled, tokens, features.grid)

    def logits(self, features: Features) -> Float[Tensor, "b c"]:
        """S / tau (eq. 10 and 11): neither hard prompts nor prototypes take part."""
        return self._scores(features, self.class_vectors())

    def _scores(self, features: Features, vectors: Tensor) -> Float[Tensor, "b c"]:
        scores = similarities(features.pooled, vectors)
        if self.options.top_k:
            scores = scores + local_similarities(features.tokens, vectors, self.options.top_k)
        return scores / self.options.temperature

    # What the parts do

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The text context at the rate; visual prompts at their own, where there is one."""
        groups: list[dict[str, Any]] = [{"params": [self.soft.context], "lr": learning_rate}]
        if self.visual is not None:
            own = self.options.visual_learning_rate
            groups.append({"params": [self.visual], "lr": own or learning_rate})
        return groups

    def activity(self, batch: Batch) -> dict[str, float]:
        """Mean cosine of images with and without visual prompts, and with their own class."""
        prompted = self.batch_features(batch).pooled
        plain = F.normalize(self.encode(batch).pooled.float(), dim=-1)
        own = self.class_vectors()[batch.label]
        return {
            "prompted_unprompted": float((prompted * plain).sum(-1).mean()),
            "own": float((prompted * own).sum(-1).mean()),
        }

    def inactive(self, start: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
        """Visual prompts that leave every image where it was."""
        cosine = now["prompted_unprompted"]
        if self.visual is not None and cosine > UNCHANGED:
            return [f"visual prompts (cosine with and without them {cosine:.4f})"]
        return []

    # Objective

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_total = L_vt + beta L_t + gamma L_v (eq. 12) and its parts; `prepare` comes first."""
        assert self._prepared, "prepare comes before the first step"
        features, vectors = self.batch_features(batch), self.soft.vectors(self.text)
        matching = text_similarity_loss(self._scores(features, vectors), batch.target)
        parts = {"loss": matching, "matching": matching}
        options = self.options
        if self._aligned():
            parts |= self._alignment(vectors)
            parts["loss"] = parts["loss"] + options.alignment_weight * parts["alignment"]
        if options.prototype_weight:
            mixed = batch.classes()
            rows, label, weight = mixed or (torch.arange(len(batch.label)), batch.label, None)
            parts["prototype"] = prototype_loss(
                features.pooled[rows],
                self.prototypes[label],
                distance=options.prototype_distance,
                weight=weight,
            )
            parts["loss"] = parts["loss"] + options.prototype_weight * parts["prototype"]
        return parts

    def _alignment(self, vectors: Float[Tensor, "c d"]) -> dict[str, Tensor]:
        """L_t = L_ta + L_pa (eq. 1 to 4): before the text tower, and behind it."""
        tokens = mean_of_words(*self.soft.embeddings())
        options, terms = self.options, {}
        for name, kind, soft, hard in (
            ("token_alignment", options.token_alignment, tokens, self.hard_tokens),
            ("prompt_alignment", options.prompt_alignment, vectors, self.hard_vectors),
        ):
            if kind == "contrastive":
                terms[name] = soft_hard_contrast(
                    soft,
                    hard,
                    temperature=options.alignment_temperature,
                    over=options.alignment_softmax,
                    reduction=options.alignment_reduction,
                )
            elif kind == "l1":
                terms[name] = soft_hard_distance(soft, hard)
        return {**terms, "alignment": torch.stack([*terms.values()]).sum()}


def _visual_prompts(image: TransformerEncoder, options: MPA.Options) -> nn.Parameter | None:
    """Prompts of each layer's own [k p w] (eq. 5), noise at the start; None for none.

    Raises:
        UsageError: more layers than the encoder has.
    """
    depth = len(image.layers) if options.visual_depth < 0 else options.visual_depth
    if depth > len(image.layers):
        raise UsageError(
            f"visual_depth is {depth}, expected at most {len(image.layers)}, this encoder's layers"
        )
    if not depth * options.visual_prompts:
        return None
    shape = (depth, options.visual_prompts, image.token_width)
    return nn.Parameter(STD * torch.randn(*shape))
