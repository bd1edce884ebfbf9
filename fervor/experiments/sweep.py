"""Sweeps over settings: many runs of one recipe, chosen by their figures on validation alone.

The study is kept in a journal (Optuna) beside its runs, so that a sweep that was stopped goes on:
finished trials are not repeated, and a run that was under way is taken up where it stopped. What it
found is a result file with its provenance, whose `trials` are the rows.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from fervor.artifacts.model_info import WEIGHTS, ModelInfo
from fervor.config import Run
from fervor.data import datasets
from fervor.errors import UsageError
from fervor.evaluation import results
from fervor.experiments.jobs import Job, run_all
from fervor.io import provenance
from fervor.recipes import nearest, setting_names, value_of


Figure = Literal["accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood"]

JOURNAL, ROWS, LOCK = "journal.log", "trials.json", "lock"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""Trials with a figure, and those whose training failed; the others were stopped."""

LOG = ":log"
RANGE = ".."
STRIDE = 100_003
"""Between the samplers' seeds of two runs' seeds: more than a sweep has trials."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep found.

    Attributes:
        rows: a row of each trial, the best first.
        path: the result file that holds them; none was written where every trial failed.
    """

    rows: list[dict[str, Any]]
    path: Path


def sweep(
    run: Run, vary: Sequence[str], *, figure: Figure = "accuracy", trials: int = 0, folder: Path
) -> Outcome:
    """Train a recipe under many settings, and rank them by a figure on its selection split.

    Args:
        run: the recipe.
        vary: settings and their values, such as options.temperature=0.05,0.1 (each of a list) or
            optim.learning_rate=0.001..0.1:log (a range, uniform in the logarithm).
        figure: what ranks; all but the negative log likelihood are to be high.
        trials: how many; 0 for every combination of lists.
        folder: of the journal, the runs and the rows.

    Raises:
        UsageError: an unknown setting, ranges without a number of trials, a recipe that chooses on
            test, or another process at work in the folder.
    """
    if run.selection != "honest":
        raise UsageError("a sweep chooses on validation: expected --selection honest")
    space = dict(parsed(setting) for setting in vary)
    grid = combinations(space)
    if not trials and grid is None:
        raise UsageError(f"{' '.join(vary)}: a range has no end of trials, give --trials")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            study = _study(folder, figure, run.seed)
            _requeue(study)
            if not trials:
                for settings in grid or ():
                    study.enqueue_trial(settings, skip_if_exists=True)
            data = replace(run.data, name="", root="")  # all of it stands in the recipe
            recipe = Job(run.title, run.seed, run.resolved(), data, None, runs=folder)
            _work(study, space, trials or len(grid or ()), recipe, figure)
            rows = _rows(study, figure, recipe)
            if any("selection" in row for row in rows):
                results.write(folder / ROWS, _result(recipe, figure, rows), replace=True)
    except Timeout:
        raise UsageError(
            f"{folder}: another process sweeps in it; wait, or give --output"
        ) from None
    return Outcome(rows, folder / ROWS)


def parsed(setting: str) -> tuple[str, BaseDistribution]:
    """A setting's name, and the values that it takes.

    Raises:
        UsageError: no such setting of a run, or no values.
    """
    name, equals, values = setting.partition("=")
    if not equals or not values:
        raise UsageError(f"--vary {setting}: expected name=value,value or name=low..high")
    _check_name(name)
    if RANGE not in values:
        return name, CategoricalDistribution([value_of(word) for word in values.split(",")])
    log = values.endswith(LOG)
    low, high = (value_of(word) for word in values.removesuffix(LOG).split(RANGE, 1))
    try:
        if isinstance(low, int) and isinstance(high, int):
            return name, IntDistribution(low, high, log=log)
        return name, FloatDistribution(float(low), float(high), log=log)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--vary {setting}: expected two rising numbers ({error})") from None


