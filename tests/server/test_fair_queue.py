"""Clients that wait get equal shares, however much each of them brings."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fervor.server.fair_queue import FairQueue


def drained(line: FairQueue[str]) -> list[str]:
    items = []
    while (item := line.take()) is not None:
        items.append(item)
    return items


def filled(*items: tuple[str, int]) -> FairQueue[str]:
    """Items of the client that their first letter names, with their costs."""
    line: FairQueue[str] = FairQueue()
    for item, cost in items:
        line.put(item, item[0], cost)
    return line


def test_one_client_s_items_stay_in_order() -> None:
    assert drained(filled(("a1", 3), ("a2", 1), ("a3", 2))) == ["a1", "a2", "a3"]


def test_clients_take_turns() -> None:
    line = filled(*((f"a{number}", 1) for number in range(4)), ("b0", 1), ("b1", 1))
    assert drained(line) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_who_brings_much_waits_as_long_as_it_costs() -> None:
    line = filled(("a1", 10), ("a2", 10), *((f"b{number}", 1) for number in range(12)))
    order = drained(line)
    assert order[:2] == ["a1", "b0"]
    assert order.index("a2") == 11  # when b has taken ten, too


def test_who_comes_anew_is_next_soon() -> None:
    line = filled(*((f"a{number}", 5) for number in range(10)))
    assert [line.take() for _ in range(3)] == ["a0", "a1", "a2"]
    line.put("b0", "b", 5)
    assert line.take() == "b0"


def test_nobody_saves_up_and_nobody_loses_a_debt() -> None:
    line = filled(("a1", 1), ("b1", 100))
    assert drained(line) == ["a1", "b1"]
    for item in ("b2", "a2", "a3"):
        line.put(item, item[0], 1)
    assert drained(line) == ["a2", "a3", "b2"]


def test_what_is_not_ready_is_passed_over() -> None:
    line = filled(("a1", 1), ("b1", 1), ("c1", 1))
    assert line.take(lambda item: item != "a1") == "b1"
    assert line.take(lambda item: False) is None
    assert drained(line) == ["a1", "c1"]


def test_what_is_removed_costs_nothing() -> None:
    line = filled(("a1", 50), ("a2", 50), ("a3", 1), ("b1", 1), ("b2", 60))
    assert line.cost_of("a") == 101 and line.heaviest() == "a"
    assert line.remove(lambda item: item in ("a1", "a2")) == ["a1", "a2"]
    assert (line.cost_of("a"), line.heaviest(), len(line)) == (1, "b", 3)
    assert filled().heaviest() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20)), min_size=1, max_size=60))
def test_shares_of_those_who_wait_differ_by_one_item(items: list[tuple[str, int]]) -> None:
    named = [(f"{client}{number}", cost) for number, (client, cost) in enumerate(items)]
    costs, line = dict(named), filled(*named)
    left = Counter(client for client, _ in items)
    largest = max(cost for _, cost in items)
    taken: Counter[str] = Counter(dict.fromkeys(left, 0))
    for item in drained(line):
        taken[item[0]] += costs[item]
        left[item[0]] -= 1
        waiting = [taken[client] for client in left if left[client]]
        if len(waiting) == len(taken):  # everybody still waits
            assert max(waiting) - min(waiting) <= 2 * largest
    assert not left.total()


def test_who_takes_something_back_moves_up() -> None:
    line = filled(("a1", 50), ("a2", 1), *((f"b{number}", 10) for number in range(4)))
    line.remove(lambda item: item == "a1")
    assert set(drained(line)[:2]) == {"a2", "b0"}


def test_who_was_passed_over_is_not_forgotten() -> None:
    line = filled(("a1", 1), *((f"b{number}", 1) for number in range(4)))
    assert [line.take(lambda item: item[0] != "a") for _ in range(4)] == ["b0", "b1", "b2", "b3"]
    assert line.remove(lambda item: item == "a1") == ["a1"]
    assert line.take() is None


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "take", "take not a", "remove"]), st.sampled_from("abc")),
    max_size=80,
)


@given(OPERATIONS, st.integers(1, 9))
def test_nothing_is_lost_whatever_is_done(operations: list[tuple[str, str]], cost: int) -> None:
    """A client's items keep their order, and everybody is forgotten in the end."""
    line: FairQueue[str] = FairQueue()
    here: list[str] = []
    for number, (operation, client) in enumerate(operations):
        if operation == "put":
            here.append(f"{client}{number}")
            line.put(here[-1], client, 1 + (number * cost) % 10)
        elif operation == "remove":
            gone = [item for item in here if item[0] == client][number % 2 :: 2]
            assert line.remove(lambda item, gone=gone: item in gone) == gone
            here = [item for item in here if item not in gone]
        else:
            ready = [item for item in here if operation == "take" or item[0] != "a"]
            item = line.take(lambda item, ready=ready: item in ready)
            assert (item is None) == (not ready)
            if item is not None:
                assert item == next(other for other in here if other[0] == item[0])
                here.remove(item)
        assert len(line) == len(here)
    assert sorted(drained(line)) == sorted(here)
    assert len(line._ends) <= 3
