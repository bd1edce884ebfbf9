"""What a run says while it trains: a bar over all of it on a terminal, else lines.

A line for each epoch, and now and then one within it.
"""

import logging
import sys
import time
from typing import Any

import pytorch_lightning as lightning
from torch import Tensor
from tqdm import tqdm

from fervor.io.progress import Lines, duration


logger = logging.getLogger(__name__)


class Progress(lightning.Callback):
    """Loss, accuracy, images per second and the time that is left, over the whole run.

    Args:
        batch_size: images of a step, over all processes.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._bar: tqdm[Any] | Lines | None = None
        self._begun = self._epoch_begun = 0.0
        self._first = self._total = self._steps = 0
        self._loss: Tensor | float = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Count the steps that are left; a resumed run begins where it stopped."""
        self._total = int(trainer.estimated_stepping_batches)
        self._first, self._begun = trainer.global_step, time.monotonic()
        if not trainer.is_global_zero:
            return
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total, initial=self._first, unit="step", dynamic_ncols=True
            )
        else:
            self._bar = Lines(self._total, "training", unit="steps", done=self._first)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Take the time."""
        self._epoch_begun, self._loss, self._steps = time.monotonic(), 0.0, 0

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and move the bar."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._loss, self._steps = self._loss + loss.detach(), self._steps + 1
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)

    def measured(self, trainer: Any, row: dict[str, Any]) -> None:
        """One line, when an epoch is measured; row is its line of history.json."""
        if not trainer.is_global_zero:
            return
        seconds = max(time.monotonic() - self._epoch_begun, 1e-9)
        spent = time.monotonic() - self._begun
        left = spent / max(1, trainer.global_step - self._first)
        left *= max(0, self._total - trainer.global_step)
        shown = (
            f"epoch {row['epoch'] + 1} of {trainer.max_epochs}: "
            f"loss {float(self._loss) / max(1, self._steps):.4f}, accuracy {row['accuracy']:.2%} "
            f"on {row['selected_on']}, {self._steps * self._batch_size / seconds:.0f} pictures/s, "
            f"{duration(left)} left"
        )
        if isinstance(self._bar, tqdm):
            self._bar.write(shown, file=sys.stderr)
        else:
            logger.info(shown)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Close the bar."""
        self.close()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Close the bar of a run that was stopped."""
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if isinstance(self._bar, tqdm):
            self._bar.close()
        self._bar = None
