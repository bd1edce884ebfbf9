"""A line in which clients take turns, however much each of them brings."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar


__all__ = ["FairQueue"]

T = TypeVar("T")


@dataclass(order=True, slots=True)
class _Entry(Generic[T]):
    start: float
    number: int
    client: Hashable = field(compare=False)
    cost: int = field(compare=False)
    item: T = field(compare=False)


class FairQueue(Generic[T]):
    """Start-time fair queueing (Goyal, Vin and Cheng 1996), all weights equal; for one thread.

    An item starts where its client's last one ends, on a clock that stands at the start of what was
    taken last, and lasts as long as it costs; the earliest start is next. So clients that wait get
    equal shares of the cost, one that comes anew is next soon, and nobody saves up.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry[T]] = []
        self._ends: dict[Hashable, float] = {}
        self._clock = 0.0
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, item: T, client: Hashable, cost: int) -> None:
        """Add what `client` brings, behind all that it has brought before."""
        start = max(self._clock, self._ends.get(client, 0.0))
        self._ends[client] = start + cost
        self._number += 1
        self._entries.append(_Entry(start, self._number, client, cost, item))

    def take(self, ready: Callable[[T], bool] = lambda item: True) -> T | None:
        """The next item of those that are `ready`; None where there is none."""
        entry = min((one for one in self._entries if ready(one.item)), default=None)
        if entry is None:
            return None
        self._entries.remove(entry)
        self._clock = max(self._clock, entry.start)
        # Who has nothing here and no debt is forgotten.
        here = {one.client for one in self._entries}
        self._ends = {
            client: end for client, end in self._ends.items() if end > self._clock or client in here
        }
        return entry.item

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take items out; what their clients have brought since moves up."""
        gone = [entry for entry in self._entries if unwanted(entry.item)]
        for entry in gone:
            self._entries.remove(entry)
            self._ends[entry.client] -= entry.cost
            for later in self._entries:
                if later.client == entry.client and later.number > entry.number:
                    later.start -= entry.cost
        return [entry.item for entry in gone]

    def cost_of(self, client: Hashable) -> int:
        """Of all that a client has waiting."""
        return sum(entry.cost for entry in self._entries if entry.client == client)

    def heaviest(self) -> Hashable | None:
        """The client with the most cost waiting."""
        clients = {entry.client for entry in self._entries}
        return max(clients, key=self.cost_of, default=None)
