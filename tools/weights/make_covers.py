"""Store what tells covered eyes and a covered mouth beside a shipped model.

    python tools/weights/make_covers.py FERPLUS [--model vlm]

Faces of FERPlus get covers at their landmarks: masks and glasses, ellipses and rectangles, of one
shade, of skin, or of a piece of another image; and dark lenses. A linear classifier for each part
learns (training split) from the model's places around it whether it is covered, beside faces as
they are and with the other part or something besides covered; its threshold is where 2 % of these
(validation) would be called covered. Prints what it finds on validation.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from safetensors.numpy import save

from fervor import Predictor
from fervor.artifacts.joint_space import read_space, unit
from fervor.artifacts.model_info import COVER_VECTORS, SHIPPED, ModelInfo
from fervor.data import datasets
from fervor.data.cropping import pixels_of
from fervor.faces.landmarks import PointFinder
from fervor.inference.attribution import extent
from fervor.io import provenance
from fervor.io.image import to_rgb


PARTS = ("eyes", "mouth")
SHAPES, FILLS = ("mask", "ellipse", "rect"), ("shade", "skin", "texture")
LENSES, DARK = "lenses", "dark"
FINER = 4
"""How many times larger lenses are drawn, so that their edges are smooth."""
RIDGE = 3.0
FALSE_ALARMS = 0.02

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


class Seen(NamedTuple):
    """Faces with and without covers: what is covered, with what, and their places [n k d]."""

    part: NDArray[np.str_]
    shape: NDArray[np.str_]
    fill: NDArray[np.str_]
    places: Floats


def main() -> None:
    """Learn, choose the threshold, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--train", type=int, default=600, help="images, evenly spaced")
    parser.add_argument("--valid", type=int, default=140)
    parser.add_argument("--model", choices=SHIPPED, default="embedded")
    given = parser.parse_args()
    predictor = Predictor(given.model, faces="precropped", threads=1)
    train = seen(predictor, given.root, "train", given.train, times=1)
    valid = seen(predictor, given.root, "valid", given.valid, times=2)
    write(predictor.info.folder, train, valid)


def seen(predictor: Predictor, root: Path, split: str, count: int, *, times: int) -> Seen:
    """Each face as it is, and `times` with each part and with something besides covered."""
    samples = datasets.load("ferplus", root, split, protocol="majority")
    size, grid = predictor.info.input.size, read_space(predictor.info).grid
    weights = np.stack([extent(name, grid) for name in PARTS])
    faces = [
        np.asarray(Image.fromarray(to_rgb(pixels_of(samples[place]))).resize((size, size), 2))
        for place in np.linspace(0, len(samples) - 1, count).astype(int)
    ]
    finder, random = PointFinder(1, whole=True), np.random.default_rng(0)
    names, places = [], []
    for face in faces:
        points = np.array(finder.of_boxes(face, [(0, 0, size, size)])[0])
        shown = [(("none", "", ""), face), *covered(face, points, faces, random, times)]
        _, local = predictor.classifier.logits_and_local([picture for _, picture in shown])
        names += [name for name, _ in shown]
        places += [weights @ one for one in local]
    part, shape, fill = np.array(names).T
    return Seen(part, shape, fill, unit(np.stack(places)).astype(float))


def covered(
    face: Pixels, points: Floats, others: Sequence[Pixels], random: np.random.Generator, times: int
) -> Iterator[tuple[tuple[str, str, str], Pixels]]:
    """What is covered, by which shape and fill, and the face [s s 3] with it."""
    side = len(face)
    for part in ("mouth", "eyes", "other"):
        for _ in range(times):
            fill, shape = str(random.choice(FILLS)), str(random.choice(SHAPES))
            mask = Image.new("L", (side, side), 0)
            draw_cover(ImageDraw.Draw(mask), points, part, shape, side, random)
            soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.004 * side)))[..., None] / 255
            stuff = filling(fill, face, others, random)
            yield (part, shape, fill), np.rint(face * (1 - soft) + stuff * soft).astype(np.uint8)
    for _ in range(times):
        yield ("eyes", LENSES, DARK), with_lenses(face, points, random)


