"""Packages that the base install lacks, and parts that other packages bring."""

from collections.abc import Iterator
from contextlib import contextmanager

from fervor.errors import UsageError


OWN_EXTRA = {"optuna": "sweep"}
"""Packages that another extra brings than the one a module asks for."""


@contextmanager
def missing_extra(extra: str) -> Iterator[None]:
    """Imports within it need what `extra` brings.

    Raises:
        UsageError: one of these packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "fervor":
            raise
        wanted = OWN_EXTRA.get(error.name or "", extra)
        raise UsageError(
            f'needs {error.name}, which is not installed: pip install "fervor[{wanted}]"'
        ) from error
