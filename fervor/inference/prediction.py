"""The answer for one face, as people, notebooks and tables read it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from fervor.faces.types import Box, Points
from fervor.io.csv_cells import encodable
from fervor.io.frame import Frame


__all__ = ["Answer", "Prediction", "Status", "without_face"]
Status = Literal["ok", "no_face", "error"]


@dataclass(frozen=True, slots=True, repr=False)
class Prediction:
    """The expression that one face shows; or, by its status, that there was no face or no picture.

    Attributes:
        source: the path as it was given or found; empty for an array.
        frame: number within the source, from 0.
        time_s: seconds from the start of a video; None for a picture.
        face: number within the frame, from 0, largest first; None without a face.
        track: which face it is over time; None for a picture.
        status: ok, no_face or error (the picture could not be read, or the model's answer to a
            face is no finite number).
        box: x, y, width, height in pixels of the upright picture.
        det_score: the detector's score in 0..1; None for a precropped face.
        label: the expression with the highest probability, or "uncertain" below `abstain`.
        prob: the highest probability, in 0..1.
        probabilities: of every expression, in the model's order, summing to 1; empty without face.
        model: name of the model.
        error: one line on why there is no answer.
        thumbnail: a small JPEG of the face, which Jupyter shows; None where no call asked for it.
        covered: parts of the face that seem covered (eyes, mouth), so that the answer is in doubt;
            None without a face, or where the model comes with nothing that tells them.
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
    thumbnail: bytes | None = field(default=None, compare=False)
    covered: tuple[str, ...] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"<Prediction {self._headline()}>"

    def _repr_html_(self) -> str:
        """How Jupyter shows it: place, face, expression, and a bar for each probability."""
        from html import escape  # slow to import, and most runs show nothing

        head = escape(self._headline())
        if not self.probabilities:
            return f"<div>{head}</div>"
        face = "" if self.thumbnail is None else _img(self.thumbnail)
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(label)}</td><td style='width:12em'>"
            f"<div style='background:#0072B2;height:0.8em;"
            f"width:{100 * probability:.1f}%'></div></td>"
            f"<td>{probability:.3f}</td></tr>"
            for label, probability in self.probabilities.items()
        )
        return (
            f"<div>{head}</div><div style='display:flex;align-items:center;gap:1em'>{face}"
            f"<table>{rows}</table></div>"
        )

    def card(self) -> str:
        """HTML of a few lines: the face, its expression and where it comes from."""
        from html import escape

        name = self.source.replace("\\", "/").rsplit("/", 1)[-1]
        if self.time_s is not None:
            name += f" {self.time_s:.2f} s"
        answer = self.status.replace("_", " ")
        if self.label is not None and self.prob is not None:
            answer = f"{self.label} {self.prob:.0%}"
        face = "" if self.thumbnail is None else _img(self.thumbnail)
        return (
            "<figure style='display:inline-block;width:7em;margin:.3em;vertical-align:top;"
            f"overflow-wrap:anywhere' title='{escape(self._headline())}'>{face}<figcaption>"
            f"<b>{escape(answer)}</b><br>{escape(name)}</figcaption></figure>"
        )

    def _headline(self) -> str:
        place = self.source or "picture"
        if self.time_s is not None:
            place += f", {self.time_s:.3f} s"
        if self.box is None or self.prob is None:
            reason = f": {self.error}" if self.error else ""
            return f"{place}: {self.status.replace('_', ' ')}{reason}"
        who = f"face {self.face}" if self.track is None else f"face {self.face}, track {self.track}"
        x, y, width, height = (round(value) for value in self.box)
        doubt = f", {cover_note(self.covered)}" if self.covered else ""
        answer = f"{self.label} ({self.prob:.1%}){doubt}"
        return f"{place}, {who} at {x}, {y} ({width} x {height}): {answer}"


def cover_note(covered: Sequence[str]) -> str:
    """In words that parts of a face seem covered: "mouth covered?"; empty where none does."""
    return f"{' and '.join(covered)} covered?" if covered else ""


