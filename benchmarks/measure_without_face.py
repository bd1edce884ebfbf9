"""Measure what the shipped model says to pictures that show no face.

    python benchmarks/measure_without_face.py [--photos FOLDER] [--ferplus FERPLUS] [--output FILE]

Blank pictures, noise, stripes and drawn faces are made here; FOLDER holds scikit-image's pictures
(`pip install scikit-image`), of which those without a face are taken. FERPlus's validation split
is the comparison with real faces. Each picture is read twice: with detection, and as a precropped
face, where the model cannot but answer. Printed: one JSON object.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measure_detector import WITHOUT_FACE, enlarged, read
from numpy.typing import NDArray

from fervor import Predictor
from fervor.labels import EXPRESSIONS


ROOT = Path(__file__).resolve().parents[1]

Picture = NDArray[np.uint8]

SIDE = 192
COUNT = 100
THRESHOLDS = (0.5, 0.7, 0.9)


def blank() -> list[Picture]:
    """Pictures of one colour: black, greys to white, and the strong colours."""
    greys = [(level,) * 3 for level in range(0, 256, 17)]
    colours = [tuple(255 * (number >> bit & 1) for bit in range(3)) for number in range(1, 7)]
    return [np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in (*greys, *colours)]


def noise(count: int = COUNT) -> list[Picture]:
    """Each pixel drawn by itself."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(count)]


def stripes(count: int = COUNT) -> list[Picture]:
    """Grey waves of any direction and width."""
    random = np.random.default_rng(1)
    down, right = np.mgrid[:SIDE, :SIDE]
    pictures = []
    for _ in range(count):
        angle, length = random.uniform(0, np.pi), random.uniform(4, 96)
        wave = np.sin(2 * np.pi * (right * np.cos(angle) + down * np.sin(angle)) / length)
        grey = (127.5 + 127.5 * wave).astype(np.uint8)
        pictures.append(np.repeat(grey[..., None], 3, axis=2))
    return pictures


def drawn(count: int = COUNT) -> list[Picture]:
    """The tests' drawn faces, the expressions taking turns."""
    sys.path.insert(0, str(ROOT))
    from tests.support.drawn import face

    names = [EXPRESSIONS[number % len(EXPRESSIONS)] for number in range(count)]
    faces = [face(name, seed, side=SIDE) for seed, name in enumerate(names)]
    return [np.repeat(grey[..., None], 3, axis=2) for grey in faces]


def measure(finding: Predictor, forced: Predictor, pictures: list[Picture]) -> dict[str, Any]:
    """Faces that are found, and how sure the answers to whole pictures are."""
    found = finding(pictures)
    scores = [face.det_score for faces in found for face in faces if face.det_score is not None]
    answers = [faces[0] for faces in forced(pictures)]
    sure = np.array([answer.prob for answer in answers])
    return {
        "pictures": len(pictures),
        "with a face found": sum(bool(faces) for faces in found),
        "highest detector score": max(scores, default=None),
        "precropped": {
            "mean highest probability": float(sure.mean()),
            **{f"share at least {least}": float((sure >= least).mean()) for least in THRESHOLDS},
            "labels": dict(Counter(answer.label for answer in answers).most_common()),
        },
    }


def main() -> None:
    """Measure every kind of picture and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--ferplus", type=Path)
    parser.add_argument("--count", type=int, default=500, help="faces of FERPlus")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    kinds = {"blank": blank(), "noise": noise(), "stripes": stripes(), "drawn faces": drawn()}
    if options.photos:
        kinds["photos and textures"] = [read(options.photos / name) for name in WITHOUT_FACE]
    if options.ferplus:
        paths = sorted((options.ferplus / "FER2013Valid").glob("*.png"))[: options.count]
        kinds["faces of FERPlus"] = [enlarged(path, border=0) for path in paths]
    finding, forced = Predictor(), Predictor(faces="precropped")
    rows = {name: measure(finding, forced, pictures) for name, pictures in kinds.items()}
    text = json.dumps({"model": forced.info.name, "kinds": rows}, indent=2)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
