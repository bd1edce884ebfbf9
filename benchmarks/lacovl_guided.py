"""Compare LaCoVL-FER guided by landmarks with itself unguided (docs/decisions/evidence.md).

    python benchmarks/lacovl_guided.py FERPLUS --folder runs/evidence [--jobs 2] [--seeds 3]

Trains and evaluates what is not there yet: the learning rate is chosen on valid, then both rows are
trained with each seed and read on test, clean and occluded. A run that was stopped goes on. Writes
results/lacovl/guided-rows.json with the answers, from which `tools/release/write_results.py` prints
the table. Nine runs, each some 25 minutes of a core that is fast in bfloat16, over maps of 24 GB
that the first runs store in runs/cache.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paired_gain import by_seed, numbers, paired
from row_runs import Task, balanced, rows_of_tests

from fervor.artifacts.model_info import ModelInfo
from fervor.config import Data
from fervor.evaluation import results
from fervor.evaluation.evaluate import counted_images, counted_samples, opened
from fervor.evaluation.robustness import corrupted_batches
from fervor.evaluation.significance import gain, units
from fervor.io import provenance


OUTPUT = Path(__file__).resolve().parent.parent / "results" / "lacovl"
GUIDED, UNGUIDED = "lacovl/ferplus-frozen-gated", "lacovl/ferplus-frozen-gated-unguided"
RATES, CHOOSING_SEED = (2e-4, 4e-4, 8e-4), 100
SEEDS = 3
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
    """The runs that are compared."""
    return [
        Task(f"{row}-{seed}", ("--config", row, "--seed", str(seed), *setting(rate)), {row: ()})
        for seed in range(seeds)
        for row in (GUIDED, UNGUIDED)
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


def clean(folder: Path, row: str) -> list[Path]:
    """The results of a row on clean test."""
    return sorted((folder / "results" / row).glob("lacovl/*.json"))


def right_under(folder: Path, row: str) -> NDArray[np.float64]:
    """How often each seed of a row is right on each image, as a share of the occlusions [s n]."""
    shares = []
    for seed, result in sorted(by_seed(clean(folder, row)).items()):
        label = numbers(result["answers"]["label"])
        answers = occluded(folder / "runs" / f"{row}-{seed}", "").values()
        shares.append(np.mean([answer == label for answer in answers], axis=0))
    return np.stack(shares)


def described(folder: Path, row: str) -> list[dict[str, Any]]:
    """What the results of a row say, by seed."""
    figures = ("count", "accuracy", "mean_class_accuracy", "negative_log_likelihood")
    under = right_under(folder, row).mean(1)
    lines = []
    for (seed, result), share in zip(
        sorted(by_seed(clean(folder, row)).items()), under.tolist(), strict=True
    ):
        run = folder / "runs" / f"{row}-{seed}"
        label = numbers(result["answers"]["label"])
        answers = occluded(run, "")
        notes = json.loads((run / "activity.json").read_text(encoding="utf-8"))
        lines.append(
            {
                "row": row,
                "seed": seed,
                **{figure: result[figure] for figure in figures},
                "neutral_recall": result["classes"]["neutral"]["recall"],
                "balanced": balanced(result),
                "occluded_accuracy": share,
                "occlusions": {
                    name: float((answer == label).mean()) for name, answer in answers.items()
                },
                "valid": on_valid(folder, f"{row}-{seed}"),
                "parts": notes["epochs"][-1],
                "inactive": result["run"]["inactive"],
                "answer": result["answers"]["answer"],
                "occluded_answer": {
                    name: " ".join(map(str, answer.tolist())) for name, answer in answers.items()
                },
            }
        )
    return lines


def tests(folder: Path) -> list[dict[str, Any]]:
    """The primary comparison, on clean test, and the one under occlusion."""
    answers = results.read(clean(folder, GUIDED)[0])["answers"]
    unit = units(answers["person"].split(), len(numbers(answers["label"])))
    found = {
        "clean": paired(clean(folder, GUIDED), clean(folder, UNGUIDED)),
        "occluded": gain(right_under(folder, GUIDED), right_under(folder, UNGUIDED), unit),
    }
    return rows_of_tests(found, "clean")


def finish(tasks: Sequence[Task], root: str, folder: Path, jobs: int) -> None:
    """Train and evaluate what is left, so many at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda task: task.finish(root, folder), tasks))


def main() -> int:
    """Run what is left, then write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="FERPlus")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    candidates = choices()
    finish([*candidates.values()], given.root, given.folder, given.jobs)
    valid = {rate: on_valid(given.folder, task.run) for rate, task in candidates.items()}
    rate = max(valid, key=lambda rate: valid[rate]["accuracy"])
    print(f"chosen: learning rate {rate:g}")
    compared = rows(rate, given.seeds)
    finish(compared, given.root, given.folder, given.jobs)
    for task in compared:
        occluded(given.folder / "runs" / task.run, given.root)
    first = results.read(clean(given.folder, GUIDED)[0])
    path = given.output / "guided-rows.json"
    content = {
        "model": GUIDED,
        "run": {**first["run"], "seed": list(range(given.seeds))},
        "sha256": first["sha256"],
        "data": first["data"],
        "count": first["count"],
        "commit": first["commit"],
        "versions": provenance.versions(),
        "label": first["answers"]["label"],
        "occlusions": {"names": list(OCCLUSIONS), "severity": SEVERITY, "seed": 0},
        "chosen": {"learning_rate": rate},
        "choice": [{"learning_rate": rate, **row} for rate, row in valid.items()],
        "tests": tests(given.folder),
        "rows": [line for row in (GUIDED, UNGUIDED) for line in described(given.folder, row)],
    }
    results.write(path, content, replace=True)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
