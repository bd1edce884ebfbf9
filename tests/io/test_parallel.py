"""Threads that keep the order, errors and filters; bars only where somebody looks."""

import itertools
import threading
import time
import warnings
from collections.abc import Iterator

import pytest

from fervor.errors import counted
from fervor.io.prefetch import bounded, cores, in_order, in_threads, map_ordered


def test_results_come_in_order_whatever_takes_long() -> None:
    def slow(number: int) -> tuple[int, str]:
        time.sleep(0.02 * (5 - number))
        return number * number, threading.current_thread().name

    with in_threads(5) as each:
        found = list(each(slow, range(5)))
    assert [square for square, _ in found] == [0, 1, 4, 9, 16]
    assert len({name for _, name in found}) > 1


def test_an_error_comes_through_and_stops_the_rest() -> None:
    done = []

    def fails(number: int) -> None:
        if number == 3:
            raise ValueError("three")
        time.sleep(0.01)
        done.append(number)

    with pytest.raises(ValueError, match="three"), in_threads(2) as each:
        list(each(fails, range(500)))
    assert len(done) < 100


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mapped_keeps_the_order_and_the_bound(count: int) -> None:
    """No more at once than said, as many where there are so many, and one more taken."""
    taken, running, most = 0, 0, 0
    lock = threading.Lock()

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 21):
            taken = number
            yield number

    def slow(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 if number % 3 else 0.03)
        with lock:
            running -= 1
        return number

    for place, number in enumerate(map_ordered(slow, items(), count), start=1):
        assert number == place
        assert taken <= place + (count if count > 1 else 0)
    assert taken == 20
    assert most == count


def test_mapped_holds_no_more_weight_than_it_may() -> None:
    weights = [1, 1, 9, 1, 5, 5, 1, 1, 1, 1]
    held, most = 0, 0
    lock = threading.Lock()

    def items() -> Iterator[int]:
        yield from range(len(weights))

    def begin(number: int) -> int:
        nonlocal held, most
        with lock:
            held += weights[number]
            most = max(most, held)
        time.sleep(0.01)
        return number

    found = map_ordered(begin, items(), 4, weight=lambda number: weights[number], limit=6)
    for place, number in enumerate(found):
        assert number == place
        with lock:
            held -= weights[number]
    assert most == 9  # alone, and otherwise six at most


def test_thousands_of_threads_are_the_cores_and_said(caplog: pytest.LogCaptureFixture) -> None:
    assert [bounded(count) for count in (0, 1, 4 * cores())] == [0, 1, 4 * cores()]
    assert not caplog.messages
    assert bounded(100_000) == cores()
    said = f"threads=100000: this machine has {counted(cores(), 'core')}; takes {cores()}"
    assert caplog.messages == [said]
    before = threading.active_count()
    with in_threads(100_000) as each:
        assert len(list(each(str, range(1000)))) == 1000
        assert threading.active_count() <= before + cores()


def test_mapped_alone_needs_no_thread() -> None:
    (name,) = map_ordered(lambda _: threading.current_thread().name, [0], 1)
    assert name == threading.current_thread().name


def test_mapped_waits_for_what_is_urgent() -> None:
    items = iter([1, 2, 3])
    found = map_ordered(abs, items, 3, urgent=lambda number: number == 1)
    assert next(found) == 1
    assert next(items) == 2  # still there: nothing was taken ahead


def test_mapped_raises_in_the_items_place_and_stops() -> None:
    done = []

    def fails(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        done.append(number)
        return number

    found = map_ordered(fails, range(500), 4)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)
    assert len(done) < 10


def test_mapped_may_be_left() -> None:
    done: list[int] = []
    found = map_ordered(done.append, itertools.count(), 2)
    next(found)
    found.close()
    count = len(done)
    time.sleep(0.02)
    assert len(done) == count <= 3


def test_filters_are_as_before() -> None:
    def noisy(_: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            time.sleep(0.001)

    before = list(warnings.filters)
    with in_threads(4) as each:
        list(each(noisy, range(60)))
    assert list(warnings.filters) == before


def test_numbers_come_in_order_and_once() -> None:
    mixed = [(2, "c"), (0, "a"), (0, "A"), (1, "b"), (2, "C"), (1, "B"), (4, "e"), (3, "d")]
    assert list(in_order(mixed)) == ["a", "b", "c", "d", "e"]
    assert list(in_order([(0, "a"), (2, "c"), (3, "d")])) == ["a"]
    waiting = in_order(iter([(0, "a"), (1, "b")]))
    assert next(waiting) == "a"  # before the second is asked for
