"""Frames -> Predictions: find the faces, cut them out, classify them in batches (onnxruntime)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, overload

import numpy as np
from numpy.typing import NDArray

from fervor.errors import UsageError
from fervor.faces import Face, FaceDetector, crop, select
from fervor.media import Frame, Picture, frame_of
from fervor.modelfolder import ModelHeader, find_model, open_session, read_header
from fervor.preprocess import to_input


__all__ = ["Faces", "Prediction", "Predictor"]

UNCERTAIN = "uncertain"
GROUP_PIXELS = 64_000_000
"""Pictures held at a time: at most so many pixels (200 MB), whatever the batch size."""

Faces = Literal["all", "largest", "precropped"]
Status = Literal["ok", "no_face", "error"]
Box = tuple[float, float, float, float]


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


class Detector(Protocol):
    """What finds faces: `fervor.faces.FaceDetector`, or a stand-in."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Faces of each RGB picture [h w 3], largest first."""
        ...


@dataclass(frozen=True, slots=True)
class Cutout:
    """A face cut out of its frame: RGB, uint8, square; `score` is None for a precropped picture."""

    box: Box
    score: float | None
    pixels: NDArray[np.uint8]


class Predictor:
    """A model ready to run: call it with a picture, or with a list of them.

    Args:
        model: a model folder; None for the embedded model.
        faces: all, the largest of each picture, or precropped: the picture is one face.
        threads: for each network; 0 leaves the number to onnxruntime.
        batch_size: pictures found and faces classified together; the answers do not depend on it.
        abstain: faces whose highest probability is below get the label "uncertain".
        detector: a stand-in for the embedded face detector.

    Raises:
        ModelError: the folder is missing, incomplete, damaged or no model of fervor.
        UsageError: an option out of its range.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        faces: Faces = "all",
        threads: int = 0,
        batch_size: int = 32,
        abstain: float = 0.0,
        detector: Detector | None = None,
    ) -> None:
        if faces not in get_args(Faces):
            raise UsageError(f"faces={faces!r}: expected one of {', '.join(get_args(Faces))}")
        if threads < 0:
            raise UsageError(f"threads={threads}: expected 1 or more, or 0 for all")
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: expected 1 or more")
        if not 0 <= abstain <= 1:
            raise UsageError(f"abstain={abstain}: expected a probability in 0..1")
        folder = find_model(model)
        self.header: ModelHeader = read_header(folder)
        self.faces: Faces = faces
        self._session = open_session(folder / "model.onnx", self.header, threads)
        self._batch_size = batch_size
        self._abstain = abstain
        self._detector = detector
        if detector is None and faces != "precropped":
            self._detector = FaceDetector(threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """The expressions that the model tells apart, in the order of its outputs."""
        return self.header.labels

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a path, never a list of letters
        self, pictures: Picture
    ) -> list[Prediction]: ...

    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[list[Prediction]]: ...

    def __call__(
        self, pictures: Picture | Sequence[Picture]
    ) -> list[Prediction] | list[list[Prediction]]:
        """The faces of one picture, largest first, or a list of such lists for a list of pictures.

        Without a face the list is empty; of a file that cannot be read it holds one Prediction
        with the status "error".

        Raises:
            InputError: a path that does not exist, or an array that is no uint8 picture.
        """
        if isinstance(pictures, str) or not isinstance(pictures, Sequence):
            return self([pictures])[0]
        return [
            [prediction for prediction in answer if prediction.status != "no_face"]
            for answer in self.stream(frame_of(picture) for picture in pictures)
        ]

    def stream(self, frames: Iterable[Frame]) -> Iterator[list[Prediction]]:
        """For each frame, in order, its faces, or one Prediction that says `no_face` or `error`.

        Holds a batch of frames at a time, so that a stream may be endless.
        """
        for group in _groups(frames, self._batch_size):
            found = self._find(group)
            probabilities = iter(self.classify([face.pixels for faces in found for face in faces]))
            for frame, faces in zip(group, found, strict=True):
                own = [(face, next(probabilities)) for face in faces]
                yield self._answer(frame, own)

    def classify(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Probabilities [n c] of cut-out faces (RGB, uint8, any size), rows in their order."""
        rows = [np.empty((0, len(self.labels)))]
        for start in range(0, len(crops), self._batch_size):
            batch = crops[start : start + self._batch_size]
            image = np.stack([to_input(pixels, self.header.size) for pixels in batch])
            (logits,) = self._session.run(["logits"], {"image": image})
            rows.append(_softmax(np.asarray(logits, np.float64) / self.header.temperature))
        return np.concatenate(rows)

    def _find(self, group: Sequence[Frame]) -> list[list[Cutout]]:
        """The faces of each frame, largest first; none where it could not be read."""
        images = [frame.image for frame in group if frame.image is not None]
        if self._detector is None:
            cut = [[_whole(image)] for image in images]
        else:
            cut = [
                [
                    Cutout(face.box, face.score, crop(image, face, self.header.crop))
                    for face in select(faces, "largest" if self.faces == "largest" else "all")
                ]
                for image, faces in zip(images, self._detector.detect(images), strict=True)
            ]
        readable = iter(cut)
        return [[] if frame.image is None else next(readable) for frame in group]

    def _answer(
        self, frame: Frame, faces: Sequence[tuple[Cutout, NDArray[np.float64]]]
    ) -> list[Prediction]:
        if not faces:
            status: Status = "no_face" if frame.error is None else "error"
            where = (frame.source, frame.frame, frame.time_s, None, None, status)
            return [Prediction(*where, None, None, None, None, {}, self.header.name, frame.error)]
        return [
            self._prediction(frame, number, face, row) for number, (face, row) in enumerate(faces)
        ]

    def _prediction(
        self, frame: Frame, number: int, face: Cutout, row: NDArray[np.float64]
    ) -> Prediction:
        best = int(row.argmax())
        prob = float(row[best])
        return Prediction(
            source=frame.source,
            frame=frame.frame,
            time_s=frame.time_s,
            face=number,
            track=None,
            status="ok",
            box=face.box,
            det_score=face.score,
            label=UNCERTAIN if prob < self._abstain else self.labels[best],
            prob=prob,
            probabilities=dict(zip(self.labels, row.tolist(), strict=True)),
            model=self.header.name,
            error=None,
        )


def _whole(image: NDArray[np.uint8]) -> Cutout:
    height, width = image.shape[:2]
    return Cutout((0.0, 0.0, float(width), float(height)), None, image)


def _groups(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """At most `size` frames together, fewer of large pictures."""
    group: list[Frame] = []
    pixels = 0
    for frame in frames:
        group.append(frame)
        pixels += 0 if frame.image is None else frame.image.shape[0] * frame.image.shape[1]
        if len(group) == size or pixels >= GROUP_PIXELS:
            yield group
            group, pixels = [], 0
    if group:
        yield group


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
