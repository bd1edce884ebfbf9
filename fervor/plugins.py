"""Modules that need more than the base install, and the line that says what to install."""

import importlib
from typing import Any

from fervor.errors import UsageError


OWN_EXTRA = {"optuna": "sweep"}
"""Packages that another extra brings than the one a module asks for."""


def load(module: str, *, extra: str) -> Any:
    """Import a module of fervor whose packages `extra` brings.

    Raises:
        UsageError: one of them is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fervor"):
            raise
        wanted = OWN_EXTRA.get(error.name or "", extra)
        raise UsageError(
            f'needs {error.name}, which is not installed: pip install "fervor[{wanted}]"'
        ) from error
