"""Measure the training loop beside a bare one of the same model, in seconds a step.

    python benchmarks/measure_training.py FERPLUS [--recipe NAME] [--threads 2] [--steps 40]
    python benchmarks/measure_training.py FERPLUS --all [--threads 2]

Trains a recipe for so many steps as `fervor train` does, with everything that belongs to a step:
making the batch, augmentation, the moving average, the log. Then a bare loop takes the same
batches, which are ready: forward, backward, clipping and the optimizer's step. Both are medians
of two rounds in turn, for a machine's speed drifts. --all prints images a second of every recipe
whose networks are packaged: batches made and stepped on, bare. Landmarks of the training images,
which the student's occlusions ask for, take minutes once and stay in the cache.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measure_loading import keys, recipe, stepped

from fervor.config import Run
from fervor.data.batch import Batch
from fervor.data.loading import TrainingBatches
from fervor.data.splits import read_splits
from fervor.methods.base import Method
from fervor.training.prepare import prepare
from fervor.training.trainer import build_method, build_networks, train


WARM = 5
"""Steps that do not count."""
PACKAGED = (
    "ke/ferplus-mobilenet",
    "ke/ferplus-mobilenet-student",
    "classifier/ferplus-mobilenet-evidence",
    "mpa/ferplus-embedded",
    "lacovl/ferplus-embedded",
    "vlm/ferplus-mobilenet",
    "finetune/folder",
)
SHORT, STEPS = 2, 4
"""Of --all: steps that do not count, and that do."""


def whole_loop(run: Run) -> tuple[list[float], list[Batch]]:
    """Seconds of each step of a training, and its batches: from one loss's begin to the next."""
    begins: list[float] = []
    batches: list[Batch] = []
    kind = type(build_method(run, build_networks(run), read_splits(run.pipeline)))
    losses = kind.losses

    def watched(method: Method, batch: Batch) -> Any:
        begins.append(time.perf_counter())
        batches.append(batch)
        return losses(method, batch)

    with patch.object(kind, "losses", watched):
        train(run)
    return [after - before for before, after in itertools.pairwise(begins)], batches


def bare_loop(run: Run, batches: Iterable[Batch]) -> list[float]:
    """Seconds of each step of a loop that does nothing else."""
    splits = read_splits(run.pipeline)
    method = build_method(run, build_networks(run), splits)
    prepare(method, splits.train, run.pipeline, precision=run.optim.precision)
    seconds, start = [], time.perf_counter()
    for _ in stepped(method, run, batches):
        now = time.perf_counter()
        seconds.append(now - start)
        start = now
    return seconds


def speed_of(run: Run) -> float:
    """Images a second of a recipe's batches and steps; the bare loop, views not cached."""
    splits = read_splits(run.pipeline)
    method = build_method(run, build_networks(run), splits)
    prepare(method, splits.train, run.pipeline, precision=run.optim.precision)
    made, sizes = TrainingBatches(splits.train, run.pipeline), []
    chosen = keys(splits, run, SHORT + STEPS - 1)
    steps = stepped(method, run, (made[key] for key in chosen))
    start = 0.0
    for number, size in enumerate(steps, start=1):
        if number == SHORT:
            start = time.perf_counter()
        elif number > SHORT:
            sizes.append(size)
    return sum(sizes) / (time.perf_counter() - start)


def every(root: str, cache: str) -> None:
    """Print a row for each packaged recipe."""
    for name in PACKAGED:
        run = recipe(name, root, cache)
        data = dataclasses.replace(run.data, name="ferplus", views=0)
        run = dataclasses.replace(run, data=data)
        print(f"| `{name}` | {speed_of(run):.0f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ferplus")
    parser.add_argument("--recipe", default="ke/ferplus-mobilenet-student")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cache", default="runs/cache")
    parser.add_argument("--all", action="store_true", help="a row for each packaged recipe")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.all:
        every(given.ferplus, given.cache)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        run = recipe(given.recipe, given.ferplus, given.cache)
        images = len(read_splits(run.pipeline).train)
        fraction = (WARM + given.steps + 1) * run.optim.batch_size / images
        run = dataclasses.replace(
            run,
            output=str(Path(folder) / "run"),
            data=dataclasses.replace(run.data, epoch_fraction=min(1.0, fraction)),
            optim=dataclasses.replace(run.optim, epochs=1, warmup_epochs=0),
        )
        whole, batches = whole_loop(run)
        count = len(batches)
        bare = bare_loop(run, batches)[WARM:]
        again, _ = whole_loop(dataclasses.replace(run, output=str(Path(folder) / "again")))
        bare += bare_loop(run, batches)[WARM:]
    ours, plain = statistics.median(whole[WARM:] + again[WARM:]), statistics.median(bare)
    size = run.optim.batch_size
    print(f"{given.recipe}, {count} steps of {size}, {given.threads} threads, load {load:.1f}")
    print(f"{'fervor train':20}{ours:8.3f} s a step{size / ours:8.1f} images a second")
    print(f"{'a bare loop':20}{plain:8.3f} s a step{size / plain:8.1f} images a second")
    print(f"{'more time':20}{ours / plain - 1:8.1%}")


if __name__ == "__main__":
    main()
