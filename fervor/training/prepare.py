"""What a method does once before its first step, its pass over the images cached by content."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fervor.config import Pipeline, Precision
from fervor.data.image_set import ImageSet
from fervor.data.loading import evaluation_batches
from fervor.methods import build
from fervor.methods.base import Method


def prepare(method: Method, images: ImageSet, pipeline: Pipeline, *, precision: Precision) -> None:
    """Let a method see plain training images once, or what an earlier run saw in them."""
    count, encoder, cache = method.images_to_prepare(), pipeline.encoder, pipeline.data.cache
    if count is None:
        method.prepare(())
        return
    if count:
        images = images.subset(_of_each_class(images.label, count, pipeline.seed))
    settings = {"size": encoder.size, "grey": encoder.grey, "precision": precision}
    path = Path(cache) / f"prepared-{_fingerprint(method, images, settings)}.safetensors"
    cached = load_file(path) if cache and path.is_file() else None
    batches = evaluation_batches(images, size=encoder.size)
    halved = precision == "bf16"
    device = next(method.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=halved):
        prepared = method.prepare(batches, kept=cached)
    if prepared and cached is None and cache:
        path.parent.mkdir(parents=True, exist_ok=True)
        build.save_weights(path, prepared)


def _of_each_class(label: Tensor, count: int, seed: int) -> Tensor:
    """The places of `count` images of each class, drawn by the seed; fewer where they are few."""
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    places = [order[label[order] == number][:count] for number in label.unique()]
    return torch.cat(places).sort().values


def _fingerprint(method: Method, images: ImageSet, settings: Mapping[str, Any]) -> str:
    """What a preparation depends on, as a name: the images, their classes, the frozen towers."""
    digest = hashlib.sha256(json.dumps([dict(settings), build.tower_checksums(method)]).encode())
    for block in images.blocks():
        digest.update(block.numpy().data)
    digest.update(images.label.numpy().data)
    return digest.hexdigest()[:16]
