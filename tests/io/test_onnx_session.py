"""Where networks run, and that they go on running: copied, pickled, in forks, pools and threads."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnxruntime
import pytest

from fervor.errors import ModelError, UsageError
from fervor.faces.landmarks import GRAPH, SIZE
from fervor.inference.predictor import Predictor
from fervor.io.onnx_session import PROVIDERS, Session, check_device, open_packaged
from tests.support.models import write_model


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


class Opened:
    """Stands in for onnxruntime's session, of a build for graphics cards."""

    usable = True
    threads: int
    spinning: str
    providers: list[str]
    given: dict[str, Any]

    def __init__(self, graph: str, options: Any, providers: list[str], **given: Any) -> None:
        Opened.threads, Opened.providers = options.intra_op_num_threads, providers
        Opened.given = given
        Opened.spinning = options.get_session_config_entry("session.intra_op.allow_spinning")

    def get_providers(self) -> list[str]:
        return self.providers if self.usable else self.providers[-1:]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*PROVIDERS.values()])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Opened)


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UsageError, match="device='tpu': expected one of cpu, cuda"):
        check_device("tpu")


def test_cuda_needs_its_own_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDERS["cpu"]])
    with pytest.raises(UsageError, match=r"device=cuda: .* install onnxruntime-gpu"):
        Predictor(write_model(tmp_path), device="cuda")


@pytest.mark.usefixtures("with_cuda")
def test_cuda_comes_first_and_the_processor_does_the_rest() -> None:
    Session(Path("a.onnx"), "a", 3, "cuda")
    assert Opened.providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert (Opened.threads, Opened.spinning) == (3, "0")
    assert Opened.given["provider_options"] == [{"use_tf32": "0"}, {}]  # single precision is that
    Session(Path("a.onnx"), "a", 1)
    assert Opened.providers == ["CPUExecutionProvider"]


@pytest.mark.usefixtures("with_cuda")
def test_a_card_that_does_not_start_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Opened, "usable", False)
    with pytest.raises(UsageError, match="device=cuda: onnxruntime could not start it"):
        Session(Path("a.onnx"), "a", 1, "cuda")


def test_a_card_that_fails_later_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    session = open_packaged(GRAPH, "the landmark network", threads=1)
    failure = onnxruntime.capi.onnxruntime_pybind11_state.EPFail("CUDA failure 2: out of memory")
    inner = Mock(wraps=session._session._sess)
    inner.run.side_effect = failure
    monkeypatch.setattr(session._session, "_sess", inner)
    with pytest.raises(ModelError, match="cannot answer: CUDA failure 2: out of memory"):
        session.run(["points"], {"image": np.zeros((1, 3, SIZE, SIZE), np.float32)})
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("with_cuda")
def test_eight_bits_do_not_run_on_a_card() -> None:
    with pytest.raises(UsageError, match="precision=int8 with device=cuda: eight bits run on the"):
        Predictor(device="cuda", precision="int8")


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError) as refused:
        Session(path, "the network a.onnx", 1, advice="reinstall fervor")
    message = str(refused.value)
    assert message.startswith("the network a.onnx cannot be loaded: ")
    assert message.endswith("; reinstall fervor") and "\n" not in message


def answer(predictor: Predictor) -> list[tuple[float, ...]]:
    """Everything that a predictor's networks say of a photograph."""
    return [(*face.probabilities.values(), *face.box) for face in predictor(PHOTOGRAPH) if face.box]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(threads=2)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_a_predictor_is_copied(predictor: Predictor, again: Callable[[Any], Any]) -> None:
    assert answer(again(predictor)) == answer(predictor) != []


def test_a_pickle_is_small_and_refuses_another_model(tmp_path: Path) -> None:
    """It names the model's files: they are read and checked again where it is opened."""
    small = Predictor(write_model(tmp_path / "model"), faces="precropped")
    stored = pickle.dumps(small)
    assert len(stored) < 10_000
    graph = tmp_path / "model" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    with pytest.raises(ModelError, match="damaged or was changed"):
        pickle.loads(stored)


SHARED: list[Predictor] = []


def of_shared(_: int) -> list[tuple[float, ...]]:
    return answer(SHARED[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks from a process with threads
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_processes(predictor: Predictor, method: str) -> None:
    """A fork inherits the sessions without their threads; however it starts, one is sent there."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("forks are for Unix")
    expected = answer(predictor)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        given: list[Future[Any]] = [pool.submit(answer, predictor) for _ in range(3)]
        assert [one.result(timeout=120) for one in given] == [expected] * 3
    if method == "fork":
        SHARED[:] = [predictor]
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            inherited = [pool.submit(of_shared, number) for number in range(3)]
            assert [one.result(timeout=120) for one in inherited] == [expected] * 3
    assert answer(predictor) == expected


def test_a_pool_of_threads_shares_one_predictor(predictor: Predictor) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(answer, [predictor] * 8)] == [answer(predictor)] * 8
