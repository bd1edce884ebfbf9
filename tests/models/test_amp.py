"""Number formats: bfloat16 where the machine computes in it, and nowhere else."""

import logging
import time
from typing import Literal

import pytest
import torch

from fervor.config import Optim
from fervor.models import amp


@pytest.mark.parametrize("asked", ["bf16", "fp32"])
@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_given_up_only_where_it_is_asked_for_and_not_there(
    asked: Literal["bf16", "fp32"],
    native: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(amp, "has_bfloat16", lambda: native)
    optim = Optim(precision=asked)
    with caplog.at_level(logging.WARNING):
        found = amp.on_this_machine(optim)
    given_up = asked == "bf16" and not native
    assert found.precision == ("fp32" if given_up else asked)
    assert bool(caplog.messages) == given_up
    assert found == optim or given_up


def test_bfloat16_that_is_said_to_be_there_is_no_emulation() -> None:
    if torch.accelerator.is_available() or not amp.has_bfloat16():
        pytest.skip("not computed by this processor")

    def seconds(kind: torch.dtype) -> float:
        matrix = torch.ones(384, 384, dtype=kind)
        matrix @ matrix
        times = []
        for _ in range(5):
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(torch.bfloat16) < 5 * seconds(torch.float32)
