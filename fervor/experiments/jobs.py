"""Runs that a table needs: each trained once, evaluated once, resumable, side by side.

Every step is a command of fervor in a process of its own, whose output goes into a log beside the
run folder. A run that others work on is waited for.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from fervor import plugins
from fervor.config import READING, Data, Run, differences, published
from fervor.data.datasets import protocol_of
from fervor.data.datasets.subsets import class_names
from fervor.data.manifest import alignment
from fervor.errors import UsageError
from fervor.evaluation import results
from fervor.experiments.processes import Processes, interrupted_by_sigterm
from fervor.io import provenance
from fervor.io.atomic import LOCK, lock_folder


logger = logging.getLogger(__name__)

NAMED = ("name", "protocol")
"""Settings of the data set that a run's recipe holds already."""

RECORDED = ("annotations", "faces", "margin")
"""Settings of how images are read that a result holds as they are."""

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
        test: the data set that is evaluated on, and how it is read; what concerns training alone
            does not count. None where it is trained alone.
        report: whether the evaluation writes figures.
        runs: folder of run folders.
        output: folder of result files.
        replaced: settings of `data` that replace the recipe's even where they have their defaults.
    """

    name: str
    seed: int
    recipe: dict[str, Any] = field(hash=False)
    data: Data
    test: Data | None
    report: bool = False
    runs: Path = Path("runs")
    output: Path = Path("results")
    replaced: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / f"{self.name}-seed{self.seed}"

    def asked(self) -> Run:
        """The run that its recipe and the data set's options make."""
        run = Run.from_values({**self.recipe, "seed": self.seed})
        changes = data_changes(self.data, self.replaced)
        return replace(run, data=replace(run.data, **changes))

    def result(self) -> tuple[Path, dict[str, Any]] | None:
        """What its evaluation has written: of this data, and of a run of these settings."""
        assert self.test is not None
        settings = self.asked().resolved()
        for path, result in stored_results(self.output, self.name, self.seed, self.test):
            otherwise = run_differences(result["run"], settings)
            if not otherwise and not reading_differences(result["data"], self.test):
                return path, result
        return None

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        if self.test is None:
            return (self.folder / "model.json").is_file() and not self.other_settings()
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
            commands.append(["train", "--config", str(recipe), *_options(self.data, self.replaced)])
        if self.test is None:
            return commands
        report = ["--report"] if self.report else []
        reading = {name: getattr(self.test, name) for name in READING}
        test = [*_options(Data(**reading)), "--data.name", self.test.name]
        test += ["--data.protocol", self.test.protocol] if self.test.protocol else []
        where = ["--model", str(self.folder), "--output", str(self.output)]
        return [*commands, ["evaluate", *where, *test, *report]]

    def run(self, processes: Processes) -> bool:
        """Do what is left; whether it succeeded.

        Raises:
            UsageError: a process that is no job's writes into the run folder.
        """
        log = self.folder.with_name(f"{self.folder.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with _turn(log.with_suffix(".lock"), processes):
            if processes.stopped.is_set():
                return False
            if self.finished():  # by another process
                return True
            if other := self.other_settings():
                logger.error(
                    "%s holds a run of other settings (%s): move it away, or name another --runs",
                    *(self.folder, ", ".join(other)),
                )
                return False
            self._prepare()
            for words in self.steps():
                logger.info("%s: fervor %s", self.folder, " ".join(words))
                code = processes.run(words, log, self._environment())
                if processes.stopped.is_set():
                    return False
                if code:
                    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
                    logger.error("%s failed, see %s: %s", self.folder, log, "".join(last))
                    return False
        return True

    def _environment(self) -> dict[str, str]:
        """Ours; what the user named here may also be read from the recipe's file there."""
        return {**os.environ, plugins.TRUSTED: plugins.agreed(self.asked().parts())}

    def other_settings(self) -> list[str]:
        """Settings in which the run in the folder differs from the one that is asked for."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            return []
        before = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return settings_that_differ(before, self.asked().resolved())

    def _prepare(self) -> None:
        """Write the recipe, and remove what a run left that ended before its first epoch did.

        Raises:
            UsageError: another process writes into the run folder.
        """
        settings = {**self.recipe, "seed": self.seed, "output": str(self.folder)}
        recipe = self.folder.with_name(f"{self.folder.name}.yaml")
        provenance.write_text(recipe, yaml.safe_dump(settings, sort_keys=False))
        if not self.folder.is_dir() or self._has_epoch():
            return
        try:
            with lock_folder(self.folder):
                if not self._has_epoch():
                    _empty(self.folder)
        except UsageError:
            raise UsageError(
                f"{self.folder} is being written by another process: wait until it ends, or end it"
            ) from None

    def _has_epoch(self) -> bool:
        return any((self.folder / name).is_file() for name in ("last.ckpt", "model.json"))


def _empty(folder: Path) -> None:
    """Remove what is in a folder, but for the lock that is held meanwhile."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextmanager
def _turn(file: Path, processes: Processes) -> Iterator[None]:
    """Wait until nobody else is at a run, or until all processes end."""
    lock = FileLock(file, timeout=1)
    while not processes.stopped.is_set():
        try:
            lock.acquire()
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def stored_results(
    output: Path, name: str, seed: int, test: Data
) -> list[tuple[Path, dict[str, Any]]]:
    """Results of a run on a data set's whole test split, whatever its settings were.

    Whole is what has the test's own classes, asked by the model's own words.
    """
    rule = protocol_of(test.name, test.protocol)
    matches = []
    for path in sorted(output.glob(f"{name}-seed{seed}*.json")):
        result = results.read(path)
        data = result["data"]
        same_test = (data["name"], data["protocol"], data["split"]) == (test.name, rule, "test")
        whole = not data.get("exclude_duplicates") and data.get("fold", 0) == test.fold
        whole &= "words" not in (result.get("cross_data") or {})
        whole &= tuple(data.get("classes", ())) == class_names(test.classes)
        if same_test and whole and (result["model"], result["run"]["seed"]) == (name, seed):
            matches.append((path, result))
    return matches


def reading_differences(recorded: Mapping[str, Any], test: Data) -> list[str]:
    """Settings in which the images of a result were read otherwise than is asked for.

    Files of old versions lack what was at its default.
    """
    read = {name: recorded.get(name, getattr(Data(), name)) for name in RECORDED}
    names = [name for name in RECORDED if read[name] != getattr(test, name)]
    if recorded.get("aligned") != alignment(test):
        names.append("aligned")
    return [f"data.{name}" for name in names]


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
    """Run what is unfinished, so many at a time; returns the jobs that failed.

    On Ctrl-C and SIGTERM the processes of these jobs end first; they go on when they are run again.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM.
        UsageError: when the other jobs are done, where another process writes into a run folder.
    """
    left = [job for job in jobs if not job.finished()]
    processes = Processes()
    with interrupted_by_sigterm(), ThreadPoolExecutor(max(1, max_workers)) as pool:
        try:
            futures = [pool.submit(job.run, processes) for job in left]
            wait(futures)
        except KeyboardInterrupt:
            processes.stop()
            raise
    return [job for job, future in zip(left, futures, strict=True) if not future.result()]


def data_changes(data: Data, replaced: frozenset[str] = frozenset()) -> dict[str, Any]:
    """How a data set is read, but for what its recipe holds already and what is as usual."""
    return {
        setting.name: value
        for setting in fields(Data)
        if setting.name not in NAMED
        and ((value := getattr(data, setting.name)) != setting.default or setting.name in replaced)
    }


def _options(data: Data, replaced: frozenset[str] = frozenset()) -> list[str]:
    """The same as options."""
    pairs = data_changes(data, replaced).items()
    return [word for name, value in pairs for word in (f"--data.{name}", str(value))]
