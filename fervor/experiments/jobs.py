"""Runs that a table needs: each trained once, evaluated once, resumable, side by side.

Every step is a command of fervor in a process of its own, whose output goes into a log beside the
run folder. A run that others work on is waited for.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from fervor import plugins
from fervor.config import Data, Run, differences, published
from fervor.data.datasets import protocol_of
from fervor.evaluation import results
from fervor.io import provenance


logger = logging.getLogger(__name__)

NAMED = ("name", "protocol")
"""Settings of the data set that a run's recipe holds already."""

UNESSENTIAL = {
    *("data.root", "data.cache", "data.aligned", "threads", "workers", "processes"),
    *("output", "name", "profile", "seed"),
    "optim.precision",  # fp32 on machines that would emulate bf16
}
"""Settings that do not make another run of a row."""


@dataclass(frozen=True)
class Job:
    """A training run and its evaluation.

    Attributes:
        name: of its recipe.
        seed: of the run.
        recipe: its settings.
        data: the data set's folder, and how it is read.
        test: the data set that is evaluated on; None where it is trained alone.
        report: whether the evaluation writes figures.
        runs: folder of run folders.
        output: folder of result files.
    """

    name: str
    seed: int
    recipe: dict[str, Any] = field(hash=False)
    data: Data
    test: Data | None
    report: bool = False
    runs: Path = Path("runs")
    output: Path = Path("results")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / f"{self.name}-seed{self.seed}"

    def asked(self) -> Run:
        """The run that its recipe and the data set's options make."""
        run = Run.from_values({**self.recipe, "seed": self.seed})
        changes = {
            setting.name: getattr(self.data, setting.name)
            for setting in fields(Data)
            if setting.name not in NAMED and getattr(self.data, setting.name) != setting.default
        }
        return replace(run, data=replace(run.data, **changes))

    def result(self) -> tuple[Path, dict[str, Any]] | None:
        """What its evaluation has written: of this data, and of a run of these settings."""
        assert self.test is not None
        settings = self.asked().resolved()
        for path, result in stored_results(self.output, self.name, self.seed, self.test):
            if not run_differences(result["run"], settings):
                return path, result
        return None

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        if self.test is None:
            return (self.folder / "model.json").is_file()
        result = self.result()
        if result is None:
            return False
        page = result[0].with_suffix("") / "report.html"
        return page.is_file() or not self.report

    def steps(self) -> list[list[str]]:
        """The commands that are left, as words after `fervor`."""
        commands = []
        if (self.folder / "model.json").is_file():
            pass  # trained: a kill right after that may have left a checkpoint behind
        elif (self.folder / "last.ckpt").is_file():
            commands.append(["train", "--resume", str(self.folder)])
        else:
            recipe = self.folder.with_name(f"{self.folder.name}.yaml")
            commands.append(["train", "--config", str(recipe), *_options(self.data)])
        if self.test is None:
            return commands
        report = ["--report"] if self.report else []
        test = [*_options(self.test), "--data.name", self.test.name]
        test += ["--data.protocol", self.test.protocol] if self.test.protocol else []
        where = ["--model", str(self.folder), "--output", str(self.output)]
        return [*commands, ["evaluate", *where, *test, *report]]

    def run(self) -> bool:
        """Do what is left; whether it succeeded."""
        log = self.folder.with_name(f"{self.folder.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(log.with_suffix(".lock")):
            if self.finished():  # by another process
                return True
            if other := self._other_settings():
                logger.error(
                    "%s holds a run of other settings (%s): move it away, or name another --runs",
                    *(self.folder, ", ".join(other)),
                )
                return False
            self._prepare()
            for words in self.steps():
                logger.info("%s: fervor %s", self.folder, " ".join(words))
                with log.open("a", encoding="utf-8") as file:
                    command = [sys.executable, "-m", "fervor", *words]
                    done = subprocess.run(
                        command, stdout=file, stderr=subprocess.STDOUT, env=self._environment()
                    )
                if done.returncode:
                    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
                    logger.error("%s failed, see %s: %s", self.folder, log, "".join(last))
                    return False
        return True

    def _environment(self) -> dict[str, str]:
        """Ours; what the user named here may also be read from the recipe's file there."""
        return {**os.environ, plugins.TRUSTED: plugins.agreed(self.asked().parts())}

    def _other_settings(self) -> list[str]:
        """Settings in which the run in the folder differs from the one that is asked for."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            return []
        before = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return settings_that_differ(before, self.asked().resolved())

    def _prepare(self) -> None:
        """Write the recipe, and remove what a run left that ended before its first epoch did."""
        settings = {**self.recipe, "seed": self.seed, "output": str(self.folder)}
        recipe = self.folder.with_name(f"{self.folder.name}.yaml")
        provenance.write_text(recipe, yaml.safe_dump(settings, sort_keys=False))
        begun = self.folder.is_dir() and not (self.folder / "last.ckpt").is_file()
        if begun and not (self.folder / "model.json").is_file():
            shutil.rmtree(self.folder)


def stored_results(
    output: Path, name: str, seed: int, test: Data
) -> list[tuple[Path, dict[str, Any]]]:
    """Results of a run on a data set's whole test split, whatever its settings were."""
    rule = protocol_of(test.name, test.protocol)
    matches = []
    for path in sorted(output.glob(f"{name}-seed{seed}*.json")):
        result = results.read(path)
        data = result["data"]
        same_test = (data["name"], data["protocol"], data["split"]) == (test.name, rule, "test")
        whole = not data.get("exclude_duplicates") and data.get("fold", 0) == test.fold
        if same_test and whole and (result["model"], result["run"]["seed"]) == (name, seed):
            matches.append((path, result))
    return matches


def settings_that_differ(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Dotted names of settings in which two runs differ, but for those of their machines.

    Of a file or a folder only the name counts: results keep no more.
    """
    pairs = differences(before, after).items()
    return [
        name
        for name, values in pairs
        if name not in UNESSENTIAL and len({repr(published(value)) for value in values}) > 1
    ]


def run_differences(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Settings in which the run of a result differs from others.

    Initial weights are compared by their checksum, too, where the result has one.
    """
    names = settings_that_differ(recorded["config"], settings)
    file, stated = Path(settings["encoder"]["weights"]), recorded.get("initial_weights", {})
    compared = "sha256" in stated and not settings["start"] and file.is_file()
    if compared and provenance.sha256(file) != stated["sha256"]:
        names = sorted({*names, "encoder.weights"})
    return names


def run_all(jobs: Sequence[Job], *, max_workers: int = 1) -> list[Job]:
    """Run what is unfinished, so many at a time; returns the jobs that failed."""
    left = [job for job in jobs if not job.finished()]
    with ThreadPoolExecutor(max(1, max_workers)) as pool:
        succeeded = list(pool.map(Job.run, left))
    return [job for job, done in zip(left, succeeded, strict=True) if not done]


def _options(data: Data) -> list[str]:
    """How a data set is read, as options; what is as usual is left out."""
    words = []
    for setting in fields(Data):
        value = getattr(data, setting.name)
        if setting.name not in NAMED and value != setting.default:
            words += [f"--data.{setting.name}", str(value)]
    return words
