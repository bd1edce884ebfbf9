"""Items come in order, a bounded weight ahead, errors in their place; leaving early ends it."""

import threading
import time
from collections.abc import Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fervor.io.prefetch import prefetch


def counted(weights: list[int], made: list[int]) -> Generator[int]:
    for number, _ in enumerate(weights):
        made.append(number)
        yield number


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_order_and_bound(weights: list[int], limit: int) -> None:
    made: list[int] = []
    items = prefetch(counted(weights, made), weight=lambda number: weights[number], limit=limit)
    for expected, item in enumerate(items):
        assert item == expected
        time.sleep(0.0002)
        # What waits fits the limit or is one item; one more may be in the thread's hands.
        waiting = made[expected + 1 :]
        assert (
            sum(weights[number] for number in waiting[:-1]) <= max(limit, weights[waiting[0]])
            if (waiting)
            else True
        )
    assert made == list(range(len(weights)))


def test_it_does_run_ahead() -> None:
    made: list[int] = []
    items = prefetch(counted([1] * 100, made), weight=lambda _: 1, limit=10)
    next(items)
    deadline = time.monotonic() + 30
    while len(made) < 12 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(made) == 12  # one taken, ten waiting, one in the thread's hands
    items.close()


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def failing() -> Generator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    items = prefetch(failing(), weight=lambda _: 1, limit=10)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_leaving_early_closes_the_source_and_its_thread() -> None:
    closed = threading.Event()

    def endless() -> Generator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = prefetch(endless(), weight=lambda _: 1, limit=3)
    next(items)
    items.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "fervor-ahead"]
