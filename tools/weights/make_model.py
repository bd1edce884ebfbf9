"""The chain to version 0.2's model by one command; what is finished is not done again.

    git archive b728858 fervor/weights | tar -x -C EARLIER --strip-components 2
    python tools/weights/make_model.py FERPLUS EARLIER RUNS [--photographs FOLDER] [--test]

EARLIER holds `embedded` and `vlm` of version 0.1. What they answer to each training image and to
its mirror image teaches the student, which goes on from `embedded`. Stored logits, run,
temperature, export, operating points, int8, and the figures on photographs; with --test, at the
very end, FERPlus test. A run that was interrupted goes on after its last whole epoch. Budget and
rules: docs/decisions/model-0.2.md.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


SCRIPTS = Path(__file__).parent
PHOTOGRAPHS = SCRIPTS.parents[1] / "benchmarks" / "measure_photographs.py"
TEACHERS = ("embedded", "vlm")
STUDENT = "ke/ferplus-mobilenet-student"
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
"""Memory stays with the process: a step then takes 12 % less time."""


def run(words: Sequence[str]) -> None:
    """One command of the chain, or the end of it."""
    print(*words, flush=True)
    code = subprocess.run(words, env={**os.environ, **MEMORY}).returncode
    if code:
        sys.exit(code)


def trained(recipe: str, root: Path, runs: Path, *options: str) -> Path:
    """The folder of a recipe's run, trained to its end."""
    folder = runs / recipe.rpartition("/")[2]
    command = [sys.executable, "-m", "fervor", "train"]
    if (folder / "config.yaml").is_file() and not (folder / "model.json").is_file():
        run([*command, "--resume", str(folder)])
    elif not (folder / "model.json").is_file():
        where = ["--data.root", str(root), "--data.cache", str(runs / "cache")]
        run([*command, "--config", recipe, *where, "--output", str(folder), *options])
    return folder


def main() -> None:
    """Every step in order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the FERPlus folder")
    parser.add_argument("earlier", type=Path, help="folder of version 0.1's embedded and vlm")
    parser.add_argument("runs", type=Path, help="folder of the runs, the logits and the model")
    parser.add_argument("--photographs", type=Path, help="images/ and labels.csv of another source")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--test", action="store_true", help="read FERPlus test, once")
    given = parser.parse_args()
    root, runs, python = given.root, given.runs, sys.executable
    teachers = [str(given.earlier / name) for name in TEACHERS]
    model, logits = runs / "model", runs / "logits.safetensors"
    if not logits.is_file():
        store = [python, str(SCRIPTS / "store_logits.py"), str(root), *teachers]
        run([*store, "--views", "2", "--output", str(logits)])
    start = ("--data.teachers", str(logits), "--start", teachers[0])
    folder = trained(STUDENT, root, runs, "--threads", str(given.threads), *start)
    if not (model / "model.json").is_file():
        make = [python, str(SCRIPTS / "make_embedded.py"), str(root), str(folder)]
        run([*make, "--output", str(model)])
    run([python, str(SCRIPTS / "fit_points.py"), str(root), "--model", str(model)])
    run([python, str(SCRIPTS / "measure_int8.py"), str(root), "--model", str(model), "--make"])
    if given.photographs is not None:
        measure = [python, str(PHOTOGRAPHS), str(given.photographs)]
        run([*measure, "--model", str(model), "--output", str(runs / "results")])
    if given.test:
        evaluate = [python, "-m", "fervor", "evaluate", "--model", str(model)]
        run([*evaluate, "--data.root", str(root), "--output", str(runs / "results")])


if __name__ == "__main__":
    main()
