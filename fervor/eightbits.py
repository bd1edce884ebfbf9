"""Which of a model's two graphs computes: single precision, or eight bits where that is faster.

Convolutions in eight bits are faster where the processor has instructions for them, and may be
slower where it has not; so what is asked for as "auto" is measured on the machine that runs it.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnxruntime

from fervor.errors import ModelError, UsageError
from fervor.modelfolder import GRAPH, INT8_GRAPH, ModelHeader, asked_alone, open_session


__all__ = ["Precision", "milliseconds", "open_precision"]

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "int8", "auto"]
FASTER = 0.9
"""Share of single precision's time below which eight bits are taken: they cost accuracy."""
FACES, ROUNDS = 8, 5


def open_precision(
    folder: Path, header: ModelHeader, threads: int, *, precision: str, device: str = "cpu"
) -> tuple[onnxruntime.InferenceSession, Literal["fp32", "int8"]]:
    """The graph that is to compute, and its precision; "auto" tells a logger what it measured.

    Raises:
        ModelError: eight bits are asked for, and the folder has no such graph.
        UsageError: no such precision.
    """
    if precision not in get_args(Precision):
        raise UsageError(
            f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}"
        )
    if precision == "int8" and not header.int8_sha256:
        raise ModelError(
            f"{folder} holds no {INT8_GRAPH}: make one with fervor export --int8, "
            "or leave --precision out"
        )
    sessions = {
        name: open_session(folder / file, header, threads, device=device)
        for name, file in (("fp32", GRAPH), ("int8", INT8_GRAPH))
        if precision in (name, "auto") and (name == "fp32" or header.int8_sha256)
    }
    if len(sessions) == 1:
        return (sessions["int8"], "int8") if "int8" in sessions else (sessions["fp32"], "fp32")
    times = milliseconds(sessions, header.size)
    share = times["int8"] / times["fp32"]
    chosen: Literal["fp32", "int8"] = "int8" if share < FASTER else "fp32"
    logger.info("computes in %s: int8 takes %.2f of the time of fp32 here", chosen, share)
    return sessions[chosen], chosen


def milliseconds(
    sessions: Mapping[str, onnxruntime.InferenceSession], size: int, *, faces: int = FACES
) -> dict[str, float]:
    """What a face takes in a batch of so many, by the clock: the least of five, taken in turn."""
    image = np.random.default_rng(0).random((faces, 3, size, size), np.float32)
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(ROUNDS + 1):  # the first warms up and is never the least
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(["logits"], {"image": image}, asked_alone())
            best[name] = min(best[name], 1000 * (time.perf_counter() - start) / faces)
    return best
