"""Run an iterator ahead of its reader, in a thread, holding a bounded weight of items."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar


__all__ = ["ahead"]

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that closing waits for an item under way; a camera that hangs must not hang the end."""


def ahead(items: Generator[T], *, weight: Callable[[T], int], limit: int) -> Generator[T]:
    """The same items in the same order, made by a thread while the reader works.

    At most `limit` weight waits, and always room for one item. What the iterator raises is raised
    here, in its place. Closing this generator closes the other one.
    """
    shelf = _Shelf(items, weight, limit)
    thread = Thread(target=shelf.fill, name="fervor-ahead", daemon=True)
    thread.start()
    try:
        yield from shelf.taken()
    finally:
        shelf.stop()
        thread.join(PATIENCE)


class _Shelf(Generic[T]):
    def __init__(self, items: Generator[T], weight: Callable[[T], int], limit: int) -> None:
        self._items, self._weight, self._limit = items, weight, limit
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
            while self._waiting and self._held + weight > self._limit and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._waiting.append((item, weight))
            self._held += weight
            self._changed.notify_all()
            return True

    def taken(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
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
