"""Commands for those who train models and measure them."""

from collections.abc import Iterable
from dataclasses import fields

from fervor.config import READING, Data
from fervor.errors import UsageError


def check_reading(given: Iterable[str]) -> None:
    """Refuse options of the data set that concern training alone, where a model is measured.

    Raises:
        UsageError: the first of them, by its name among the options that were given.
    """
    training = [f"data.{field.name}" for field in fields(Data) if field.name not in READING]
    if idle := [name for name in training if name in given]:
        raise UsageError(
            f"--{idle[0]} concerns training and changes nothing here: leave it out; expected of "
            f"data {', '.join(READING)}"
        )
