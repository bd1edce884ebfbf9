"""What a missing package says, and what it must not hide."""

import importlib
import sys

import pytest

from fervor.errors import UsageError
from fervor.plugins import missing_extra


@pytest.mark.parametrize(("package", "named"), [("somepackage", "report"), ("optuna", "sweep")])
def test_a_missing_package_names_the_extra_that_brings_it(
    package: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf'needs {package}, .*"fervor\[{named}\]"'):
        with missing_extra("report"):
            importlib.import_module(package)


def test_a_missing_module_of_our_own_is_no_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"fervor\.nothing"):
        with missing_extra("train"):
            importlib.import_module("fervor.nothing")
