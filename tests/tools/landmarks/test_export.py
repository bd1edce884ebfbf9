"""The landmark network as a graph."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fervor.faces.landmarks import GRAPH
from fervor.models.mobilefacenet import PACKAGED, LandmarkEncoder, MobileFaceNet
from tools.landmarks.export import export_points
from tools.landmarks.train import kept_encoder


@torch.no_grad()
def answers(encoder: LandmarkEncoder, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points by torch and by the graph."""
    image = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["points"], {"image": image.numpy()})
    return encoder.points(image).numpy(), found


@pytest.mark.slow
def test_the_graph_finds_what_the_network_finds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = kept_encoder(MobileFaceNet())
    path = tmp_path / "points.onnx"
    export_points(encoder, path)
    np.testing.assert_allclose(*answers(encoder, path), atol=1e-4)
    assert path.stat().st_size < 2.6e6  # half precision


@pytest.mark.skipif(not PACKAGED.is_file(), reason="no landmark network is packaged")
def test_the_packaged_graph_is_the_packaged_network() -> None:
    from fervor.config import Landmarks
    from fervor.models.mobilefacenet import build_landmark_encoder

    encoder = build_landmark_encoder(Landmarks(name="mobilefacenet"))
    np.testing.assert_allclose(*answers(encoder, GRAPH), atol=1e-4)
