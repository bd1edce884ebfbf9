"""Commands in processes of their own, none of which outlives the command that started them."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any


PATIENCE = 10.0
"""Seconds until a process that was told to end is killed: its run goes on after its last epoch."""


class Processes:
    """The processes of commands that are under way, in any thread.

    Attributes:
        stopped: set when all processes end; none is started any more.
    """

    def __init__(self) -> None:
        self.stopped = Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()

    def run(self, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> int | None:
        """Run `fervor` with these words, its output behind the log's; its exit code.

        None where it was not started, because all processes end.
        """
        with log.open("a", encoding="utf-8") as file:
            with self._lock:
                if self.stopped.is_set():
                    return None
                process = subprocess.Popen(
                    [sys.executable, "-m", "fervor.cli.child", *words],
                    stdin=subprocess.PIPE,  # closed with this process, whatever ends it
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                )
                self._running.add(process)
            with process:  # closes the pipe at its end
                code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def stop(self) -> None:
        """End all of them, and wait until they have; one that takes too long is killed."""
        with self._lock:
            self.stopped.set()
            running = tuple(self._running)
        for process in running:
            process.terminate()
        end = time.monotonic() + PATIENCE
        try:
            for process in running:
                process.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for process in running:
                process.kill()


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM, the polite end of a service or a batch system, raises KeyboardInterrupt as Ctrl-C.

    Where it is ignored, or outside of the main thread, it is somebody else's to decide.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
