"""Fit an exported model's operating points on FERPlus's validation split, into its model.json.

    python tools/weights/fit_points.py FERPLUS [--model embedded]

Training stores them by itself; this is for models from before (fervor.evaluation.operating_points).
"""

import argparse
import json
from dataclasses import asdict, replace

import numpy as np

from fervor.artifacts.model_info import ModelInfo
from fervor.data.datasets import load
from fervor.data.image_set import read_images
from fervor.evaluation.evaluate import logits_of
from fervor.evaluation.operating_points import fitted_points


def main() -> None:
    """Answer valid, fit, store, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="the FERPlus folder")
    parser.add_argument("--model", default="embedded")
    given = parser.parse_args()
    info = ModelInfo.read(given.model)
    samples = load("ferplus", given.root, "valid", protocol=info.data.protocol)
    pictures = read_images(samples, info.labels, size=info.input.size)
    logits = np.asarray(logits_of(info, pictures), np.float64) / info.temperature
    counts = [info.data.train[label] for label in info.labels]
    points = fitted_points(logits, pictures.label.numpy(), counts)
    replace(info, operating_points=points).write()
    print(json.dumps(asdict(points)))


if __name__ == "__main__":
    main()
