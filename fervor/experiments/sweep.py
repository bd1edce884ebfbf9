"""Sweeps over settings: many runs of one recipe, chosen by their figures on validation alone.

The study is kept in a journal (Optuna) beside its runs, so that a sweep that was stopped goes on:
finished trials are not repeated, and a run that was under way or that failed is taken up where it
stopped. What it found is a result file with its provenance, whose `trials` are the rows.
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
    check_distribution_compatibility,
)
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState, create_trial

from fervor.artifacts.model_info import WEIGHTS, ModelInfo
from fervor.config import Data, Run
from fervor.data import datasets
from fervor.errors import UsageError
from fervor.evaluation import results
from fervor.experiments.jobs import Job, run_all, settings_that_differ
from fervor.io import provenance
from fervor.recipes import changed_run, nearest, read_settings, setting_names, value_of


Figure = Literal["accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood"]

JOURNAL, ROWS, LOCK = "journal.log", "trials.json", "lock"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""Trials with a figure, and those whose training failed."""

TRIAL = "trial-"
"""What the names of the trials' run folders begin with."""

RUN, VARIED = "run", "varied"
"""What a study keeps of its sweep: the recipe with its seed, and the names of what varies."""

FIXED = {
    "selection": "a sweep chooses on validation alone",
    **dict.fromkeys(("name", "output", "profile"), "every trial would train the same"),
}
"""Settings that cannot vary, and why."""

LOG = ":log"
RANGE = ".."
STRIDE = 100_003
"""Between the samplers' seeds of two runs' seeds: more than a sweep has trials."""
SEEDS = 2**32
"""How many seeds a sampler knows."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep found.

    Attributes:
        rows: a row of each trial whose settings lie in the space, the best first; those whose
            training failed are the last and have no `selection`.
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
        UsageError: an unknown setting or a value that it cannot have, ranges without a number of
            trials, a recipe that chooses on test, a folder that holds a sweep of another recipe,
            seed or settings, or another process at work in it.
    """
    if run.selection != "honest":
        raise UsageError("a sweep chooses on validation: expected --selection honest")
    run.check()
    space = dict(parsed(setting) for setting in vary)
    _check_values(run.resolved(), space)
    grid = combinations(space)
    if not trials and grid is None:
        raise UsageError(f"{' '.join(vary)}: a range has no end of trials, give --trials")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            study = _study(folder, figure, run.published(), space)
            recipe = recipe_of(run.title, run.resolved(), folder)
            if trials:
                _sample(study, space, trials, recipe, figure)
            else:
                _work_through(study, space, grid or (), recipe, figure)
            rows = _rows(study, space, figure, recipe)
            if any("selection" in row for row in rows):
                results.write(folder / ROWS, _result(recipe, figure, rows), replace=True)
    except Timeout:
        raise UsageError(
            f"{folder}: another process sweeps in it; wait, or name another --study"
        ) from None
    return Outcome(rows, folder / ROWS)


def recipe_of(title: str, settings: dict[str, Any], folder: Path) -> Job:
    """The job that the trials are made of: all settings stand in its recipe, none beside it."""
    return Job(title, settings["seed"], settings, Data(), None, runs=folder)


def parsed(setting: str) -> tuple[str, BaseDistribution]:
    """A setting's name, and the values that it takes.

    Raises:
        UsageError: no such setting of a run, or no values.
    """
    name, equals, values = setting.partition("=")
    if not equals or not values:
        raise UsageError(f"--vary {setting}: expected name=value,value or name=low..high")
    _check_name(name)
    log = values.endswith(LOG)
    ends = [value_of(word) for word in values.removesuffix(LOG).split(RANGE, 1)]
    if len(ends) == 1 or not any(map(_is_number, ends)):  # names of files may hold dots
        return name, CategoricalDistribution([value_of(word) for word in values.split(",")])
    low, high = ends
    try:
        if isinstance(low, int) and isinstance(high, int):
            return name, IntDistribution(low, high, log=log)
        return name, FloatDistribution(float(low), float(high), log=log)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--vary {setting}: expected two rising numbers ({error})") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
    if name in FIXED:
        raise UsageError(f"--vary {name}: {FIXED[name]}, expected another setting")
    settings = setting_names()
    if name not in settings and not name.startswith("options."):
        names = ", ".join(nearest(name, settings)[:8])
        raise UsageError(f"--vary {name}: no such setting, expected options.NAME or one of {names}")


