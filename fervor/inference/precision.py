"""Which of a model's two graphs computes: single precision, or eight bits.

What is asked for as "auto" follows from the model folder and the processor's instructions alone, so
that every start on a machine, however busy it is, gives the same answers.
"""

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from fervor.artifacts.model_info import GRAPH, INT8_GRAPH, ModelInfo
from fervor.artifacts.reader import open_session
from fervor.errors import ModelError, UsageError, counted
from fervor.io.onnx_session import Session


__all__ = ["Precision", "as_computed", "automatic", "int8_instructions", "open_precision"]

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "int8", "auto"]
GRAPHS: dict[Literal["fp32", "int8"], str] = {"fp32": GRAPH, "int8": INT8_GRAPH}

LEAST_AGREEMENT = 0.985
"""Fraction of faces that a graph in eight bits answers like the other, for "auto" to take it."""
LEAST_FACES = 100
"""Faces that both must have answered for it: of a few, all are soon alike."""

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {
    "AVX-512 VNNI": {"avx512_vnni", "AVX512_CLX", "AVX512_ICL", "AVX512_SPR"},
    "AVX-VNNI": {"avx_vnni"},
    "AVX-512": {"avx512bw", "AVX512_SKX", "X86_V4"},
    "AVX2": {"avx2", "AVX2", "X86_V3"},
    "ARM dot products": {"asimddp", "ASIMDDP"},
}
"""Those with which products of eight bits take clearly less time, as Linux and numpy call them."""


@cache
def int8_instructions() -> str:
    """The instructions of this processor that make eight bits fast; empty where it has none.

    Linux names all of them; elsewhere numpy does, AVX-VNNI without AVX-512 left out.
    """
    features = _features()
    return next((name for name, marks in INSTRUCTIONS.items() if marks & features), "")


def _features() -> set[str]:
    config = cast(dict[str, Any], np.show_config(mode="dicts"))
    instructions = config.get("SIMD Extensions", {})
    features = {name for kind in ("baseline", "found") for name in instructions.get(kind, ())}
    if CPUINFO.is_file():
        features.update(CPUINFO.read_text(encoding="utf-8", errors="replace").split())
    return features


def open_precision(
    info: ModelInfo,
    threads: int,
    *,
    precision: str,
    int8_threads: int | None = None,
    device: str = "cpu",
) -> tuple[Session, Literal["fp32", "int8"]]:
    """The graph that is to compute, and its precision; of "auto" a logger says why.

    `int8_threads` are those of the graph in eight bits, where they differ.

    Raises:
        ModelError: eight bits are asked for, and the folder has no such graph.
        UsageError: no such precision, or eight bits on a graphics card.
    """
    if precision not in get_args(Precision):
        raise UsageError(
            f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}"
        )
    if precision == "int8" and device != "cpu":
        raise UsageError(
            f"precision=int8 with device={device}: eight bits run on the processor; leave one out"
        )
    if precision == "int8" and INT8_GRAPH not in info.sha256:
        raise ModelError(
            f"{info.folder} holds no {INT8_GRAPH}: make one with fervor export --int8, "
            "or leave --precision out"
        )
    taken, why = automatic(info, device)
    if precision == "auto":
        logger.info("computes in %s: %s", taken, why)
    else:
        taken = cast(Literal["fp32", "int8"], precision)
    count = threads if int8_threads is None or taken == "fp32" else int8_threads
    return open_session(info, count, name=GRAPHS[taken], device=device), taken


def automatic(info: ModelInfo, device: str = "cpu") -> tuple[Literal["fp32", "int8"], str]:
    """What "auto" takes, and why."""
    if INT8_GRAPH not in info.sha256 or info.int8 is None:
        return "fp32", "the model has no graph in eight bits"
    if info.int8.agreement < LEAST_AGREEMENT:
        return "fp32", f"eight bits answer {info.int8.agreement:.1%} of faces alike"
    if info.int8.faces < LEAST_FACES:
        return "fp32", f"eight bits were tried on {counted(info.int8.faces, 'face')} only"
    if device != "cpu":
        return "fp32", f"a graph in eight bits does not run on {device}"
    if instructions := int8_instructions():
        return "int8", f"this processor has {instructions}"
    return "fp32", "this processor has no fast eight bits"


def as_computed(info: ModelInfo, precision: Literal["fp32", "int8"]) -> ModelInfo:
    """The description with the temperature of the graph that computes."""
    if precision == "fp32" or info.int8 is None or info.int8.temperature is None:
        return info
    return replace(info, temperature=info.int8.temperature)
