"""Long work says how far it is: a bar on a terminal, a line now and then in a log."""

import os
import pty
import sys

import pytest

from fervor.io import progress as module
from fervor.io.progress import duration, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_after_a_minute_and_then_every_five(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(4000, "decoding") as bar:
        for _ in range(40):
            clock[0] += 20
            bar.update(100)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "decoding: 300 of 4,000 pictures, 0:12:20 left",
        "decoding: 1,800 of 4,000 pictures, 0:07:20 left",
        "decoding: 3,300 of 4,000 pictures, 0:02:20 left",
    ]


def test_what_an_earlier_run_did_took_no_time(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(1000, unit="rows", done=900) as bar:
        clock[0] += 60
        bar.update(50)
    assert capsys.readouterr().err == "950 of 1,000 rows, 0:01:00 left\n"


def test_an_unknown_total_is_counted(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(None, unit="frames") as bar:
        clock[0] += 61
        bar.update()
    assert capsys.readouterr().err == "1 frames\n"


def test_short_work_and_what_is_not_shown_say_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(5) as bar:
        clock[0] += 59
        bar.update(5)
    with progress(5, shown=False) as bar:
        clock[0] += 600
        bar.update(5)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    _, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        with progress(None, unit="frames") as bar:
            assert (bar.total, bar.unit) == (None, " frames")  # type: ignore[attr-defined]
        with progress(5, "decoding", done=1) as bar:
            bar.update(2)
            assert (bar.n, bar.initial, bar.total, bar.delay) == (3, 1, 5, 2)  # type: ignore[attr-defined]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 61, 3723.4)] == ["0:00:00", "0:01:01", "1:02:03"]
