"""What a run says: a line per epoch with the time left, and how to go on after a stop."""

import logging
from pathlib import Path

import pytest

from fervor.io import progress
from fervor.training.trainer import train
from tests.training.test_trainer import half, root, settings  # noqa: F401  (a fixture)


pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode"),
]


def test_every_epoch_is_one_line(
    root: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="fervor.training"):
        train(settings(root, tmp_path / "run"))
    lines = [record.message for record in caplog.records if record.name.startswith("fervor.train")]
    epochs = [line for line in lines if line.startswith("epoch ") and " of 3: loss " in line]
    assert len(epochs) == 3
    assert "pictures/s" in epochs[0] and " on valid, " in epochs[0]
    assert epochs[-1].endswith("0:00:00 left")
    assert "24 pictures to train on, 12 to choose on (valid)" in lines
    assert any("is kept: accuracy" in line for line in lines)


def test_a_stopped_run_says_how_to_go_on(
    root: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="fervor.training"):
        half(root, tmp_path / "run", monkeypatch)
    assert f"go on with: fervor train --resume {tmp_path / 'run'}" in caplog.text


def test_a_log_hears_of_long_epochs_too(
    root: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    half(root, tmp_path / "run", monkeypatch)
    begun = [line for line in capsys.readouterr().err.splitlines() if "steps" in line]
    train(settings(root, tmp_path / "run"), resume=True)
    resumed = [line for line in capsys.readouterr().err.splitlines() if "steps" in line]
    assert [line.split(",")[0] for line in begun] == [
        f"training: {step} of 9 steps" for step in range(1, 5)
    ]
    assert begun[0].endswith(" left")
    assert resumed[0].startswith("training: 4 of 9 steps, ")  # the first after its last whole epoch
    assert resumed[-1] == "training: 9 of 9 steps, 0:00:00 left"
