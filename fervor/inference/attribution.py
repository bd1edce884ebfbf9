"""Why a face got its answer: the places that speak for each class, and the described cues.

The heat of a class at a place is by how much its log odds fall where the place is blurred
(occlusion: Zeiler and Fergus, 2014, https://arxiv.org/abs/1311.2901), which takes a pass of the
model for each place. Or, from the pass of the answer alone, it is the similarity of the class's
text with the place, less the mean over the other classes, because what all classes share explains
none of them, and averaged with the places around it. A cue is a phrase of the description bank on
one part of the face; its score is the similarity of the places around that part with it, less the
mean over the expressions' phrases on that part. Parts that seem covered are named, because the
answer is then in doubt, and have no cues. All say what the model connects with the picture,
not which muscles moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fervor.artifacts.joint_space import Covers, Cues, JointSpace
from fervor.inference.prediction import Prediction


__all__ = [
    "Contrast",
    "Cue",
    "Explainer",
    "Explanation",
    "Heat",
    "extent",
    "heat_of",
    "occluded",
    "occlusion_heat",
    "smoothed",
]

Floats = NDArray[np.float32]

Heat = Literal["occlusion", "similarity"]
"""How places get their heat; see above."""
BLUR = 1 / 8
"""Standard deviation of what replaces a place, as a share of the face's side."""

Contrast = Literal["plain", "others", "runner_up"]
"""What is taken from a class's similarity at a place: nothing, the mean of the other classes', or
that of the class that the whole picture is nearest to besides it."""


PLACES = {
    "brows": ((0.31, 0.25), (0.69, 0.25)),
    "eyes": ((0.31, 0.37), (0.69, 0.37)),
    "nose": ((0.50, 0.55),),
    "cheeks": ((0.22, 0.62), (0.78, 0.62)),
    "mouth": ((0.50, 0.78),),
    "jaw": ((0.50, 0.97),),
}
"""Where a part lies in the model's view of an upright face: x and y in 0..1, by the five points of
faces.TEMPLATE."""
SPREAD = 0.12
"""Standard deviation of a part's extent, in the same unit; a cell of 7 x 7 is 0.14."""


class Cue(NamedTuple):
    """A phrase on one part of the face, how well it matches, and the expression it describes."""

    dimension: str
    text: str
    score: float
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What speaks for and against the answer of one face.

    Attributes:
        prediction: the answer.
        heat: for each class float32 [rows columns] over `square`; above 0 speaks for the class. By
            occlusion a fall of log odds, by similarity a difference of cosines.
        heat_by: which of the two.
        cues_for: phrases on the answer that match, best first.
        cues_against: phrases on other expressions that match better than the answer's on the same
            part of the face, best first. Both are empty where no cues lie beside the model.
        square: map [2 3] from the model's view of the face, a square of side 1, to the picture.
        covered: parts that seem covered (eyes, mouth): the answer is in doubt. Empty where the
            model comes with nothing that tells them.
    """

    prediction: Prediction
    heat: dict[str, Floats]
    heat_by: Heat
    cues_for: list[Cue]
    cues_against: list[Cue]
    square: NDArray[np.float64]
    covered: list[str] = field(default_factory=list)

    @property
    def answer(self) -> str:
        """The class with the highest probability, whatever the label says under `abstain`."""
        probabilities = self.prediction.probabilities
        return max(probabilities, key=lambda label: probabilities[label])

    def row(self) -> dict[str, Any]:
        """As JSON takes it: lists, numbers and texts; the fields beside the prediction's."""
        return {
            "heat": {label: np.round(own, 5).tolist() for label, own in self.heat.items()},
            "heat_by": self.heat_by,
            "cues_for": [cue._asdict() for cue in self.cues_for],
            "cues_against": [cue._asdict() for cue in self.cues_against],
            "square": self.square.tolist(),
            "covered": self.covered,
        }


