"""The answer for one face, as people and notebooks read it."""

from dataclasses import dataclass
from typing import Literal

from fervor.frame import Frame


__all__ = ["Box", "Points", "Prediction", "Status", "without_face"]

Status = Literal["ok", "no_face", "error"]
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""
Points = tuple[tuple[float, float], ...]
"""x and y of each of a face's landmarks, in pixels."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The expression that one face shows; or, by its status, that there was no face or no picture.

    Attributes:
        source: the path as it was given or found; empty for an array.
        frame: number within the source, from 0.
        time_s: seconds from the start of a video; None for a picture.
        face: number within the frame, from 0, largest first; None without a face.
        track: which face it is over time; None for a picture.
        status: ok, no_face or error (the picture could not be read).
        box: x, y, width, height in pixels of the upright picture.
        det_score: the detector's score in 0..1; None for a precropped face.
        label: the expression with the highest probability, or "uncertain" below `abstain`.
        prob: the highest probability, in 0..1.
        probabilities: of every expression, in the model's order, summing to 1; empty without face.
        model: name of the model.
        error: one line on why the picture could not be read.
    """

    source: str
    frame: int
    time_s: float | None
    face: int | None
    track: int | None
    status: Status
    box: Box | None
    det_score: float | None
    label: str | None
    prob: float | None
    probabilities: dict[str, float]
    model: str
    error: str | None

    def _repr_html_(self) -> str:
        """How Jupyter shows it: the place, the expression, and a bar for each probability."""
        from html import escape  # slow to import, and most runs show nothing

        head = escape(self._headline())
        if not self.probabilities:
            return f"<div>{head}</div>"
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(label)}</td><td style='width:12em'>"
            f"<div style='background:#0072B2;height:0.8em;width:{100 * share:.1f}%'></div></td>"
            f"<td>{share:.3f}</td></tr>"
            for label, share in self.probabilities.items()
        )
        return f"<div>{head}</div><table>{rows}</table>"

    def _headline(self) -> str:
        place = self.source or "picture"
        if self.time_s is not None:
            place += f", {self.time_s:.3f} s"
        if self.box is None or self.prob is None:
            reason = f": {self.error}" if self.error else ""
            return f"{place}: {self.status.replace('_', ' ')}{reason}"
        who = f"face {self.face}" if self.track is None else f"face {self.face}, track {self.track}"
        x, y, width, height = (round(value) for value in self.box)
        answer = f"{self.label} ({self.prob:.1%})"
        return f"{place}, {who} at {x}, {y} ({width} x {height}): {answer}"


def without_face(frame: Frame, model: str) -> Prediction:
    """What a frame without a face gives: `no_face`, or `error` where it could not be read."""
    status: Status = "no_face" if frame.error is None else "error"
    where = (frame.source, frame.frame, frame.time_s, None, None, status)
    return Prediction(*where, None, None, None, None, {}, model, frame.error)
