"""Frames -> Predictions: a detector, a cropper and a classifier, one after the other."""

import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self, TypeGuard, cast, get_args, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.artifacts.joint_space import read_covers, read_cues, read_space
from fervor.artifacts.model_info import COVER_VECTORS, CUE_VECTORS, ModelInfo
from fervor.errors import InputError, ModelError, UsageError
from fervor.faces.cropper import FaceCrop, FaceCropper
from fervor.faces.detector import INT8_WEIGHTS, WEIGHTS, FaceDetector
from fervor.faces.places import GivenBoxes, check_region, check_unused, misfit, outside
from fervor.faces.tracker import WHOLE_EVERY, Detector
from fervor.faces.types import Box
from fervor.inference.attribution import (
    PLACES,
    Explainer,
    Explanation,
    Heat,
    occluded,
    occlusion_heat,
)
from fervor.inference.classifier import NOT_FINITE, FaceClassifier, Prior, operating_point, softmax
from fervor.inference.groups import groups_of
from fervor.inference.neutral_baseline import AUTO, OwnNeutral
from fervor.inference.open_vocabulary import check_labels, read_vocabulary
from fervor.inference.precision import Precision, as_computed, open_precision
from fervor.inference.prediction import (
    Gallery,
    Prediction,
    failed,
    to_rows,
    without_face,
)
from fervor.io.frame import Frame, Span
from fervor.io.onnx_session import Device
from fervor.io.prefetch import bounded, cores, map_ordered
from fervor.io.sources import (
    WHOLE,
    ImageLike,
    frame_of,
    frames_of,
    is_moving,
    open_inputs,
    readable_frame,
)


__all__ = ["Faces", "Prediction", "Predictor"]

logger = logging.getLogger(__name__)

UNCERTAIN = "uncertain"
THUMBNAIL = 96
"""Pixels of the longer side of such a face."""

THREADS_A_DECODER = 4
"""Decoding takes a seventh of the time of both networks in eight bits, and less in single
precision."""
AT_ONCE = 8
"""Groups of pictures at a time at most: more threads than these share the work on each."""
Faces = Literal["all", "largest", "precropped"]
Crops = list[list[FaceCrop]]
Logits = NDArray[np.float64]
Covered = tuple[str, ...] | None
_Begun = tuple[list[Frame], Crops | None]


