"""A model on photographs of another source, end to end: found, cropped, answered.

    python benchmarks/measure_photographs.py FOLDER [--model embedded] [--crop 48] [--output DIR]

FOLDER holds `labels.csv` (image, label) and `images/`. Counted are the images of neutral,
happiness, surprise, sadness and anger; an answer of another class, or a face that is not found, is
wrong. Both operating points are stated: accuracy balanced over the classes, macro F1 over the five,
coverage and accuracy at the threshold of `--abstain auto`, and the calibration error of the model's
probabilities in 15 bins of equally many images. One standard error comes from 1,000 resamples
within the classes.
"""

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervor import Predictor
from fervor.evaluation import results
from fervor.evaluation.evaluate import origin
from fervor.evaluation.metrics import expected_calibration_error, per_class


FIVE = ("neutral", "happiness", "surprise", "sadness", "anger")


def answers(predictor: Predictor, images: list[Path]) -> NDArray[np.float64]:
    """Probabilities [n c]; zeros where no face is found."""
    rows = []
    for faces in predictor([str(path) for path in images]):
        probabilities = faces[0].probabilities if faces else None
        rows.append(
            [0.0] * len(predictor.labels) if probabilities is None else [*probabilities.values()]
        )
    return np.array(rows)


def figures(
    probabilities: NDArray[np.float64], label: NDArray[np.int64], least: float
) -> dict[str, float]:
    """What one operating point gets right; `least` is its threshold."""
    found = probabilities.sum(1) > 0
    answer = np.where(found, probabilities.argmax(1), -1)
    right, classes = answer == label, np.unique(label)
    random, balanced = np.random.default_rng(0), []
    members = [np.flatnonzero(label == number) for number in classes]
    for _ in range(1000):
        draws = [right[random.choice(rows, len(rows))].mean() for rows in members]
        balanced.append(np.mean(draws))
    sure = probabilities.max(1) >= least
    scores = per_class(
        label, np.where(found, answer, probabilities.shape[1]), probabilities.shape[1] + 1
    )
    return {
        "balanced_accuracy": float(np.mean([right[rows].mean() for rows in members])),
        "standard_error": float(np.std(balanced)),
        "accuracy": float(right.mean()),
        "macro_f1": scores.macro_f1(),
        "calibration_error": expected_calibration_error(probabilities[found], label[found]),
        "abstain": least,
        "coverage": float(sure.mean()),
        "accuracy_of_covered": float(right[sure].mean()) if sure.any() else 0.0,
        "found": float(found.mean()),
    }


def main() -> None:
    """Answer at both points, print, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--crop", type=int, default=0, help="another crop than the model's own")
    parser.add_argument("--output", type=Path, help="folder of result files")
    given = parser.parse_args()
    with (given.folder / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in FIVE]
    images = [given.folder / "images" / row["image"] for row in rows]
    described = {
        "name": "photographs",
        "protocol": f"{len(FIVE)} classes, faces found and cropped",
        "split": "choosing",
    }
    result: dict[str, Any] = {}
    for prior in ("natural", "balanced"):
        predictor = Predictor(given.model, faces="largest", prior=prior)
        if given.crop:
            side = replace(predictor.info.input, crop=given.crop)
            predictor.info = replace(predictor.info, input=side)
        points = predictor.info.operating_points
        assert points is not None, "a model with stored operating points"
        label = np.array([predictor.labels.index(row["label"]) for row in rows])
        found = figures(answers(predictor, images), label, getattr(points, prior).abstain)
        result[prior] = {name: round(value, 4) for name, value in found.items()}
    crop = predictor.info.input.crop
    result = {
        **origin(predictor.info, described),
        "count": len(rows),
        "crop": crop,
        **result,
    }
    print(json.dumps({name: result[name] for name in ("model", "crop", "natural", "balanced")}))
    if given.output is not None:
        name = f"{result['model']}-seed{result['run']['seed']}-photographs-crop{crop}"
        print(results.store(given.output, name, result, results.asked_of(result, crop=crop))[0])


if __name__ == "__main__":
    main()
