"""A model folder loads with exactly what it says, or its error says what is wrong in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fervor.artifacts.reader import find_model, open_session, read_header
from fervor.errors import ModelError
from tests.support.models import LABELS, SIZE, sha256, write_model


def test_header_is_read(tmp_path: Path) -> None:
    header = read_header(write_model(tmp_path, temperature=2))
    assert (header.name, header.labels) == ("tiny", LABELS)
    assert (header.size, header.crop, header.temperature) == (SIZE, 12, 2.0)
    assert header.sha256 == sha256(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema is 2 instead of 1"),
        ({"schema": None}, "schema is None"),
        ({"input": None}, "input is NoneType instead of an object"),
        ({"labels": ["neutral"]}, "two or more different names"),
        ({"labels": ["anger", "anger"]}, "two or more different names"),
        ({"labels": ["anger", 3]}, "label 3 is no name"),
        ({"labels": ["anger", "a\nb"]}, "is no name"),
        ({"labels": ["anger", "\ud800"]}, "is no name"),
        ({"input": {"size": 16}}, "crop is NoneType instead of a whole number"),
        ({"input": {"size": 10**9, "crop": 12}}, "input size is 1000000000, expected 8 to 2048"),
        ({"input": {"size": True, "crop": 12}}, "input size is True"),
        ({"temperature": 0}, "temperature is 0, expected above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 10**400}, "too large"),
        ({"temperature": "1"}, "temperature is '1' instead of a number"),
        ({"sha256": {}}, "model.onnx is NoneType instead of a text"),
        ({"sha256": {"model.onnx": "abc"}}, "not 64 hexadecimal digits"),
        ({"name": "a\x1b[31m"}, "control characters"),
    ],
)
def test_wrong_entry_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write_model(tmp_path, **changes)
    with pytest.raises(ModelError) as refused:
        read_header(tmp_path)
    assert reason in str(refused.value)
    assert "expected what fervor export writes" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"text"', "[" * 100_000, '{"architectures": ["ResNetModel"]}', "\udcff"],
)
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    write_model(tmp_path)
    (tmp_path / "model.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match="expected what fervor export writes"):
        read_header(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist: expected a model folder"):
        find_model(tmp_path / "nowhere")


def test_a_file_is_no_model_folder(tmp_path: Path) -> None:
    write_model(tmp_path)
    with pytest.raises(ModelError, match="is a file: expected a model folder"):
        find_model(tmp_path / "model.onnx")


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.json"):
        read_header(tmp_path)


def test_run_folder_asks_for_export(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"fervor export --model .* --output"):
        read_header(tmp_path)


def test_changed_graph_is_refused(tmp_path: Path) -> None:
    header = read_header(write_model(tmp_path))
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="damaged or was changed"):
        open_session(tmp_path / "model.onnx", header, 1)


def test_file_that_is_no_graph_is_one_line(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    content = json.loads((tmp_path / "model.json").read_text())
    content["sha256"]["model.onnx"] = sha256(tmp_path / "model.onnx")
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="cannot be loaded") as refused:
        open_session(tmp_path / "model.onnx", read_header(tmp_path), 1)
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
        open_session(tmp_path / "model.onnx", read_header(tmp_path), 1)


def test_detector_is_no_classifier(tmp_path: Path) -> None:
    """The graph of another task under a model's name."""
    write_model(tmp_path)
    source = Path(__file__).parents[2] / "fervor" / "weights" / "detector.onnx"
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    content = json.loads((tmp_path / "model.json").read_text())
    content["sha256"]["model.onnx"] = sha256(tmp_path / "model.onnx")
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="expected image -> logits, embedding, local"):
        open_session(tmp_path / "model.onnx", read_header(tmp_path), 1)
