"""Fixtures and settings that several test files share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings


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