def combinations(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]] | None:
    """Every combination of lists of values; None where a range has no end."""
    lists = []
    for distribution in space.values():
        if not isinstance(distribution, CategoricalDistribution):
            return None
        lists.append(distribution.choices)
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def _check_name(name: str) -> None:
    """A setting is a field of a run; what options a method has is known when it is built."""
    settings = setting_names()
    if name not in settings and not name.startswith("options."):
        names = ", ".join(nearest(name, settings)[:8])
        raise UsageError(f"--vary {name}: no such setting, expected options.NAME or one of {names}")


def _study(folder: Path, figure: Figure, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name=figure,
        direction="minimize" if figure == "negative_log_likelihood" else "maximize",
        load_if_exists=True,
    )
    # a sampler with the same seed would draw the same settings again when a sweep goes on
    study.sampler = optuna.samplers.TPESampler(seed=STRIDE * seed + len(study.trials))
    return study


def _requeue(study: optuna.Study) -> None:
    """Trials that a stopped process left behind are asked for again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


def _work(
    study: optuna.Study,
    space: Mapping[str, BaseDistribution],
    trials: int,
    recipe: Job,
    figure: Figure,
) -> None:
    """Run trials until so many have ended; one whose training fails counts, without a figure."""
    while len(study.get_trials(states=ENDED)) < trials:
        trial = study.ask(dict(space))
        job = job_of(recipe, trial.params)
        if not run_all([job]):
            study.tell(trial, getattr(ModelInfo.read(job.folder).selection, figure))
        else:
            study.tell(trial, state=TrialState.PRUNED)


def job_of(recipe: Job, settings: Mapping[str, Any]) -> Job:
    """The run of one trial; its folder is named by its settings, so that it is found again."""
    changed = deepcopy(recipe.recipe)
    for name, value in settings.items():
        group, _, key = name.partition(".")
        if key:
            changed[group][key] = value
        else:
            changed[group] = value
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()
    return replace(recipe, name=f"trial-{digest[:12]}", recipe=changed)


def _outcome(job: Job) -> dict[str, Any]:
    """What a finished trial adds to its row."""
    info = ModelInfo.read(job.folder)
    return {
        "selection": info.content()["selection"],
        "count": sum(info.data.selection.values()),
        "commit": info.commit,
        "sha256": info.sha256[WEIGHTS],
    }


def _result(recipe: Job, figure: Figure, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a sweep found and where it comes from; folders by their names alone."""
    run = recipe.asked()
    done = [row for row in rows if "selection" in row]
    commits = sorted({row["commit"] for row in done})
    return {
        "model": run.title,
        "run": {
            "config": run.published(),
            "seed": run.seed,
            "commit": ", ".join(commits),
            "selection": {"mode": run.selection, "figure": figure},
        },
        "sha256": {row["folder"]: row["sha256"] for row in done},
        "data": {
            "name": run.data.name,
            "protocol": datasets.protocol_of(run.data.name, run.data.protocol),
            "split": done[0]["selection"]["split"],
        },
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "count": done[0]["count"],
        "trials": [
            {key: value for key, value in row.items() if key not in ("sha256", "count")}
            for row in rows
        ],
    }


def _rows(study: optuna.Study, figure: Figure, recipe: Job) -> list[dict[str, Any]]:
    """One row for each trial that ended, the best first, failed ones last."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials(states=ENDED):
        job = job_of(recipe, trial.params)
        done = trial.state == TrialState.COMPLETE
        row: dict[str, Any] = {"settings": trial.params, "state": "complete" if done else "failed"}
        row |= {"seed": job.seed, "folder": job.folder.name}
        rows[job.folder.name] = row | (_outcome(job) if done else {})
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1

    def rank(row: dict[str, Any]) -> tuple[bool, float]:
        done = "selection" in row
        return not done, sign * row["selection"][figure] if done else 0.0

    return sorted(rows.values(), key=rank)