def _check_values(settings: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> None:
    """Look whether a run can have every value of a list, and the ends of a range.

    Raises:
        UsageError: one of another type, or beyond its limits.
    """
    for name, values in space.items():
        ends = (
            values.choices
            if isinstance(values, CategoricalDistribution)
            else (values.low, values.high)  # type: ignore[attr-defined]
        )
        for value in ends:
            changed_run(settings, {name: value}, where=f"--vary {name}={value}")


def _study(
    folder: Path,
    figure: Figure,
    settings: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
) -> optuna.Study:
    """The study of a figure in the folder, which keeps the recipe's settings and what varies.

    Raises:
        UsageError: the folder holds a sweep of others.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    _check_earlier(storage, folder, settings, space)
    study = optuna.create_study(
        storage=storage,
        study_name=figure,
        direction="minimize" if figure == "negative_log_likelihood" else "maximize",
        load_if_exists=True,
    )
    if RUN not in study.user_attrs:
        study.set_user_attr(VARIED, sorted(space))
        study.set_user_attr(RUN, dict(settings))
    # a sampler with the same seed would draw the same settings again when a sweep goes on
    seed = (STRIDE * settings["seed"] + len(study.trials)) % SEEDS
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    return study


def _check_earlier(
    storage: JournalStorage,
    folder: Path,
    settings: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
) -> None:
    """Look whether the trials in a folder, whatever ranks them, are of this recipe.

    Studies of version 0.1 have not kept it: their trials' runs have.

    Raises:
        UsageError: another recipe or seed, or other settings vary.
    """
    now = json.loads(json.dumps(settings))  # tuples are lists in a study and in a file
    for name in optuna.get_all_study_names(storage):
        earlier = optuna.load_study(study_name=name, storage=storage)
        parameters = [trial.params for trial in earlier.trials]
        varied = earlier.user_attrs.get(VARIED) or sorted(next(filter(None, parameters), space))
        if varied != sorted(space):
            raise UsageError(
                f"{folder} holds a sweep over {', '.join(varied)}, expected "
                f"{', '.join(sorted(space))} as --vary has it: name another --study"
            )
        if RUN in earlier.user_attrs:
            records = [earlier.user_attrs[RUN]]
        else:
            files = folder.glob(f"{TRIAL}*/config.yaml")
            records = [read_settings(file) for file in files]
        names = {name for before in records for name in settings_that_differ(before, now)}
        names |= {"seed" for before in records if before.get("seed", Run().seed) != now["seed"]}
        if names := names - space.keys():
            raise UsageError(
                f"{folder} holds a sweep of a recipe with other settings "
                f"({', '.join(sorted(names))}): name another --study"
            )


def _unfinished(
    study: optuna.Study, space: Mapping[str, BaseDistribution], recipe: Job
) -> list[dict[str, Any]]:
    """Settings of trials that were stopped or failed, each once, unless they were completed since.

    What a process that was stopped has left running is told to be stopped: the folder is locked.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    unfinished = {
        job_of(recipe, trial.params).folder: trial.params
        for trial in _trials(study, space, (TrialState.FAIL, TrialState.PRUNED))
    }
    for folder in _complete(study, space, recipe):
        unfinished.pop(folder, None)
    return list(unfinished.values())


def _complete(
    study: optuna.Study, space: Mapping[str, BaseDistribution], recipe: Job
) -> list[Path]:
    """Run folders of the complete trials; the sampler may have drawn one more than once."""
    trials = _trials(study, space, (TrialState.COMPLETE,))
    return [job_of(recipe, trial.params).folder for trial in trials]


def _lies_in(space: Mapping[str, BaseDistribution], settings: Mapping[str, Any]) -> bool:
    """Whether settings are among those that are asked for."""
    return space.keys() == settings.keys() and all(
        (type(value), value) in [(type(choice), choice) for choice in values.choices]
        if isinstance(values := space[name], CategoricalDistribution)
        else values.low <= value <= values.high  # type: ignore[attr-defined]
        for name, value in settings.items()
    )


def _trials(
    study: optuna.Study, space: Mapping[str, BaseDistribution], states: tuple[TrialState, ...]
) -> list[optuna.trial.FrozenTrial]:
    """The trials in these states whose settings lie in the space, in the order of their starts."""
    trials = study.get_trials(states=states)
    return [trial for trial in trials if _lies_in(space, trial.params)]


def _sample(
    study: optuna.Study,
    space: Mapping[str, BaseDistribution],
    trials: int,
    recipe: Job,
    figure: Figure,
) -> None:
    """Run what an earlier start has left unfinished, then what the sampler draws, until there are
    so many trials; one that fails counts until the next start.

    Raises:
        UsageError: the study has trials over a list of other values, or a range of another kind.
    """
    for stored in study.trials:
        for name, earlier in stored.distributions.items():
            try:
                check_distribution_compatibility(earlier, space[name])
            except ValueError:
                raise UsageError(
                    f"--vary {name}: --trials draws from the list of values or the kind of range "
                    "that the study has drawn from, expected the same: name another --study"
                ) from None
    unfinished = _unfinished(study, space, recipe)
    left = trials - len(_complete(study, space, recipe))
    for _ in range(max(left, len(unfinished))):
        if unfinished:
            study.enqueue_trial(unfinished.pop(0))
        trial = study.ask(dict(space))
        value, state = _run(job_of(recipe, trial.params), figure)
        study.tell(trial, value, state)


def _work_through(
    study: optuna.Study,
    space: Mapping[str, BaseDistribution],
    grid: Sequence[Mapping[str, Any]],
    recipe: Job,
    figure: Figure,
) -> None:
    """Run every combination that is not complete; a study takes trials over lists that grow."""
    done = _complete(study, space, recipe)
    for settings in grid:
        job = job_of(recipe, settings)
        if job.folder not in done:
            value, state = _run(job, figure)
            study.add_trial(
                create_trial(
                    params=dict(settings), distributions=dict(space), value=value, state=state
                )
            )


def _run(job: Job, figure: Figure) -> tuple[float | None, TrialState]:
    """A trial's figure and state, once its run has ended; one whose training fails has no figure"""
    if run_all([job]):
        return None, TrialState.PRUNED
    return getattr(ModelInfo.read(job.folder).selection, figure), TrialState.COMPLETE


def job_of(recipe: Job, settings: Mapping[str, Any]) -> Job:
    """The run of one trial; its folder is named by its settings, so that it is found again."""
    changed = deepcopy(recipe.recipe)
    for name, value in settings.items():
        group, _, key = name.partition(".")
        if key:
            changed[group][key] = value
        else:
            changed[group] = value
    seed = settings.get("seed", recipe.seed)
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()
    return replace(recipe, name=f"{TRIAL}{digest[:12]}", seed=seed, recipe=changed)


def _outcome(job: Job) -> dict[str, Any]:
    """What a finished trial adds to its row.

    Raises:
        UsageError: its run is of other settings, as version 0.1 trained some of `data`.
    """
    info = ModelInfo.read(job.folder)
    if other := job.other_settings():
        raise UsageError(
            f"{job.folder} holds a run of other settings ({', '.join(other)}): name another --study"
        )
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


def _rows(
    study: optuna.Study, space: Mapping[str, BaseDistribution], figure: Figure, recipe: Job
) -> list[dict[str, Any]]:
    """One row for each trial that ended, the best first, failed ones last."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in _trials(study, space, ENDED):
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
