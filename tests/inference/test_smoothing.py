"""Smoothed shares look only back, sum to one, and do not depend on the frame rate."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.inference import smoothing
from fervor.inference.prediction import Prediction
from fervor.inference.smoothing import Smoother


def face(
    time: float | None, fraction: float, *, track: int | None = 0, **changes: Any
) -> Prediction:
    values: dict[str, Any] = {
        "source": "clip.mp4",
        "frame": 0,
        "time_s": time,
        "face": 0,
        "track": track,
        "status": "ok",
        "box": (0.0, 0.0, 9.0, 9.0),
        "det_score": 0.9,
        "label": "neutral",
        "prob": fraction,
        "probabilities": {"neutral": fraction, "anger": 1 - fraction},
        "model": "tiny",
        "error": None,
    }
    return Prediction(**{**values, **changes})


def run(smoother: Smoother, times: list[float], probabilities: list[float]) -> list[float]:
    pairs = zip(times, probabilities, strict=True)
    return [smoother([face(time, fraction)])[0]["neutral"] for time, fraction in pairs]


STEPS = st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=30)


@given(STEPS, st.floats(0.05, 5))
def test_against_the_recursion(steps: list[tuple[float, float]], seconds: float) -> None:
    times = np.cumsum([step for step, _ in steps]).tolist()
    probabilities = [fraction for _, fraction in steps]
    expected, mean, before = [], probabilities[0], times[0]
    for time, fraction in zip(times, probabilities, strict=True):
        decay = math.exp(-(time - before) / seconds)
        mean, before = decay * mean + (1 - decay) * fraction, time
        expected.append(mean)
    assert run(Smoother(seconds), times, probabilities) == pytest.approx(expected, abs=1e-12)


def test_a_step_comes_through_by_its_time_constant() -> None:
    times = [k / 1000 for k in range(1001)]
    smooth = run(Smoother(0.5), times, [0.0, *[1.0] * 1000])
    assert smooth[500] == pytest.approx(1 - math.exp(-1), abs=0.002)


@pytest.mark.parametrize("rate", [5, 10, 60])
def test_the_frame_rate_does_not_matter(rate: int) -> None:
    """A step that lasts is seen the same by any camera, at the times that they share."""
    fine = run(Smoother(), [k / 60 for k in range(121)], [float(k > 0) for k in range(121)])
    times = [k / rate for k in range(2 * rate + 1)]
    coarse = run(Smoother(), times, [float(k > 0) for k in range(2 * rate + 1)])
    assert coarse == pytest.approx(fine[:: 60 // rate], abs=1e-9)


def test_it_is_causal_and_starts_with_the_first_value() -> None:
    times = [k / 25 for k in range(20)]
    first = run(Smoother(), times, [0.3] * 10 + [1.0] * 10)
    second = run(Smoother(), times, [0.3] * 10 + [0.0] * 10)
    assert first[:10] == second[:10] == pytest.approx([0.3] * 10)
    assert first[10] > 0.3 > second[10]


def test_tracks_sources_and_pictures_are_apart() -> None:
    smoother = Smoother()
    smoother([face(0.0, 1.0), face(0.0, 0.0, track=1), face(0.0, 0.5, source="b.mp4")])
    answers = smoother(
        [
            face(0.1, 1.0),
            face(0.1, 0.0, track=1),
            face(0.1, 0.5, source="b.mp4"),
            face(None, 0.25, track=None),
            face(0.1, 0.0, status="no_face", probabilities={}),
        ]
    )
    assert [answer.get("neutral") for answer in answers] == [1.0, 0.0, 0.5, 0.25, None]


def test_a_video_from_its_start_again_is_another_track() -> None:
    smoother = Smoother()
    run(smoother, [0.0, 5.0], [1.0, 1.0])
    assert run(smoother, [0.0], [0.0]) == [0.0]


def test_raw_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    smoother, one, two = Smoother(), face(0.0, 1.0), face(0.1, 0.0)
    smoother([one])
    (smooth,) = smoother([two])
    assert two.probabilities == {"neutral": 0.0, "anger": 1.0}
    assert 0 < smooth["neutral"] < 1
    assert sum(smooth.values()) == pytest.approx(1)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothing, "TRACKS", 3)
    smoother = Smoother()
    for track in range(10):
        smoother([face(0.0, 0.0, track=9), face(0.0, 1.0, track=track % 9)])
    assert len(smoother._states) == 3
    assert smoother([face(0.1, 0.0, track=9)])[0]["neutral"] == 0.0


def test_time_constant_out_of_range() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Smoother(0)
