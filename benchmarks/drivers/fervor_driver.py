"""Runs fervor for the benchmark; see loop.py."""

from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from loop import serve
from numpy.typing import NDArray
from PIL import Image

from fervor import Predictor
from fervor.faces.detector import INT8_WEIGHTS, WEIGHTS, FaceDetector
from fervor.inference.precision import Precision


FOREIGN = "contempt"  # no peer knows it


def read(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Fervor:
    """The embedded model, with the defaults of `fervor predict`: int8 where it is fast."""

    precision: Precision = "auto"
    smallest_face = 0.0

    def __init__(self, threads: int) -> None:
        self.predictor = Predictor(
            threads=threads, precision=self.precision, smallest_face=self.smallest_face
        )
        self.threads = threads
        self.read: dict[tuple[str, ...], list[NDArray[np.uint8]]] = {}

    @cached_property
    def detector(self) -> FaceDetector:
        """Alone, on all threads; the weights are those that Predictor takes."""
        weights = WEIGHTS if self.predictor.precision == "fp32" else INT8_WEIGHTS
        return FaceDetector(self.threads, smallest=self.smallest_face, weights=weights)

    @cached_property
    def together(self) -> Predictor:
        """For faces that are given, 64 at a time."""
        return Predictor(
            faces="precropped", threads=self.threads, batch_size=64, precision=self.precision
        )

    def pictures(self, paths: list[str]) -> list[NDArray[np.uint8]]:
        """Decoded once, so that what is timed is the network."""
        if tuple(paths) not in self.read:
            self.read = {tuple(paths): [read(path) for path in paths]}
        return self.read[tuple(paths)]

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("fervor", "onnxruntime", "numpy", "pillow")}

    def photos(self, paths: list[str]) -> list[int]:
        """Files to answers; faces found in each."""
        if len(paths) == 1:
            return [len(self.predictor(paths[0]))]
        return [len(faces) for faces in self.predictor([Path(path) for path in paths])]

    def video(self, path: str) -> int:
        """Frames answered."""
        return sum(1 for _ in self.predictor.video(path))

    def detect(self, path: str) -> int:
        """Faces of a decoded picture."""
        return len(self.detector.detect(self.pictures([path]))[0])

    def classify(self, paths: list[str]) -> list[str]:
        """The expression of each picture, which is one face."""
        probabilities = self.together.classify(self.pictures(paths))
        return [self.predictor.labels[best] for best in probabilities.argmax(axis=1)]

    def classify_known(self, paths: list[str]) -> list[str]:
        """The same among the seven expressions that the peers know."""
        probabilities = self.together.classify(self.pictures(paths))
        probabilities[:, self.predictor.labels.index(FOREIGN)] = 0
        return [self.predictor.labels[best] for best in probabilities.argmax(axis=1)]

    def recognise(self, paths: list[str]) -> list[str]:
        """The expression of the largest face found among the seven; empty where none is."""
        answers = []
        for faces in self.predictor([Path(path) for path in paths]):
            probabilities = dict(faces[0].probabilities) if faces else {"": 1.0}
            probabilities.pop(FOREIGN, None)
            answers.append(max(probabilities, key=probabilities.__getitem__))
        return answers


if __name__ == "__main__":
    serve(Fervor)
