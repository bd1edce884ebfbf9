"""Summaries say how long, how surely and how often each face showed each expression."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fervor.errors import UsageError
from fervor.inference.prediction import Prediction, without_face
from fervor.io.frame import Frame
from fervor.outputs.summary import Summary, check_summary
from tests.inference.test_smoothing import face


LABELS = ("neutral", "anger")
Shown = dict[int, float]
"""For each track its probability of neutral."""


def gathered(path: Path, frames: list[tuple[float, Shown]], **options: Any) -> list[dict[str, Any]]:
    with Summary(path, LABELS, **options) as summary:
        for number, (time, shown) in enumerate(frames):
            frame = Frame("clip.mp4", number, time, None, None)
            faces: list[Prediction] = [
                face(time, fraction, track=track) for track, fraction in shown.items()
            ]
            summary.add(frame, faces or [without_face(frame, "tiny")])
    return list(json.loads(path.read_text()))


def of(rows: list[dict[str, Any]], track: int | None, label: str) -> dict[str, Any]:
    (row,) = (row for row in rows if (row["track"], row["label"]) == (track, label))
    return row


def test_times_shares_and_episodes(tmp_path: Path) -> None:
    """Four frames a second: neutral twice, anger twice, neutral; then half a second without."""
    probabilities = [0.9, 0.8, 0.3, 0.1, 0.6]
    frames: list[tuple[float, Shown]] = [
        (0.25 * n, {0: fraction}) for n, fraction in enumerate(probabilities)
    ]
    frames += [(1.25, {}), (1.5, {})]
    rows = gathered(tmp_path / "a.json", frames)
    neutral, anger = of(rows, 0, "neutral"), of(rows, 0, "anger")
    assert (neutral["face_s"], neutral["label_s"], anger["label_s"]) == (1.25, 0.75, 0.5)
    assert (neutral["share_of_time"], anger["share_of_time"]) == (0.6, 0.4)
    assert neutral["mean_prob"] == pytest.approx(sum(probabilities) / 5, abs=1e-4)
    assert (neutral["episodes"], anger["episodes"]) == (2, 1)
    assert (neutral["mean_episode_s"], neutral["longest_episode_s"]) == (0.375, 0.5)
    assert (neutral["frames"], neutral["frames_without_face"]) == (5, None)
    whole = of(rows, None, "anger")
    assert (whole["frames"], whole["frames_without_face"]) == (7, 2)
    assert (whole["label_s"], whole["share_of_time"]) == (0.5, 0.4)


def test_several_faces_and_a_break(tmp_path: Path) -> None:
    frames: list[tuple[float, Shown]] = [(0.5 * n, {0: 0.9, 3: 0.2}) for n in range(4)]
    frames += [(9.0, {0: 0.9}), (9.5, {0: 0.9})]
    rows = gathered(tmp_path / "a.json", frames)
    assert [row["track"] for row in rows] == [None] * 2 + [0] * 2 + [3] * 2
    assert of(rows, 0, "neutral")["episodes"] == 2  # it was out of sight for seven seconds
    assert of(rows, 0, "neutral")["label_s"] == 3 * 0.5 + 1 + 2 * 0.5  # a frame is a second at most
    whole = of(rows, None, "neutral")
    assert whole["face_s"] == of(rows, 0, "neutral")["face_s"] + of(rows, 3, "anger")["face_s"]
    assert whole["share_of_time"] == pytest.approx(3.5 / 6, abs=1e-4)


@pytest.mark.parametrize("step", [0.04, 1.0, 2.0, 30.0])
def test_times_do_not_depend_on_the_step_between_frames(tmp_path: Path, step: float) -> None:
    """A face that shows one expression; then it is away for ten steps, at least two seconds."""
    away = 10 + max(10 * step, 2.0) / step
    frames: list[tuple[float, Shown]] = [(step * n, {0: 0.9}) for n in range(10)]
    frames += [(step * (away + n), {0: 0.9}) for n in range(5)]
    neutral = of(gathered(tmp_path / "a.json", frames), 0, "neutral")
    longest = max(1.0, 1.5 * step)  # of the frame before it was away
    assert neutral["episodes"] == 2
    assert neutral["label_s"] == pytest.approx(14 * step + longest, abs=1e-3)
    assert neutral["longest_episode_s"] == pytest.approx(9 * step + longest, abs=1e-3)


def test_one_video_named_twice_is_two(tmp_path: Path) -> None:
    probabilities = [0.9, 0.2, 0.3]
    with Summary(tmp_path / "a.json", LABELS, smooth=True) as summary:
        for number, fraction in 2 * list(enumerate(probabilities)):
            frame = Frame("clip.mp4", number, 0.5 * number, None, None)
            summary.add(frame, [face(0.5 * number, fraction, track=0)])
    rows = json.loads((tmp_path / "a.json").read_text())
    assert len(rows) == 8 and rows[:4] == rows[4:]
    assert {row["frames"] for row in rows} == {3}


def test_a_face_of_no_track_is_a_face(tmp_path: Path) -> None:
    frames: list[tuple[float, Any]] = [(0.5 * n, {None: 0.9}) for n in range(4)] + [(2.0, {})]
    whole = of(gathered(tmp_path / "a.json", frames), None, "neutral")
    assert (whole["frames"], whole["frames_without_face"]) == (5, 1)


def test_smoothing_joins_what_flickers(tmp_path: Path) -> None:
    frames: list[tuple[float, Shown]] = [
        (n / 25, {0: 0.3 if n % 10 == 5 else 0.9}) for n in range(50)
    ]
    assert of(gathered(tmp_path / "a.json", frames), 0, "neutral")["episodes"] == 6
    assert of(gathered(tmp_path / "b.json", frames, smooth=True), 0, "neutral")["episodes"] == 1


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    frames: list[tuple[float, Shown]] = [(0.5 * n, {0: 0.9}) for n in range(4)]
    rows = gathered(tmp_path / "a.json", frames)
    with Summary(tmp_path / "a.csv", LABELS) as summary:
        for number, (time, _) in enumerate(frames):
            frame = Frame("clip.mp4", number, time, None, None)
            summary.add(frame, [face(time, 0.9, track=0)])
    with (tmp_path / "a.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ]


def test_a_name_starts_no_formula_and_commands_no_terminal(tmp_path: Path) -> None:
    with Summary(tmp_path / "a.csv", LABELS) as summary:
        summary.add(Frame("=1\x1b[2J.mp4", 0, 0.0, None, None), [face(0.0, 0.9, track=0)])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert {row["source"] for row in csv.DictReader(file)} == {r"./=1\x1b[2J.mp4"}


def test_nothing_seen_is_a_header_alone(tmp_path: Path) -> None:
    with Summary(tmp_path / "a.csv", LABELS) as summary:
        summary.add(Frame("a.png", 0, None, None, None), [])
    assert (tmp_path / "a.csv").read_text().startswith("source,track,label,")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_what_ends_early_leaves_the_earlier_file(tmp_path: Path, ending: str) -> None:
    path, partial = tmp_path / f"a{ending}", tmp_path / f"a{ending}.partial"
    path.write_text("of an earlier run")
    with pytest.raises(KeyboardInterrupt), Summary(path, LABELS) as summary:
        summary.add(Frame("clip.mp4", 0, 0.0, None, None), [face(0.0, 0.9, track=0)])
        raise KeyboardInterrupt
    assert path.read_text() == "of an earlier run"
    assert "clip.mp4" in partial.read_text()
    with pytest.raises(KeyboardInterrupt), Summary(path, LABELS):
        raise KeyboardInterrupt  # before there is anything
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    with Summary(path, LABELS) as summary:
        summary.add(Frame("clip.mp4", 0, 0.0, None, None), [face(0.0, 0.9, track=0)])
    assert "clip.mp4" in path.read_text()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a.txt", "ends in"), ("no/a.csv", "does not exist"), ("b.csv", "is a folder: expected")],
)
def test_what_cannot_be_written_is_said_before(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(UsageError, match=reason):
        check_summary(tmp_path / name)
