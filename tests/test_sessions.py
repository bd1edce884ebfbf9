"""Where networks run: a device that cannot be used is refused, not replaced."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from fervor.errors import ModelError, UsageError
from fervor.inference import Predictor
from fervor.sessions import PROVIDERS, check_device, open_graph
from tests.models import write_model


class Session:
    """Stands in for onnxruntime's, of a build for graphics cards."""

    usable = True

    def __init__(self, graph: str, options: Any, providers: list[str]) -> None:
        self.threads, self.providers = options.intra_op_num_threads, providers
        self.spinning = options.get_session_config_entry("session.intra_op.allow_spinning")

    def get_providers(self) -> list[str]:
        return self.providers if self.usable else self.providers[-1:]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*PROVIDERS.values()])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UsageError, match="device='tpu': expected one of cpu, cuda"):
        check_device("tpu")


def test_cuda_needs_its_own_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDERS["cpu"]])
    with pytest.raises(UsageError, match=r"device=cuda: .* install onnxruntime-gpu"):
        Predictor(write_model(tmp_path), device="cuda")


@pytest.mark.usefixtures("with_cuda")
def test_cuda_comes_first_and_the_processor_does_the_rest() -> None:
    session: Any = open_graph(Path("a.onnx"), name="a", threads=3, device="cuda")
    assert session.providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert (session.threads, session.spinning) == (3, "0")
    session = open_graph(Path("a.onnx"), name="a", threads=1)
    assert session.providers == ["CPUExecutionProvider"]


@pytest.mark.usefixtures("with_cuda")
def test_a_card_that_does_not_start_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "usable", False)
    with pytest.raises(UsageError, match="device=cuda: onnxruntime could not start it"):
        open_graph(Path("a.onnx"), name="a", threads=1, device="cuda")


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError) as refused:
        open_graph(path, name="the network a.onnx", threads=1, advice="reinstall fervor")
    message = str(refused.value)
    assert message.startswith("the network a.onnx cannot be loaded: ")
    assert message.endswith("; reinstall fervor") and "\n" not in message
