"""Pictures of many requests run together: order, turns, trouble and the end."""

import io
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from threading import Event, Timer
from typing import Any

import pytest

from fervor.inference.prediction import Prediction, without_face
from fervor.io.frame import Frame


pytest.importorskip("fastapi", reason="needs fervor[serve]")

from fervor.server import batching
from fervor.server.batching import Batcher, Job
from fervor.server.limits import Limits, Quotas, Refused, client_of
from fervor.server.metrics import Metrics
from fervor.server.uploads import Upload


class Model:
    """Answers without a face; waits before each run until it may go on, and notes what it ran."""

    def __init__(self) -> None:
        self.may, self.began = Event(), Event()
        self.runs: list[list[str]] = []

    def stream(self, frames: Iterable[Frame]) -> Iterator[list[Prediction]]:
        self.began.set()
        assert self.may.wait(30)
        self.runs.append([])
        for frame in frames:
            self.runs[-1].append(frame.source)
            if frame.source == "trouble":
                raise RuntimeError(frame.source)
            yield [without_face(frame, "slow")]


class Reader:
    """Decodes nothing; what is called "long" takes until somebody stops it."""

    def __init__(self) -> None:
        self.stopped, self.began = Event(), Event()
        self.read: list[str] = []
        self.closed = False

    def picture(self, content: bytes, source: str, *, max_pixels: int) -> Frame:
        self.read.append(source)
        if source == "long":
            self.began.set()
            assert self.stopped.wait(30)
        return Frame(source, 0, None, None, "not decoded")

    def stop(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        self.closed = True


LIMITS = Limits(requests=6, pixels=100, client_pixels=1000)


class Line:
    """A batcher with stand-ins around it."""

    def __init__(self) -> None:
        self.model, self.readers = Model(), [Reader(), Reader()]
        self.batcher = Batcher(
            self.model,  # type: ignore[arg-type]
            LIMITS,
            Metrics(),
            wait=0.05,
            most=4,
            decoders=self.readers,  # type: ignore[arg-type]
        )

    def submit(self, client: str, *names: str, pixels: int = 10, **options: Any) -> Job:
        files = [Upload(name, io.BytesIO(b"content")) for name in names]
        job = Job(client, files, [pixels] * len(names), **options)
        self.batcher.submit(job)
        return job

    def held(self) -> Job:
        """A job that is run, and holds the model until `model.may`."""
        job = self.submit("held", "held")
        assert self.model.began.wait(30)
        return job


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.model.may.set()
    for reader in made.readers:
        reader.stop()
    made.batcher.close()
    assert all(reader.closed for reader in made.readers)


def sources(job: Job) -> list[str]:
    return [answer[0].source for answer in job.future.result(30)]


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_what_waits_together_runs_together(line: Line) -> None:
    held = line.held()
    jobs = [line.submit(name, name) for name in "abcde"]
    wait_until(lambda: line.batcher.waiting == 0)
    line.model.may.set()
    assert [sources(job) for job in (held, *jobs)] == [["held"], *([name] for name in "abcde")]
    assert ["held"] in line.model.runs
    assert max(map(len, line.model.runs)) <= 4


def test_pictures_at_another_point_run_apart(line: Line) -> None:
    held, other = line.held(), Model()
    other.may.set()
    jobs = [line.submit(name, name, predictor=other if name in "bd" else None) for name in "abcd"]
    wait_until(lambda: line.batcher.waiting == 0)
    line.model.may.set()
    assert [sources(job) for job in (held, *jobs)] == [["held"], ["a"], ["b"], ["c"], ["d"]]
    assert sorted(itertools.chain(*other.runs)) == ["b", "d"]
    assert sorted(itertools.chain(*line.model.runs)) == ["a", "c", "held"]


def test_a_request_larger_than_a_run_is_answered_in_order(line: Line) -> None:
    line.model.may.set()
    assert sources(line.submit("a", *"abcdefgh")) == [*"abcdefgh"]


def test_one_request_s_trouble_is_not_another_s(line: Line) -> None:
    held = line.held()
    before, bad, after = (line.submit(name, name) for name in ("a", "trouble", "b"))
    wait_until(lambda: line.batcher.waiting == 0)
    line.model.may.set()
    assert [sources(job) for job in (held, before, after)] == [["held"], ["a"], ["b"]]
    with pytest.raises(RuntimeError, match="trouble"):
        bad.future.result(30)


def test_a_client_that_brings_much_holds_up_itself(line: Line) -> None:
    """Of many clients' pictures one each is next, and one client has one decoder."""
    held = line.held()
    slow = line.submit("a", "long", *("a",) * 5)
    assert line.readers[0].began.wait(1) or line.readers[1].began.wait(30)
    others = [line.submit(client, client) for client in "bcd"]
    line.model.may.set()
    assert sources(held) == ["held"]
    assert [sources(job) for job in others] == [["b"], ["c"], ["d"]]
    assert not slow.future.done()
    for reader in line.readers:
        reader.stop()
    assert sources(slow) == ["long", *"aaaaa"]


def test_pixels_that_are_decoded_ahead_are_bounded(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "BESIDE", 20)
    held = line.held()  # of ten pixels, which it keeps
    jobs = [line.submit(client, client, pixels=100) for client in "ab"]
    assert not any(job.future.done() for job in jobs)
    wait_until(lambda: line.batcher.waiting == 1)
    time.sleep(0.05)
    assert line.batcher.waiting == 1
    line.model.may.set()
    assert [sources(job) for job in (held, *jobs)] == [["held"], ["a"], ["b"]]


def test_a_large_picture_holds_up_no_small_one(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LARGE", 50)
    monkeypatch.setattr(batching, "BESIDE", 1000)
    large = [line.submit(client, f"large {client}", pixels=90) for client in "ab"]
    assert line.model.began.wait(30)
    line.model.began.clear()
    small = line.submit("c", "c")
    assert line.model.began.wait(30)  # beside the first of the large ones, before the second
    line.model.may.set()
    assert sources(small) == ["c"]
    assert [sources(job) for job in large] == [["large a"], ["large b"]]
    assert sorted(map(sorted, line.model.runs)) == [["c"], ["large a"], ["large b"]]


def test_who_leaves_is_not_answered(line: Line) -> None:
    held = line.held()
    left, stays = line.submit("a", "left"), line.submit("b", "stays")
    line.batcher.cancel(left)
    line.model.may.set()
    assert sources(held) + sources(stays) == ["held", "stays"]
    assert not any("left" in run for run in line.model.runs)
    assert not left.future.done()
    line.batcher.cancel(stays)  # it is done: nothing happens


def test_who_leaves_ends_its_decoder_s_work(line: Line) -> None:
    line.model.may.set()
    long = line.submit("a", "long", "more")
    wait_until(lambda: any(reader.began.is_set() for reader in line.readers))
    busy = next(reader for reader in line.readers if reader.began.is_set())
    assert not busy.stopped.is_set()
    line.batcher.cancel(long)
    assert busy.stopped.is_set()
    assert line.batcher.waiting == 0
    assert sources(line.submit("a", "next")) == ["next"]


def test_an_explanation_waits_in_the_same_line(line: Line) -> None:
    line.model.may.set()
    told = line.submit("a", "why", explain=lambda frame: f"because of {frame.source}")
    assert told.future.result(30) == "because of why"

    def fails(frame: Frame) -> None:
        raise RuntimeError("no reason")

    with pytest.raises(RuntimeError, match="no reason"):
        line.submit("a", "why", explain=fails).future.result(30)
    assert sources(line.submit("a", "next")) == ["next"]


def test_explanations_leave_a_thread_to_others(line: Line) -> None:
    may, began = Event(), Event()

    def slow(frame: Frame) -> str:
        began.set()
        assert may.wait(30)
        return frame.source

    told = [line.submit(client, client, explain=slow) for client in "ab"]
    assert began.wait(30)
    line.model.may.set()
    assert sources(line.submit("c", "c")) == ["c"]
    assert not any(job.future.done() for job in told)
    may.set()
    assert [job.future.result(30) for job in told] == ["a", "b"]


def test_an_explanation_costs_its_client_turns(line: Line) -> None:
    line.model.may.set()
    held = [line.submit(client, "long") for client in "xy"]
    assert all(reader.began.wait(30) for reader in line.readers)
    told = line.submit("a", "why", explain=lambda frame: frame.source)
    jobs = [line.submit("a", "after"), *(line.submit("b", "b") for _ in range(2))]
    line.readers[0].stop()  # one reader reads all the others, in their turn
    for job in (told, *jobs):
        job.future.result(30)
    assert line.readers[0].read == ["long", "why", "b", "b", "after"]
    assert not all(job.future.done() for job in held)


def test_one_client_s_pixels_are_bounded(line: Line) -> None:
    line.held()
    line.submit("a", *"aaaaa", pixels=100)
    line.submit("a", *"aaaaa", pixels=100)
    with pytest.raises(Refused, match="1,000 pixels waiting from one address") as refused:
        line.submit("a", "a")
    assert (refused.value.status, refused.value.retry) == (429, 1)
    line.submit("b", *"bbbbbbbbbbb", pixels=100)  # one request, however large
    with pytest.raises(Refused, match="1,000 pixels waiting"):
        line.submit("b", "b")


def test_a_picture_costs_its_client_turns_by_its_pixels(line: Line) -> None:
    line.model.may.set()
    held = [line.submit(client, "long") for client in "xy"]
    assert all(reader.began.wait(30) for reader in line.readers)
    jobs = [line.submit("a", "large", "after", pixels=batching.PICTURE_COST)]
    jobs += [line.submit("b", *"bb", pixels=10), line.submit("b", "late", pixels=10)]
    line.readers[0].stop()  # one reader reads all the others, in their turn
    for job in jobs:
        job.future.result(30)
    assert line.readers[0].read == ["long", "large", "b", "b", "after", "late"]
    assert not all(job.future.done() for job in held)


def test_a_full_line_has_room_for_who_has_less(line: Line) -> None:
    held = line.held()
    greedy = [line.submit("a", *"aa", pixels=50) for _ in range(5)]
    with pytest.raises(Refused, match="too many requests wait") as refused:
        line.submit("a", "a")
    assert refused.value.status == 503
    modest = line.submit("b", "b")
    with pytest.raises(Refused, match="too many requests wait"):
        greedy[-1].future.result(30)  # the last of who has most
    with pytest.raises(Refused, match="too many requests wait"):
        line.submit("b", *"bbbbbbb", pixels=100)
    line.model.may.set()
    assert sources(held) + sources(modest) == ["held", "b"]
    assert [sources(job) for job in greedy[:-1]] == [["a", "a"]] * 4


def test_the_end_refuses_what_waits(line: Line) -> None:
    line.held()
    waiting = [line.submit(client, "a", "b") for client in "abc"]
    Timer(0.2, line.model.may.set).start()
    line.batcher.close()
    for job in waiting:
        with pytest.raises(Refused, match="stopping"):
            job.future.result(30)
    with pytest.raises(Refused, match="stopping") as refused:
        line.submit("d", "d")
    assert (refused.value.status, refused.value.retry) == (503, 5)


def test_shares_are_taken_and_given_back() -> None:
    shares = Quotas("byte", most=10, each=6)
    shares.take("a", 6)
    with pytest.raises(Refused, match="at most 6 bytes at once from one address") as refused:
        shares.take("a")
    assert (refused.value.status, refused.value.code) == (429, "client_busy")
    shares.take("b", 4)
    with pytest.raises(Refused, match="too many bytes at once") as refused:
        shares.take("c")
    assert (refused.value.status, refused.value.code) == (503, "busy")
    shares.give("a", 6)
    with shares.one("c"):
        assert shares.taken == 5
    shares.give("b", 4)
    assert shares.taken == 0 and not shares._taken


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_clients_are_known_by_their_address(address: str, client: str) -> None:
    assert client_of(address) == client
