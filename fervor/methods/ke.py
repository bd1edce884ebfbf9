"""KE-FER: "Knowledge-Enhanced Facial Expression Recognition with Emotional-to-Neutral
Transformation", Li et al., 2024, https://arxiv.org/abs/2409.08598.

Published: frozen text vectors as class weights (L_s), a network G that turns an expression's
features into neutral ones (L_t), and the contrast of an image's two features with its text (L_c).
Ours: centred text vectors, the side of the layer that joins unequal widths, shares as targets, and
prompts that learn (the paper names them as future work).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.labels import EXPRESSIONS, NEUTRAL
from fervor.methods.base import Method
from fervor.methods.losses import (
    contrastive_loss,
    self_contrast_loss,
    similarities,
    text_similarity_loss,
    transformation_loss,
)
from fervor.models.distributed import all_gather_with_grad
from fervor.models.image import Features, ImageEncoder
from fervor.models.text.encoders import SoftTextEncoder, TextEncoder
from fervor.models.text.prompt_learning import SoftPrompts, soft_text
from fervor.prompts import templates


EFFECT = 0.05
"""Cosine by which a loss has to move what it pulls at; less is no effect (ours)."""


class KE(Method):
    """Any image encoder against frozen text vectors."""

    @dataclass(frozen=True)
    class Options:
        """Settings of KE-FER.

        Attributes:
            temperature: tau (released code: 0.01, CLIP's logit scale of 100).
            similarity_weight: of L_s (paper: 1).
            transformation_weight: of L_t (paper: 1).
            contrast_weight: of L_c (paper: 1).
            contrast: self (paper), or simclr, the alternative of the paper's Figure 4.
            self_contrast: diagonal pairs each image with its own text (paper, eq. 10);
                all_pairs averages every text with every image (released code).
            margin: of L_c (paper: 2, keeps it positive).
            template: number of the prompt template, 1 to 9 (paper, Table 3: 9), a sentence of your
                own with [CLS], or a JSON file of sentences for each class, whose mean vector stands
                for it (ours).
            text: fixed (paper), or learned: the embeddings of the template's words before the class
                word learn, as in CoOp (named by the paper as future work; this form is ours).
            centre: subtract the mean text vector of the eight expressions, whatever the data set's
                classes are (ours; for crowded text spaces).
            join: side of the layer that joins unequal widths (paper: a layer; side: ours). On
                frozen texts a trained layer can collapse the classes.
            bottleneck: G is d -> d / bottleneck -> d (paper: 512 -> 128 -> 512).
        """

        temperature: float = 0.01
        similarity_weight: float = 1.0
        transformation_weight: float = 1.0
        contrast_weight: float = 1.0
        contrast: Literal["self", "simclr"] = "self"
        self_contrast: Literal["diagonal", "all_pairs"] = "diagonal"
        margin: float = 2.0
        template: templates.Template = 9
        text: Literal["fixed", "learned"] = "fixed"
        centre: bool = False
        join: Literal["image", "text"] = "image"
        bottleneck: int = 4

        def __post_init__(self) -> None:
            if self.temperature <= 0:
                raise UsageError(f"temperature is {self.temperature}, expected a number above 0")
            if self.bottleneck < 1:
                raise UsageError(f"bottleneck is {self.bottleneck}, expected 1 or more")

    options: Options
    texts: Tensor
    neutral_text: Tensor
    centre: Tensor

    def __init__(
        self, image: ImageEncoder, text: TextEncoder, labels: Sequence[str], options: Options
    ) -> None:
        super().__init__(image, text, labels, options)
        self.sentences = tuple(
            " / ".join(templates.sentences_of(options.template, label)) for label in labels
        )
        self.soft: SoftPrompts | None = None
        if options.text == "learned":
            self._learn_text(soft_text(text, "method ke with options.text learned"))
        else:
            self._fix_text(text)
        self.joint: nn.Module = nn.Identity()
        self.text_joint: nn.Module = nn.Identity()
        width = text.width
        if image.width != text.width and options.join == "image":
            self.joint = nn.Linear(image.width, text.width)
        elif image.width != text.width:
            self.text_joint = nn.Linear(text.width, image.width)
            width = image.width
        hidden = max(1, width // options.bottleneck)
        self.to_neutral = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.neutral_index = self.labels.index(NEUTRAL) if NEUTRAL in self.labels else -1

    def _fix_text(self, text: TextEncoder) -> None:
        """Encode the classes' sentences once."""
        options = self.options
        # the neutral prompt takes part even where neutral is no class (ours)
        vectors = _encoded(text, options.template, [*self.labels, NEUTRAL])
        centre = torch.zeros_like(vectors[0])
        if options.centre:
            centre = _encoded(text, options.template, EXPRESSIONS).mean(0)
        self.register_buffer("texts", vectors[:-1] - centre)
        self.register_buffer("neutral_text", vectors[-1] - centre)
        self.register_buffer("centre", centre)

    def _learn_text(self, text: SoftTextEncoder) -> None:
        """Start a context from the template's words before the class word; shared by all."""
        source = self.options.template
        if isinstance(source, dict):
            raise UsageError("options.text learned starts from one sentence, not from a file")
        sentence = templates.template(source) if isinstance(source, int) else source
        before, _, after = sentence.partition(templates.SLOT)
        also = EXPRESSIONS if self.options.centre else (NEUTRAL,)
        self.words = tuple(dict.fromkeys((*self.labels, NEUTRAL, *also)))
        self.text = text
        if isinstance(text, nn.Module):
            text.requires_grad_(False)
        self.soft = SoftPrompts(text, self.words, start=before.strip(), suffix=after)

    def _texts(self) -> tuple[Float[Tensor, "c d"], Float[Tensor, " d"], Float[Tensor, " d"]]:
        """The classes' raw vectors and neutral's, both less the centre, and the centre."""
        if self.soft is None:
            return self.texts, self.neutral_text, self.centre
        vectors = self.soft.vectors(self.text)
        centre = torch.zeros_like(vectors[0])
        if self.options.centre:
            centre = vectors[[self.words.index(name) for name in EXPRESSIONS]].mean(0)
        neutral = vectors[self.words.index(NEUTRAL)]
        return vectors[: len(self.labels)] - centre, neutral - centre, centre

    def frozen(self) -> tuple[str, ...]:
        """The text tower, where prompts learn through it."""
        return () if self.soft is None else ("text",)

    def word_tensors(self) -> tuple[str, ...]:
        """The classes' text vectors; a context that learns is shared by all words."""
        return ("texts",) if self.soft is None else ()

    @contextmanager
    def constant_text(self) -> Iterator[None]:
        """A text tower runs once."""
        with nullcontext() if self.soft is None else self.soft.held(self.text):
            yield

    def class_vectors(self) -> Float[Tensor, "c d"]:
        """The classes' text vectors in the joint space, unit length."""
        return F.normalize(self.text_joint(self._texts()[0]), dim=-1)

    def text_centre(self) -> Float[Tensor, " d"]:
        """The mean over the eight expressions, zeros where texts are not centred."""
        return self._texts()[2]

    def project(self, features: Features) -> Features:
        """The encoder's features, joined to the width of the texts, not normalised."""
        return Features(self.joint(features.pooled), self.joint(features.tokens), features.grid)

    def logits(self, features: Features) -> Float[Tensor, "b c"]:
        """Cosine / temperature (eq. 4 and 5); G is for training only."""
        return similarities(features.pooled, self.class_vectors()) / self.options.temperature

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L = lambda_s L_s + lambda_t L_t + lambda_c L_c (eq. 11) and its parts."""
        pooled = all_gather_with_grad(self.joint(self.encode(batch).pooled).float())
        label, target = all_gather_with_grad(batch.label), all_gather_with_grad(batch.target)
        texts, neutral_text, _ = self._texts()
        vectors, neutral = self.text_joint(texts), self.text_joint(neutral_text)
        logits = similarities(pooled, vectors) / self.options.temperature
        similarity = text_similarity_loss(logits, target)
        probabilities = None if batch.mixture is None else all_gather_with_grad(batch.mixture)
        mixed = Batch(None, label, target, mixture=probabilities).classes()
        rows, numbers, weight = mixed or (torch.arange(len(label)), label, None)
        transformation, contrast = self._neutral_losses(
            pooled[rows], vectors, neutral, numbers, weight
        )
        weights = self.options
        total = (
            weights.similarity_weight * similarity
            + weights.transformation_weight * transformation
            + weights.contrast_weight * contrast
        )
        return {
            "loss": total,
            "similarity": similarity,
            "transformation": transformation,
            "contrast": contrast,
        }

    # What the parts do

    def activity(self, batch: Batch) -> dict[str, float]:
        """Mean cosines of the images that are not neutral.

        `calm_neutral` and `calm_own` are of G(f) with the text of neutral and of the own class,
        `own` of f with its own text, `change` of f - G(f) with the texts' difference.
        """
        expressive = batch.label != self.neutral_index
        if not bool(expressive.any()):
            return {}
        features = self.batch_features(batch).pooled[expressive].float()
        texts, neutral_text, _ = self._texts()
        vectors, neutral = self.text_joint(texts), self.text_joint(neutral_text)
        own, calm = vectors[batch.label[expressive]], self.to_neutral(features).float()
        pairs = {
            "calm_neutral": (calm, neutral.expand_as(calm)),
            "calm_own": (calm, own),
            "own": (features, own),
            "change": (features - calm, own - neutral),
        }
        return {
            name: float(F.cosine_similarity(*pair, dim=-1).mean()) for name, pair in pairs.items()
        }

    def inactive(self, start: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
        """L_t where the change turns no nearer to the texts', L_c where no gap opens."""
        if not start:
            return []
        turned = now["change"] - start["change"]
        gap = now["own"] - now["calm_own"] - (start["own"] - start["calm_own"])
        weights, parts = self.options, []
        if weights.transformation_weight and turned < EFFECT:
            parts.append(f"L_t (the change turned by {turned:+.3f} in cosine)")
        if weights.contrast_weight and gap < EFFECT:
            parts.append(f"L_c (the gap grew by {gap:+.3f} in cosine)")
        return parts

    def _neutral_losses(
        self,
        pooled: Float[Tensor, "b d"],
        vectors: Float[Tensor, "c d"],
        neutral_text: Float[Tensor, " d"],
        label: Int[Tensor, " b"],
        weight: Float[Tensor, " b"] | None,
    ) -> tuple[Tensor, Tensor]:
        """L_t and L_c over the images that are not neutral; no stop-gradient (released code).

        A mixed image counts once for each of its classes, by its share (ours).
        """
        expressive = label != self.neutral_index
        weight = None if weight is None else weight[expressive]
        features, texts = pooled[expressive], vectors[label[expressive]]
        neutral = self.to_neutral(features).float()
        transformation = transformation_loss(features, neutral, texts, neutral_text, weight=weight)
        options = self.options
        if options.contrast == "simclr":
            contrast = contrastive_loss(
                features, neutral, texts, temperature=options.temperature, weight=weight
            )
        else:
            contrast = self_contrast_loss(
                features,
                neutral,
                texts,
                margin=options.margin,
                all_pairs=options.self_contrast == "all_pairs",
                weight=weight,
            )
        return transformation, contrast


@torch.no_grad()
def _encoded(
    text: TextEncoder, template: templates.Template, words: Sequence[str]
) -> Float[Tensor, "n d"]:
    """The raw text vectors of the words; of several sentences the mean."""
    spoken = [templates.sentences_of(template, word) for word in words]
    vectors = text.encode([sentence for part in spoken for sentence in part]).float()
    return torch.stack([part.mean(0) for part in vectors.split([len(part) for part in spoken])])
