"""A graph is opened where it is the one that model.json describes; one line says what is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fervor.artifacts.model_info import ModelInfo
from fervor.artifacts.reader import open_session
from fervor.errors import ModelError
from tests.support.models import LABELS, sha256, write_model


def test_run_folder_asks_for_export(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"fervor export --model .* --output"):
        open_session(ModelInfo.read(tmp_path), 1)


def test_changed_graph_is_refused(tmp_path: Path) -> None:
    info = ModelInfo.read(write_model(tmp_path))
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="damaged or was changed"):
        open_session(info, 1)


def test_file_that_is_no_graph_is_one_line(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    content = json.loads((tmp_path / "model.json").read_text())
    content["sha256"]["model.onnx"] = sha256(tmp_path / "model.onnx")
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="cannot be loaded") as refused:
        open_session(ModelInfo.read(tmp_path), 1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [{"labels": [*LABELS, "fear"]}, {"input": {"size": 32, "crop": 12}}],
)
def test_graph_of_another_shape_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=re.escape("model.json says [b, 3, ")):
        open_session(ModelInfo.read(tmp_path), 1)


def test_detector_is_no_classifier(tmp_path: Path) -> None:
    """The graph of another task under a model's name."""
    write_model(tmp_path)
    source = Path(__file__).parents[2] / "fervor" / "weights" / "detector.onnx"
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    content = json.loads((tmp_path / "model.json").read_text())
    content["sha256"]["model.onnx"] = sha256(tmp_path / "model.onnx")
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="expected image -> logits, embedding, local"):
        open_session(ModelInfo.read(tmp_path), 1)
