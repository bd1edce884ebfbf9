"""Drivers as processes: kept and asked, or timed from their start to their end."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from peers import Tool


class Failed(Exception):
    """A tool gave no figure; the message says why."""


def environment(threads: int) -> dict[str, str]:
    """What keeps libraries to a number of threads and off the network."""
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return os.environ | quiet | {name: str(threads) for name in limits}


def pinned(words: Sequence[str], threads: int) -> list[str]:
    """The command bound to as many cores as threads, where the system can: it holds for all tools.

    taskset is part of util-linux; without it the number of threads is only asked for.
    """
    if not hasattr(os, "sched_getaffinity"):
        return list(words)
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *words]


class Driver:
    """A tool's driver, loaded and waiting for jobs."""

    def __init__(self, tool: Tool, threads: int) -> None:
        self.process = subprocess.Popen(
            pinned([*tool.driver, str(threads)], threads),
            cwd=tool.folder,
            env=environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None, "asked for"
        assert self.process.stdout is not None, "asked for"
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()

    def ask(self, what: str, *, repeat: int = 1, **given: Any) -> dict[str, Any]:
        """A job's value, seconds and peak_mb.

        Raises:
            Failed: the tool cannot do it, or ended.
        """
        assert self.process.stdin is not None, "asked for"
        assert self.process.stdout is not None, "asked for"
        try:
            print(
                json.dumps({"do": what, "with": given, "repeat": repeat}),
                file=self.process.stdin,
                flush=True,
            )
            line = self.process.stdout.readline()
        except OSError as error:
            raise Failed(f"its driver ended ({error})") from error
        if not line:
            raise Failed("its driver ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer


def run_whole(words: Sequence[str], folder: Path, threads: int) -> tuple[float, str]:
    """Seconds of a command from its start to its end, and what it said.

    Raises:
        Failed: it ended with another code than 0.
    """
    start = time.perf_counter()
    done = subprocess.run(
        pinned(words, threads),
        cwd=folder,
        env=environment(threads),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise Failed(f"{Path(words[0]).name} ended with {done.returncode}")
    return seconds, done.stdout


def once(tool: Tool, threads: int, what: str, **given: Any) -> tuple[float, float]:
    """Seconds and largest memory in MB of a job in a process of its own.

    The memory is what the process itself read at its end: what wait4 tells includes the parent's.

    Raises:
        Failed: the tool cannot do it.
    """
    job = json.dumps({"do": what, "with": given})
    words = [*tool.driver, str(threads), "once", job]
    seconds, output = run_whole(words, tool.folder, threads)
    answer = json.loads(output)
    if "error" in answer:
        raise Failed(answer["error"])
    return seconds, answer["peak_mb"]
