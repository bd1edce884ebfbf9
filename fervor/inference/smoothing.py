"""Probabilities of a track, smoothed over time; causal, and the same at any frame rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fervor.inference.prediction import Prediction


__all__ = ["SECONDS", "Smoother"]

SECONDS = 0.5
"""Time constant: a sudden change has come through by 63 % after it, by 95 % after three of it."""
TRACKS = 256
"""Tracks that are remembered; those that were seen last."""


@dataclass(slots=True)
class _State:
    time: float
    probabilities: list[float]


class Smoother:
    """An exponential mean over the past of each track.

    After dt seconds the mean m becomes m + (1 - exp(-dt / seconds)) (p - m): the low pass of first
    order, sampled exactly, so that leaving frames out or doubling them hardly changes it. A track
    begins with its first value. Smoothed shares still sum to 1.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        if not seconds > 0:
            raise ValueError(f"seconds={seconds}: expected more than 0")
        self._seconds = seconds
        self._states: dict[tuple[str, int], _State] = {}

    def __call__(self, predictions: Sequence[Prediction]) -> list[dict[str, float]]:
        """The smoothed probabilities of each face of one frame; empty where there is no face.

        A face without a track, in a picture, keeps its own.
        """
        return [self._smoothed(prediction) for prediction in predictions]

    def _smoothed(self, prediction: Prediction) -> dict[str, float]:
        now, time = prediction.probabilities, prediction.time_s
        if prediction.track is None or time is None or not now:
            return dict(now)
        key = (prediction.source, prediction.track)
        state = self._states.pop(key, None)
        if state is None or time < state.time:  # a new track, or the video from its start again
            state = _State(time, list(now.values()))
        weight = 1 - math.exp((state.time - time) / self._seconds)
        probabilities = [
            old + weight * (new - old)
            for old, new in zip(state.probabilities, now.values(), strict=True)
        ]
        self._states[key] = _State(time, probabilities)  # the last seen stands last
        if len(self._states) > TRACKS:
            del self._states[next(iter(self._states))]
        return dict(zip(now, probabilities, strict=True))
