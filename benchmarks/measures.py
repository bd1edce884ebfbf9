"""What is timed: every tool in turn, round after round, and ratios within each round.

A machine's speed drifts. So no tool is measured alone: a round measures each of them once, in an
order that turns from round to round, and a ratio is taken between two times of one round.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from peers import Tool
from processes import Driver, Failed, once, run_whole


BASE = "fervor"
BATCHES = (1, 8, 64)
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Photographs:
    """Paths of photographs, and what they are called."""

    name: str
    paths: list[str]


@dataclass
class Measure:
    """Seconds of each tool, round by round.

    Attributes:
        what: what was done.
        threads: cores and threads.
        seconds: by tool, one for each round.
        peak_mb: by tool, the most of all rounds; only of whole processes.
        missing: by tool, why there is no figure.
    """

    what: str
    threads: int
    seconds: Times = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """For the result file: medians, extremes, all values, ratios to fervor."""
        ratios = {
            name: spread([one / base for one, base in zip(times, self.seconds[BASE], strict=True)])
            for name, times in self.seconds.items()
            if name != BASE and BASE in self.seconds
        }
        return {
            "what": self.what,
            "threads": self.threads,
            "seconds": {
                name: spread(times) | {"values": times} for name, times in self.seconds.items()
            },
            "ratios": ratios,
            "peak_mb": self.peak_mb,
            "not_measured": self.missing,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


Work = Callable[[str], tuple[float, float]]
"""A tool's name -> seconds, and largest memory in MB or 0."""


def rounds(measures: Sequence[tuple[Measure, Work]], names: Sequence[str], count: int) -> None:
    """Run all measures `count` times, tools in turn; a tool that fails is asked no more."""
    for number in range(count):
        print(f"  round {number + 1} of {count}", file=sys.stderr, flush=True)
        turned = [names[(number + place) % len(names)] for place in range(len(names))]
        for measure, work in measures:
            for name in turned:
                if name in measure.missing:
                    continue
                try:
                    seconds, peak = work(name)
                except Failed as error:
                    measure.missing[name] = str(error)
                    measure.seconds.pop(name, None)
                    continue
                measure.seconds.setdefault(name, []).append(seconds)
                if peak:
                    measure.peak_mb[name] = max(peak, measure.peak_mb.get(name, 0.0))


def of_commands(tools: dict[str, Tool], photo: str, count: int) -> list[Measure]:
    """How long fervor's commands take beside an interpreter that does nothing, on one core."""
    python = tools[BASE].bare[0]
    commands = {
        "fervor --help": (python, "-m", "fervor", "--help"),
        "fervor predict, one photo": (python, "-m", "fervor", "predict", photo),
    }
    measures: list[tuple[Measure, Work]] = [
        (Measure("an empty process", 1), lambda name: _timed(tools[name].bare, tools[name]))
    ]
    rounds(measures, list(tools), count)
    for what, words in commands.items():
        measure = Measure(what, 1)
        rounds([(measure, lambda _, words=words: _timed(words, tools[BASE]))], [BASE], count)  # type: ignore[misc]
        measures.append((measure, measures[0][1]))
    return [measure for measure, _ in measures]


def _timed(words: Sequence[str], tool: Tool) -> tuple[float, float]:
    return run_whole(words, tool.folder, 1)[0], 0.0


def of_processes(
    tools: dict[str, Tool], photos: Sequence[str], threads: int, count: int
) -> list[Measure]:
    """One photo and all of them, each time in a new process: what a user waits for."""
    jobs = {
        "one photo, new process": photos[:1],
        f"{len(photos)} photos, new process": list(photos),
    }

    def work(name: str, paths: Sequence[str]) -> tuple[float, float]:
        return once(tools[name], threads, "photos", paths=paths)

    measures: list[tuple[Measure, Work]] = [
        (Measure(what, threads), partial(work, paths=paths)) for what, paths in jobs.items()
    ]
    rounds(measures, list(tools), count)
    return [measure for measure, _ in measures]


def of_drivers(
    tools: dict[str, Tool],
    photo: str,
    video: tuple[str, int],
    faces: Sequence[str],
    own: Photographs | None,
    *,
    threads: int,
    count: int,
) -> list[Measure]:
    """One photo, its parts, and a film, by tools that are loaded and warm; seconds of one run.

    Besides them `own`, all of them in one run.
    """
    path, frames = video
    jobs: dict[str, tuple[str, int, dict[str, Any]]] = {
        "one photo, warm": ("photos", 5, {"paths": [photo]}),
        "detector alone, 640 x 480": ("detect", 5, {"path": photo}),
        **{
            f"classifier alone, batch {size}": (
                "classify",
                max(1, 16 // size),
                {"paths": list(faces[:size])},
            )
            for size in BATCHES
        },
        f"video, {frames} frames": ("video", 1, {"path": path}),
    }
    if own is not None:
        jobs = {f"{own.name}, warm": ("photos", 1, {"paths": own.paths}), **jobs}
    with ExitStack() as stack:
        drivers = {name: stack.enter_context(Driver(tool, threads)) for name, tool in tools.items()}

        def work(name: str, what: str, repeat: int, given: dict[str, Any]) -> tuple[float, float]:
            seconds = drivers[name].ask(what, repeat=repeat, **given)["seconds"]
            return statistics.median(seconds), 0.0

        measures: list[tuple[Measure, Work]] = [
            (Measure(what, threads), lambda name, job=job: work(name, *job))  # type: ignore[misc]
            for what, job in jobs.items()
        ]
        warm_up: list[tuple[Measure, Work]] = [(Measure("", threads), once) for _, once in measures]
        rounds(warm_up[:-1], list(tools), 1)  # a film is long enough to need none
        rounds(measures, list(tools), count)
    return [measure for measure, _ in measures]
