"""Run an iterator ahead of its reader, in a thread, holding a bounded weight of items."""

import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Generic, Protocol, TypeVar

from fervor.errors import counted


__all__ = ["prefetch"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

THREADS_A_CORE = 4
"""Threads that a core is taken to bear; thousands of them hold the machine."""
PATIENCE = 5.0
"""Seconds that closing waits for an item under way; a camera that hangs must not hang the end."""


def prefetch(
    items: Generator[T],
    *,
    weight: Callable[[T], int],
    limit: int,
    replaces: Callable[[T, T], bool] = lambda item, waiting: False,
    silence: float | None = None,
) -> Generator[T]:
    """The same items in the same order, made by a thread while the reader works.

    At most `limit` weight waits, and always room for one item. An item that `replaces` the last one
    that waits takes its place, and that one is left out. What the iterator raises is raised here,
    in its place. Closing this generator closes the other one.

    Raises:
        TimeoutError: no item came for `silence` seconds; None waits for ever.
    """
    shelf = _Shelf(items, weight, limit, replaces)
    thread = Thread(target=shelf.fill, name="fervor-ahead", daemon=True)
    thread.start()
    try:
        yield from shelf.taken(silence)
    finally:
        shelf.stop()
        thread.join(PATIENCE)


class _Shelf(Generic[T]):
    def __init__(
        self,
        items: Generator[T],
        weight: Callable[[T], int],
        limit: int,
        replaces: Callable[[T, T], bool],
    ) -> None:
        self._items, self._weight, self._limit = items, weight, limit
        self._replaces = replaces
        self._waiting: deque[tuple[T, int]] = deque()
        self._held = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._changed = Condition()

    def fill(self) -> None:
        try:
            for item in self._items:
                if not self._put(item, self._weight(item)):
                    break
        except BaseException as error:
            self._error = error
        finally:
            self._items.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: T, weight: int) -> bool:
        """False where the reader has left."""
        with self._changed:
            if self._waiting and self._replaces(item, self._waiting[-1][0]):
                self._held -= self._waiting.pop()[1]
            while self._waiting and self._held + weight > self._limit and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._waiting.append((item, weight))
            self._held += weight
            self._changed.notify_all()
            return True

    def taken(self, silence: float | None) -> Iterator[T]:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._waiting or self._ended, silence):
                    raise TimeoutError
                if not self._waiting:
                    break
                item, weight = self._waiting.popleft()
                self._held -= weight
                self._changed.notify_all()
            yield item
            del item  # not held while the next one is awaited
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()


Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """`map` over threads: results come in the items' order."""

    def __call__(
        self, function: Callable[[Item], Result], items: Iterable[Item], /
    ) -> Iterator[Result]: ...


@contextmanager
def in_threads(count: int = 0) -> Iterator[Mapper]:
    """A `map` over threads, 0 for as many as there are cores; all items are taken at once.

    Decoders and onnxruntime let other threads run meanwhile. Warnings are silent inside: reading an
    image changes their filters for a while, which threads would leave changed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(bounded(count) or cores()) as pool:
            yield pool.map


def bounded(threads: int) -> int:
    """So many threads as were asked for; the cores of this machine where they are far more.

    A logger says so. 0, for all cores, stays 0.
    """
    if threads <= THREADS_A_CORE * cores():
        return threads
    logger.warning(
        "threads=%d: this machine has %s; takes %d", threads, counted(cores(), "core"), cores()
    )
    return cores()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    count: int,
    *,
    urgent: Callable[[Item], bool] = lambda item: False,
    weight: Callable[[Item], int] = lambda item: 0,
    limit: int = 0,
) -> Generator[Result]:
    """The function of each item, in order, of up to `count` items at once in threads.

    Items are taken by the reader's thread, one more than are worked on, so that no thread waits for
    its next; after an urgent one none until its result was read. At most `limit` weight is worked
    on or waits, and always room for one item. What the function raises is raised in its item's
    place. With a `count` of 1 there are no threads.
    """
    if count == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(count)
    waiting: deque[tuple[Future[Result], int]] = deque()
    load = 0

    def oldest() -> Result:
        nonlocal load
        future, freed = waiting.popleft()
        load -= freed
        return future.result()

    try:
        for item in items:
            heavy = weight(item)
            while waiting and load + heavy > limit:
                yield oldest()
            waiting.append((pool.submit(function, item), heavy))
            load += heavy
            room = 0 if urgent(item) else count
            del item  # not held while its result is awaited
            while len(waiting) > room:
                yield oldest()
        while waiting:
            yield oldest()
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(numbered: Iterable[tuple[int, Item]]) -> Iterator[Item]:
    """The items 0, 1, 2 ... of a stream that may mix, repeat or lack some: each number once.

    Holds what comes early; ends before the first number that never came.
    """
    early: dict[int, Item] = {}
    following = 0
    for number, item in numbered:
        if number >= following:
            early.setdefault(number, item)
        while following in early:
            yield early.pop(following)
            following += 1
