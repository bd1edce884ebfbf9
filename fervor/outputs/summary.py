"""How long each face of a video, and all of it, showed each expression: the file of --summary."""

import csv
import io
import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from fervor.errors import UsageError
from fervor.inference.prediction import Prediction
from fervor.inference.smoothing import Smoother
from fervor.io.atomic import beside, write_bytes
from fervor.io.csv_cells import harmless
from fervor.io.frame import Frame


__all__ = ["ENDINGS", "Summary", "check_summary"]

ENDINGS = (".csv", ".json")
LONGEST_STEP = 1.0
"""Seconds that a frame stands for at most, and after which an episode has ended."""
LONGEST_RATIO, STEPS = 1.5, 25
"""Of the usual step between frames where that is longer: the median of so many before."""


@dataclass(slots=True)
class _Expression:
    seconds: float = 0.0
    weighted: float = 0.0
    episodes: int = 0
    longest: float = 0.0


@dataclass(slots=True)
class _Track:
    """One face, or all faces of a video together."""

    frames: int = 0
    seconds: float = 0.0
    expressions: dict[str, _Expression] = field(default_factory=dict)
    label: str = ""
    length: float = 0.0
    last: float = 0.0


class Summary:
    """Gathers the answers of videos as they come; leaving the `with` block writes the file.

    Where an exception ends the block, what there is so far is in NAME.partial, and an earlier file
    stays as it was.

    A frame stands for the time until the next one, for a second at most, or 1.5 times the usual
    step between frames where that is longer; the last of a video for as long as the one before. An
    episode is a time in which the same expression of a face is the most probable one without a
    break of more than that. With `smooth` probabilities are smoothed over each track first.
    """

    def __init__(self, path: Path, labels: Sequence[str], *, smooth: bool = False) -> None:
        self._path = Path(os.path.realpath(path))  # a link stays one
        self._labels = tuple(labels)
        self._smoother = Smoother() if smooth else None
        self._source, self._last, self._frames, self._empty = "", -1, 0, 0
        self._tracks: dict[int, _Track] = {}
        self._waiting: tuple[float, dict[int, dict[str, float]]] | None = None
        self._step, self._longest_step = 0.0, LONGEST_STEP
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._rows: list[dict[str, Any]] = []

    def add(self, frame: Frame, predictions: Sequence[Prediction]) -> None:
        """Take in one frame; pictures have no time and are passed over."""
        if frame.time_s is None:
            return
        if frame.source != self._source or frame.frame <= self._last:
            self._finish()  # another video, or the same one again
        self._source, self._last = frame.source, frame.frame
        probabilities = [prediction.probabilities for prediction in predictions]
        if self._smoother is not None:
            probabilities = self._smoother(predictions)
        faces = {
            prediction.track: own
            for prediction, own in zip(predictions, probabilities, strict=True)
            if prediction.track is not None and own
        }
        self._frames += 1
        self._empty += all(prediction.status == "no_face" for prediction in predictions)
        if self._waiting is not None:
            step = max(0.0, frame.time_s - self._waiting[0])
            self._steps.append(step)
            self._longest_step = max(LONGEST_STEP, LONGEST_RATIO * median(self._steps))
            self._step = min(step, self._longest_step)
            self._count(*self._waiting, self._step)
        self._waiting = (frame.time_s, faces)

    def _count(self, time: float, faces: dict[int, dict[str, float]], step: float) -> None:
        for number, probabilities in faces.items():
            track = self._tracks.setdefault(number, _Track())
            track.frames += 1
            track.seconds += step
            best = max(probabilities, key=lambda label: probabilities[label])
            for label, fraction in probabilities.items():
                track.expressions.setdefault(label, _Expression()).weighted += fraction * step
            shown = track.expressions[best]
            shown.seconds += step
            if best != track.label or time - track.last > self._longest_step:
                track.label, track.length = best, 0.0
                shown.episodes += 1
            track.length += step
            track.last = time
            shown.longest = max(shown.longest, track.length)

    def _finish(self) -> None:
        """The rows of the video that has ended: of all faces, then of each."""
        if self._waiting is not None:
            self._count(*self._waiting, self._step)
        if self._source:
            self._rows += self._of(None, self._together())
            for number in sorted(self._tracks):
                self._rows += self._of(number, self._tracks[number])
        self._frames = self._empty = 0
        self._tracks, self._waiting, self._step = {}, None, 0.0
        self._steps.clear()
        self._longest_step = LONGEST_STEP

    def _together(self) -> _Track:
        whole = _Track(frames=self._frames)
        for track in self._tracks.values():
            whole.seconds += track.seconds
            for label, own in track.expressions.items():
                shown = whole.expressions.setdefault(label, _Expression())
                shown.seconds += own.seconds
                shown.weighted += own.weighted
                shown.episodes += own.episodes
                shown.longest = max(shown.longest, own.longest)
        return whole

    def _of(self, number: int | None, track: _Track) -> list[dict[str, Any]]:
        rows = []
        for label in self._labels:
            shown = track.expressions.get(label, _Expression())
            there = track.seconds > 0
            rows.append(
                {
                    "source": self._source,
                    "track": number,
                    "label": label,
                    "frames": track.frames,
                    "frames_without_face": self._empty if number is None else None,
                    "face_s": round(track.seconds, 3),
                    "label_s": round(shown.seconds, 3),
                    "share_of_time": round(shown.seconds / track.seconds, 4) if there else None,
                    "mean_prob": round(shown.weighted / track.seconds, 4) if there else None,
                    "episodes": shown.episodes,
                    "mean_episode_s": (
                        round(shown.seconds / shown.episodes, 3) if shown.episodes else None
                    ),
                    "longest_episode_s": round(shown.longest, 3),
                }
            )
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish()
        if self._path.suffix.lower() == ".json":
            text = json.dumps(self._rows, ensure_ascii=False, indent=1) + "\n"
        else:
            file = io.StringIO()
            writer = csv.DictWriter(file, self._of(None, _Track())[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {**row, "source": harmless(row["source"], path=True)} for row in self._rows
            )
            text = file.getvalue()
        partial = beside(self._path, after=".partial")
        if kind is not None and not self._rows:
            partial.unlink(missing_ok=True)
            return
        write_bytes(partial, text.encode("utf-8", "backslashreplace"))
        if kind is None:
            partial.replace(self._path)


def check_summary(path: Path) -> None:
    """Raises UsageError, before the work starts, where the file could not be written."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"summary {path}: expected a name that ends in {' or '.join(ENDINGS)}")
    if path.is_dir():
        raise UsageError(f"summary {path} is a folder: expected a file's name")
    if path.exists() and not path.is_file():
        raise UsageError(f"summary {path} is a pipe or device: expected a file's name")
    if not path.parent.is_dir():
        raise UsageError(
            f"summary {path}: the folder {path.parent} does not exist; create it first"
        )
