"""How networks are opened with onnxruntime: on which device, with how many threads."""

from pathlib import Path
from typing import Literal, get_args

import onnxruntime

from fervor.errors import ModelError, UsageError


__all__ = ["Device", "check_device", "open_graph", "open_packaged"]

Device = Literal["cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


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


def open_graph(
    graph: bytes | Path, *, name: str, threads: int, device: str = "cpu", advice: str = ""
) -> onnxruntime.InferenceSession:
    """A graph ready to run.

    Args:
        graph: its file, or the bytes, which find no files beside them.
        name: what errors call it.
        threads: 0 leaves the number to onnxruntime.
        device: cpu, or cuda, where what the graphics card cannot do runs on the processor.
        advice: what to do where it is damaged.

    Raises:
        ModelError: it is missing or damaged.
        UsageError: the device cannot be used.
    """
    check_device(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised and said once
    # Threads that wait in a loop take the cores from the network whose turn it is: with detector
    # and classifier in turn, two threads were slower than one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = list(dict.fromkeys((PROVIDERS[device], PROVIDERS["cpu"])))
    opened = graph if isinstance(graph, bytes) else str(graph)
    try:
        session = onnxruntime.InferenceSession(opened, options, providers=wanted)
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


def open_packaged(
    path: Path, what: str, *, threads: int, device: str = "cpu"
) -> onnxruntime.InferenceSession:
    """One of fervor's own networks, ready to run; see `open_graph`. Errors call it `what`."""
    name = f"{what} {path.name}"
    return open_graph(path, name=name, threads=threads, device=device, advice="reinstall fervor")
