"""The command `fervor sweep`."""

import sys
from pathlib import Path
from typing import Literal

from fervor.cli.notes import notes
from fervor.config import Run
from fervor.errors import DONE, PROBLEM, counted
from fervor.plugins import missing_extra


def sweep(
    run: Run,
    *,
    vary: str,
    figure: Literal["accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood"] = (
        "accuracy"
    ),
    trials: int = 0,
    study: str = "",
) -> int:
    """Train a recipe under many settings and rank them on validation; a stopped sweep goes on.

    Args:
        run: the recipe.
        vary: settings with their values, separated by spaces: options.temperature=0.05,0.1 for a
            list, optim.learning_rate=0.001..0.1 for a range, with :log behind it for a logarithmic
            one.
        figure: what ranks, on the selection split.
        trials: how many; 0 for every combination of lists.
        study: folder of the sweep; empty for runs/sweeps and the recipe's name.
    """
    with missing_extra("train"):
        from fervor.experiments.sweep import sweep as search
    folder = Path(study or f"runs/sweeps/{run.title}")
    with notes("fervor.experiments.jobs"):
        outcome = search(run, vary.split(), figure=figure, trials=trials, folder=folder)
    for row in outcome.rows:
        shown = f"{row['selection'][figure]:.4f}" if "selection" in row else "failed"
        print(f"{shown:8}", *(f"{name}={value}" for name, value in row["settings"].items()))
    failures = sum("selection" not in row for row in outcome.rows)
    if failures < len(outcome.rows):
        print(f"written to {outcome.path}")
    if not failures:
        return DONE
    print(f"{counted(failures, 'trial')} failed: the same command tries again", file=sys.stderr)
    return PROBLEM
