"""Timelines keep what was shown when; PNG and page say the same; the page needs nothing else."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fervor.outputs import timeline
from fervor.outputs.drawing import colour_of, legend
from fervor.outputs.timeline import Timeline, page, picture
from tests.inference.test_prediction import Balanced
from tests.inference.test_smoothing import face


LABELS = ("neutral", "anger")


def test_a_long_name_is_not_cut() -> None:
    shown = picture(filled((0, 1, 0.5)), "a very long name of a video " * 12 + ".mp4")
    edge = np.asarray(shown)[: timeline.MARGIN + 2 * timeline.SIZE, -timeline.MARGIN :]
    assert (edge == 255).all()


def test_a_name_that_is_no_utf8_is_written_with_escapes(tmp_path: Path) -> None:
    timeline.write(filled((0, 1, 0.5)), os.fsdecode(b"clip\xe9.mp4"), tmp_path / "clip-timeline")
    assert "clip\\udce9.mp4" in (tmp_path / "clip-timeline.html").read_text(encoding="utf-8")
    assert (tmp_path / "clip-timeline.png").is_file()


def filled(*tracks: tuple[float, float, float], rate: int = 25) -> Timeline:
    """For each track: from, to (seconds), and the share of neutral."""
    answer = Timeline()
    last = max((end for _, end, _ in tracks), default=0.0)
    for number in range(round(last * rate) + 1):
        time = number / rate
        faces = [
            face(time, fraction, track=track)
            for track, (start, end, fraction) in enumerate(tracks)
            if start <= time <= end
        ]
        answer.add(faces, [one.probabilities for one in faces])
    return answer


def test_lanes_hold_times_and_shares() -> None:
    first, second = filled((0.0, 4.0, 0.25), (1.0, 2.0, 0.75)).lanes()
    assert (first.track, second.track) == (0, 1)
    assert (second.times[0], second.times[-1]) == pytest.approx((1.0, 2.0))
    np.testing.assert_allclose(second.probabilities, [[0.75, 0.25]] * 26, atol=1e-6)


def test_a_long_video_is_drawn_by_its_means() -> None:
    long = Timeline()
    for number in range(40_000):
        one = face(number / 25, float(number % 2))
        long.add([one], [one.probabilities])
    (lane,) = long.lanes()
    assert len(lane.times) <= timeline.POINTS + 1
    np.testing.assert_allclose(lane.probabilities, 0.5, atol=0.02)
    assert (np.diff(lane.times) > 0).all()


def test_gaps_interrupt_a_lane() -> None:
    gap = Timeline()
    for time in [*np.arange(0, 2, 0.1), *np.arange(5, 7, 0.1)]:
        one = face(float(time), 0.5)
        gap.add([one], [one.probabilities])
    (lane,) = gap.lanes()
    runs = timeline._runs(lane)
    assert [(times[0], times[-1]) for times, _ in runs] == [
        pytest.approx((0.0, 1.9)),
        pytest.approx((5.0, 6.9)),
    ]
    assert all((edges[:, -1] == 1).all() and (edges[:, 0] == 0).all() for _, edges in runs)


def test_only_the_longest_tracks_are_drawn() -> None:
    many = Timeline()
    for track in range(timeline.LANES + 5):
        for number in range(1 + track):
            one = face(number / 10, 0.5, track=track)
            many.add([one], [one.probabilities])
    assert [lane.track for lane in many.lanes()] == list(range(5, timeline.LANES + 5))
    assert f"{timeline.LANES} of {timeline.LANES + 5} tracks" in page(many, "a.mp4")


def test_the_picture_shows_each_share_in_its_place() -> None:
    pixels = np.asarray(picture(filled((0.0, 4.0, 0.25), (2.0, 4.0, 1.0)), "a.mp4"))
    grey, orange = (colour_of(name, LABELS) for name in LABELS)
    names = legend(LABELS, timeline.SIZE, 1000).height
    top = timeline.MARGIN + 2 * timeline.SIZE + names + timeline.SPACE
    left, right = timeline.LEFT, timeline.WIDTH - timeline.MARGIN
    column = pixels[top : top + timeline.LANE + 1, (left + right) // 4]
    assert (column == orange).all(-1).sum() == pytest.approx(0.75 * timeline.LANE, abs=3)
    assert (column == grey).all(-1).sum() == pytest.approx(0.25 * timeline.LANE, abs=3)
    second = pixels[top + timeline.LANE + timeline.SPACE + timeline.LANE // 2]
    shown = np.flatnonzero((second == grey).all(-1))
    assert shown.min() == pytest.approx((left + right) / 2, abs=4)
    assert shown.max() == pytest.approx(right, abs=2)


@pytest.mark.parametrize("tracks", [(), ((0.0, 0.0, 0.5),), ((0.0, 3.0, 0.5), (1.0, 2.0, 0.1))])
def test_empty_and_short_timelines(tracks: tuple[tuple[float, float, float], ...]) -> None:
    made = filled(*tracks)
    assert picture(made, "a.mp4").width == timeline.WIDTH
    assert page(made, "a.mp4").count("<svg") == len(tracks)


class Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value) for name, value in attrs]


class TestPage:
    def test_it_needs_nothing_else(self) -> None:
        html = page(filled((0.0, 3.0, 0.5)), "a.mp4")
        assert "//" not in html.replace("</", "")
        parser = Attributes()
        parser.feed(html)
        assert not [found for found in parser.found if found[1] in ("src", "href")]
        assert "@import" not in html
        assert "url(" not in html

    def test_lanes_and_data(self) -> None:
        html = page(filled((0.0, 4.0, 0.25), (1.0, 2.0, 0.75)), "a.mp4")
        (text,) = re.findall(r"const data = (.*);\n", html)
        data = json.loads(text)
        assert data["labels"] == list(LABELS)
        assert [lane["times"][0] for lane in data["lanes"]] == [0.0, 1.0]
        assert data["lanes"][1]["shares"][3] == [0.75, 0.25]
        lanes = re.findall(r'aria-label="([^"]+)"', html)
        assert lanes[1] == "track 1: 1 s to 2 s, neutral 75%, anger 25%"
        points = re.findall(r'points="([^"]+)"', html)
        xs = [float(pair.split(",")[0]) for pair in points[-1].split()]
        assert (min(xs), max(xs)) == (250, 500)

    def test_names_are_text(self) -> None:
        made = filled((0.0, 1.0, 0.5))
        made.labels = ("</script><b>", "anger")
        html = page(made, "<img src=x>.mp4")
        assert "<img" not in html
        assert "</script><b>" not in html
        Balanced().feed(re.sub(r"<meta[^>]*>", "", html.removeprefix("<!doctype html>")))


def test_ticks_are_round_and_few() -> None:
    for duration in (0.0, 0.04, 1.0, 59.0, 61.0, 3600.0, 40_000.0, 500_000.0):
        ticks = timeline._ticks(duration)
        assert 1 <= len(ticks) <= 13
        assert ticks[0] == 0
        assert ticks[-1] <= duration
    assert timeline._clock(7325) == "2:02:05"
    assert timeline._clock(65) == "1:05"


def test_files_are_written_aside(tmp_path: Path) -> None:
    timeline.write(filled((0.0, 1.0, 0.5)), "a.mp4", tmp_path / "a-timeline")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-timeline.html", "a-timeline.png"]


def test_each_track_shows_its_face_at_its_largest() -> None:
    """Red then, larger, green: who is who, in the picture and the page."""
    shown = Timeline()
    colours = [((0, 0, 20, 30), (200, 0, 0)), ((0, 0, 60, 90), (0, 200, 0)), ((0, 0, 62, 90), 9)]
    for number, (box, colour) in enumerate(colours):
        image = np.zeros((100, 100, 3), np.uint8)
        image[:, :] = colour
        one = replace(face(number / 25, 0.6, track=5), box=tuple(map(float, box)))
        shown.add([one], [one.probabilities], image)
    kept = shown.faces[5]
    assert max(kept.size) == timeline.FACE
    assert np.asarray(kept)[3, 3].tolist() == [0, 200, 0]
    pixels = np.asarray(picture(shown, "clip.mp4"))
    assert (pixels[:, : timeline.LEFT] == (0, 200, 0)).all(-1).sum() == kept.width * kept.height
    assert 'alt="the face of track 5" src="data:image/jpeg;base64,' in page(shown, "clip.mp4")


def test_a_face_outside_its_picture_is_none() -> None:
    shown = Timeline()
    one = replace(face(0.0, 0.6, track=1), box=(500.0, 500.0, 9.0, 9.0))
    shown.add([one], [one.probabilities], np.zeros((10, 10, 3), np.uint8))
    assert shown.faces == {}
