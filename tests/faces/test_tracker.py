"""Faces keep their numbers, boxes follow, scenes end tracks; with detectors real and drawn."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fervor.faces import tracker as tracking
from fervor.faces.alignment import TEMPLATE
from fervor.faces.detector import FaceDetector
from fervor.faces.tracker import Cuts, FaceTracker, Motion, Tracked, assign
from fervor.faces.types import Box, Face, iou
from tests.support import scenes
from tests.support.videos import ASTRONAUT, portrait


BLANK = np.zeros((480, 640, 3), np.uint8)


def at(x: float, y: float, side: float = 50.0) -> Face:
    return Face((x, y, side, side), np.asarray(TEMPLATE * side + [x, y], np.float32), 0.9)


class Script:
    """A detector that finds what the script says of each frame, and counts its looks."""

    def __init__(self, *frames: Sequence[Face], blind_nearby: bool = False) -> None:
        self.frames, self.blind = frames, blind_nearby
        self.now = -1
        self.whole: list[tuple[int, int]] = []
        self.near_calls = 0

    def detect(self, images: Sequence[NDArray[np.uint8]], *, passes: int = 3) -> list[list[Face]]:
        self.whole.append((self.now, passes))
        return [sorted(self.frames[self.now], key=lambda face: -face.area)]

    def near(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[Face | None]:
        self.near_calls += 1
        found: list[Face | None] = []
        for box in boxes:
            seen = [face for face in self.frames[self.now] if iou(face.box, box) >= 0.3]
            best = max(seen, key=lambda face: iou(face.box, box), default=None)
            found.append(None if self.blind else best)
        return found

    def run(self, *, whole_every: int = 10, rate: float = 25.0) -> list[list[Tracked]]:
        tracker = FaceTracker(self, whole_every=whole_every)
        answers = []
        for number in range(len(self.frames)):
            self.now = number
            answers.append(tracker(BLANK, number / rate))
        return answers


def tracks(answers: Sequence[Sequence[Tracked]]) -> list[list[int]]:
    return [[one.track for one in answer] for answer in answers]


class TestMotion:
    def test_against_a_filter_with_full_matrices(self) -> None:
        """The textbook's eight-dimensional filter, with block matrices for all four numbers."""
        random = np.random.default_rng(0)
        times = np.cumsum(random.uniform(0.01, 0.2, 30))
        boxes = np.column_stack(
            [random.normal(100, 9, 30), random.normal(80, 9, 30), random.uniform(20, 60, (30, 2))]
        )
        motion = Motion(tuple(boxes[0].tolist()), float(times[0]))
        h = np.hstack([np.eye(4), np.zeros((4, 4))])

        def z(box: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2, *np.log(box[2:])])

        x = np.concatenate([z(boxes[0]), np.zeros(4)])
        p = np.diag([tracking.MEASURED**2] * 4 + [1.0] * 4)
        r = np.eye(4) * tracking.MEASURED**2
        for time, before, box in zip(times[1:], times[:-1], boxes[1:], strict=True):
            dt = time - before
            f = np.eye(8) + np.diag([dt] * 4, 4)
            q = tracking.JERK * np.block(
                [
                    [np.eye(4) * dt**3 / 3, np.eye(4) * dt**2 / 2],
                    [np.eye(4) * dt**2 / 2, np.eye(4) * dt],
                ]
            )
            x, p = f @ x, f @ p @ f.T + q
            gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + r)
            x, p = x + gain @ (z(box) - h @ x), (np.eye(8) - gain @ h) @ p
            motion.predict(float(time))
            motion.update(tuple(box.tolist()))
            expected = [*(x[:2] - np.exp(x[2:4]) / 2), *np.exp(x[2:4])]
            np.testing.assert_allclose(motion.box, expected, rtol=1e-9)

    def test_a_steady_motion_is_foreseen(self) -> None:
        motion = Motion((0.0, 50.0, 40.0, 40.0), 0.0)
        for number in range(1, 20):
            motion.predict(number / 25)
            motion.update((6.0 * number, 50.0, 40.0, 40.0))
        motion.predict(22 / 25)
        assert motion.box == pytest.approx((6.0 * 22, 50, 40, 40), abs=1.5)

    def test_time_does_not_run_backwards(self) -> None:
        motion = Motion((0.0, 0.0, 10.0, 10.0), 5.0)
        before = motion.box
        motion.predict(4.0)
        assert motion.box == before


