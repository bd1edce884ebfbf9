"""How far long work is and what it will still take: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


FIRST, EVERY = 60.0, 300.0
"""Seconds until the first line in a log, and from one to the next: short work has none."""


class Progress(Protocol):
    """Counts what is done; tqdm's bars are such, too."""

    def update(self, n: int = 1) -> object:
        """So many more are done."""
        ...


class Lines:
    """A line in a log now and then: what is done of how much, and the time that is left.

    Args:
        total: of all, None where nobody knows it.
        doing: what is done, before the numbers; empty for nothing.
        unit: what is counted, in the plural.
        done: of an earlier run, which took none of this one's time.
    """

    def __init__(self, total: int | None, doing: str = "", *, unit: str, done: int = 0) -> None:
        self.total, self.n = total, done
        self._before = f"{doing}: " if doing else ""
        self._unit, self._first = unit, done
        self._begun = time.monotonic()
        self._next = self._begun + FIRST

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.n += n
        if time.monotonic() >= self._next:
            print(self._line(), file=sys.stderr, flush=True)
            self._next = time.monotonic() + EVERY

    def _line(self) -> str:
        if self.total is None:
            return f"{self._before}{self.n:,} {self._unit}"
        spent, done = time.monotonic() - self._begun, max(1, self.n - self._first)
        left = duration(max(0, self.total - self.n) * spent / done)
        return f"{self._before}{self.n:,} of {self.total:,} {self._unit}, {left} left"


@contextmanager
def progress(
    total: int | None,
    doing: str = "",
    *,
    unit: str = "pictures",
    done: int = 0,
    shown: bool = True,
) -> Iterator[Progress]:
    """A bar where the error stream is a terminal, after two seconds; else `Lines`.

    `total` is None where nobody knows it, `done` what an earlier run left done. Nothing is said
    where it is not to be `shown`.
    """
    if not shown:
        yield _Unseen()
    elif not sys.stderr.isatty():
        yield Lines(total, doing, unit=unit, done=done)
    else:
        from tqdm import tqdm

        with tqdm(
            total=total, initial=done, desc=doing or None, unit=f" {unit}", delay=2, leave=False
        ) as bar:
            yield bar


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


class _Unseen:
    """Says nothing."""

    def update(self, n: int = 1) -> None:
        """Nothing."""
