"""Which of a model's two graphs computes: single precision, or eight bits where that is faster.

Convolutions in eight bits are faster where the processor has instructions for them, and may be
slower where it has not; so what is asked for as "auto" is measured on the machine that runs it.
"""

import logging
import time
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from fervor.artifacts.model_info import GRAPH, INT8_GRAPH, ModelInfo
from fervor.artifacts.reader import open_session
from fervor.errors import ModelError, UsageError
from fervor.io.onnx_session import Session


__all__ = ["Precision", "milliseconds", "open_precision"]

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "int8", "auto"]
GRAPHS: dict[Literal["fp32", "int8"], str] = {"fp32": GRAPH, "int8": INT8_GRAPH}
FASTER = 0.9
"""Share of single precision's time below which eight bits are taken: they cost accuracy."""
FACES, ROUNDS = 8, 5


def open_precision(
    info: ModelInfo,
    threads: int,
    *,
    precision: str,
    int8_threads: int | None = None,
    device: str = "cpu",
) -> tuple[Session, Literal["fp32", "int8"]]:
    """The graph that is to compute, and its precision; "auto" tells a logger what it measured.

    `int8_threads` are those of the graph in eight bits, where they differ; with as many both are
    measured.

    Raises:
        ModelError: eight bits are asked for, and the folder has no such graph.
        UsageError: no such precision.
    """
    if precision not in get_args(Precision):
        raise UsageError(
            f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}"
        )
    if precision == "int8" and INT8_GRAPH not in info.sha256:
        raise ModelError(
            f"{info.folder} holds no {INT8_GRAPH}: make one with fervor export --int8, "
            "or leave --precision out"
        )
    fewer = threads if int8_threads is None else int8_threads

    def opened(name: Literal["fp32", "int8"], count: int) -> Session:
        return open_session(info, count, name=GRAPHS[name], device=device)

    if precision == "int8":
        return opened("int8", fewer), "int8"
    if precision == "fp32" or INT8_GRAPH not in info.sha256:
        return opened("fp32", threads), "fp32"
    single, eight = opened("fp32", fewer), opened("int8", fewer)
    times = milliseconds({"fp32": single, "int8": eight}, info.input.size)
    share = times["int8"] / times["fp32"]
    chosen: Literal["fp32", "int8"] = "int8" if share < FASTER else "fp32"
    logger.info("computes in %s: int8 takes %.2f of the time of fp32 here", chosen, share)
    if chosen == "int8":
        return eight, chosen
    return single if fewer == threads else opened("fp32", threads), chosen


def milliseconds(
    sessions: Mapping[str, Session], size: int, *, faces: int = FACES
) -> dict[str, float]:
    """What a face takes in a batch of so many, by the clock: the least of five, taken in turn."""
    image = np.random.default_rng(0).random((faces, 3, size, size), np.float32)
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(ROUNDS + 1):  # the first warms up and is never the least
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(["logits"], {"image": image})
            best[name] = min(best[name], 1000 * (time.perf_counter() - start) / faces)
    return best
