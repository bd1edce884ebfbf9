"""The contract of a method."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.models.image import Features, ImageEncoder
from fervor.models.text.encoders import TextEncoder


class Method(nn.Module):
    """A way to recognise expressions: encoders come ready, only its own layers are built here."""

    @dataclass(frozen=True)
    class Options:
        """The method's own settings; each default says where it comes from."""

    pairs: ClassVar[bool] = False
    """Whether a training batch shall also hold a same-class partner of each image."""

    auxiliary: ClassVar[tuple[str, ...]] = ()
    """Frozen networks that it takes beside its encoders where a run names them, as keywords."""

    uses_text: ClassVar[bool] = True
    """Whether what it makes depends on the text encoder, whose terms then apply."""

    terms: ClassVar[str] = ""
    """Licence and data terms of what the method itself brings, for the card of a model."""

    def __init__(
        self, image: ImageEncoder, text: TextEncoder, labels: Sequence[str], options: Any
    ) -> None:
        super().__init__()
        self.image = image
        self.text_width = text.width
        self.labels = tuple(labels)
        self.options = options
        self.sentences: tuple[str, ...] = ()
        """What the text encoder read, one sentence per label; for the description of a model."""

    def frozen(self) -> tuple[str, ...]:
        """Towers that stay as they came: a model folder names them and does not hold them."""
        return ()

    def word_tensors(self) -> tuple[str, ...]:
        """Its own tensors that follow from its classes' words: other words, others of these.

        Raises:
            UsageError: its classes are learned, and no words.
        """
        raise UsageError("has learned its classes, which are no words")

    @property
    def has_frozen_stage(self) -> bool:
        """Whether maps of `frozen_stage` can stand for images: no other network sees these."""
        return self.image.has_frozen_stage and not self.auxiliary

    def frozen_stage(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d i j"]:
        """What frozen layers make of images, for a cache; a batch then holds it as its maps."""
        return self.image.frozen_stage(image)

    def images_to_prepare(self) -> int | None:
        """Images of each class that `prepare` wants to see: 0 for all, None for none."""
        return None

    def prepare(
        self, batches: Iterable[Batch], *, kept: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """What is done once before the first step; a pass over plain images where it needs one.

        Returns what that pass found. Handed back as `kept`, it stands for the pass.
        """
        return {}

    @contextmanager
    def constant_text(self) -> Iterator[None]:
        """Within it class vectors do not change; where they learn, their text tower runs once."""
        yield

    def class_vectors(self) -> Float[Tensor, "c d"]:
        """What images are compared with, one row per label."""
        raise NotImplementedError

    def text_centre(self) -> Float[Tensor, " d"]:
        """What was subtracted from raw text vectors before they became class vectors."""
        return torch.zeros_like(self.class_vectors()[0])

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Prediction, in train and in eval mode alike: logits."""
        return self.logits(self.features(image))

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """What `forward` compares with the class vectors, whole and place by place."""
        return self.project(self.image(image))

    def project(self, features: Features) -> Features:
        """The encoder's features in the space of the class vectors; as they are by default."""
        return features

    def encode(self, batch: Batch) -> Features:
        """The image encoder's features of a batch: of its images, or of the maps in their place."""
        features: Features = (
            self.image(batch.images())
            if batch.maps is None
            else self.image.trainable_stage(batch.maps)
        )
        return features

    def batch_features(self, batch: Batch) -> Features:
        """`features` of a batch; a method that has its own `features` has its own of these too."""
        return self.project(self.encode(batch))

    def logits(self, features: Features) -> Float[Tensor, "b c"]:
        """The logits of features that are already there: forward(x) = logits(features(x))."""
        raise NotImplementedError

    def with_frozen(self, batch: Batch) -> Batch:
        """The batch with what frozen networks make of it, for two passes over one batch."""
        return batch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective: `loss` is minimised, every other key is logged under its name."""
        raise NotImplementedError

    def activity(self, batch: Batch) -> dict[str, float]:
        """What its parts do on a few faces, in figures of its own; for `training.activity`."""
        return {}

    def inactive(self, start: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
        """Parts whose effect on these faces is none, by the figures before and after."""
        return []

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Learning rates by part; by default one for everything that trains."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": learning_rate}]