class Explainer:
    """Explains answers of one model from the places that its pass gave."""

    def __init__(
        self,
        space: JointSpace,
        cues: Cues | None,
        covers: Covers | None = None,
        *,
        contrast: Contrast = "others",
        smooth: bool = True,
    ) -> None:
        self._space, self._cues, self._covers = space, cues, covers
        self._contrast, self._smooth = contrast, smooth
        names = {*(() if cues is None else cues.dimensions), *(covers.dimensions if covers else ())}
        self._extents = {name: extent(name, space.grid) for name in names}

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the places."""
        return self._space.grid

    @property
    def places(self) -> tuple[int, int]:
        """How many places there are, and the numbers of each."""
        rows, columns = self._space.grid
        return rows * columns, self._space.vectors.shape[1]

    def __call__(
        self,
        prediction: Prediction,
        local: Floats,
        square: NDArray[np.float64],
        *,
        occlusion: Floats | None = None,
    ) -> Explanation:
        """One face's answer, from its places [n d], and where there is one its `occlusion_heat`."""
        maps = self._similarity(local) if occlusion is None else occlusion
        heat = dict(zip(prediction.probabilities, maps, strict=True))
        heat_by: Heat = "similarity" if occlusion is None else "occlusion"
        covered = list(self.covered(local[None])[0])
        explanation = Explanation(prediction, heat, heat_by, [], [], square, covered)
        if self._cues is None or explanation.answer not in self._cues.labels:
            return explanation
        parts = self._parts(self._cues.dimensions, local)
        own, others = (
            [cue for cue in side if cue.dimension not in covered]
            for side in matched(self._cues, parts, explanation.answer)
        )
        return Explanation(prediction, heat, heat_by, own, others, square, covered)

    def _parts(self, dimensions: Sequence[str], local: Floats) -> Floats:
        """The mean place [... k d] of each part, of places [... n d]."""
        means: Floats = np.stack([self._extents[name] for name in dimensions]) @ local
        return means

    def covered(self, local: Floats) -> list[tuple[str, ...]]:
        """For each face of places [b n d] its parts that seem covered; none where nothing tells."""
        if (covers := self._covers) is None:
            return [()] * len(local)
        parts = self._parts(covers.dimensions, local)
        length = np.linalg.norm(parts, axis=-1)
        scores = (parts * covers.weights).sum(axis=-1) + covers.bias * length  # as of unit length
        return [tuple(compress(covers.dimensions, row > 0)) for row in scores]

    def _similarity(self, local: Floats) -> Floats:
        """Maps [c rows columns] of places [n d]."""
        similar = local @ self._space.vectors.T
        maps = heat_of(similar, contrast=self._contrast).T.reshape(-1, *self._space.grid)
        return smoothed(maps) if self._smooth else maps


def occluded(
    pixels: NDArray[np.uint8], grid: tuple[int, int], size: int
) -> list[NDArray[np.uint8]]:
    """A face [h w 3] as the model sees it, once for each place of a grid, the place blurred.

    Row by row, each RGB uint8 [size size 3].
    """
    clear = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    blurred = np.asarray(clear.filter(ImageFilter.GaussianBlur(BLUR * size)))
    rows, columns = (np.linspace(0, size, count + 1).round().astype(int) for count in grid)
    shown = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            picture = np.array(clear)
            picture[top:bottom, left:right] = blurred[top:bottom, left:right]
            shown.append(picture)
    return shown


def occlusion_heat(
    whole: NDArray[np.float64], logits: NDArray[np.float64], grid: tuple[int, int]
) -> Floats:
    """Maps [c rows columns] of logits [c] of a face and [n c] of `occluded`: falls of log odds.

    They order places as falls of the probability do, also where it is nearly 0 or 1.
    """
    falls = _log_odds(whole) - _log_odds(logits)
    maps: Floats = falls.T.reshape(-1, *grid).astype(np.float32)
    return maps


def _log_odds(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p / (1 - p) of each class: its logit less the log of the others' sum of powers."""
    count = logits.shape[-1]
    others = np.where(np.eye(count, dtype=bool), -np.inf, logits[..., None, :])
    margin: NDArray[np.float64] = logits - np.logaddexp.reduce(others, axis=-1)
    return margin


def heat_of(similar: Floats, *, contrast: Contrast) -> Floats:
    """Similarities [n c] of places and classes -> relevances [n c]."""
    count = similar.shape[1]
    less: Floats = np.zeros_like(similar)
    if contrast == "others":
        less = (similar.sum(1, keepdims=True) - similar) / (count - 1)
    elif contrast == "runner_up":
        order = similar.mean(0).argsort()
        rival = np.full(count, order[-1])
        rival[order[-1]] = order[-2]
        less = similar[:, rival]
    return similar - less


def smoothed(maps: Floats) -> Floats:
    """Maps [c rows columns], each place the mean of itself and its neighbours, edges repeated."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), "edge")
    rows, columns = maps.shape[1:]
    near = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    mean: Floats = np.mean(near, axis=0, dtype=np.float32)
    return mean


def extent(dimension: str, grid: tuple[int, int]) -> Floats:
    """Weights [n] of a grid's places, summing to 1: how much of a part of the face lies in each."""
    rows, columns = grid
    y, x = (np.mgrid[:rows, :columns] + 0.5) / np.reshape(grid, (2, 1, 1))
    weights = sum(
        np.exp(-((x - across) ** 2 + (y - down) ** 2) / (2 * SPREAD**2))
        for across, down in PLACES[dimension]
    )
    kernel: Floats = (weights / weights.sum()).ravel().astype(np.float32)
    return kernel


def matched(cues: Cues, parts: Floats, answer: str) -> tuple[list[Cue], list[Cue]]:
    """The cues for the answer that match parts [k d] of a face, and others' that match better."""
    similar = np.einsum("ckd,kd->ck", cues.vectors, parts)
    scores = similar - similar.mean(0)
    own = cues.labels.index(answer)
    sides: tuple[list[Cue], list[Cue]] = ([], [])
    for place in range(len(cues.dimensions)):
        best = int(scores[:, place].argmax())
        if scores[own, place] > 0:
            sides[0].append(_cue(cues, own, place, scores))
        if best != own:
            sides[1].append(_cue(cues, best, place, scores))
    for side in sides:
        side.sort(key=lambda cue: -cue.score)
    return sides


def _cue(cues: Cues, label: int, place: int, scores: Floats) -> Cue:
    score = round(float(scores[label, place]), 5)
    return Cue(cues.dimensions[place], cues.texts[label][place], score, cues.labels[label])