class Predictor:
    """A model ready to run: call it with a picture, a list of them, or a video.

    Args:
        model: a model folder, or embedded or vlm; None for the embedded model, with `labels` vlm.
        labels: words or whole sentences to choose of, in place of the model's own classes; needs a
            model of method vlm (docs/open-vocabulary.md).
        faces: all, the largest of each picture, or precropped: the picture is one face.
        threads: cores to use; 0 for all.
        batch_size: pictures taken together, four at most on each of several cores, and faces
            classified together at most; the answers do not depend on it.
        abstain: faces whose highest probability is below get the label "uncertain"; "auto" takes
            the threshold that is stored with the model (docs/evaluation.md).
        prior: natural, the shares of the classes that the model was trained on; balanced answers
            rare expressions more often, by what is stored with it (docs/evaluation.md).
        whole_every: of a video, frames from one look at a whole frame to the next, while faces that
            are known are followed (fervor.faces.tracker).
        smallest_face: longer side in pixels of the smallest face that is looked for in pictures of
            any size, 16 at the least; smaller ones are left out. 0 looks for every face of 40, and
            takes smaller ones where they are seen. Time grows with its square (docs/detection.md).
        most_faces: of a picture or frame are kept, the largest; 0 for all.
        region: where faces are looked for: x, y, width, height in pixels of the upright picture.
        boxes: a file of faces that are given, CSV or JSON Lines (docs/rows.md), in place of what a
            detector finds; heads are then taken for upright.
        neutral: how a face looks at rest, to correct what it shows: a picture of it, or "auto" to
            learn it for each track of a video; None corrects nothing.
        precision: fp32; int8, where the folder has a graph in eight bits (docs/speed.md), with the
            face detector's own; or auto, int8 where this processor has instructions for it.
        device: cpu, or cuda with onnxruntime-gpu.
        detector: a stand-in for the embedded face detector: `detect` and `near` of
            `fervor.faces.tracker.Detector`; it is given arrays, RGB uint8 [h w 3] (docs/python.md).
            `smallest_face` has no place beside it.

    Attributes:
        info: the description of the model.
        classifier: the model's graph and what turns its numbers into logits.
        precision: what it computes in, fp32 or int8; of auto what was chosen.
        prior: natural or balanced.
        threads: as asked for, but the cores of this machine in place of thousands; 0 for all.

    Raises:
        InputError: the neutral picture cannot be read or shows no face.
        ModelError: the folder is missing, incomplete, damaged or no model of fervor.
        UsageError: an option out of its range, or one that has no effect beside another.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        labels: Sequence[str] | None = None,
        faces: Faces = "all",
        threads: int = 0,
        batch_size: int = 8,
        abstain: float | Literal["auto"] = 0.0,
        prior: Prior = "natural",
        whole_every: int = WHOLE_EVERY,
        smallest_face: float = 0.0,
        most_faces: int = 0,
        region: Box | None = None,
        boxes: str | os.PathLike[str] | None = None,
        neutral: ImageLike | None = None,
        precision: Precision = "fp32",
        device: Device = "cpu",
        detector: Detector | None = None,
    ) -> None:
        if faces not in get_args(Faces):
            raise UsageError(f"faces={faces!r}: expected one of {', '.join(get_args(Faces))}")
        if threads < 0:
            raise UsageError(f"threads={threads}: expected 1 or more, or 0 for all")
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: expected 1 or more")
        if abstain != "auto" and not (
            isinstance(abstain, int | float | np.number) and 0 <= abstain <= 1
        ):
            raise UsageError(f"abstain={abstain}: expected a probability in 0..1, or auto")
        if prior not in get_args(Prior):
            raise UsageError(f"prior={prior!r}: expected one of {', '.join(get_args(Prior))}")
        if whole_every < 1:
            raise UsageError(f"whole_every={whole_every}: expected 1 (each frame) or more")
        if most_faces < 0:
            raise UsageError(f"most_faces={most_faces}: expected 1 or more, or 0 for all")
        if not 0 <= smallest_face < math.inf:
            raise UsageError(f"smallest_face={smallest_face}: expected pixels, 0 for 40 or more")
        self._adapts = isinstance(neutral, str) and neutral == AUTO
        resting = neutral is not None and not self._adapts
        search = {
            "region": region is not None,
            "smallest_face": smallest_face > 0,
            "whole_every": whole_every != WHOLE_EVERY,
            "detector": detector is not None and (faces == "precropped" or not resting),
        }
        if faces == "precropped":
            search |= {"most_faces": most_faces > 0, "boxes": boxes is not None}
            check_unused("faces='precropped' looks for no face", **search)
        elif boxes is not None:
            check_unused("boxes are the faces, and none is looked for", **search)
        elif detector is not None:
            check_unused("the detector decides what a face is", smallest_face=smallest_face > 0)
        self._region = None if region is None else check_region(region)
        self.boxes = None if boxes is None else GivenBoxes(boxes)
        if labels is not None:
            check_labels(labels)
            model = model or "vlm"
        self.info = ModelInfo.read(model)
        self.prior: Prior = prior
        self._point_options = labels, abstain
        offset, self._abstain = operating_point(self.info, labels, prior, abstain)
        self.faces: Faces = faces
        self.threads = threads = bounded(threads)
        room = min(threads or cores(), AT_ONCE, batch_size)
        self._at_once = room if device == "cpu" else 1  # a graphics card wants large batches
        # In eight bits layers are too small to share: the groups have the threads.
        each = max(1, (threads or cores()) // self._at_once) if self._at_once > 1 else threads
        session, self.precision = open_precision(
            self.info, threads, int8_threads=each, precision=precision, device=device
        )
        single = self.precision == "fp32"
        self.classifier = FaceClassifier(
            as_computed(self.info, self.precision),
            session,
            offset=offset,
            words=None if labels is None else read_vocabulary(self.info, labels),
            batch_size=batch_size,
            at_once=1 if single else self._at_once,
        )
        self._batch_size = batch_size
        self._whole_every, self._most_faces = whole_every, most_faces
        open_detector = partial(
            FaceDetector,
            threads if single else each,
            smallest=smallest_face,
            most=most_faces,
            device=device,
            weights=WEIGHTS if single else INT8_WEIGHTS,
            at_once=(threads or cores()) if device == "cpu" else 1,
        )
        self._detector = detector
        if detector is None and faces != "precropped" and boxes is None:
            self._detector = open_detector()
        self._stills = self._cropper()
        self._rest: NDArray[np.float64] | None = None
        if neutral is not None and resting:
            # Boxes are of the pictures to answer: the face at rest is looked for all the same.
            cropped = faces == "precropped"
            self._rest = self._resting(
                neutral, self._detector if cropped else self._detector or open_detector()
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: own for name, own in self.__dict__.items() if name != "_explainer"}

    def __repr__(self) -> str:
        return f"<Predictor {self.name}, {self.faces} faces: {', '.join(self.labels)}>"

    def at(self, prior: Prior) -> Self:
        """The same model at another operating point: networks and options are shared.

        Raises:
            UsageError: the model stores no operating points, or a neutral face corrects answers,
                which was read at the point of before.
        """
        if prior == self.prior:
            return self
        if self._rest is not None:
            raise UsageError(
                "a neutral face was read at one operating point: make a predictor for each"
            )
        labels, abstain = self._point_options
        offset, threshold = operating_point(self.info, labels, prior, abstain)
        other = copy(self)
        other.prior, other._abstain = prior, threshold
        other.classifier = self.classifier.at(offset)
        return other

    @property
    def name(self) -> str:
        """The model's name, with what it computes in and where it answers if that is not usual."""
        single, natural = self.precision == "fp32", self.prior == "natural"
        remarks = [*([] if single else ["int8"]), *([] if natural else [self.prior])]
        return f"{self.info.name} ({', '.join(remarks)})" if remarks else self.info.name

    @property
    def smallest_side(self) -> float | None:
        """Longer side in pixels of the smallest face that is found in a picture of any size.

        None where no picture is searched by the embedded detector.
        """
        detector = self._detector
        return detector.smallest_side if isinstance(detector, FaceDetector) else None

    @property
    def decoders(self) -> int:
        """Pictures to decode at a time, so that no thread of the networks waits for one."""
        return max(1, (self.threads or cores()) // THREADS_A_DECODER)

    @property
    def labels(self) -> tuple[str, ...]:
        """The expressions that are told apart, in the order of probabilities and columns."""
        return self.classifier.labels

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a path, never a list of letters
        self, pictures: ImageLike
    ) -> list[Prediction]: ...

    @overload
    def __call__(self, pictures: Sequence[ImageLike]) -> list[list[Prediction]]: ...

    def __call__(
        self, pictures: ImageLike | Sequence[ImageLike]
    ) -> list[Prediction] | list[list[Prediction]]:
        """The faces of one picture, largest first, or a list of such lists for a list of pictures.

        Without a face the list is empty, and so it is for what cannot be read, which a warning of
        the logger "fervor" says; `rows` gives both their row. The path of a video, a webcam or an
        animated picture gives an iterator over such lists, one for each frame; of an animated
        picture in a list or in memory the first frame is taken.

        Raises:
            InputError: a path that does not exist, or an array that is no uint8 picture.
        """
        if isinstance(pictures, str | os.PathLike) and is_moving(os.fspath(pictures)):
            frames: Iterable[Frame] = open_inputs([pictures])
            return self._faces(frames)  # type: ignore[return-value]  # for a path that is a video
        if _is_several(pictures):
            return Gallery(self._faces(frame_of(picture) for picture in pictures))
        return self._still(frame_of(cast(ImageLike, pictures)))

    def rows(
        self,
        pictures: ImageLike | Sequence[ImageLike],
        *,
        span: Span = WHOLE,
        covered: bool = False,
    ) -> list[dict[str, Any]]:
        """The rows of everything that is named, in order, as `fervor predict` writes them.

        Takes what a call takes, and folders. Each face has a row, and so have a picture or frame
        without a face (status no_face) and one that cannot be read (status error). All are held;
        of a long video `fervor.to_rows(answer)` for each answer of `video` holds one frame's.
        With `covered` the last column lists the parts of each face that seem covered.

        Raises:
            InputError: a path that does not exist, an array that is no picture, or a webcam, which
                has no end.
        """
        several = pictures if _is_several(pictures) else [cast(ImageLike, pictures)]
        frames = frames_of(several, span=span)
        return to_rows(self.stream(frames), self.labels, covered=covered)

    def _still(self, frame: Frame) -> list[Prediction]:
        """The faces of one picture: what `_faces` gives, without groups and threads around it."""
        frame = self._fitting(frame)
        faces = self._stills.still(frame)
        logits, covered = self.classifier([face.pixels for face in faces], self._covered)
        rows = self._corrected(frame, faces, [*logits])
        return _shown(self._answer(frame, faces, rows, covered, True))

    def _faces(self, frames: Iterable[Frame]) -> Iterator[list[Prediction]]:
        """For each frame its faces alone, each with a thumbnail."""
        for _, answer in self._answered(frames, thumbnails=True):
            yield _shown(answer)

    def video(self, source: str | Path, *, span: Span = WHOLE) -> Iterator[list[Prediction]]:
        """For each frame of a video file or of "webcam:0", in order, its faces.

        A frame without a face gives one Prediction with the status "no_face". No frame of a file is
        left out; of a webcam, where answering is slower, all but the newest are.

        Raises:
            InputError: at once, where there is no such file or webcam.
            UsageError: PyAV is not installed.
        """
        return self.stream(open_inputs([source], span=span))

    def stream(self, frames: Iterable[Frame]) -> Iterator[list[Prediction]]:
        """For each frame, in order, its faces, or one Prediction that says `no_face` or `error`.

        Holds a few frames at a time for each core, so that a stream may be endless.
        """
        return (answer for _, answer in self.with_frames(frames))

    def with_frames(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, list[Prediction]]]:
        """What `stream` gives, beside the frames."""
        return self._answered(frames)

    def _answered(
        self, frames: Iterable[Frame], *, thumbnails: bool = False
    ) -> Iterator[tuple[Frame, list[Prediction]]]:
        cropper = self._cropper()
        neutral = OwnNeutral(self.labels, self._rest) if self._corrects else None
        groups = self._begun(
            cropper, groups_of(map(self._fitting, frames), self._batch_size, self._at_once)
        )
        answered = map_ordered(
            partial(self._seen, cropper),
            groups,
            self._at_once,
            urgent=lambda begun: begun[0][0].live,
        )
        with closing(answered):
            for group, crops, answers, parts in answered:
                logits, covers = iter(answers), iter(parts)
                for frame, faces in zip(group, crops, strict=True):
                    rows = [next(logits) for _ in faces]
                    covered = [next(covers) for _ in faces]
                    if neutral is not None:
                        rows = neutral.corrected(frame, [face.track for face in faces], rows)
                    yield frame, self._answer(frame, faces, rows, covered, thumbnails)
                del group, crops, frame, faces  # not held while the next ones are awaited

    def _begun(self, cropper: FaceCropper, groups: Iterable[list[Frame]]) -> Iterator[_Begun]:
        """Groups with their faces, where these must be found in order or by somebody's detector."""
        ours = self._detector is None or isinstance(self._detector, FaceDetector)
        for group in groups:
            apart = ours and not any(frame.moving for frame in group)
            yield group, None if apart else cropper(group)

    def _seen(
        self, cropper: FaceCropper, begun: _Begun
    ) -> tuple[list[Frame], Crops, Logits, list[Covered]]:
        """A group, its faces, their logits and covers; several groups at a time, in threads."""
        group, crops = begun
        crops = cropper(group) if crops is None else crops
        pixels = [face.pixels for faces in crops for face in faces]
        return group, crops, *self.classifier(pixels, self._covered)

    @property
    def _covered(self) -> Callable[[NDArray[Any]], list[tuple[str, ...]]] | None:
        """What tells covered parts from local features [n m d], where the model tells them."""
        return self._explainer.covered if self.tells_covers else None

    def embed(self, picture: ImageLike | Frame) -> NDArray[np.float32]:
        """The embeddings [n d] of a picture's faces, largest first, as the model's graph has them.

        Raises:
            InputError: a path that does not exist, or a picture that cannot be read or does not
                hold the region or a given box.
            ModelError: the model's graph gives no embedding, or one that is no finite number.
        """
        faces = self._cropper()([self._readable(picture)])[0]
        return self.classifier.embeddings([face.pixels for face in faces])

    def explain(
        self, picture: ImageLike | Frame, *, heat: Heat = "occlusion", face: int | None = None
    ) -> list[Explanation]:
        """Like a call with one picture, each face with what speaks for its answer.

        Args:
            picture: as for a call, or a frame.
            heat: occlusion, which points best and takes a pass of the model more for each place,
                81 for the embedded model; or similarity, which takes none (docs/explain.md).
            face: number of the one face whose heat is made so, the others' being by similarity;
                None for all.

        Raises:
            InputError: a path that does not exist, or a picture that cannot be read or does not
                hold the region or a given box.
            ModelError: the model has no places or no class vectors to compare them with, or an
                answer that is no finite number.
            UsageError: another heat, or a face that a picture with faces does not show.
        """
        if heat not in get_args(Heat):
            raise UsageError(f"heat={heat!r}: expected one of {', '.join(get_args(Heat))}")
        explainer = self._explainer
        frame = self._readable(picture)
        explanations: list[Explanation] = []
        faces = self._cropper()([frame])[0]
        if face is not None and faces and not 0 <= face < len(faces):
            raise UsageError(f"face={face}: expected 0..{len(faces) - 1}, the faces of the picture")
        for start in range(0, len(faces), self._batch_size):
            batch = faces[start : start + self._batch_size]
            logits, local = self.classifier.logits_and_local([face.pixels for face in batch])
            rows = self._corrected(frame, batch, [*logits])
            if local.shape[1:] != explainer.places:
                raise ModelError(
                    f"model {self.info.name} has places of shape {local.shape[1:]}: its grid and "
                    f"class vectors say {explainer.places}; export it again"
                )
            for crop, row, places in zip(batch, rows, local, strict=True):
                parts = explainer.covered(places[None])[0] if self.tells_covers else None
                answer = self._prediction(frame, len(explanations), crop, row, parts)
                if answer.status == "error" or not np.isfinite(places).all():
                    where = frame.source or "picture"
                    raise ModelError(f"{where}: {NOT_FINITE.format(len(explanations))}")
                occludes = heat == "occlusion" and face in (None, len(explanations))
                maps = self._occlusion(frame, crop, row) if occludes else None
                explanations.append(explainer(answer, places, crop.square, occlusion=maps))
        return explanations

    def _occlusion(
        self, frame: Frame, face: FaceCrop, row: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Heat [c rows columns] of a frame's face with logits [c], by a pass for each place."""
        grid = self._explainer.grid
        logits = self.classifier.logits(occluded(face.pixels, grid, self.info.input.size))
        if not np.isfinite(logits).all():
            raise ModelError(NOT_FINITE.format("where a place is blurred"))
        corrected = self._corrected(frame, [face] * len(logits), [*logits])
        return occlusion_heat(row, np.stack(corrected), grid)

    @cached_property
    def tells_covers(self) -> bool:
        """Whether predictions say which parts of a face seem covered."""
        return "local" in self.classifier.outputs and self.info.vouches(COVER_VECTORS)

    def check_tells_covers(self) -> None:
        """Raises ModelError, in one line, where the model does not tell covered parts."""
        if not self.tells_covers:
            raise ModelError(
                f"model {self.info.name} does not tell covered parts: leave covered out, or name "
                "a model with " + COVER_VECTORS
            )
        self.check_explainable()

    def check_explainable(self) -> None:
        """Raises ModelError, in one line, where `explain` would."""
        _ = self._explainer

    @cached_property
    def _explainer(self) -> Explainer:
        if "local" not in self.classifier.outputs:
            raise ModelError(
                f"model {self.info.name} cannot be explained: its graph has no output local; "
                "export it with this version of fervor"
            )
        space = read_space(self.info)
        if (words := self.classifier.words) is not None:
            space = replace(space, vectors=words.vectors)
        cues, covers = read_cues(self.info), read_covers(self.info)
        width = space.vectors.shape[1]
        stored = [
            *([] if cues is None else [(CUE_VECTORS, cues.dimensions, cues.vectors)]),
            *([] if covers is None else [(COVER_VECTORS, covers.dimensions, covers.weights)]),
        ]
        for file, dimensions, vectors in stored:
            if vectors.shape[-1] != width or set(dimensions) - set(PLACES):
                raise ModelError(
                    f"{self.info.folder / file}: {vectors.shape[-1]} numbers each on "
                    f"{', '.join(dimensions)}; expected {width} on {', '.join(PLACES)}"
                )
        return Explainer(space, cues, covers)

    def classify(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Probabilities [n c] of cut-out faces (RGB, uint8, any size), rows in their order.

        Raises:
            ModelError: an answer is no finite number.
        """
        return self.classifier.probabilities(crops)

    def _cropper(self) -> FaceCropper:
        return FaceCropper(
            self._detector,
            side=self.info.input.crop,
            most=1 if self.faces == "largest" else self._most_faces,
            whole_every=self._whole_every,
            region=self._region,
            given=self.boxes,
        )

    def _readable(self, picture: ImageLike | Frame) -> Frame:
        """The frame of a picture.

        Raises:
            InputError: it cannot be read, or the region or a given box does not fit it.
        """
        return readable_frame(self._fitting(readable_frame(picture)))

    def _fitting(self, frame: Frame) -> Frame:
        """The frame, or the reason why the region or a given box does not fit it."""
        if frame.picture is None or (self._region is None and self.boxes is None):
            return frame
        height, width = frame.shape
        faces = [] if self.boxes is None else self.boxes.of(frame.source, frame.frame)
        reasons = [("a given box", face.box, misfit(face.box, frame.shape)) for face in faces]
        if self._region is not None and outside(self._region, frame.shape):
            reasons.append(("the region", self._region, "lies outside"))
        for name, place, reason in reasons:
            if reason:
                sides = ",".join(f"{value:g}" for value in place)
                error = f"{name} {sides} {reason} the picture of {width} x {height} pixels"
                return replace(frame, picture=None, error=error)
        return frame

    @property
    def _corrects(self) -> bool:
        return self._adapts or self._rest is not None

    def _corrected(
        self, frame: Frame, faces: Sequence[FaceCrop], logits: list[NDArray[np.float64]]
    ) -> list[NDArray[np.float64]]:
        """Logits [c] of the faces of a frame that stands alone, less what a face at rest takes."""
        if not self._corrects:
            return logits
        neutral = OwnNeutral(self.labels, self._rest)
        return neutral.corrected(frame, [face.track for face in faces], logits)

    def _resting(self, picture: ImageLike, detector: Detector | None) -> NDArray[np.float64]:
        """Logits [c] of the largest face in a picture of a person at rest; of it all without one.

        Raises:
            InputError: it cannot be read or shows no face.
            ModelError: the answer is no finite number.
        """
        frame = frame_of(picture)
        cropper = FaceCropper(detector, side=self.info.input.crop, most=1)
        faces = cropper([frame])[0]
        if not faces:
            reason = frame.error or "shows no face"
            name = f"neutral picture {frame.source}".rstrip()
            raise InputError(f"{name}: {reason}; expected a face at rest")
        resting: NDArray[np.float64] = self.classifier.logits([faces[0].pixels])[0]
        if not np.isfinite(resting).all():
            raise ModelError(f"neutral picture {frame.source}: {NOT_FINITE.format(0)}")
        return resting

    def _answer(
        self,
        frame: Frame,
        faces: Sequence[FaceCrop],
        logits: Sequence[NDArray[np.float64]],
        covered: Sequence[Covered],
        thumbnails: bool,
    ) -> list[Prediction]:
        if not faces:
            return [without_face(frame, self.name)]
        return [
            self._prediction(frame, number, face, row, parts, thumbnail=thumbnails)
            for number, (face, row, parts) in enumerate(zip(faces, logits, covered, strict=True))
        ]

    def _prediction(
        self,
        frame: Frame,
        number: int,
        face: FaceCrop,
        row: NDArray[np.float64],
        covered: Covered,
        *,
        thumbnail: bool = False,
    ) -> Prediction:
        """The answer to one face, from its logits [c]."""
        if not np.isfinite(row).all():
            return failed(frame, self.name, NOT_FINITE.format(number))
        probabilities = softmax(row[None])[0]
        best = int(probabilities.argmax())
        prob = float(probabilities[best])
        return Prediction(
            source=frame.source,
            frame=frame.frame,
            time_s=frame.time_s,
            face=number,
            track=face.track,
            status="ok",
            box=face.box,
            det_score=face.score,
            label=UNCERTAIN if prob < self._abstain else self.labels[best],
            prob=prob,
            probabilities=dict(zip(self.labels, probabilities.tolist(), strict=True)),
            model=self.name,
            error=None,
            thumbnail=_thumbnail(face.pixels) if thumbnail else None,
            covered=covered,
        )


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A face [h w 3] as a JPEG of THUMBNAIL pixels at most."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _is_several(pictures: ImageLike | Sequence[ImageLike]) -> TypeGuard[Sequence[ImageLike]]:
    """Whether it is a list of pictures; texts and bytes are sequences too, of something else."""
    return isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes | bytearray)


def _shown(answer: Sequence[Prediction]) -> list[Prediction]:
    """The faces of an answer alone; why a picture could not be read is a warning."""
    for prediction in answer:
        if prediction.error is not None:
            logger.warning("%s: %s", prediction.source or "a picture", prediction.error)
    return Gallery(prediction for prediction in answer if prediction.status == "ok")
