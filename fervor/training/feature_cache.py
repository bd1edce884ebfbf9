"""Fixed augmented views, their frozen layers computed once: short runs at a fraction of the cost.

Epoch e takes view e mod n of every image. A view is a function of the image's place in the
split and of the view's number, not of a run's seed. With no more epochs than views a run sees what
it would see with the layers computed anew each time; runs that are compared share the cache.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from fervor.config import Augment, Encoder, Pipeline
from fervor.data.augmentation import Augmentation
from fervor.data.batch import Batch, targets
from fervor.data.image_set import ImageSet
from fervor.data.loading import evaluation_batches, pair_generator, teachers_of
from fervor.data.samplers import Key, Partners, mixed_seed, seeded
from fervor.errors import UsageError
from fervor.io.atomic import atomic_write
from fervor.io.progress import progress
from fervor.methods.base import Method
from fervor.models.amp import has_bfloat16


CHUNK = 64
"""Images augmented together; part of what a view is."""

CHANGES = 2
"""Which meaning of the augmentation's settings views have: 1 had another crop and contrast."""

PROBED = 2048
"""Values by which weights are told apart: more are averaged."""


class ViewBatches(Dataset[Batch]):
    """Batches of the maps that a method's frozen layers made of a view."""

    def __init__(
        self,
        images: ImageSet,
        pipeline: Pipeline,
        views: list[NDArray[np.uint16]],
        *,
        pairs: bool = False,
    ) -> None:
        self.images = images
        self.data, self.seed = pipeline.data, pipeline.seed
        self.views = views
        self.teachers = teachers_of(images, self.data)
        self.partners = Partners(images.label) if pairs else None

    def __getitem__(self, key: Key) -> Batch:
        """The batch of a key."""
        indices = torch.tensor(key.indices)
        label, votes = self.images.label[indices], self.images.votes[indices]
        with seeded(mixed_seed(self.seed, key.epoch, key.step)):
            target = targets(label, votes, self.data.target)
        if self.teachers is not None:
            target = torch.lerp(target, self.teachers[indices], self.data.teachers_weight)
        positive = None
        if self.partners is not None:
            partners = self.partners.draw(indices, pair_generator(self.seed, key))
            positive = self._maps(key, partners)
        maps = self._maps(key, indices)
        return Batch(None, label[key.own], target[key.own], maps=maps, positive_maps=positive)

    def _maps(self, key: Key, indices: Tensor) -> Tensor:
        rows = self.views[key.epoch % len(self.views)][indices[key.own].numpy()]
        return torch.from_numpy(rows).view(torch.bfloat16).permute(0, 3, 1, 2).float()


def view_batches(method: Method, images: ImageSet, pipeline: Pipeline) -> ViewBatches:
    """A run's batches from its cached views; computes those that are not there yet.

    Where the method asks for pairs a batch also holds the same view of a partner of each image.

    Raises:
        UsageError: the method has no frozen layers, or images shall be mixed.
    """
    data, augment, encoder = pipeline.data, pipeline.augment, pipeline.encoder
    if not method.has_frozen_stage or not encoder.frozen_blocks:
        raise UsageError(
            "data.views needs a face encoder or vlm, with encoder.frozen_blocks above 0"
        )
    if augment.mixup:
        raise UsageError("data.views cannot mix pairs: set augment.mixup to 0")
    folder = Path(data.cache) / _fingerprint(method, images, encoder, augment)
    numbers = range(data.views)
    for number in numbers:  # what another process is at can wait until the rest is there
        _compute(method, images, pipeline, folder, number, wait=False)
    for number in numbers:
        _compute(method, images, pipeline, folder, number, wait=True)
    views = [np.load(_path(folder, number), mmap_mode="r") for number in numbers]
    return ViewBatches(images, pipeline, views, pairs=method.pairs)


def plain_batches(method: Method, images: ImageSet, pipeline: Pipeline) -> Iterable[Batch]:
    """A split in order to measure a method on: images, or the cached maps of a run with views.

    The frozen layers run in single precision here, as they do in evaluation.
    """
    data, encoder = pipeline.data, pipeline.encoder
    if encoder.mirror or not data.views or not method.has_frozen_stage:
        yield from evaluation_batches(images, size=encoder.size)
        return
    folder = Path(data.cache) / _fingerprint(method, images, encoder, None)
    path = folder / "plain.npy"
    if not path.is_file():
        _write_plain(method, images, path, size=encoder.size)
    maps: NDArray[np.float32] = np.load(path, mmap_mode="r")
    for indices in torch.arange(len(images)).split(CHUNK):
        rows = torch.from_numpy(maps[indices.numpy()]).permute(0, 3, 1, 2)
        yield Batch(None, images.label[indices], images.votes[indices], maps=rows)


