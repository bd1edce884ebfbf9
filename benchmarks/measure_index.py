"""Time and memory of reading AffectNet's release of 2021, on a made-up tree of its full size.

    python benchmarks/measure_index.py FOLDER

Below FOLDER, which is created (1.3 GB) and left behind, stand 287,651 pictures for training and
4,000 for validation. Names and annotations are as in the release: each label is a file of its own.
The pictures, and the annotations of other kinds, are links to a few files, for nothing reads them.
Each row is measured in a process of its own; peak memory includes Python and numpy.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fervor.data.datasets import affectnet
from fervor.labels import AFFECTNET


SEED = 0
LINKS = 60_000
"""Links that one file takes; the usual file system allows 65,000."""

PROBE = """
import json, resource, sys, time
from fervor.data import datasets
started = time.perf_counter()
samples = datasets.load("affectnet", sys.argv[1], sys.argv[2])
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{len(samples):>9,}{seconds:>9.1f}{peak:>9.0f}")
"""


def write(root: Path, counts: Mapping[str, Mapping[str, int]]) -> None:
    random = np.random.default_rng(SEED)
    for split, name in affectnet.SETS.items():
        images, annotations = root / name / "images", root / name / "annotations"
        images.mkdir(parents=True)
        annotations.mkdir()
        sizes = [counts[split][label] for label in AFFECTNET]
        labels = random.permutation(np.repeat(np.arange(len(AFFECTNET)), sizes))
        for number, label in enumerate(labels.tolist()):
            np.save(annotations / f"{number}_exp.npy", np.array(str(label)))
            _link(images, f"{number}.jpg", number)
            for kind in ("val", "aro", "lnd"):
                _link(annotations, f"{number}_{kind}.npy", number)


def _link(folder: Path, name: str, number: int) -> None:
    source = folder / f".{name.lstrip('0123456789')}{number // LINKS}"
    if not source.exists():
        source.write_bytes(b"shared")
    os.link(source, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tree, cache = folder / "affectnet", folder / "cache"
    if not tree.exists():
        write(tree, affectnet.COUNTS)
    for path in cache.glob("*/*"):
        path.unlink()
    print(f"{'':24}{'pictures':>9}{'seconds':>9}{'MB peak':>9}")
    for split in ("train", "test"):
        for state in ("index is built", "index is kept"):
            print(f"{split}, {state:17}", end="", flush=True)
            environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
            command = [sys.executable, "-c", PROBE, str(tree), split]
            subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
