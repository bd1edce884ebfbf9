"""What each part of a method does while it trains: gradients, movement, and its effect.

A gain of nothing is evidence only where the part has done something. So the norm of each part's
gradient is logged, how far it has moved is measured after every epoch, and the method tells its own
figures on a few faces that stay the same (`Method.activity`). Parts without an effect are named
`inactive` in activity.json: their row says nothing about the idea.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fervor.data.batch import Batch
from fervor.io import provenance
from fervor.methods.base import Method


ACTIVITY = "activity.json"
FACES = 64
"""Of the selection split, on which a method's own figures are measured."""

STILL = 1e-3
"""A part that has moved by less than this share of its own length stands still."""


def spread_rows(count: int) -> Tensor:
    """FACES of `count` rows or all of them, from the first to the last: one class follows another.

    Returns [n] int64, ascending.
    """
    return torch.linspace(0, max(0, count - 1), min(count, FACES), dtype=torch.float64).long()


def parts(method: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters by the name of the part that they are in; gates by themselves."""
    by_part: dict[str, list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            words = name.split(".")
            part = f"{words[0]}.gate" if "gate" in words[1:] else words[0]
            by_part.setdefault(part, []).append(parameter)
    return by_part


def gradient_norms(method: nn.Module) -> dict[str, float]:
    """The length of each part's gradient, before anything is clipped."""
    norms = {}
    for part, parameters in parts(method).items():
        gradients = [p.grad.detach().flatten() for p in parameters if p.grad is not None]
        norms[part] = float(torch.cat(gradients).norm()) if gradients else 0.0
    return norms


class Activity:
    """The figures of one run, epoch by epoch.

    Args:
        folder: of the run; activity.json is written into it.
        batch: a few faces of the selection split.

    Attributes:
        beginning: each part's parameters [n] before the run's first step, on the CPU; a state to
            resume from holds them, and gives them back here before `begin`.
    """

    def __init__(self, folder: Path, batch: Batch) -> None:
        self._path, self._batch = folder / ACTIVITY, batch
        self.beginning: dict[str, Tensor] = {}
        self._start: dict[str, float] = {}
        self._epochs: list[dict[str, Any]] = []

    def begin(self, method: Method) -> None:
        """Remember where the parts are; of a resumed run, where they were and what was written.

        Raises:
            ValueError: the beginning that a state gave has other parts than the method.
        """
        now = _lengths(method)
        self.beginning = self.beginning or now
        if _sizes(self.beginning) != _sizes(now):
            raise ValueError("the beginning of its parts is of another network")
        self._start = self._measured(method)
        if self._path.is_file():
            before = json.loads(self._path.read_text(encoding="utf-8"))
            self._start, self._epochs = before["start"], before["epochs"]

    def epoch(self, method: Method, number: int) -> None:
        """Measure after an epoch, and write what is known so far."""
        moved = {}
        for part, now in _lengths(method).items():
            before = self.beginning[part]
            moved[part] = float((now - before).norm() / before.norm().clamp_min(1e-12))
        row = {"epoch": number, "moved": moved, **self._measured(method)}
        self._epochs = [old for old in self._epochs if old["epoch"] < number] + [row]
        content = {
            "start": self._start,
            "epochs": self._epochs,
            "inactive": inactive(method, self._start, row),
        }
        provenance.write_text(self._path, json.dumps(content, indent=1) + "\n")

    @torch.no_grad()
    def _measured(self, method: Method) -> dict[str, float]:
        training = method.training
        method.eval()
        device = next(method.parameters()).device
        with method.constant_text():
            figures = method.activity(self._batch.to(device))
        method.train(training)
        return figures


def inactive(method: Method, start: Mapping[str, float], now: Mapping[str, Any]) -> list[str]:
    """Parts that did nothing: that stand still, or whose effect the method does not see."""
    still = [part for part, fraction in now["moved"].items() if fraction < STILL]
    return [*(f"{part} (did not move)" for part in still), *method.inactive(start, now)]


def inactive_parts(folder: Path) -> list[str]:
    """Parts that did nothing in a run, by its last epoch."""
    path = folder / ACTIVITY
    return list(json.loads(path.read_text(encoding="utf-8"))["inactive"]) if path.is_file() else []


def _lengths(method: Method) -> dict[str, Tensor]:
    return {
        part: torch.cat([parameter.detach().flatten().cpu() for parameter in parameters])
        for part, parameters in parts(method).items()
    }


def _sizes(lengths: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {part: parameters.shape for part, parameters in lengths.items()}
