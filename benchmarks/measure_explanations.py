"""Do heat maps and cues point at what decides? Deletion and insertion curves on FERPlus.

    python benchmarks/measure_explanations.py FERPLUS --model embedded
    python benchmarks/measure_explanations.py FERPLUS --model fervor/weights/vlm
    ... --split test --maps "others smoothed"           once, with what validation chose

Cells of the grid are blurred away in the order of a map, the strongest first (deletion), or brought
back into a blurred picture (insertion); the area under the probability of the answer on the whole
picture is low for a good deletion and high for a good insertion. Beside the maps stand a random
order and a blob: cells by their distance from the centre of the face; and what `fervor explain`
draws, the map by occlusion. That one is made by blurring cells too, which favours it: with
--replace mean cells get the picture's mean colour instead, which it was not made with. For the
cues, the part of the face whose cue scores best is blurred, beside the mean of blurring each part;
and answers are counted by how many cues of others match better (cues_against), with how many of
them are right.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fervor import Predictor
from fervor.artifacts.joint_space import read_cues, read_space
from fervor.artifacts.model_info import GRAPH
from fervor.data import datasets
from fervor.data.cropping import pixels_of
from fervor.inference.attribution import (
    BLUR,
    Contrast,
    extent,
    heat_of,
    matched,
    occluded,
    occlusion_heat,
    smoothed,
)
from fervor.io import provenance
from fervor.io.image import to_rgb


Floats = NDArray[np.float32]
STEPS = 7
"""Points of a curve beside the whole picture: cells are taken in so many equal portions."""
SEED, SAMPLES = 0, 2000
"""Of the bootstrap over pictures."""


def main() -> None:
    """Measure one model on one split and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--split", choices=("valid", "test"), default="valid")
    parser.add_argument("--count", type=int, default=200, help="pictures, evenly spaced")
    parser.add_argument("--maps", nargs="+", default=[*get_args(Contrast), "others smoothed"])
    parser.add_argument("--replace", choices=("blur", "mean"), default="blur")
    parser.add_argument("--output", type=Path, default=Path("results/explain"))
    given = parser.parse_args()
    predictor = Predictor(given.model, faces="precropped", threads=1)
    samples = datasets.load("ferplus", given.root, given.split, protocol="majority")
    chosen = np.linspace(0, len(samples) - 1, min(given.count, len(samples))).astype(int)
    measure = Measure(predictor, given.maps, given.replace)
    found = [measure(to_rgb(pixels_of(samples[place])), place) for place in chosen]
    result = {
        "model": predictor.info.name,
        "sha256": predictor.info.sha256[GRAPH],
        "data": {"name": "ferplus", "protocol": "majority", "split": given.split},
        "count": len(found),
        "replaced_by": {"blur": f"blur of {BLUR:g} of the side", "mean": "the mean colour"}[
            given.replace
        ],
        "portions": STEPS,
        "maps": compared([one["curves"] for one in found]),
        "cues": parts([one["drops"] for one in found if one["drops"]]),
        "answers_by_cues_against": disagreement(
            [one["against"] for one in found],
            [
                one["answer"] == samples[place].label
                for one, place in zip(found, chosen, strict=True)
            ],
        ),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }
    name = predictor.info.name.replace("/", "-")
    marked = "" if given.replace == "blur" else f"-{given.replace}"
    path = given.output / f"{name}-{given.split}{marked}.json"
    provenance.write_text(path, json.dumps(result, indent=1) + "\n")
    print(json.dumps({"maps": result["maps"], "cues": result["cues"]}, indent=1))
    print(path)


