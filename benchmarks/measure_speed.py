"""Measure how long one photograph takes: cold (a new process) and warm, part by part.

    python benchmarks/measure_speed.py [PICTURE] [--threads 1] [--runs 7]

Prints minimum, median and maximum over the runs. Nothing is written.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fervor import Predictor
from fervor.faces.detector import FaceDetector
from fervor.io.sources import find, read


EXAMPLE = Path(__file__).parent.parent / "examples" / "astronaut.jpg"


def timed(name: str, work: Callable[[], object], runs: int) -> None:
    """Run the work and print its times in milliseconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    low, middle, high = min(times), statistics.median(times), max(times)
    print(f"{name:28} {middle:8.1f} ms  ({low:.1f} to {high:.1f})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", default=str(EXAMPLE))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    runs, threads = given.runs, given.threads

    def process(*words: str) -> Callable[[], object]:
        command = [sys.executable, "-m", "fervor", *words]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    timed("fervor --help", process("--help"), runs)
    timed("fervor predict --help", process("predict", "--help"), runs)
    timed("fervor predict, cold", process("predict", given.picture), runs)
    image = next(iter(read(find([given.picture])))).image
    assert image is not None, f"{given.picture} cannot be read"
    detector = FaceDetector(threads)
    detector.detect([image])
    timed("detector, warm", lambda: detector.detect([image]), runs)
    predictor = Predictor(faces="precropped", threads=threads)
    face = image[:48, :48]
    predictor(face)
    timed("classifier, one face, warm", lambda: predictor(face), 10 * runs)
    whole = Predictor(threads=threads)
    whole(image)
    timed("photograph, warm", lambda: whole(image), runs)


if __name__ == "__main__":
    main()