def with_lenses(face: Pixels, points: Floats, random: np.random.Generator) -> Pixels:
    """A face [s s 3] with sunglasses at its landmarks: two dark lenses, a bridge and temples."""
    side, large = len(face), len(face) * FINER
    wide = np.ptp(points[:17, 0]) * FINER
    corners, size = random.uniform(0.2, 1), wide * random.uniform((0.15, 0.1), (0.23, 0.19))
    mask = Image.new("L", (large, large), 0)
    draw = ImageDraw.Draw(mask)
    gleam = Image.new("L", (large, large), 0)
    for outwards, eye in ((-1, points[36:42]), (1, points[42:48])):
        centre = eye.mean(0) * FINER + wide * np.array([outwards * random.uniform(0, 0.04), 0.02])
        box = [*(centre - size), *(centre + size)]
        draw.rounded_rectangle(box, radius=float(size.min() * corners), fill=255)
        spot, across = centre - 0.05 * wide, 0.03 * wide * random.uniform(0.3, 1.5)
        shade = int(random.integers(0, 200))
        ImageDraw.Draw(gleam).ellipse([*(spot - across), *(spot + across)], fill=shade)
    for first, second in ((39, 42), (0, 36), (45, 16)):
        line = [tuple(points[first] * FINER), tuple(points[second] * FINER)]
        draw.line(line, fill=255, width=max(1, int(0.03 * wide)))
    soft = np.asarray(mask.resize((side, side), Image.Resampling.BOX))[..., None] / 255
    soft = soft * random.uniform(0.85, 1)
    dark = np.linspace(0, random.uniform(0, 40), side)[:, None, None] + random.integers(0, 60)
    if random.random() < 0.5:
        bright = gleam.filter(ImageFilter.GaussianBlur(float(0.04 * size.mean())))
        dark = dark + np.asarray(bright.resize((side, side), Image.Resampling.BOX))[..., None]
    return np.rint(face * (1 - soft) + np.minimum(dark, 255) * soft).astype(np.uint8)


def draw_cover(
    draw: ImageDraw.ImageDraw,
    points: Floats,
    part: str,
    shape: str,
    side: int,
    random: np.random.Generator,
) -> None:
    """A cover at landmarks [68 2] in pixels: a mask or glasses, an ellipse or a rectangle."""
    wide = np.ptp(points[:17, 0])  # of the face
    box = draw.rectangle if shape == "rect" else draw.ellipse
    if part == "mouth" and shape == "mask":
        nose = points[28] + random.normal(0, 0.01 * side, 2)
        draw.polygon([*map(tuple, points[2:15]), tuple(nose)], fill=255)
    elif part == "mouth":
        centre = points[48:68].mean(0) + random.normal(0, 0.03 * side, 2)
        across = np.ptp(points[48:68, 0]) * random.uniform(0.6, 0.9)
        high = max(np.ptp(points[48:68, 1]), 0.15 * wide) * random.uniform(0.7, 1.2)
        half = np.array([across, high])
        box([*(centre - half), *(centre + half)], fill=255)
    elif part == "eyes" and shape == "mask":
        for eye in (points[36:42], points[42:48]):
            half = np.array([0.19, 0.15]) * wide * random.uniform(0.8, 1.25)
            draw.ellipse([*(eye.mean(0) - half), *(eye.mean(0) + half)], fill=255)
        bridge = [tuple(points[39]), tuple(points[42])]
        draw.line(bridge, fill=255, width=max(1, int(0.03 * wide)))
    elif part == "eyes":
        centre = points[36:48].mean(0) + random.normal(0, 0.02 * side, 2)
        across = np.ptp(points[36:48, 0]) * random.uniform(0.52, 0.7)
        half = np.array([across, 0.14 * wide * random.uniform(0.8, 1.5)])
        box([*(centre - half), *(centre + half)], fill=255)
    else:  # a cheek, the forehead, or a corner
        above = np.array([0, 0.25 * wide])
        spots = [points[[1, 31, 48]].mean(0), points[[15, 35, 54]].mean(0)]
        spots += [points[19] - above, points[24] - above]
        spots += [np.array([0.05, 0.9]) * side, np.array([0.95, 0.9]) * side]
        centre = spots[random.integers(6)]
        half = np.array([0.13, 0.13]) * wide * random.uniform(0.7, 1.2, 2)
        box([*(centre - half), *(centre + half)], fill=255)


