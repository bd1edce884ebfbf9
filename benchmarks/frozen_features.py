"""Pooled features of the frozen face-pretrained trunk, computed once: a training takes seconds.

The trunk is face-mobilenet as it was published (last stride 2), its pictures turned to luminance. A
training picture has three fixed views, whose changes are those of the evidence profile; pictures
that are measured on are seen as they are. What is computed lies in a folder as half-precision files
and is found there by the next run.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import yaml
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fervor.config import Data, Encoder, Run
from fervor.data import datasets
from fervor.data.augmentation import Augmentation
from fervor.data.image_set import ImageSet, read_images
from fervor.data.loading import evaluation_batches
from fervor.data.samplers import mixed_seed
from fervor.data.splits import load_samples
from fervor.graphs.onnx import write_checked
from fervor.io.atomic import atomic_write
from fervor.models.image import FaceEncoder, build_image_encoder
from fervor.recipes import recipe_path


logger = logging.getLogger(__name__)

Halves = NDArray[np.float16]

SIZE = 160
VIEWS = 3
CHUNK = 64
"""Pictures augmented together; part of what a view is."""

ENCODER = Encoder(name="face-mobilenet", size=SIZE, grey=True, last_stride=2, frozen_blocks=13)
PROFILE = "ke/ferplus-mobilenet-evidence"
"""The recipe whose random changes make the views."""


class _Pooled(nn.Module):
    """The mean over the trunk's last map."""

    def __init__(self, encoder: FaceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Values in 0..6."""
        pooled: Tensor = self.encoder(image).pooled
        return pooled


def pictures_of(root: str, split: str, *, cache: str) -> ImageSet:
    """A split of FERPlus under the protocol `majority`."""
    data = Data(name="ferplus", root=root, protocol="majority", cache=cache)
    samples, _ = load_samples(data, split, protocol=data.protocol)
    labels = datasets.labels_of(data.name, samples, data.protocol)
    return read_images(samples, labels, size=SIZE, cache=cache)


def plain(pictures: ImageSet, folder: Path, split: str) -> Halves:
    """Features [n d] of a split's pictures as they are."""

    def images() -> Iterator[Tensor]:
        for batch in evaluation_batches(pictures, size=SIZE):
            yield batch.images()

    return _kept(folder / f"{split}.npy", folder, images(), len(pictures))


def views(pictures: ImageSet, folder: Path) -> list[Halves]:
    """Features [n d] of each view of the training pictures."""
    recipe = yaml.safe_load(recipe_path(PROFILE).read_text(encoding="utf-8"))
    augmentation = Augmentation(Run.from_values(recipe).augment, SIZE)

    def images(view: int) -> Iterator[Tensor]:
        for indices in torch.arange(len(pictures)).split(CHUNK):
            torch.manual_seed(mixed_seed(view, int(indices[0])))
            yield augmentation(pictures.take(indices)).expand(-1, 3, -1, -1)

    count = len(pictures)
    return [_kept(folder / f"view{n}.npy", folder, images(n), count) for n in range(VIEWS)]


def _kept(path: Path, folder: Path, images: Iterator[Tensor], count: int) -> Halves:
    """What the file holds; computed and written, whole or not at all, where it is not there."""
    if not path.is_file():
        session = _session(folder)
        parts: list[Any] = []
        for image in images:
            parts.append(session.run(None, {"image": image.numpy()})[0].astype(np.float16))
            if len(parts) % 50 == 0:
                logger.info("%s: %d of %d pictures", path.name, sum(map(len, parts)), count)
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(parts))
    found: Halves = np.load(path, mmap_mode="r")
    return found


def _session(folder: Path) -> onnxruntime.InferenceSession:
    """The trunk as a graph, which one thread runs twice as fast as torch does."""
    path = folder / "trunk.onnx"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        encoder = build_image_encoder(ENCODER)
        assert isinstance(encoder, FaceEncoder), "the trunk has parts"
        write_checked(_Pooled(encoder), path, size=SIZE, outputs=("pooled",), half=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
