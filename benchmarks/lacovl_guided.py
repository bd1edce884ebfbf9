"""Compare LaCoVL-FER guided by landmarks with itself unguided (docs/decisions/evidence.md).

    python benchmarks/lacovl_guided.py FERPLUS --folder runs/evidence [--jobs 2] [--seeds 3]

Trains and evaluates what is not there yet: the learning rate is chosen on valid, then both rows are
trained with each seed and read on test, clean and occluded. A run that was stopped goes on, and one
that stands in the result file is not repeated. Writes results/lacovl/guided-rows.json with the
answers, from which `tools/release/write_results.py` prints the table. Nine runs, each some 25
minutes of a core that is fast in bfloat16, over maps of 24 GB that the first runs store in
runs/cache.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paired_gain import by_seed, numbers
from row_runs import Task, arguments, balanced, rows_of_tests

from fervor.artifacts.model_info import WEIGHTS, ModelInfo
from fervor.config import Data
from fervor.evaluation import results
from fervor.evaluation.evaluate import counted_images, counted_samples, opened
from fervor.evaluation.robustness import corrupted_batches
from fervor.evaluation.significance import gain, units
from fervor.io import provenance
from fervor.recipes import read_recipe


OUTPUT = Path(__file__).resolve().parent.parent / "results" / "lacovl"
GUIDED, UNGUIDED = "lacovl/ferplus-frozen-gated", "lacovl/ferplus-frozen-gated-unguided"
RATES, CHOOSING_SEED = (2e-4, 4e-4, 8e-4), 100
SEEDS = 3
VALID = 3191
"""Images that choose the rate."""
OCCLUSIONS, SEVERITY = ("eyes", "mouth", "block"), 3

Ints = NDArray[np.int64]


def choices() -> dict[float, Task]:
    """The runs of which valid chooses one."""
    return {
        rate: Task(
            f"choose-lacovl-{rate:g}",
            ("--config", UNGUIDED, "--seed", str(CHOOSING_SEED), *setting(rate)),
            {},
        )
        for rate in RATES
    }


def setting(rate: float) -> tuple[str, ...]:
    """Words for what is chosen."""
    return ("--optim.learning_rate", f"{rate:g}")


def rows(rate: float, seeds: int) -> list[Task]:
    """The runs that are compared, those of one row together: they read the same maps."""
    return [
        Task(f"{row}-{seed}", ("--config", row, "--seed", str(seed), *setting(rate)), {row: ()})
        for row in (UNGUIDED, GUIDED)
        for seed in range(seeds)
    ]


def on_valid(folder: Path, run: str) -> dict[str, Any]:
    """A run's kept epoch, and its figures on the images that choose."""
    kept = ModelInfo.read(folder / "runs" / run).selection
    assert kept is not None
    figures = {"accuracy": kept.accuracy, "mean_class_accuracy": kept.mean_class_accuracy}
    return {"run": run, "epoch": kept.epoch, **figures}


def occluded(run: Path, root: str) -> dict[str, Ints]:
    """Answers to the whole test split under each occlusion; stored beside the run."""
    path = run / "occluded.json"
    if not path.is_file():
        info, data = ModelInfo.read(run), Data(name="ferplus", root=root)
        scope, samples, described = counted_samples(info, data, "test")
        images, _ = counted_images(info, data, scope, samples, described)
        network, places = opened(info), np.arange(len(samples))
        answers = {}
        for name in OCCLUSIONS:
            batches = corrupted_batches(
                images, places, name, SEVERITY, size=info.input.size, seed=0
            )
            answer = network(batches)[:, scope.columns].argmax(1)
            answers[name] = " ".join(map(str, answer.tolist()))
        provenance.write_text(path, json.dumps(answers))
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {name: numbers(answer) for name, answer in stored.items()}


