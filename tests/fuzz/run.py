"""A long campaign of damaged files against what reads them.

    PYTHONPATH=. python tests/fuzz/run.py --targets picture --runs 100000
    PYTHONPATH=. python tests/fuzz/run.py --targets labels --runs 10000
    PYTHONPATH=. python tests/fuzz/run.py --engine atheris --runs 100000     (pip install atheris)

The plain engine damages the corpus by `mutations.py`, from a seed; Atheris (libFuzzer) chooses its
own damage, led by the lines of fervor that it reaches. Every target runs in a process of its own.
It fails where anything but fervor's own one-line errors comes out, where one input takes more than
five seconds of processor time, or where the process grows by more than 100 MB; the input that did
it is kept in build/fuzz. What it held at most for a moment is counted apart: that may be much for a
picture that states many pixels, and is what libFuzzer itself prints as "rss".
"""

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


LONGEST_SECONDS, LARGEST_GROWTH = 5.0, 100.0
WARM = 200
"""Inputs after which what is loaded late has been loaded."""

KEPT = Path("build/fuzz")


class Judge:
    """Gives inputs to a target, and stops at the first that is not answered as it should be."""

    def __init__(self, name: str, output: Path) -> None:
        from tests.fuzz.targets import one_input

        self._one_input, self._name, self._output = one_input, name, output
        self.runs = self.taken = 0
        self.longest, self.start, self.grown = 0.0, 0.0, 0.0

    def __call__(self, data: bytes) -> None:
        begin = time.process_time()
        try:
            self.taken += self._one_input(self._name, data)
        except BaseException:
            self.stop(data, traceback.format_exc())
        self.longest = max(self.longest, time.process_time() - begin)
        self.runs += 1
        if self.longest > LONGEST_SECONDS:
            self.stop(data, f"took {self.longest:.1f} s")
        if self.runs == WARM:
            self.start = megabytes()
        if self.start and self.runs % 100 == 0:
            self.grown = max(self.grown, megabytes() - self.start)
            if self.grown > LARGEST_GROWTH:
                self.stop(data, f"grew by {self.grown:.0f} MB")
        if self.runs % 100 == 0:  # libFuzzer ends the process without coming back
            self.report()

    def report(self) -> None:
        """What was found so far."""
        found = {"inputs": self.runs, "taken": self.taken, "refused": self.runs - self.taken}
        found |= {"longest_seconds": round(self.longest, 3), "grown_megabytes": round(self.grown)}
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        found |= {"most_for_a_moment_megabytes": round(most - self.start) if self.start else 0}
        self._output.write_text(json.dumps(found))

    def stop(self, data: bytes, reason: str) -> NoReturn:
        """Keep the input and end this process."""
        path = KEPT / f"{self._name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        print(f"{path}: {reason}", file=sys.stderr, flush=True)
        os._exit(1)


def megabytes() -> float:
    """Memory that this process holds; Linux alone says."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def plain(name: str, runs: int, seed: int, output: Path) -> None:
    """Damage the corpus so many times."""
    from tests.fuzz.mutations import mutated
    from tests.fuzz.targets import CORPUS

    seeds = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    judge, draw = Judge(name, output), random.Random(f"{seed}-{name}")
    for data in seeds:
        judge(data)
    for _ in range(runs - len(seeds)):
        judge(mutated(seeds, draw))
    judge.report()


def led(name: str, runs: int, seed: int, output: Path) -> None:
    """Let Atheris choose."""
    import atheris

    with atheris.instrument_imports(include=["fervor"]):
        import tests.fuzz.targets
    judge = Judge(name, output)
    own = KEPT / "corpus" / name
    own.mkdir(parents=True, exist_ok=True)
    options = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=20000", "-timeout=120"]
    folders = [str(own), str(tests.fuzz.targets.CORPUS / name)]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=0", "-verbosity=0", *folders], judge)
    atheris.Fuzz()


def campaign(names: Sequence[str], engine: str, runs: int, seed: int) -> int:
    """Each target in a process of its own; how many failed."""
    failed = 0
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in names:
        output = (KEPT / f"{name}.json").resolve()
        output.unlink(missing_ok=True)
        words = ["--worker", name, "--engine", engine, "--runs", str(runs), "--seed", str(seed)]
        begin = time.monotonic()
        with (KEPT / f"{name}.log").open("w") as log:  # decoders in C have their own notes
            done = subprocess.run([sys.executable, __file__, *words], stderr=log, check=False)
        found = output.read_text() if output.is_file() else "{}"
        ended = "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"
        print(f"{name}: {ended} {found} in {time.monotonic() - begin:.0f} s", flush=True)
        if done.returncode:
            failed += 1
            print((KEPT / f"{name}.log").read_text(errors="replace")[-3000:])
    return failed


def main() -> int:
    """Read the options and run."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="all", help="names, commas between; labels; or all")
    parser.add_argument("--runs", type=int, default=1000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["plain", "atheris"], default="plain")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work = led if asked.engine == "atheris" else plain
        work(asked.worker, asked.runs, asked.seed, (KEPT / f"{asked.worker}.json").resolve())
        return 0
    from tests.fuzz.targets import LABEL_FILES, TARGETS

    groups = {"all": list(TARGETS), "labels": list(LABEL_FILES)}
    names = groups.get(asked.targets, asked.targets.split(","))
    return min(1, campaign(names, asked.engine, asked.runs, asked.seed))


if __name__ == "__main__":
    sys.exit(main())
