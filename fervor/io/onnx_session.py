"""How networks are opened with onnxruntime: on which device, with how many threads."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import onnxruntime
from numpy.typing import NDArray

from fervor.errors import ModelError, UsageError


__all__ = ["Device", "Session", "check_device", "open_packaged"]

Device = Literal["cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OPTIONS = {"cuda": {"use_tf32": "0"}}
"""Of each device. TF32, onnxruntime's default, keeps 10 of single precision's 23 bits."""


def check_device(device: str) -> None:
    """Whether networks can run there.

    Raises:
        UsageError: no such device, or the installed onnxruntime does not know it.
    """
    if device not in get_args(Device):
        raise UsageError(f"device={device!r}: expected one of {', '.join(get_args(Device))}")
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise UsageError(
            f"device={device}: the installed onnxruntime runs on the processor alone; "
            "install onnxruntime-gpu in its place, or leave --device out"
        )


class Session:
    """A graph ready to run; a pickle and a deep copy open it again.

    Args:
        graph: its file.
        name: what errors call it.
        threads: 0 leaves the number to onnxruntime.
        device: cpu, or cuda, where what the graphics card cannot do runs on the processor.
        advice: what to do where it is damaged.
        sha256: what the file must have, in hexadecimal digits; empty where it is not checked.

    Raises:
        ModelError: it is missing, damaged or another file than `sha256` says.
        UsageError: the device cannot be used.
    """

    def __init__(
        self,
        graph: Path,
        name: str,
        threads: int,
        device: str = "cpu",
        advice: str = "",
        sha256: str = "",
    ) -> None:
        self.threads = threads
        self._arguments = (graph, name, threads, device, advice, sha256)
        self._alone = onnxruntime.RunOptions()
        self._alone.only_execute_path_to_fetches = True
        self._session = _opened(*self._arguments)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs by their names.

        onnxruntime is asked to compute only what they need; version 1.32 computes all the same.

        Raises:
            ModelError: the graph cannot be computed for these inputs.
        """
        try:
            answers: list[NDArray[Any]] = self._session.run(outputs, inputs, self._alone)
        except Exception as error:  # onnxruntime's errors share no public root
            reason = " ".join(str(error).split())
            raise ModelError(f"{self._arguments[1]} cannot answer: {reason}") from error
        return answers

    @property
    def inputs(self) -> dict[str, list[int | str]]:
        """The shape of each input."""
        return {node.name: node.shape for node in self._session.get_inputs()}

    @property
    def outputs(self) -> dict[str, list[int | str]]:
        """The shape of each output."""
        return {node.name: node.shape for node in self._session.get_outputs()}

    def __reduce__(self) -> tuple[type["Session"], tuple[Path, str, int, str, str, str]]:
        return Session, self._arguments


def _opened(
    graph: Path, name: str, threads: int, device: str, advice: str, sha256: str
) -> onnxruntime.InferenceSession:
    check_device(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised and said once
    # Threads that wait in a loop take the cores from the network whose turn it is: with detector
    # and classifier in turn, two threads were slower than one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = dict.fromkeys((device, "cpu"))
    source: str | bytes = str(graph)
    if sha256:
        source = graph.read_bytes()  # read once: what is checked is what runs
        if (checksum := hashlib.sha256(source).hexdigest()) != sha256:
            raise ModelError(
                f"{name} has the sha256 {checksum[:12]}..., model.json says {sha256[:12]}...: "
                "the file is damaged or was changed; export or copy the model again"
            )
    try:
        session = onnxruntime.InferenceSession(
            source,
            options,
            providers=[PROVIDERS[name] for name in providers],
            provider_options=[OPTIONS.get(name, {}) for name in providers],
            enable_fallback=0,  # a card that fails is an error, not a slower answer
        )
    except Exception as error:  # onnxruntime's errors share no public root
        reason = " ".join(str(error).split())
        end = f"; {advice}" if advice else ""
        raise ModelError(f"{name} cannot be loaded: {reason}{end}") from error
    if PROVIDERS[device] not in session.get_providers():  # it goes on without, and says nothing
        raise UsageError(
            f"device={device}: onnxruntime could not start it; its version needs others of "
            "CUDA and cuDNN than are installed, or there is no graphics card"
        )
    return session


def open_packaged(path: Path, what: str, *, threads: int, device: str = "cpu") -> Session:
    """One of fervor's own networks, ready to run. Errors call it `what`."""
    return Session(path, f"{what} {path.name}", threads, device, advice="reinstall fervor")