def described(folder: Path, task: Task, root: str) -> dict[str, Any]:
    """What a run's results say; reads test under occlusion where that was not done."""
    row, run = task.words[task.words.index("--config") + 1], folder / "runs" / task.run
    seed = int(task.words[task.words.index("--seed") + 1])
    result = by_seed([*(folder / "results" / row).glob("lacovl/*.json")])[seed]
    label, answers = numbers(result["answers"]["label"]), occluded(run, root)
    notes = json.loads((run / "activity.json").read_text(encoding="utf-8"))
    figures = ("count", "accuracy", "mean_class_accuracy", "negative_log_likelihood")
    accuracies = {name: float((answer == label).mean()) for name, answer in answers.items()}
    return {
        "row": row,
        "seed": seed,
        "commit": result["commit"],
        **{figure: result[figure] for figure in figures},
        "neutral_recall": result["classes"]["neutral"]["recall"],
        "balanced": balanced(result),
        "occluded_accuracy": statistics.mean(accuracies.values()),
        "occlusions": accuracies,
        "valid": on_valid(folder, task.run),
        "parts": notes["epochs"][-1],
        "inactive": result["run"]["inactive"],
        "label": result["answers"]["label"],
        "answer": result["answers"]["answer"],
        "occluded_answer": {
            name: " ".join(map(str, answer.tolist())) for name, answer in answers.items()
        },
    }


def tests(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The primary comparison, on clean test, and the one under occlusion, of rows by seed."""
    label = numbers(found[0]["label"])
    unit = units([], len(label))

    def right(row: str, *, clean: bool) -> NDArray[np.float64]:
        """How often each seed is right on each image: of the occlusions, as a share of them."""
        own = sorted((one for one in found if one["row"] == row), key=lambda one: one["seed"])
        answers = [[one["answer"]] if clean else one["occluded_answer"].values() for one in own]
        hits = [[numbers(answer) == label for answer in of_seed] for of_seed in answers]
        shares: NDArray[np.float64] = np.array(hits, np.float64).mean(1)
        return shares

    gains = {
        name: gain(right(GUIDED, clean=clean), right(UNGUIDED, clean=clean), unit)
        for name, clean in (("clean", True), ("occluded", False))
    }
    return rows_of_tests(gains, "clean")


def write(path: Path, choice: Sequence[Mapping[str, Any]], found: Sequence[dict[str, Any]]) -> None:
    """What there is so far; tests are over the seeds that both rows have, two at the least."""
    ordered = sorted(found, key=lambda one: (one["row"], one["seed"]))
    seeds = [{one["seed"] for one in ordered if one["row"] == row} for row in (GUIDED, UNGUIDED)]
    both = seeds[0] & seeds[1]
    content = {
        "model": GUIDED,
        "run": {
            "config": read_recipe(GUIDED).published(),
            "seed": sorted(both),
            "commit": provenance.commit(),
            "selection": "honest",
        },
        "sha256": {"vlm": ModelInfo.read("vlm").sha256[WEIGHTS]},
        "data": {"name": "ferplus", "protocol": "majority", "split": "test"},
        "count": max((one["count"] for one in ordered), default=VALID),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "occlusions": {"names": list(OCCLUSIONS), "severity": SEVERITY, "seed": 0},
        "choice": list(choice),
        "tests": tests([one for one in ordered if one["seed"] in both]) if len(both) > 1 else [],
        "rows": ordered,
    }
    results.write(path, content, replace=True)


def finish(tasks: Sequence[Task], root: str, folder: Path, jobs: int) -> None:
    """Train and evaluate what is left, so many at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda task: task.finish(root, folder), tasks))


def main() -> int:
    """Run what is left, then write the result."""
    parser = arguments(__doc__, OUTPUT)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    path = given.output / "guided-rows.json"
    before = results.read(path) if path.is_file() else {"choice": [], "rows": []}
    choice, found = before["choice"], before["rows"]
    if not choice:
        candidates = choices()
        finish([*candidates.values()], given.root, given.folder, given.jobs)
        choice = [
            {"learning_rate": rate, **on_valid(given.folder, task.run)}
            for rate, task in candidates.items()
        ]
        write(path, choice, found)
    rate = max(choice, key=lambda one: one["accuracy"])["learning_rate"]
    print(f"chosen: learning rate {rate:g}")
    stored = {f"{one['row']}-{one['seed']}" for one in found}
    left = [task for task in rows(rate, given.seeds) if task.run not in stored]
    for number in range(0, len(left), given.jobs):
        those = left[number : number + given.jobs]
        finish(those, given.root, given.folder, given.jobs)
        found = [*found, *(described(given.folder, task, given.root) for task in those)]
        write(path, choice, found)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
