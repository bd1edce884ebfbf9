"""Which number format networks compute in: bfloat16 only where the machine is faster in it.

A processor without bfloat16 arithmetic emulates it, some seventy times as slow as single precision.
Of those that have it some are slower in it too, and others five times as fast: that is measured.
"""

import logging
import platform
import time
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from fervor.config import Optim


logger = logging.getLogger(__name__)


def has_bfloat16(*, measured: bool = False) -> bool:
    """Whether the accelerator, or without one the processor, is fast in bfloat16.

    Args:
        measured: ask a clock about processors that have it without matrix units. Otherwise they
            count as slow, and the answer is the same at every start and in every process.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.accelerator.is_available():
        return True  # Apple's, Intel's: autocast knows what they cannot
    return _is_native(matrix_units=True) or (measured and _is_native() and _is_faster())


def _is_native(*, matrix_units: bool = False) -> bool:
    """Whether the processor has instructions for it; on x86, if asked for, in matrix units."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        names = ("amx_bf16",) if matrix_units else ("amx_bf16", "avx512_bf16")
        return any(capabilities.get(name) for name in names)
    if not torch.backends.mkldnn.is_available():
        return False
    native: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return native


@cache
@torch.enable_grad()
def _is_faster() -> bool:
    """Whether a step of a convolution and of a linear layer takes a fifth less time in it."""
    return _step_seconds(torch.bfloat16) < 0.8 * _step_seconds(torch.float32)


def _step_seconds(dtype: torch.dtype) -> float:
    """Least time of a few forward and backward passes on the processor, under autocast."""
    with torch.random.fork_rng(devices=[]):  # a run's draws stay as they are
        convolution, linear = nn.Conv2d(64, 64, 3, padding=1), nn.Linear(256, 1024)
    images, tokens = torch.ones(4, 64, 28, 28), torch.ones(512, 256)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            answers = convolution(images), linear(tokens)
        torch.autograd.backward([answer.float().sum() for answer in answers])
        times.append(time.perf_counter() - start)
    return min(times)


def on_this_machine(optim: Optim, *, processes: int = 1, resume: bool = False) -> Optim:
    """The same in single precision where it asks for a bfloat16 that the machine is slow in.

    A run of one process measures at its start. Of several all must decide alike, and a run that
    goes on stays as it began where the processor can.
    """
    if optim.precision == "fp32" or (resume and _is_native()):
        return optim
    if has_bfloat16(measured=processes == 1):
        return optim
    logger.warning("this machine has no fast bfloat16 arithmetic: trains in single precision")
    return replace(optim, precision="fp32")
