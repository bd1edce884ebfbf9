"""Fixtures and settings that several test files share."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings


if find_spec("beartype") is not None:
    import tests.support.shapes  # noqa: F401  # jaxtyping takes it from here, as an attribute


# A busy machine is no reason to fail: no deadline for a single example.
settings.register_profile("fervor", deadline=None)
settings.load_profile("fervor")


@pytest.fixture(scope="session")
def ferplus() -> Path:
    """A real FERPlus folder (FER2013Train, FER2013Valid, FER2013Test, each with its label.csv)."""
    root = os.environ.get("FERVOR_FERPLUS")
    if not root:
        pytest.skip("needs FERPlus: FERVOR_FERPLUS names no folder")
    return Path(root)