@torch.no_grad()
def _write_plain(method: Method, images: ImageSet, path: Path, *, size: int) -> None:
    """Maps [n i j d] of the images as they are, whole or not at all."""
    device = _device(method)

    def maps() -> Iterator[NDArray[Any]]:
        for batch in evaluation_batches(images, size=size):
            image = batch.images().to(device, memory_format=torch.channels_last)
            yield method.frozen_stage(image).permute(0, 2, 3, 1).cpu().numpy()

    with _evaluated(method):
        _store(path, len(images), maps())


def _fingerprint(method: Method, images: ImageSet, config: Encoder, augment: Augment | None) -> str:
    """What cached maps depend on, as a name: images, augmentation, frozen layers."""
    layers = asdict(replace(config, weights="", mirror=False))  # the probe below tells weights
    changes = None if augment is None else {**asdict(augment), "version": CHANGES}
    settings: dict[str, Any] = {"augment": changes, "encoder": layers, "chunk": CHUNK}
    if augment is not None and has_bfloat16():
        settings["precision"] = "bf16"  # see _frozen
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for block in images.blocks():
        digest.update(block.numpy().data)
    # restored BatchNorm differs from run to run, its function does not
    with torch.no_grad(), _evaluated(method):
        probe = torch.linspace(0, 1, config.size).expand(1, 3, config.size, -1)
        maps = method.frozen_stage(probe.to(_device(method))).mean(dim=(2, 3))
        if maps.shape[1] > PROBED:  # of many values some lie where rounding turns
            maps = F.adaptive_avg_pool1d(maps, PROBED)
    digest.update(np.round(maps.cpu().double().numpy(), 2).tobytes())
    return digest.hexdigest()[:16]


def _path(folder: Path, view: int) -> Path:
    return folder / f"view{view}.npy"


@torch.no_grad()
def _compute(
    method: Method,
    images: ImageSet,
    pipeline: Pipeline,
    folder: Path,
    view: int,
    *,
    wait: bool,
) -> None:
    """One view's maps [n i j d], bfloat16 seen as uint16, into its file; see `_store`."""
    augment = pipeline.augment
    augmentation = Augmentation(augment, pipeline.encoder.size)
    boxes = images.boxes(pipeline.data.cache) if augment.occlude else None

    def maps() -> Iterator[NDArray[Any]]:
        with progress(len(images), f"caching view {view + 1} of {pipeline.data.views}") as bar:
            for indices in torch.arange(len(images)).split(CHUNK):
                with seeded(mixed_seed(view, int(indices[0]))):
                    parts = None if boxes is None else boxes[indices]
                    image = augmentation(images.take(indices), parts)
                yield _frozen(method, image)
                bar.update(len(indices))

    with _evaluated(method):
        _store(_path(folder, view), len(images), maps(), wait=wait)


def _store(path: Path, count: int, parts: Iterable[NDArray[Any]], *, wait: bool = True) -> None:
    """Write parts [b ...] of an array [count ...], whole or not at all, where it is not there yet.

    They are written, not mapped: a full disk then is an error and not the end of the process. What
    a killed process left is removed. Where another process is at the same file, wait for it, or
    with `wait` false leave it to that one.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=-1 if wait else 0)
    try:
        acquired = lock.acquire()
    except Timeout:
        return
    with acquired:
        if path.is_file():
            return
        for left in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
            left.unlink()
        with atomic_write(path) as partial, partial.open("wb") as file:
            for part in parts:
                if not file.tell():
                    shape = (count, *part.shape[1:])
                    kind = np.lib.format.dtype_to_descr(part.dtype)
                    header = {"descr": kind, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(part).data)


@contextmanager
def _evaluated(method: Method) -> Iterator[None]:
    """The method in eval mode, and then in its own again."""
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)


def _device(method: Method) -> torch.device:
    """Where the method is: a training has moved it before it caches anything."""
    return next(method.parameters()).device


def _frozen(method: Method, image: Tensor) -> NDArray[np.uint16]:
    device = _device(method)
    image = image.expand(-1, 3, -1, -1).to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16()):
        maps = method.frozen_stage(image)
    whole = maps.to(torch.bfloat16).permute(0, 2, 3, 1).contiguous().cpu()
    stored: NDArray[np.uint16] = whole.view(torch.uint16).numpy()
    return stored