class Measure:
    """Curves of one model's maps, and drops of its cues."""

    def __init__(self, predictor: Predictor, maps: Sequence[str], replace: str) -> None:
        self.predictor, self.names, self.replace = predictor, tuple(maps), replace
        self.space = read_space(predictor.info)
        self.cues = read_cues(predictor.info)
        self.size = predictor.info.input.size

    def __call__(self, pixels: NDArray[np.uint8], number: int) -> dict[str, Any]:
        """Areas by map: (deletion, insertion); drops by part of the face."""
        clear = np.asarray(Image.fromarray(pixels).resize((self.size, self.size)))
        radius = BLUR * self.size
        blurred = np.asarray(Image.fromarray(clear).filter(ImageFilter.GaussianBlur(radius)))
        if self.replace == "mean":
            blurred = np.broadcast_to(clear.mean((0, 1)).round().astype(np.uint8), clear.shape)
        logits, local = self.predictor.classifier.logits_and_local([clear])
        answer = int(logits[0].argmax())
        orders = dict(self.orders(local[0], answer, number))
        shown = [clear, blurred]
        passes = self.predictor.classifier.logits(occluded(pixels, self.space.grid, self.size))
        falls = occlusion_heat(logits[0], passes, self.space.grid)[answer]
        orders["occlusion"] = (-falls.ravel()).argsort(kind="stable")
        for order in orders.values():
            for mask in self.masks(order):
                shown += [np.where(mask, blurred, clear), np.where(mask, clear, blurred)]
        scores = self.cue_scores(local[0], answer)
        for name in scores:
            weights = extent(name, self.space.grid)
            shown.append(np.where(self.spread(weights > weights.max() / 2), blurred, clear))
        probability = self.predictor.classify(shown)[:, answer]
        whole, none = probability[:2]
        curves, start = {}, 2
        for name in orders:
            pairs = probability[start : start + 2 * (STEPS - 1)].reshape(-1, 2)
            start += pairs.size
            curves[name] = (
                area([whole, *pairs[:, 0], none]),
                area([none, *pairs[:, 1], whole]),
            )
        drops = dict(zip(scores, (whole - probability[start:]).tolist(), strict=True))
        return {
            "curves": curves,
            "drops": self.ranked(scores, drops),
            "answer": self.predictor.labels[answer],
            "against": self.against(local[0], answer),
        }

    def orders(self, local: Floats, answer: int, number: int) -> Mapping[str, NDArray[np.int64]]:
        """For each map the cells, strongest first."""
        rows, columns = self.space.grid
        similar = local @ self.space.vectors.T
        y, x = np.mgrid[:rows, :columns]
        distance = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2).ravel()
        found: dict[str, NDArray[np.floating]] = {
            name: self.heat(name, similar)[:, answer] for name in self.names
        }
        found["random"] = np.random.default_rng(number).random(rows * columns)
        found["blob"] = -distance
        return {name: (-values).argsort(kind="stable") for name, values in found.items()}

    def heat(self, name: str, similar: Floats) -> Floats:
        """Relevances [n c] of a map by its name."""
        contrast, _, option = name.partition(" ")
        found = heat_of(similar, contrast=contrast)  # type: ignore[arg-type]
        if option:
            found = smoothed(found.T.reshape(-1, *self.space.grid)).reshape(found.shape[::-1]).T
        return found

    def masks(self, order: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
        """Pixels [s s 1] of the first portions of the cells."""
        ends = np.linspace(0, len(order), STEPS + 1).round().astype(int)[1:-1]
        return [self.spread(np.isin(np.arange(len(order)), order[:end])) for end in ends]

    def spread(self, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Cells [n] as pixels [s s 1]."""
        grid = Image.fromarray(cells.reshape(self.space.grid))
        resized = grid.resize((self.size, self.size), Image.Resampling.NEAREST)
        return np.asarray(resized)[..., None]

    def cue_scores(self, local: Floats, answer: int) -> dict[str, float]:
        """Scores of the answer's cues by part of the face."""
        if self.cues is None:
            return {}
        names = self.cues.dimensions
        around = np.stack([extent(name, self.space.grid) for name in names]) @ local
        similar = np.einsum("ckd,kd->ck", self.cues.vectors, around)
        own = self.cues.labels.index(self.predictor.labels[answer])
        return dict(zip(names, (similar - similar.mean(0))[own].tolist(), strict=True))

    def against(self, local: Floats, answer: int) -> int:
        """How many parts of the face have a cue that speaks against the answer."""
        if self.cues is None:
            return 0
        names = self.cues.dimensions
        around = np.stack([extent(name, self.space.grid) for name in names]) @ local
        return len(matched(self.cues, around, self.predictor.labels[answer])[1])

    @staticmethod
    def ranked(scores: Mapping[str, float], drops: Mapping[str, float]) -> dict[str, float]:
        """Drops of the best-scored and of the worst-scored part, and the mean over the parts."""
        if not scores:
            return {}
        order = sorted(scores, key=lambda name: -scores[name])
        mean = float(np.mean(list(drops.values())))
        return {"best": drops[order[0]], "worst": drops[order[-1]], "mean": mean}


def area(curve: Sequence[float]) -> float:
    """Under a curve over 0..1, by trapezoids."""
    values = np.asarray(curve, np.float64)
    return float(((values[1:] + values[:-1]) / 2).mean())


def compared(found: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, Any]:
    """Mean areas by map, and how they differ from the blob's with a 95 % interval."""
    blob = np.array([one["blob"] for one in found])
    result = {}
    for name in found[0]:
        values = np.array([one[name] for one in found])
        gap = interval(values - blob)
        result[name] = {
            "deletion": float(values[:, 0].mean()),
            "insertion": float(values[:, 1].mean()),
            "deletion_less_blob": gap[0],
            "insertion_less_blob": gap[1],
        }
    return result


def parts(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean drop of the answer's probability: best-scored part, worst-scored part, mean of parts."""
    if not found:
        return {}
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    gap = interval((values["best"] - values["mean"])[:, None])[0]
    return {name: float(own.mean()) for name, own in values.items()} | {"best_less_mean": gap}


def disagreement(against: Sequence[int], right: Sequence[bool]) -> dict[str, dict[str, float]]:
    """Answers by the number of cues against them, and the share of these that are right."""
    counts, hits = np.array(against), np.array(right)
    return {
        str(count): {"answers": int(own.sum()), "right": float(hits[own].mean())}
        for count in sorted({*against})
        if (own := counts == count).any()
    }


def interval(values: Floats | NDArray[np.float64]) -> list[dict[str, float]]:
    """Mean and 95 % bootstrap interval of each column."""
    generator = np.random.default_rng(SEED)
    picked = generator.integers(0, len(values), (SAMPLES, len(values)))
    low, high = np.quantile(values[picked].mean(1), [0.025, 0.975], axis=0)
    columns = zip(values.mean(0), low, high, strict=True)
    return [dict(mean=float(m), low=float(a), high=float(b)) for m, a, b in columns]


if __name__ == "__main__":
    main()
