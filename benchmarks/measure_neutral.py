"""Measure what a person's own neutral gains and costs, on made-up sequences of FERPlus faces.

    python benchmarks/measure_neutral.py FERPLUS [--people 240]

FERPlus does not show the same person twice, so a sequence is made up: 4 seconds of a face labelled
neutral (ten frames a second, each moved by up to 2 pixels, scaled by 5 % and lit by 10 %, with up
to 15 % of the other face blended in), then one second of another face that is labelled with an
emotion, varied in the same way. The neutral is learnt from the frames so far (auto), or the picture
itself is given (given). A second kind of sequence shows an emotional face throughout. Settings are
compared on every second sequence (choose), and the shipped ones read on the others (report). Only
validation pictures are read. Nothing is written.
"""

import argparse
import itertools
from dataclasses import dataclass
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor import Predictor
from fervor.data.datasets import Sample, load
from fervor.inference import neutral_baseline


REST, SHOWN = 40, 10
RATE = 10
Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Sequence:
    """Logits of its frames at rest [40 c], of those that show the emotion [10 c], and of both
    pictures as they are."""

    emotion: int
    rest: Logits
    shown: Logits
    given: Logits


def varied(picture: Image.Image, random: np.random.Generator) -> NDArray[np.uint8]:
    """The picture a little moved, scaled and relit."""
    scale = 1 + random.uniform(-0.05, 0.05)
    x, y = random.uniform(-2, 2, 2) + picture.width * (1 - scale) / 2
    moved = picture.transform(
        picture.size, Image.Transform.AFFINE, (scale, 0, x, 0, scale, y), Image.Resampling.BICUBIC
    )
    light = 1 + random.uniform(-0.1, 0.1)
    return np.clip(np.asarray(moved, np.float64) * light, 0, 255).astype(np.uint8)


def sequence(
    predictor: Predictor, rest: Image.Image, shown: Image.Image, emotion: int, seed: int
) -> Sequence:
    """One made-up person."""
    random = np.random.default_rng(seed)
    blends = [Image.blend(rest, shown, random.uniform(0, 0.15)) for _ in range(REST)]
    frames = [varied(picture, random) for picture in [*blends, *[shown] * SHOWN]]
    # Logarithms of probabilities are logits up to a constant, which corrects nothing.
    logits = np.log(np.maximum(predictor.classify([*frames, np.asarray(rest)]), 1e-30))
    return Sequence(emotion, logits[:REST], logits[REST:-1], logits[-1])


def corrected(one: Sequence, labels: tuple[str, ...], mode: str) -> tuple[Logits, Logits]:
    """Its logits at rest and of the emotion under a mode: none, auto (causal) or given."""
    frames = np.concatenate([one.rest, one.shown])
    if mode == "given":
        frames = frames - neutral_baseline.correction(one.given, labels)
    if mode == "auto":
        learnt, rows = neutral_baseline.Rest(labels.index("neutral")), []
        for number, row in enumerate(frames):
            learnt.add(row, number / RATE)
            rest = learnt.logits
            rows.append(row if rest is None else row - neutral_baseline.correction(rest, labels))
        frames = np.stack(rows)
    # What comes before the neutral is learnt is the same under each mode, and not counted.
    return frames[neutral_baseline.LEAST : REST], frames[REST:]


def probabilities(
    sequences: list[Sequence], labels: tuple[str, ...], mode: str
) -> tuple[float, float, float]:
    """Frames at rest read as neutral, those read as sadness or anger, emotions read rightly."""
    wrong = [labels.index(name) for name in neutral_baseline.CORRECTED]
    rest, misread, shown = [], [], []
    for one in sequences:
        at_rest, emotional = (rows.argmax(axis=1) for rows in corrected(one, labels, mode))
        rest.append((at_rest == labels.index("neutral")).mean())
        misread.append(np.isin(at_rest, wrong).mean())
        shown.append((emotional == one.emotion).mean())
    return float(np.mean(rest)), float(np.mean(misread)), float(np.mean(shown))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ferplus")
    parser.add_argument("--people", type=int, default=240)
    given = parser.parse_args()
    predictor = Predictor(faces="precropped", threads=1)
    labels = predictor.labels
    samples = load("ferplus", given.ferplus, "valid", protocol="majority")
    random = np.random.default_rng(0)
    calm = [sample for sample in samples if sample.label == "neutral"]
    others = [sample for sample in samples if sample.label != "neutral"]

    def drawn(pool: list[Sample], count: int) -> list[tuple[Image.Image, int]]:
        chosen = random.choice(len(pool), count, replace=False)
        return [
            (Image.open(pool[k].path).convert("RGB"), labels.index(pool[k].label)) for k in chosen
        ]

    people = list(zip(drawn(calm, given.people), drawn(others, given.people), strict=True))
    changing = [
        sequence(predictor, rest, shown, emotion, seed)
        for seed, ((rest, _), (shown, emotion)) in enumerate(people)
    ]
    choose, report = changing[::2], changing[1::2]
    print("choose  margin largest   auto: rest neutral, misread, emotion right")
    for margin, largest in itertools.product((0.0, 0.5, 1.0, 2.0), (1.5, 3.0, 6.0)):
        with mock.patch.multiple(neutral_baseline, MARGIN=margin, LARGEST=largest):
            row = probabilities(choose, labels, "auto")
        print(f"        {margin:6} {largest:7}   " + "  ".join(f"{value:6.1%}" for value in row))
    print(f"report ({len(report)} sequences)  rest neutral, read as sad or angry, emotion right")
    for mode in ("none", "auto", "given"):
        row = probabilities(report, labels, mode)
        print(f"        {mode:6} " + "  ".join(f"{value:6.1%}" for value in row))
    wrong = [labels.index(name) for name in neutral_baseline.CORRECTED]
    always = [
        Sequence(one.emotion, np.resize(one.shown, (REST, len(labels))), one.shown, one.shown[0])
        for one in report
        if one.emotion in wrong
    ]
    print(f"sad or angry throughout ({len(always)} sequences): emotion right")
    for mode in ("none", "auto"):
        print(f"        {mode:6} {probabilities(always, labels, mode)[2]:6.1%}")


if __name__ == "__main__":
    main()
