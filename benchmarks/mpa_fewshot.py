"""Compare MPA-FER with soft prompts alone where pictures are few (docs/decisions/evidence.md).

    python benchmarks/mpa_fewshot.py FERPLUS --folder runs/evidence [--jobs 2]

Trains and evaluates what is not there yet, each step a command of fervor: settings are chosen on
valid, then the rows of 16 and 4 pictures a class and of base-to-new are trained with five seeds and
read on test. A run that was stopped goes on. Writes results/mpa/fewshot-rows.json with the answers,
from which `tools/release/write_results.py` prints the table. 36 runs, each some two minutes of a
core with AVX-512, and an evaluation.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from paired_gain import by_seed, paired
from row_runs import Task, arguments, balanced, rows_of_tests

from fervor.artifacts.model_info import WEIGHTS, ModelInfo
from fervor.evaluation import results
from fervor.evaluation.significance import Estimate, estimate
from fervor.io import provenance


OUTPUT = Path(__file__).resolve().parent.parent / "results" / "mpa"
COMPLETE, SOFT = "mpa/ferplus-embedded-fewshot", "mpa/ferplus-embedded-fewshot-coop"
RATES, REDUCTIONS, CHOOSING_SEED = (0.32, 1.0, 3.2), ("sum", "mean"), 100
SEEDS, SHOTS = range(5), (16, 4)
PASSES = 800
"""Epochs times pictures a class: as many steps whatever the number of pictures."""
BASE, NEW = "neutral,happiness,disgust,fear,contempt", "surprise,sadness,anger"


def setting(rate: float, reduction: str) -> tuple[str, ...]:
    """Words for what is chosen."""
    visual = ("--options.visual_learning_rate", f"{rate:g}")
    return (*visual, "--options.alignment_reduction", reduction)


def choices() -> dict[tuple[float, str], Task]:
    """The runs of which valid chooses one."""
    tasks = {}
    for rate in RATES:
        for reduction in REDUCTIONS:
            name = f"choose-{rate:g}-{reduction}"
            words = ("--config", COMPLETE, "--seed", str(CHOOSING_SEED), *setting(rate, reduction))
            run = f"{name}-{CHOOSING_SEED}"
            tasks[rate, reduction] = Task(run, words, {name: ("--split", "valid")})
    return tasks


def rows(chosen: Sequence[str]) -> list[Task]:
    """The runs that are compared."""
    tasks = []
    for shots in SHOTS:
        few = ("--data.subset", f"few-shot:{shots}", "--optim.epochs", str(PASSES // shots))
        for seed in SEEDS:
            for row in (COMPLETE, SOFT):
                words = ("--config", row, "--seed", str(seed), *few, *chosen)
                tasks.append(Task(f"{row}-{shots}-{seed}", words, {f"{row}-{shots}": ()}))
    for seed in SEEDS:
        for row in (COMPLETE, SOFT):
            words = ("--config", row, "--seed", str(seed), "--data.classes", BASE)
            read = {f"{row}-base": ("--data.classes", BASE), f"{row}-new": ("--labels", NEW)}
            task = Task(f"{row}-base-{seed}", (*words, "--optim.epochs", "100", *chosen), read)
            tasks.append(task)
    return tasks


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    """What the results of a row say, by seed."""
    found = by_seed(sorted((folder / "results" / name).glob("mpa/*.json")))
    figures = ("count", "accuracy", "mean_class_accuracy", "negative_log_likelihood")
    return [
        {
            "row": name,
            "seed": seed,
            **{figure: result[figure] for figure in figures},
            "neutral_recall": result["classes"].get("neutral", {}).get("recall"),
            "balanced": balanced(result),
            "inactive": result["run"]["inactive"],
            "moved": moved(folder / "runs" / f"{name.replace('-new', '-base')}-{seed}"),
            "answer": result["answers"]["answer"],
        }
        for seed, result in sorted(found.items())
    ]


def moved(run: Path) -> dict[str, float]:
    """What the parts did: cosine of prompted and unprompted pictures, and how far prompts moved."""
    last = json.loads((run / "activity.json").read_text(encoding="utf-8"))["epochs"][-1]
    return {"prompted_unprompted": last["prompted_unprompted"], **last["moved"]}


def harmonic(folder: Path, row: str) -> list[float]:
    """Of each seed the harmonic mean of the accuracies on base and on new classes."""
    base, new = (told(folder, f"{row}-{part}") for part in ("base", "new"))
    return [
        statistics.harmonic_mean([one["accuracy"], other["accuracy"]])
        for one, other in zip(base, new, strict=True)
    ]


def tests(folder: Path) -> list[dict[str, Any]]:
    """The primary comparison, and the others with p values corrected for their number."""
    found: dict[str, Estimate] = {}
    for name in (*(str(shots) for shots in SHOTS), "base", "new"):
        pair = [
            sorted((folder / "results" / f"{row}-{name}").glob("mpa/*.json"))
            for row in (COMPLETE, SOFT)
        ]
        found[name] = paired(*pair)
    ours, theirs = (harmonic(folder, row) for row in (COMPLETE, SOFT))
    gains = [one - other for one, other in zip(ours, theirs, strict=True)]
    found["harmonic mean"] = estimate(gains, 0.0)  # of the seeds alone
    return rows_of_tests(found, str(SHOTS[0]))


def main() -> int:
    """Run what is left, then write the result."""
    given = arguments(__doc__, OUTPUT).parse_args()
    tasks = choices()
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda task: task.finish(given.root, given.folder), tasks.values()))
        valid = {key: told(given.folder, *task.evaluations)[0] for key, task in tasks.items()}
        rate, reduction = max(valid, key=lambda key: valid[key]["accuracy"])
        print(f"chosen: visual_learning_rate {rate:g}, alignment_reduction {reduction}")
        chosen = setting(rate, reduction)
        list(pool.map(lambda task: task.finish(given.root, given.folder), rows(chosen)))
    names = [f"{row}-{part}" for part in (*SHOTS, "base", "new") for row in (COMPLETE, SOFT)]
    compared = [row for name in names for row in told(given.folder, name)]
    first = results.read(
        next((given.folder / "results" / f"{COMPLETE}-{SHOTS[0]}").glob("mpa/*.json"))
    )
    path = given.output / "fewshot-rows.json"
    content = {
        "model": COMPLETE,
        "run": {**first["run"], "seed": list(SEEDS)},
        "sha256": {"vlm": ModelInfo.read("vlm").sha256[WEIGHTS]},
        "data": first["data"],
        "count": first["count"],
        "commit": first["commit"],
        "versions": provenance.versions(),
        "label": first["answers"]["label"],
        "chosen": {"visual_learning_rate": rate, "alignment_reduction": reduction},
        "choice": [
            {
                key: row[key]
                for key in ("row", "seed", "accuracy", "mean_class_accuracy", "inactive")
            }
            for row in valid.values()
        ],
        "tests": tests(given.folder),
        "rows": compared,
    }
    results.write(path, content, replace=True)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
