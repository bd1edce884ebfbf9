"""The embedded image-text model's training: images and captions meet in one space (ours).

An image tower and a learned projection of frozen sentence vectors are trained as CLIP's towers are
(Radford et al., 2021, https://arxiv.org/abs/2103.00020), with soft targets in place of CLIP's
pairs: captions are composed from expressions (`fervor.prompts.captions`), and how much an image
wants a caption is the agreement of the raters' votes with what the caption speaks of. The answer is
the class whose sentences, under the nine templates, are nearest. These sentences stand in no
caption; their class words do, so that this is no zero-shot recognition.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.methods.base import Method
from fervor.methods.losses import agreement, similarities, soft_contrastive_loss
from fervor.models.distributed import all_gather_with_grad
from fervor.models.image import Features, ImageEncoder
from fervor.models.image.vlm import ensemble
from fervor.models.text.encoders import TextEncoder
from fervor.prompts import captions, templates


LARGEST_SCALE = 100.0
"""What the learned scale of the cosines may reach (CLIP)."""

CHUNK = 64
"""Sentences that are encoded together."""


class VLM(Method):
    """Image tower and projected text tower, aligned by captions."""

    @dataclass(frozen=True)
    class Options:
        """Settings of the alignment; all are ours but for the temperature.

        Attributes:
            temperature: at the start; it is learned (CLIP: 0.07).
            captions_seed: which captions are composed.
            drawn: captions drawn evenly for each step, beside one of its own for each image.
            sharpness: exponent of the agreement by which an image's own caption is drawn.
            text_rate: learning rate of the text projection, as a share of the rate.
            local_weight: of the same contrast for the mean over the places, so that each place can
                be compared with texts too; CLIP's patches are not trained to.
        """

        temperature: float = 0.07
        captions_seed: int = 0
        drawn: int = 256
        sharpness: float = 4.0
        text_rate: float = 0.1
        local_weight: float = 0.5

        def __post_init__(self) -> None:
            if self.temperature <= 0:
                raise UsageError(f"temperature is {self.temperature}, expected a number above 0")
            if self.drawn < 1:
                raise UsageError(f"drawn is {self.drawn}, expected 1 or more")

    options: Options
    texts: Tensor
    caption_vectors: Tensor
    caption_fractions: Tensor

    def __init__(
        self, image: ImageEncoder, text: TextEncoder, labels: Sequence[str], options: Options
    ) -> None:
        super().__init__(image, text, labels, options)
        sentences = [
            templates.fill(template, label)
            for label in labels
            for template in templates.TEMPLATES.values()
        ]
        texts = _encoded(text, sentences).unflatten(0, (len(labels), -1))
        self.register_buffer("texts", texts)
        self.projection = nn.Linear(text.width, image.width)
        nn.init.orthogonal_(self.projection.weight)
        if text.width == image.width:  # texts start from where their own tower put them
            nn.init.eye_(self.projection.weight)
        with torch.no_grad():
            self.projection.bias.copy_(-(self.projection.weight @ texts.mean((0, 1))))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(options.temperature)))
        vectors, probabilities = _captions(text, self.labels, options.captions_seed)
        self.register_buffer("caption_vectors", vectors, persistent=False)
        self.register_buffer("caption_fractions", probabilities, persistent=False)

    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by: one over the temperature."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def class_vectors(self) -> Float[Tensor, "c d"]:
        """The mean of each class's sentences under the nine templates, unit length."""
        return ensemble(self.projection(self.texts))

    def logits(self, features: Features) -> Float[Tensor, "b c"]:
        """Cosines with sentences that stand in no caption of the training, times scale."""
        return similarities(features.pooled, self.class_vectors()) * self.scale()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The soft-target contrast between the images and the step's captions."""
        features = self.encode(batch)
        with torch.autocast(features.pooled.device.type, enabled=False):
            probabilities = all_gather_with_grad(batch.target.float())
            numbers = self._step_captions(probabilities)
            texts = self.projection(self.caption_vectors[numbers])
            agreements = agreement(probabilities, self.caption_fractions[numbers])
            whole, local = (
                soft_contrastive_loss(similarities(vectors, texts) * self.scale(), agreements)
                for vectors in map(
                    all_gather_with_grad, (features.pooled, features.tokens.float().mean(1))
                )
            )
        loss = whole + self.options.local_weight * local
        return {"loss": loss, "whole": whole, "local": local, "scale": self.scale().detach()}

    def _step_captions(self, probabilities: Float[Tensor, "b c"]) -> Int[Tensor, " m"]:
        """Numbers of the step's captions: one for each image by agreement, others evenly."""
        agreements = agreement(probabilities, self.caption_fractions) ** self.options.sharpness
        own = torch.multinomial(agreements, 1).flatten()
        count = len(self.caption_fractions)
        others = torch.randint(count, (min(self.options.drawn, count),), device=own.device)
        return torch.cat([own, others])

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The text projection learns more slowly than the rest."""
        text = {id(parameter) for parameter in self.projection.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad]
        slower = learning_rate * self.options.text_rate
        return [
            {"params": [p for p in trained if id(p) not in text], "lr": learning_rate},
            {"params": [p for p in trained if id(p) in text], "lr": slower},
        ]


def _captions(
    text: TextEncoder, labels: Sequence[str], seed: int
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
    """Vectors of the captions that speak of the labels alone, and their shares.

    Raises:
        UsageError: labels that no caption speaks of.
    """
    composed = [
        caption
        for caption in captions.compose(seed)
        if all(name in labels for name, fraction in caption.probabilities.items() if fraction)
    ]
    spoken_of = {
        name for caption in composed for name, fraction in caption.probabilities.items() if fraction
    }
    without = [label for label in labels if label not in spoken_of]
    if without:
        raise UsageError(f"no captions for {', '.join(without)}: expected some of the expressions")
    probabilities = [
        [caption.probabilities.get(label, 0.0) for label in labels] for caption in composed
    ]
    return _encoded(text, [caption.text for caption in composed]), torch.tensor(probabilities)


@torch.no_grad()
def _encoded(text: TextEncoder, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
    """Raw vectors, a few sentences at a time, long ones with long ones."""
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
    chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
    vectors = [text.encode([sentences[place] for place in chunk]).float() for chunk in chunks]
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(vectors)[back]