BOXES = st.lists(
    st.tuples(*[st.floats(0, 60)] * 2, *[st.floats(5, 60)] * 2), min_size=0, max_size=4
)


class TestAssign:
    @given(BOXES, BOXES)
    def test_pairs(self, before: list[Box], now: list[Box]) -> None:
        chosen = assign(before, now, 0.2)
        assert len(set(chosen.values())) == len(chosen)
        assert all(iou(before[i], now[j]) >= 0.2 for i, j in chosen.items())
        free = [j for j in range(len(now)) if j not in chosen.values()]
        for i in range(len(before)):  # nobody is left with a free partner who would rather have it
            if i not in chosen:
                assert all(iou(before[i], now[j]) < 0.2 for j in free)

    @given(st.integers(0, 2**32 - 1))
    def test_faces_that_moved_little_find_themselves(self, seed: int) -> None:
        """Of all assignments, the one with the largest sum of overlaps, by trying each."""
        random = np.random.default_rng(seed)
        places = random.permutation(9)[:4]
        before = [(60.0 * (p % 3), 60.0 * (p // 3), 50.0, 50.0) for p in places]
        moves = random.uniform(-12, 12, (4, 2))
        now = [(b[0] + m[0], b[1] + m[1], 50.0, 50.0) for b, m in zip(before, moves, strict=True)]
        order = random.permutation(4)
        shuffled = [now[k] for k in order]
        best = max(
            permutations(range(4)),
            key=lambda p: sum(iou(before[i], shuffled[p[i]]) for i in range(4)),
        )
        assert assign(before, shuffled, 0.2) == dict(enumerate(best))

    def test_the_larger_overlap_wins(self) -> None:
        before = [(0.0, 0.0, 10.0, 10.0), (4.0, 0.0, 10.0, 10.0)]
        assert assign(before, [(5.0, 0.0, 10.0, 10.0)], 0.2) == {1: 0}


class TestTracks:
    def test_two_faces_keep_their_numbers_when_their_order_changes(self) -> None:
        frames = [[at(10 + 4 * n, 100, 50 + n), at(400 - 4 * n, 300, 60)] for n in range(30)]
        answers = Script(*frames).run()
        assert tracks(answers)[0] == [0, 1]  # the larger one first
        assert tracks(answers)[-1] == [1, 0]
        for frame, answer in zip(frames, answers, strict=True):
            assert {one.face.box for one in answer} == {face.box for face in frame}

    def test_looks_at_whole_frames_are_rare_while_a_face_is_followed(self) -> None:
        script = Script(*[[at(10 + n, 50)] for n in range(31)])
        script.run(whole_every=10)
        assert [number for number, _ in script.whole] == [0, 10, 20, 30]
        assert script.near_calls == 27

    def test_each_frame_may_be_looked_at(self) -> None:
        script = Script(*[[at(10, 50)]] * 5)
        script.run(whole_every=1)
        assert [number for number, _ in script.whole] == [0, 1, 2, 3, 4]
        assert script.near_calls == 0

    def test_a_new_face_is_found_within_the_interval(self) -> None:
        frames = [[at(10, 50)] + ([at(300, 50, 30)] if n >= 3 else []) for n in range(12)]
        assert tracks(Script(*frames).run(whole_every=5)) == [[0]] * 5 + [[0, 1]] * 7

    def test_a_lost_face_is_looked_for_in_the_whole_frame_at_once(self) -> None:
        """A jump further than the region: the same frame gives the face, under a new number."""
        script = Script(*[[at(10, 50)]] * 5, *[[at(400, 300)]] * 5)
        answers = script.run(whole_every=100)
        assert [number for number, _ in script.whole] == [0, 5]
        assert tracks(answers) == [[0]] * 5 + [[1]] * 5

    def test_what_near_misses_and_the_whole_look_finds_is_the_same_face(self) -> None:
        answers = Script(*[[at(10 + n, 50)] for n in range(6)], blind_nearby=True).run()
        assert tracks(answers) == [[0]] * 6

    def test_a_face_that_passes_behind_another_takes_not_its_number(self) -> None:
        """One walks behind the other, which hides it for a while, and away on the other side."""
        standing = at(200, 100)
        frames = []
        for number in range(41):
            passing = at(8.0 * number + 40, 100)
            hidden = iou(passing.box, standing.box) > 0.4
            frames.append([standing] if hidden else [passing, standing])
        first = Script(*frames).run()
        assert len(frames[0]) == 2 and [standing] in frames
        number = {tracked.face: tracked.track for tracked in first[0]}[standing]
        for tracked in first:
            assert [one.track for one in tracked if one.face is standing] == [number]

    @pytest.mark.parametrize(("gap", "number"), [(10, 0), (20, 0), (40, 1)])
    def test_a_short_absence_keeps_the_number(self, gap: int, number: int) -> None:
        answers = Script(*[[at(10, 50)]] * 3, *[[]] * gap, *[[at(14, 52)]] * 3).run()
        assert tracks(answers)[:3] == [[0]] * 3
        assert tracks(answers)[3:-3] == [[]] * gap
        assert tracks(answers)[-3:] == [[number]] * 3

    def test_thorough_looks_are_rare_without_a_face(self) -> None:
        """At first, when the face is lost, and once a second; each frame is looked at once."""
        script = Script(*[[]] * 60, *[[at(10, 50)]] * 10, *[[]] * 30)
        script.run(rate=25)
        assert {number for number, _ in script.whole} == {*range(61), *range(70, 100)}
        assert [number for number, passes in script.whole if passes == 3] == [0, 25, 50, 70, 95]
        tiles = [number for number, passes in script.whole if passes]
        assert tiles == [0, 10, 20, 25, 35, 45, 50, 60, 70, *range(70, 96)]

    def test_two_tracks_never_share_a_face(self) -> None:
        frames = [[at(100, 50), at(130 - n, 50)] if n < 25 else [at(105, 50)] for n in range(40)]
        answers = Script(*frames).run(whole_every=100)
        assert all(len({one.face.box for one in answer}) == len(answer) for answer in answers)
        assert [len(answer) for answer in answers[25:]] == [1] * 15

    def test_a_cut_ends_every_track(self) -> None:
        script = Script(*[[at(10, 50)]] * 8)
        tracker = FaceTracker(script)
        scenes = [scene(seed) for seed in (1, 1, 1, 1, 2, 2, 2, 2)]
        answers = []
        for script.now, picture in enumerate(scenes):
            answers.append(tracker(picture, script.now / 25))
        assert tracks(answers) == [[0]] * 4 + [[1]] * 4
        assert script.whole == [(0, 3), (4, 3)]


def scene(seed: int, *, light: float = 1.0, shift: int = 0) -> NDArray[np.uint8]:
    """A landscape of coloured patches."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize((720, 480), Image.Resampling.BICUBIC))
    return (large[:, shift : shift + 640] * light).clip(0, 255).astype(np.uint8)


class TestCuts:
    @pytest.mark.parametrize("seed", range(10))
    def test_another_scene(self, seed: int) -> None:
        cuts = Cuts()
        answers = [cuts(scene(number)) for number in (seed, seed, seed + 100)]
        assert answers == [False, False, True]

    def test_a_cut_to_a_photograph_and_back(self) -> None:
        cuts, photograph = Cuts(), np.asarray(Image.open(ASTRONAUT).convert("RGB"))
        answers = [cuts(picture) for picture in (scene(0), photograph, photograph, scene(0))]
        assert answers == [False, True, False, True]

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_no_cut(self, seed: int) -> None:
        """Noise, a pan by 2 % of the width a frame, light that changes by 10 %, a walker."""
        random, cuts = np.random.default_rng(seed), Cuts()
        for number in range(12):
            picture = scene(seed, light=1 - 0.1 * (number % 2), shift=13 * (number % 6))
            picture = (picture + random.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)
            picture[100:, 40 * number : 40 * number + 150] = (20, 60, 30)
            assert not cuts(picture)

    def test_histograms_hold_shares(self) -> None:
        histograms = tracking._histograms(np.full((1, 1, 3), 200, np.uint8))
        assert histograms.shape == (16, 3, 8)
        np.testing.assert_allclose(histograms.sum(axis=-1), 1)
        np.testing.assert_allclose(histograms[..., 200 * 8 // 256], 1)


class TestWithTheRealDetector:
    def test_between_looks_boxes_and_points_are_those_of_the_detector(self) -> None:
        """A portrait that moves, grows and shrinks, against a look at each whole frame."""
        detector = FaceDetector(1)
        tracker = FaceTracker(detector, whole_every=1000)
        for number in range(40):
            side = round(170 + 70 * np.sin(number / 9))
            place = round(220 + 150 * np.sin(number / 12)), round(120 + 90 * np.cos(number / 10))
            picture = portrait(*place, side)
            (one,) = tracker(picture, number / 25)
            (expected,) = detector.detect([picture])[0]
            assert one.track == 0
            assert iou(one.face.box, expected.box) > 0.75
            error = np.abs(one.face.points - expected.points).max()
            assert error < 0.12 * max(expected.box[2:])

    def test_near_looks_only_near(self) -> None:
        detector = FaceDetector(1)
        picture = portrait(40, 60)
        (face,) = detector.detect([picture])[0]
        x, y, width, height = face.box
        beside = (x + 0.15 * width, y - 0.1 * height, 1.2 * width, 1.1 * height)
        elsewhere = (x + 3 * width, y, width, height)
        outside = (-500.0, -500.0, 50.0, 50.0)
        found = detector.near(picture, [beside, elsewhere, outside, face.box])
        assert found[1] is found[2] is None
        for one in (found[0], found[3]):
            assert one is not None
            assert iou(one.box, face.box) > 0.75
        assert detector.near(picture, []) == []

    def test_a_small_face_is_found_soon_in_an_empty_scene(self) -> None:
        tracker = FaceTracker(FaceDetector(1))
        picture, boxes = scenes.scene(1280, 720, [(45, 900, 400)])
        empty, shown = np.asarray(scenes.background(1280, 720)), np.asarray(picture)
        assert not any(tracker(empty, number / 25) for number in range(3))
        followed = [tracker(shown, number / 25) for number in range(3, 13)]
        first = next(number for number, faces in enumerate(followed) if faces)
        assert first == 7 and all(followed[first:])
        assert scenes.iou(followed[-1][0].face.box, boxes[0]) > 0.45

    def test_small_faces_are_found_where_they_are_asked_for(self) -> None:
        picture, boxes = scenes.scene(1280, 720, [(24, 300, 200), (45, 900, 400)])
        tracker = FaceTracker(FaceDetector(1, smallest=24))
        for time in (0.0, 0.04):
            followed = tracker(np.asarray(picture), time)
            assert [one.track for one in followed] == [0, 1]
            for one, box in zip(followed, reversed(boxes), strict=True):
                assert scenes.iou(one.face.box, box) > 0.4
