"""Which number format networks compute in: bfloat16 only where the machine is faster in it.

A processor without bfloat16 arithmetic emulates it, some seventy times as slow as single precision.
One that has it without matrix units is slower in it too.
"""

import logging
import platform
from dataclasses import replace
from typing import Any

import torch

from fervor.config import Optim


logger = logging.getLogger(__name__)


def has_bfloat16() -> bool:
    """Whether the accelerator, or without one the processor, is fast in bfloat16."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.accelerator.is_available():
        return True  # Apple's, Intel's: autocast knows what they cannot
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Matrix units: without them bfloat16 is slower than single precision, emulated or not.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16"))
    if not torch.backends.mkldnn.is_available():
        return False
    native: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return native


def on_this_machine(optim: Optim) -> Optim:
    """The same in single precision where it asks for a bfloat16 that the machine does not have."""
    if optim.precision == "fp32" or has_bfloat16():
        return optim
    logger.warning("this machine has no fast bfloat16 arithmetic: trains in single precision")
    return replace(optim, precision="fp32")
