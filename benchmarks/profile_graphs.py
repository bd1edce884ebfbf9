"""Where the time of every graph that fervor ships goes, one thread, one picture, as a table.

    python benchmarks/profile_graphs.py [--rounds 20]

Of each graph the processor time of a run, the least of the rounds, without a profiler; and with
onnxruntime's profiler the operations that take most of it, after its fusions. All outputs are
asked for. The detectors look at 640 x 480 pixels.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fervor.artifacts.packaged import WEIGHTS


NAMED = 4
"""Operations of a graph that are named."""
WARM = 2


def opened(graph: Path, *, profile: str = "") -> onnxruntime.InferenceSession:
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = bool(profile)
    options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def picture(session: onnxruntime.InferenceSession) -> dict[str, NDArray[Any]]:
    """Noise of the kind and shape that a graph takes in."""
    (given,) = session.get_inputs()
    numbers = np.random.default_rng(0)
    if given.type == "tensor(uint8)":
        return {given.name: numbers.integers(0, 256, (1, 480, 640, 3), np.uint8)}
    return {given.name: numbers.random((1, *given.shape[1:]), np.float32)}


def seconds(graph: Path, rounds: int) -> float:
    """Processor time of a run, the least of the rounds."""
    session = opened(graph)
    image = picture(session)
    best = float("inf")
    for _ in range(WARM + rounds):
        start = time.thread_time()
        session.run(None, image)
        best = min(best, time.thread_time() - start)
    return best


def probabilities(graph: Path, rounds: int) -> list[tuple[str, float]]:
    """Operations and their shares of the time in 0..1, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        session = opened(graph, profile=str(Path(folder) / "profile"))
        image = picture(session)
        for _ in range(rounds):
            session.run(None, image)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    total = spent.total()
    return [(name, duration / total) for name, duration in spent.most_common()]


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    print("| graph | a picture | operations that take most of it |\n|---|---|---|")
    for graph in sorted(WEIGHTS.rglob("*.onnx")):
        most = probabilities(graph, rounds)[:NAMED]
        named = ", ".join(f"{name} {fraction:.0%}" for name, fraction in most)
        name = graph.relative_to(WEIGHTS).as_posix()
        print(f"| `{name}` | {1000 * seconds(graph, rounds):.1f} ms | {named} |", flush=True)


if __name__ == "__main__":
    main()
