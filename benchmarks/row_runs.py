"""Runs of a comparison's rows: each trained once and evaluated once, by commands of fervor."""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fervor.evaluation.significance import Estimate, holm


@dataclass(frozen=True)
class Task:
    """A run, and what it is evaluated on.

    Attributes:
        run: its folder below that of all.
        words: of `fervor train`.
        evaluations: words of `fervor evaluate` by the folder of their results.
    """

    run: str
    words: tuple[str, ...]
    evaluations: Mapping[str, tuple[str, ...]] = field(hash=False)

    def finish(self, root: str, folder: Path) -> None:
        """Train and evaluate what is not there yet."""
        run = folder / "runs" / self.run
        own = ("--data.root", root, "--threads", "1", "--output", str(run))
        if (run / "model.json").is_file():
            pass  # trained: a kill right after that may have left a checkpoint behind
        elif (run / "last.ckpt").is_file():
            fervor("train", "--resume", str(run))
        else:
            fervor("train", *self.words, *own)
        seed = self.words[self.words.index("--seed") + 1]
        for name, words in self.evaluations.items():
            output = folder / "results" / name
            if not [*output.glob(f"*/*-seed{seed}-*.json")]:
                data = ("--data.name", "ferplus", "--data.root", root)
                fervor("evaluate", "--model", str(run), *data, *words, "--output", str(output))
        print(f"{time.strftime('%H:%M:%S')} {self.run}", file=sys.stderr, flush=True)


def fervor(*words: str) -> None:
    """Run a command in a process of its own."""
    subprocess.run([sys.executable, "-m", "fervor", *words], check=True, stdout=subprocess.DEVNULL)


def arguments(document: str | None, output: Path) -> argparse.ArgumentParser:
    """The command line that comparisons have in common."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="FERPlus")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=output)
    return parser


def balanced(result: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy and mean class accuracy after dividing by the training prior's part."""
    point = (result.get("operating_points") or {}).get("balanced", {})
    return {name: point[name] for name in ("accuracy", "mean_class_accuracy") if name in point}


def rows_of_tests(found: Mapping[str, Estimate], primary: str) -> list[dict[str, Any]]:
    """The primary comparison, and the others with p values corrected for their number."""
    others = [name for name in found if name != primary]
    corrected = dict(zip(others, holm([found[name].p_value for name in others]), strict=True))
    return [
        {
            "of": name,
            "primary": name == primary,
            "gain": one.mean,
            "interval": [one.low, one.high],
            "p_value": one.p_value,
            "p_value_holm": corrected.get(name),
        }
        for name, one in found.items()
    ]
