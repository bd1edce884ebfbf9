"""Whether an image encoder's architecture can be that of the weights beside it.

A model.json may come from a stranger: a file of a kilobyte does not get to ask for a network of
gigabytes.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fervor.artifacts.model_info import whole_numbers
from fervor.config import Encoder
from fervor.errors import FervorError
from fervor.models.image import build_image_encoder


__all__ = ["check_architecture"]

SMALL = 4096
"""Numbers of an architecture up to which nothing is asked."""

COUNTED = re.compile("layers|depth|repeat|blocks")
"""Names of numbers that say how often something is built."""


def check_architecture(
    config: Encoder, architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Raises ValueError where the image encoder is larger than the weights that are there."""
    stored = {key: value for key, value in tensors.items() if key.startswith("image.")}
    widest = max((side for tensor in stored.values() for side in tensor.shape), default=0)
    for name, number in whole_numbers(architecture, "architecture"):
        limit = len(stored) if COUNTED.search(name) else max(SMALL, widest)
        if number > limit:
            raise ValueError(f"{name} is {number}, more than the weights hold")
    try:
        with torch.device("meta"):  # no memory is taken
            drawn = build_image_encoder(config, architecture=architecture)
    except FervorError:
        raise
    except Exception as error:  # transformers raises nearly anything
        raise ValueError(f"architecture: {error}") from None
    count = sum(parameter.numel() for parameter in drawn.parameters())
    stored_count = sum(tensor.numel() for tensor in stored.values())
    if count > stored_count:
        raise ValueError(
            f"architecture has {count:,} parameters, the weights hold {stored_count:,}"
        )
