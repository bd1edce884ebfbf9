"""Runs fer (PyPI) through its public interface for the benchmark; see loop.py.

Its defaults: the Haar cascade of OpenCV and the quantised network. Faces that are given go in as
rectangles, with offsets of 0, since the picture is the face already.
"""

from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
from fer.fer import FER
from loop import serve


NAMES = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}


def label(face: dict[str, Any]) -> str:
    return NAMES[max(face["emotions"], key=face["emotions"].__getitem__)]


class Fer:
    """Both uses: faces to be found, faces that are given."""

    def __init__(self, threads: int) -> None:
        cv2.setNumThreads(threads)
        self.tool = FER()
        self.given = FER(offsets=(0, 0))
        self.read: dict[tuple[str, ...], list[np.ndarray]] = {}

    def pictures(self, paths: list[str]) -> list[np.ndarray]:
        if tuple(paths) not in self.read:
            self.read = {tuple(paths): [cv2.imread(path) for path in paths]}
        return self.read[tuple(paths)]

    def versions(self) -> dict[str, str]:
        names = ("fer", "tensorflow", "opencv-python-headless", "setuptools", "numpy")
        return {name: version(name) for name in names}

    def photos(self, paths: list[str]) -> list[int]:
        return [len(self.tool.detect_emotions(cv2.imread(path))) for path in paths]

    def video(self, path: str) -> int:
        """Frame by frame, as its own Video does, whose windows a headless OpenCV lacks."""
        video, frames = cv2.VideoCapture(path), 0
        while (read := video.read())[0]:
            self.tool.detect_emotions(read[1])
            frames += 1
        return frames

    def detect(self, path: str) -> int:
        return len(self.tool.find_faces(self.pictures([path])[0]))

    def classify(self, paths: list[str]) -> list[str]:
        """All faces side by side in one picture, their rectangles given: its only batch."""
        strip = np.concatenate(self.pictures(paths), axis=1)
        height, width = strip.shape[0], strip.shape[1] // len(paths)
        boxes = [(width * place, 0, width, height) for place in range(len(paths))]
        return [label(face) for face in self.given.detect_emotions(strip, boxes)]

    classify_known = classify

    def recognise(self, paths: list[str]) -> list[str]:
        answers = []
        for path in paths:
            faces = self.tool.detect_emotions(cv2.imread(path))
            largest = max(faces, key=lambda face: face["box"][2] * face["box"][3], default=None)
            answers.append("" if largest is None else label(largest))
        return answers


if __name__ == "__main__":
    serve(Fer)
