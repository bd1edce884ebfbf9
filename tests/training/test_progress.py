"""What a run says: a line per epoch with the time left, and how to go on after a stop."""

import logging
from pathlib import Path

import pytest

from fervor.training.progress import duration
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


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 61, 3723.4)] == ["0:00:00", "0:01:01", "1:02:03"]
