"""Every graph, shipped or exported, opens in another runtime than onnxruntime and answers alike.

Left out is the face detector in eight bits: it is stored with onnxruntime's own fused operations.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from fervor.artifacts.packaged import WEIGHTS
from fervor.config import Encoder
from fervor.graphs.onnx import export
from fervor.plugins import METHODS
from tests.graphs.test_onnx import save
from tests.support import tiny


pytestmark = pytest.mark.slow

ONNXRUNTIME_ALONE = ("detector_int8.onnx",)
GRAPHS = sorted(
    path.relative_to(WEIGHTS).as_posix()
    for path in WEIGHTS.rglob("*.onnx")
    if path.name not in ONNXRUNTIME_ALONE
)
BATCH = 2


def picture(session: onnxruntime.InferenceSession) -> NDArray[Any]:
    """Noise as a graph takes it in: RGB, 0..255 [b h w 3] or 0..1 [b 3 h w]."""
    (given,) = session.get_inputs()
    numbers = np.random.default_rng(0)
    if given.type == "tensor(uint8)":
        return numbers.integers(0, 256, (BATCH, 128, 160, 3), np.uint8)
    return numbers.random((BATCH, *given.shape[1:]), np.float32)


def assert_answers_alike(path: Path, *, fixed: bool, tolerance: float) -> None:
    """Compare the outputs with OpenVINO's, in single precision; `fixed`: it knows the shape."""
    openvino = pytest.importorskip("openvino", reason="needs the [dev] extra")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = picture(session)
    core = openvino.Core()
    model = core.read_model(path)
    if fixed:
        model.reshape({"image": image.shape})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    found = core.compile_model(model, "CPU", settings)({"image": image})
    expected = session.run(None, {"image": image})
    for output, answer in zip(session.get_outputs(), expected, strict=True):
        assert found[output.name].shape == answer.shape
        np.testing.assert_allclose(found[output.name], answer, atol=tolerance, err_msg=output.name)


@pytest.mark.parametrize("fixed", [False, True], ids=["open-shape", "fixed-shape"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_shipped_graphs_answer_alike(graph: str, fixed: bool) -> None:
    eight = "int8" in graph  # a sum that ends beside a rounding edge moves by a whole step
    assert_answers_alike(WEIGHTS / graph, fixed=fixed, tolerance=0.05 if eight else 1e-4)


@pytest.mark.parametrize("encoder", tiny.SAVED)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in {"mpa", "lacovl"}])
def test_exports_answer_alike(method: str, encoder: str, tmp_path: Path) -> None:
    config = Encoder(name=encoder, weights=tiny.SAVED[encoder](tmp_path / "net"), size=32)
    run = save(tmp_path / "run", config, method=method)
    path = export(str(run), str(tmp_path / "out"))
    for fixed in (False, True):
        assert_answers_alike(path, fixed=fixed, tolerance=1e-4)


@pytest.mark.parametrize("encoder", ["face-mobilenet", "ir50"])
def test_exports_of_face_encoders_answer_alike(encoder: str, tmp_path: Path) -> None:
    config = Encoder(name=encoder, weights="random", size=112, grey=True)
    path = export(str(save(tmp_path / "run", config)), str(tmp_path / "out"), half=True)
    for fixed in (False, True):
        assert_answers_alike(path, fixed=fixed, tolerance=1e-4)
