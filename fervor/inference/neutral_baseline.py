"""A person's own neutral: what a face at rest looks like to a model corrects what it shows.

Some resting faces look sad or angry to a model. KE-FER (arXiv 2409.08598) reads an expression as a
change from neutral to emotional; this applies the idea over time, to logits. It is ours, needs no
training and is off unless asked for; docs/video.md says what it gains and where it must fail.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fervor.errors import ModelError
from fervor.io.frame import Frame
from fervor.labels import NEUTRAL


__all__ = ["AUTO", "OwnNeutral", "Rest", "correction"]

Logits = NDArray[np.float64]

AUTO = "auto"
"""The value of the option that learns the neutral of each track."""

CORRECTED = ("sadness", "anger")
"""Expressions for which resting faces are often taken; the others are left alone."""
MARGIN = 1.0
"""At rest, neutral shall exceed each of them by this, in logits."""
LARGEST = 3.0
"""No logit is lowered by more."""

CALM = 0.2
"""Share of a track's samples, those most neutral for it, whose mean is its rest."""
INTERVAL, LEAST, MOST = 0.1, 30, 256
"""Seconds between samples of a track at first; how many it needs, and how many it keeps."""


def correction(rest: Logits, labels: Sequence[str]) -> Logits:
    """What to subtract from a person's logits [c], given those at rest [c].

    For each expression k of CORRECTED: min(LARGEST, max(0, rest_k - rest_neutral + MARGIN)); 0 for
    the others. A face that already looks neutral at rest is left as it is.
    """
    neutral = rest[labels.index(NEUTRAL)]
    excess = np.clip(rest - neutral + MARGIN, 0.0, LARGEST)
    return np.where([label in CORRECTED for label in labels], excess, 0.0)


class Rest:
    """Learns one track's logits at rest from the frames seen so far, in bounded memory."""

    def __init__(self, neutral: int) -> None:
        self._neutral = neutral
        self._interval = INTERVAL
        self._next = -np.inf
        self._samples: list[Logits] = []

    def add(self, logits: Logits, time: float) -> None:
        """Take in a frame's logits [c]; samples thin out as the track grows longer."""
        if time < self._next - 1e-6:  # times are sums of steps that are no binary fractions
            return
        self._next = time + self._interval
        self._samples.append(logits)
        if len(self._samples) > MOST:
            self._samples = self._samples[::2]
            self._interval *= 2

    @property
    def logits(self) -> Logits | None:
        """Mean [c] over the samples that are most neutral; None before there are LEAST."""
        if len(self._samples) < LEAST:
            return None
        samples = np.stack(self._samples)
        odds = samples[:, self._neutral] - np.logaddexp.reduce(samples, axis=1)
        calmest = np.argsort(-odds, kind="stable")[: int(np.ceil(CALM * len(samples)))]
        mean: Logits = samples[calmest].mean(axis=0)
        return mean


TRACKS = 64
"""Tracks whose rest is remembered; those that were seen last."""


class OwnNeutral:
    """Corrects the logits of one stream of frames.

    Args:
        labels: the model's expressions in the order of its logits.
        rest: logits [c] of the person at rest, for every face; None learns each track's own.

    Raises:
        ModelError: the model knows no neutral.
    """

    def __init__(self, labels: Sequence[str], rest: Logits | None = None) -> None:
        if NEUTRAL not in labels:
            raise ModelError(
                f"the model's labels are {', '.join(labels)}: "
                f"a person's own neutral needs one with {NEUTRAL!r}"
            )
        self._labels = tuple(labels)
        self._fixed = None if rest is None else correction(rest, self._labels)
        self._rests: dict[int, Rest] = {}
        self._source, self._last = "", -1

    def corrected(
        self, frame: Frame, tracks: Sequence[int | None], logits: Sequence[Logits]
    ) -> list[Logits]:
        """The logits [c] of a frame's faces, corrected; a face of no track only by a given rest.

        What is not finite is no answer: it stays, and nothing is learnt of it.
        """
        if self._fixed is not None:
            return [row - self._fixed for row in logits]
        if frame.source != self._source or frame.frame <= self._last:
            self._rests = {}  # another video, or the same one again
        self._source, self._last = frame.source, frame.frame
        return [
            self._own(track, row, frame.time_s)
            if track is not None and frame.time_s is not None and np.isfinite(row).all()
            else row
            for track, row in zip(tracks, logits, strict=True)
        ]

    def _own(self, track: int, row: Logits, time: float) -> Logits:
        rest = self._rests.pop(track, None) or Rest(self._labels.index(NEUTRAL))
        self._rests[track] = rest  # the last seen stands last
        if len(self._rests) > TRACKS:
            del self._rests[next(iter(self._rests))]
        rest.add(row, time)
        learnt = rest.logits
        return row if learnt is None else row - correction(learnt, self._labels)
