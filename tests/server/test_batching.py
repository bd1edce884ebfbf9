"""Pictures of many requests run together: order, turns, trouble and the end."""

import io
from collections.abc import Iterator, Sequence
from threading import Event

import pytest
from PIL import Image

from fervor.inference.prediction import Prediction, without_face
from fervor.io.frame import Frame


pytest.importorskip("fastapi", reason="needs fervor[serve]")

from fervor.server.batching import Batcher
from fervor.server.limits import Limits, Refused, Room
from fervor.server.metrics import Metrics
from fervor.server.uploads import Upload


class Slow:
    """Answers without a face; waits before each run until it may go on, and notes what it ran."""

    def __init__(self) -> None:
        self.may, self.began = Event(), Event()
        self.runs: list[list[str]] = []

    def stream(self, frames: Iterator[Frame]) -> Iterator[list[Prediction]]:
        self.began.set()
        assert self.may.wait(30)
        self.runs.append([])
        for frame in frames:
            self.runs[-1].append(frame.source)
            if frame.source == "trouble":
                raise RuntimeError(frame.source)
            yield [without_face(frame, "slow")]


def uploads(*names: str) -> Sequence[Upload]:
    files = []
    for name in names:
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        files.append(Upload(name, file))
    return files


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def batcher(slow: Slow) -> Iterator[Batcher]:
    made = Batcher(slow, Limits(waiting=6), Metrics(), wait=0.01, most=4)  # type: ignore[arg-type]
    yield made
    slow.may.set()
    made.close()


def sources(answers: list[list[Prediction]]) -> list[str]:
    return [answer[0].source for answer in answers]


def test_what_waits_together_runs_together(slow: Slow, batcher: Batcher) -> None:
    first = batcher.submit(uploads("a"))
    assert slow.began.wait(30)
    rest = [batcher.submit(uploads(*names)) for names in (("b", "c"), ("d",), ("e", "f"))]
    assert batcher.waiting == 5
    slow.may.set()
    assert sources(first.result(30)) == ["a"]
    assert [sources(future.result(30)) for future in rest] == [["b", "c"], ["d"], ["e", "f"]]
    assert slow.runs == [["a"], ["b", "c", "d"], ["e", "f"]]  # four at most, requests whole


def test_a_request_larger_than_a_run_runs_alone(slow: Slow, batcher: Batcher) -> None:
    slow.may.set()
    names = ["a", "b", "c", "d", "e", "f", "g", "h"]
    assert sources(batcher.submit(uploads(*names)).result(30)) == names


def test_one_request_s_trouble_is_not_another_s(slow: Slow, batcher: Batcher) -> None:
    held = batcher.submit(uploads("held"))
    assert slow.began.wait(30)
    before, bad, after = (batcher.submit(uploads(name)) for name in ("a", "trouble", "b"))
    slow.may.set()
    assert sources(held.result(30)) == ["held"]
    assert sources(before.result(30)) == ["a"]
    assert sources(after.result(30)) == ["b"]
    with pytest.raises(RuntimeError, match="trouble"):
        bad.result(30)


def test_who_leaves_is_not_answered(slow: Slow, batcher: Batcher) -> None:
    held = batcher.submit(uploads("held"))
    assert slow.began.wait(30)
    left, stays = batcher.submit(uploads("left")), batcher.submit(uploads("stays"))
    assert left.cancel()
    slow.may.set()
    assert sources(held.result(30) + stays.result(30)) == ["held", "stays"]
    assert slow.runs == [["held"], ["stays"]]


def test_the_line_is_bounded_and_ends(slow: Slow, batcher: Batcher) -> None:
    held = batcher.submit(uploads("held"))
    assert slow.began.wait(30)
    waiting = [batcher.submit(uploads("a", "b")) for _ in range(3)]
    with pytest.raises(Refused, match="too many pictures wait") as refused:
        batcher.submit(uploads("c"))
    assert (refused.value.status, refused.value.retry) == (503, 1)
    slow.may.set()
    batcher.close()
    assert held.done() and all(future.done() for future in waiting)
    with pytest.raises(Refused, match="stopping"):
        batcher.submit(uploads("d"))


def test_room_is_taken_and_given_back() -> None:
    room = Room(10, ("busy", "full"))
    room.take(6)
    with pytest.raises(Refused, match="full"):
        room.take(5)
    room.take(4)
    room.give(10)
    assert room.taken == 0
