"""Measure whether reading keeps up with training: pictures a second, part by part.

    python benchmarks/measure_loading.py FERPLUS [--threads 2] [--steps 8] [--scratch DIR]
    python benchmarks/measure_loading.py --affectnet 287651 [--scratch DIR]

The first form compares batches, plain and augmented, with the training steps of two recipes on the
same threads. The second decodes a made-up split of AffectNet's size (one drawn picture of 224 x 224
under as many names) into the cache, 10.8 GB of it, and prints the peak of the memory in use. DIR is
a folder for caches; without it a temporary one is used and removed.
"""

import argparse
import dataclasses
import itertools
import os
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from fervor.config import Run
from fervor.data.batch import Batch
from fervor.data.datasets import Sample
from fervor.data.image_set import read_images
from fervor.data.loading import TrainingBatches, evaluation_batches
from fervor.data.samplers import EpochSampler, Key
from fervor.data.splits import Splits, load_samples, read_splits
from fervor.methods.base import Method
from fervor.recipes import recipe_path
from fervor.training.feature_cache import view_batches
from fervor.training.trainer import build_method, build_networks


SETTINGS = ("ke/ferplus-mobilenet", "ke/ferplus-mobilenet-evidence")
LINKS = 30_000
"""Names of one file; file systems allow some 65,000."""

VIEWED = 2048
"""Pictures whose frozen layers are computed for the step on cached views."""


def recipe(name: str, root: str, cache: str) -> Run:
    """A recipe of the package on the pictures at `root`."""
    parser = ArgumentParser()
    parser.add_class_arguments(Run)
    values = yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))
    found = parser.instantiate(parser.parse_object(values))
    run = Run(**{field.name: found[field.name] for field in dataclasses.fields(Run)})
    return dataclasses.replace(run, data=dataclasses.replace(run.data, root=root, cache=cache))


def rate(name: str, batches: Iterator[int]) -> float:
    """Print the pictures a second of an iterator over sizes of batches, of which the first warms.

    Gives them for a second of CPU time, which other work on the machine hardly changes.
    """
    next(batches)
    start, used, count = time.perf_counter(), time.process_time(), 0
    for size in batches:
        count += size
    return told(name, count, time.perf_counter() - start, time.process_time() - used)


def told(name: str, count: int, seconds: float, used: float) -> float:
    """Print a rate; gives it for a second of CPU time."""
    print(
        f"{name:50}{count / seconds:10,.0f} a second{count / used:10,.0f} a CPU second", flush=True
    )
    return count / used


def keys(splits: Splits, run: Run, steps: int) -> list[Key]:
    """Keys of the first steps."""
    sampler = EpochSampler(splits.train.label, run.optim.batch_size, seed=run.seed)
    return list(itertools.islice(sampler, steps + 1))


def stepped(method: Method, run: Run, batches: Iterable[Batch]) -> Iterator[int]:
    """Sizes of batches after a training step on each, as Lightning makes it."""
    optim = run.optim
    optimizer = torch.optim.SGD(
        method.parameter_groups(1e-4), 1e-4, momentum=optim.momentum, nesterov=optim.nesterov
    )
    method.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=optim.precision == "bf16"):
            loss = method.losses(batch.to(torch.device("cpu")))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), optim.clip or torch.inf)
        optimizer.step()
        yield len(batch.label)


def ferplus(root: str, cache: str, steps: int) -> None:
    """Rates on FERPlus."""
    run, viewed = (recipe(name, root, cache) for name in SETTINGS)
    samples, _ = load_samples(run.data, "train", protocol=run.data.protocol)
    for name in ("FERPlus train: files to cache", "FERPlus train: opened from the cache"):
        labels = sorted({sample.label for sample in samples})
        start, used = time.perf_counter(), time.process_time()
        pictures = read_images(samples, labels, size=run.encoder.size, cache=cache)
        told(name, len(pictures), time.perf_counter() - start, time.process_time() - used)
    splits = read_splits(run.pipeline)
    indices = [torch.tensor(key.indices) for key in keys(splits, run, 200)]
    plain = (len(splits.train.take(chosen).float().div(255)) for chosen in indices)
    rate("plain batches of the split, 48 px, float", plain)
    selection = splits.selection
    for size in (48, 112):
        sizes = (len(batch.label) for batch in evaluation_batches(selection, size=size))
        rate(f"evaluation batches, {size} px", sizes)
    compared(
        splits,
        run,
        TrainingBatches(splits.train, run.pipeline),
        build_method(run, build_networks(run), splits),
        steps,
    )
    small = dataclasses.replace(splits, train=splits.train.subset(torch.arange(VIEWED)))
    viewed = dataclasses.replace(viewed, data=dataclasses.replace(viewed.data, views=1))
    method = build_method(viewed, build_networks(viewed), small)
    compared(small, viewed, view_batches(method, small.train, viewed.pipeline), method, steps)


def compared(
    splits: Splits,
    run: Run,
    batches: torch.utils.data.Dataset[Batch],
    method: Method,
    steps: int,
) -> None:
    """Batches of a recipe beside its training step."""
    kind = "cached views" if run.data.views else "augmented"
    chosen = keys(splits, run, min(steps, len(splits.train) // run.optim.batch_size - 1))
    found = [batches[key] for key in chosen]
    ready = rate(
        f"{run.data.protocol}: {kind} batches, {run.encoder.size} px", taken(batches, chosen)
    )
    step = rate(
        f"training step on {kind} batches, {run.optim.precision}", stepped(method, run, found)
    )
    print(f"{'  batches for each that the step takes':50}{ready / step:10.1f}")


def taken(batches: torch.utils.data.Dataset[Batch], chosen: list[Key]) -> Iterator[int]:
    """Sizes of batches as they are made."""
    for key in chosen:
        yield len(batches[key].label)


def made_up(folder: Path, count: int) -> list[Sample]:
    """Files of a split of AffectNet's size: links to a few copies of one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((224, 224), Image.Resampling.BICUBIC)
    names = [folder / f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        if name.exists():
            continue
        if number % LINKS:
            os.link(names[number - number % LINKS], name)
        else:
            picture.save(name, quality=95)
    return [Sample(str(name), "neutral") for name in names]


def affectnet(count: int, cache: str) -> None:
    """A split of AffectNet's size through the cache, in bounded memory."""
    samples = made_up(Path(cache) / "made-up", count)
    print(f"{count:,} files; peak of the memory in use before reading: {peak():,.0f} MB")
    for name in ("files to cache", "opened from the cache"):
        start, used = time.perf_counter(), time.process_time()
        pictures = read_images(samples, ["neutral"], size=112, cache=cache)
        told(name, count, time.perf_counter() - start, time.process_time() - used)
        print(f"{'  peak of the memory in use':50}{peak():10,.0f} MB")
    print(f"{'size of the cache':50}{pictures.images.nbytes / 1e9:10.1f} GB")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).split(64)[:300]
    plain = (len(pictures.take(chosen).float().div(255)) for chosen in order)
    rate("plain batches in random order, 112 px, float", plain)
    print(f"{'  peak of the memory in use, map_ordered pages included':50}{peak():10,.0f} MB")


def peak() -> float:
    """Largest resident memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ferplus", nargs="?", help="a FERPlus folder")
    parser.add_argument("--affectnet", type=int, default=0, metavar="COUNT")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--scratch", default="")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, {given.threads} threads, load before the start {load:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        cache = given.scratch or temporary
        if given.ferplus:
            ferplus(given.ferplus, cache, given.steps)
        if given.affectnet:
            affectnet(given.affectnet, cache)


if __name__ == "__main__":
    main()
