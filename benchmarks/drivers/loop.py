"""What every driver in Python shares: jobs in as lines of JSON, answers out as lines of JSON.

A driver is one process that keeps one tool loaded. A job names a method of the tool and its
arguments; the answer holds its value, the seconds of each of `repeat` runs, and the process's
largest memory so far. `once` runs one job and ends, so that a whole process can be timed. Uses the
standard library alone: it runs in the environments of other tools.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def peak_memory() -> float:
    """Megabytes that this process held at most (Linux: VmHWM); 0 where that is not told."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    lines = status.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def answered(tool: Any, job: dict[str, Any]) -> dict[str, Any]:
    """The value of the job's last run, with the seconds of each."""
    work = getattr(tool, job["do"])
    value, seconds = None, []
    for _ in range(job.get("repeat", 1)):
        start = time.perf_counter()
        value = work(**job.get("with", {}))
        seconds.append(time.perf_counter() - start)
    return {"value": value, "seconds": seconds, "peak_mb": peak_memory()}


def serve(tool: type) -> None:
    """Run a driver: `THREADS` serves jobs from stdin, `THREADS once JOB` answers one."""
    threads, *rest = sys.argv[1:]
    ready = tool(int(threads))
    # Libraries print what they please: answers have their own copy of stdout.
    answers, sys.stdout = sys.stdout, sys.stderr
    jobs = [rest[1]] if rest[:1] == ["once"] else sys.stdin
    for line in jobs:
        try:
            answer = answered(ready, json.loads(line))
        except Exception as error:  # the run goes on without this figure, and says why
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
