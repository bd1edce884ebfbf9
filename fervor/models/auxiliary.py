"""Frozen networks that stand beside a method's encoders: landmark network and teacher."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from fervor.config import Encoder, Landmarks, Teacher
from fervor.errors import UsageError
from fervor.models.image import build_image_encoder
from fervor.models.image.base import ImageEncoder, TransformerEncoder
from fervor.models.mobilefacenet import build_landmark_encoder


NONE = "none"
"""The name that leaves a network out."""


def build_auxiliary(
    method: str, accepted: Sequence[str], landmarks: Landmarks, teacher: Teacher
) -> dict[str, Any]:
    """The networks that are named, as keywords of the method.

    Args:
        method: its name, for messages.
        accepted: the networks that the method takes.
        landmarks: which landmark network.
        teacher: which image tower.

    Raises:
        UsageError: a network that the method does not take, or one that nobody trained.
        ModelError: weights that are missing or do not fit.
    """
    named = {"landmarks": landmarks.name, "teacher": teacher.name}
    names = [name for name, network in named.items() if network != NONE]
    if strange := [name for name in names if name not in accepted]:
        raise UsageError(
            f"method {method} takes no {strange[0]}: set {strange[0]}.name to {NONE}, or choose "
            "another method"
        )
    networks: dict[str, Any] = {}
    if "landmarks" in names:
        networks["landmarks"] = build_landmark_encoder(landmarks)
    if "teacher" in names:
        networks["teacher"] = build_teacher(teacher)
    for name, network in networks.items():
        if network.report is None:
            raise UsageError(
                f"{name} {named[name]} has random weights, from which nothing can be learnt: give "
                f"--{name}.weights"
            )
    return networks


def build_teacher(config: Teacher) -> ImageEncoder:
    """A frozen image encoder whose tokens have the tower's own width, in eval mode.

    The projection into the space shared with texts would narrow them: CLIP's 768 to 512.
    """
    encoder = build_image_encoder(
        Encoder(name=config.name, weights=config.weights, size=config.size)
    )
    if isinstance(encoder, TransformerEncoder) and "projection" in dict(encoder.named_children()):
        encoder.add_module("projection", nn.Identity())
        encoder.width = encoder.token_width
    return encoder.requires_grad_(False).eval()
