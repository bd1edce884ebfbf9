"""The baseline without language: a linear layer on pooled features, cross-entropy with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from fervor.data.batch import Batch
from fervor.methods.base import Method
from fervor.methods.losses import text_similarity_loss
from fervor.models.image import Features, ImageEncoder
from fervor.models.text.encoders import TextEncoder


class Classifier(Method):
    """Discrete labels: p = Cls(f) (KE-FER, eq. 2), the row every other row is compared with."""

    @dataclass(frozen=True)
    class Options:
        """Settings of the baseline.

        Attributes:
            probe: leave the encoder as it came and train the linear layer alone (ours).
        """

        probe: bool = False

    uses_text = False
    options: Options

    def __init__(
        self, image: ImageEncoder, text: TextEncoder, labels: Sequence[str], options: Options
    ) -> None:
        super().__init__(image, text, labels, options)
        self.head = nn.Linear(image.width, len(labels))
        if options.probe:
            self.image.requires_grad_(False)
        self.train(self.training)

    def frozen(self) -> tuple[str, ...]:
        """The encoder, where it is probed."""
        return ("image",) if self.options.probe else ()

    def train(self, mode: bool = True) -> Self:
        """As for every module, but a probed encoder stays in eval mode."""
        super().train(mode)
        if self.options.probe:
            self.image.eval()
        return self

    def class_vectors(self) -> Float[Tensor, "c d"]:
        """The linear layer's rows, in the space of the features."""
        return self.head.weight

    def logits(self, features: Features) -> Float[Tensor, "b c"]:
        """Scores of the linear layer."""
        scores: Tensor = self.head(features.pooled)
        return scores

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the target's shares."""
        return {"loss": text_similarity_loss(self.logits(self.encode(batch)), batch.target)}