def filling(
    fill: str, face: Pixels, others: Sequence[Pixels], random: np.random.Generator
) -> Pixels:
    """What covers look like, [s s 3]."""
    side = len(face)
    if fill == "shade":
        return np.full((side, side, 3), random.integers(0, 256), np.uint8)
    if fill == "skin":
        tone = np.clip(np.median(face.reshape(-1, 3), 0) * random.uniform(0.75, 1.2), 0, 255)
        rough = np.clip(tone + random.normal(0, 6, (side, side, 1)), 0, 255).astype(np.uint8)
        return np.asarray(Image.fromarray(rough).filter(ImageFilter.GaussianBlur(1)))
    other = others[int(random.integers(len(others)))]
    piece = random.integers(side // 4, side // 2 + 1)
    top, left = random.integers(0, side - piece + 1), random.integers(0, side - piece + 1)
    cut = other[top : top + piece, left : left + piece]
    return np.asarray(Image.fromarray(cut).resize((side, side)))


def write(folder: Path, train: Seen, valid: Seen) -> None:
    """Fit each part, store the classifiers beside the model, and print what they find."""
    fits = []
    for number, part in enumerate(PARTS):
        fit = fitted(train.places[:, number], train.part == part)
        scores = valid.places[:, number] @ fit[:-1] + fit[-1]
        own = valid.part == part
        threshold = float(np.quantile(scores[~own], 1 - FALSE_ALARMS))
        fit[-1] -= threshold
        fits.append(fit)
        print(part, json.dumps(report(scores - threshold, own, valid), indent=1))
    weights = np.array(fits, np.float32)
    path = folder / COVER_VECTORS
    notes = {"dimensions": json.dumps(PARTS), "script": "tools/weights/make_covers.py"}
    tensors = {"weights": weights[:, :-1].copy(), "bias": weights[:, -1].copy()}
    path.write_bytes(save(tensors, metadata=notes))
    info = ModelInfo.read(folder)
    replace(info, sha256={**info.sha256, COVER_VECTORS: provenance.sha256(path)}).write()
    print(path)


def fitted(places: Floats, own: NDArray[np.bool_]) -> Floats:
    """Weights and bias [d + 1] of a logistic regression of places [n d], both sides weighing alike.

    By Newton's method on standardised numbers, ridge RIDGE.
    """
    mean, std = places.mean(0), places.std(0) + 1e-6
    x = np.c_[(places - mean) / std, np.ones(len(places))]
    weigh = np.where(own, 0.5 / own.mean(), 0.5 / (1 - own.mean()))
    ridge = RIDGE * np.r_[np.ones(places.shape[1]), 0]
    found = np.zeros(x.shape[1])
    for _ in range(12):
        probability = 1 / (1 + np.exp(-x @ found))
        slope = x.T @ (weigh * (probability - own)) + ridge * found
        curve = (x.T * (weigh * probability * (1 - probability))) @ x + np.diag(ridge + 1e-6)
        found -= np.linalg.solve(curve, slope)
    found[-1] -= (found[:-1] * mean / std).sum()
    found[:-1] /= std
    return found


def report(scores: Floats, own: NDArray[np.bool_], valid: Seen) -> dict[str, Any]:
    """Shares of covered and other faces that are called covered, and the area under the curve."""
    called = scores > 0

    def share(*which: NDArray[np.bool_]) -> float:
        return round(float(called[np.logical_and.reduce(which)].mean()), 3)

    return {
        "roc_auc": round(float((scores[own][:, None] > scores[~own]).mean()), 3),
        "covered": share(own),
        "by_shape": {name: share(own, valid.shape == name) for name in np.unique(valid.shape[own])},
        "by_fill": {name: share(own, valid.fill == name) for name in FILLS},
        "as_they_are": share(valid.part == "none"),
        "something_besides": share(~own & (valid.part != "none")),
    }


if __name__ == "__main__":
    main()