SCHEMA = 1
"""Version of the columns of a row."""
WHOLE_NUMBERS = ("frame", "face", "track", "schema")
"""Columns of whole numbers, some of them empty without a face."""


def to_rows(
    predictions: Prediction | Iterable[Prediction | Iterable[Prediction]],
    labels: Sequence[str] = (),
    *,
    covered: bool = False,
) -> list[dict[str, Any]]:
    """Answers as rows, columns in their order (docs/rows.md).

    `pandas.DataFrame(rows).convert_dtypes()` keeps whole numbers whole where some are missing;
    polars does so by itself. Takes one Prediction, and whatever a Predictor gives: of a picture, of
    a list, of a video. Where some have no face, their probabilities are empty fields. `labels`
    are the classes that have a column; without them those of the faces. With `covered` the last
    column is the list of each face's parts that seem covered.
    """
    answers = [*flat(predictions)]
    names = labels or tuple(dict.fromkeys(label for one in answers for label in one.probabilities))
    return [row_of(one, names, covered=covered) for one in answers]


def row_of(
    prediction: Prediction,
    labels: Sequence[str],
    smooth: dict[str, float] | None = None,
    *,
    covered: bool = False,
) -> dict[str, Any]:
    """One row, columns in their order, those of `smooth` where given; None is an empty field."""
    parts = prediction.covered
    x, y, width, height = prediction.box or (None, None, None, None)
    probabilities = prediction.probabilities
    return {
        "source": encodable(prediction.source),
        "frame": prediction.frame,
        "time_s": prediction.time_s,
        "face": prediction.face,
        "track": prediction.track,
        "status": prediction.status,
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "det_score": prediction.det_score,
        "label": prediction.label,
        "prob": prediction.prob,
        **{f"p_{label}": probabilities.get(label) for label in labels},
        "model": prediction.model,
        "schema": SCHEMA,
        "error": None if prediction.error is None else encodable(prediction.error),
        **{f"smooth_{label}": smooth.get(label) for label in labels if smooth is not None},
        **({"covered": None if parts is None else list(parts)} if covered else {}),
    }


Item = TypeVar("Item")
CARDS = 60
"""Faces that a notebook shows of a list."""


class Gallery(list[Item]):
    """A list of Predictions, or of such lists, that Jupyter shows as faces side by side."""

    def _repr_html_(self) -> str:
        faces = [*flat(self)]
        cards = "".join(face.card() for face in faces[:CARDS])
        more = f"<div>and {len(faces) - CARDS} more</div>" if len(faces) > CARDS else ""
        return f"<div>{cards}</div>{more}" if faces else "<div>no face</div>"


def flat(predictions: object) -> Iterator[Prediction]:
    """The Predictions in whatever a Predictor gives: of a picture, of a list, of a video."""
    if isinstance(predictions, Prediction):
        yield predictions
    elif isinstance(predictions, Iterable):
        for one in predictions:
            yield from flat(one)


def _img(jpeg: bytes) -> str:
    from base64 import b64encode

    data = b64encode(jpeg).decode("ascii")
    return f"<img alt='the face' src='data:image/jpeg;base64,{data}' style='border-radius:6px'>"


def without_face(frame: Frame, model: str) -> Prediction:
    """What a frame without a face gives: `no_face`, or `error` where it could not be read."""
    status: Status = "no_face" if frame.error is None else "error"
    where = (frame.source, frame.frame, frame.time_s, None, None, status)
    return Prediction(*where, None, None, None, None, {}, model, frame.error)


def failed(frame: Frame, model: str, reason: str) -> Prediction:
    """What a face gives that the model has no answer to: `error`, without the face's fields."""
    return replace(without_face(frame, model), status="error", error=reason)


Answer = tuple[Frame, list[Prediction], Sequence[Points | None]]
"""A frame, its faces, and their points where they are asked for."""
