"""Measure prediction over Ray Data on this machine: one worker, two workers, one thread each.

    python benchmarks/cluster.py --root FERPLUS --output benchmarks/results/NAME.json

Predicts --count pictures, FERPlus's test faces again and again as files of their own, on a cluster
that is started for each run, in turn round by round. Start-up is left out: a time counts from the
moment when the rows of the first piece are written to that when the last row is. Every run's rows
are checked: each picture once, in order. Needs fervor[cluster] and a core for each worker.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measures import spread
from run import origin, say

from fervor import Predictor
from fervor.data.datasets import load
from fervor.inference import cluster
from fervor.io import provenance
from fervor.outputs.tables import open_table


WORKERS = (1, 2)


def write_pictures(root: str, folder: Path, count: int) -> list[str]:
    """The paths of `count` pictures, copied from FERPlus's test split."""
    samples = load("ferplus", root, "test", protocol="majority7")
    folder.mkdir()
    paths = [str(folder / f"{number:06}.png") for number in range(count)]
    for number, path in enumerate(paths):
        shutil.copyfile(samples[number % len(samples)].path, path)
    return paths


def timed(paths: list[str], workers: int, batch_size: int, folder: Path) -> dict[str, float]:
    """Seconds of start-up and of the pictures after the first piece, and how many those are."""
    options = {"faces": "precropped", "threads": 1, "batch_size": batch_size}
    labels = Predictor(faces="precropped", threads=1).labels
    piece = cluster.BATCHES * batch_size
    output = folder / "rows.jsonl"
    begin = time.perf_counter()
    first = begin
    with cluster.joined(workers, 1) as joined, open_table(output, labels) as table:
        answers = cluster.answers(paths, options, workers=joined)
        for number, (_, predictions, points) in enumerate(answers, 1):
            table.write(predictions, points)
            if number == piece:
                first = time.perf_counter()
        last = time.perf_counter()
    with output.open(encoding="utf-8") as lines:
        if [json.loads(line)["source"] for line in lines] != paths:
            raise SystemExit("a picture was lost, doubled or out of order")
    return {"start_up": first - begin, "seconds": last - first, "pictures": len(paths) - piece}


def described(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole result."""
    load_before, started = os.getloadavg(), time.strftime("%Y-%m-%d")
    paths = write_pictures(given.root, folder / "pictures", given.count)
    runs: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
    for number in range(given.rounds):
        for workers in WORKERS[:: 1 if number % 2 == 0 else -1]:
            say(f"round {number + 1} of {given.rounds}, {workers} worker(s)")
            runs[workers].append(timed(paths, workers, given.batch_size, folder))
    one, two = ([run["seconds"] for run in runs[workers]] for workers in WORKERS)
    return {
        **origin(started, load_before[0]),
        "versions": {name: version(name) for name in ("fervor", "ray", "onnxruntime", "pyarrow")},
        "count": given.count,
        "batch_size": given.batch_size,
        "runs": {str(workers): measured for workers, measured in runs.items()},
        "ratio": spread([b / a for a, b in zip(one, two, strict=True)]),
    }


def main() -> int:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("--root", required=True, help="FERPlus folder")
    add("--output", type=Path, required=True, help="result file, .json")
    add("--count", type=int, default=10_000, help="pictures")
    add("--rounds", type=int, default=3)
    add("--batch_size", type=int, default=32)
    given = parser.parse_args()
    if given.rounds < 1 or given.count <= cluster.BATCHES * given.batch_size * max(WORKERS):
        parser.error("expected a round, and more pictures than the workers' first pieces hold")
    with tempfile.TemporaryDirectory() as folder:
        result = described(given, Path(folder))
    provenance.write_text(given.output, json.dumps(result, indent=1) + "\n")
    ratio = result["ratio"]["median"]
    print(f"two workers take {ratio:.2f} of the time of one: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
