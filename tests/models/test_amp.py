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
    monkeypatch.setattr(amp, "has_bfloat16", lambda **_: native)
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


@pytest.mark.parametrize(("narrow", "faster"), [(0.5, True), (0.9, False), (2.0, False)])
def test_a_processor_that_has_bfloat16_uses_it_where_a_step_takes_less_time(
    narrow: float, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(amp, "_is_native", lambda *, matrix_units=False: not matrix_units)
    seconds = {torch.bfloat16: narrow, torch.float32: 1.0}
    monkeypatch.setattr(amp, "_step_seconds", seconds.__getitem__)
    amp._is_faster.cache_clear()
    try:
        assert amp.has_bfloat16(measured=True) is faster
        assert not amp.has_bfloat16()  # what all processes and starts must agree about
        wanted = Optim(precision="bf16")
        several = amp.on_this_machine(wanted, processes=2)
        assert several.precision == "fp32"
        assert amp.on_this_machine(wanted, resume=True) == wanted  # as it began
        assert (amp.on_this_machine(wanted) == wanted) is faster
        monkeypatch.setattr(amp, "_is_native", lambda *, matrix_units=False: False)
        assert not amp.has_bfloat16(measured=True)  # emulated: never tried
        assert amp.on_this_machine(wanted, resume=True).precision == "fp32"
    finally:
        amp._is_faster.cache_clear()


def test_measuring_a_step_leaves_the_draws_of_a_run_as_they_are() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert amp._step_seconds(torch.float32) > 0
    assert torch.equal(torch.rand(3), expected)
