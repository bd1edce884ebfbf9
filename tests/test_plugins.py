"""What a missing package says, and what it must not hide."""

import sys
from pathlib import Path

import pytest

from fervor import plugins
from fervor.errors import UsageError


def test_a_module_is_loaded() -> None:
    assert plugins.load("fervor.labels", extra="train").EXPRESSIONS


@pytest.mark.parametrize(("package", "named"), [("somepackage", "report"), ("optuna", "sweep")])
def test_a_missing_package_names_the_extra_that_brings_it(
    package: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asking.py").write_text(f"import {package}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf'needs {package}, .*"fervor\[{named}\]"'):
        plugins.load("asking", extra="report")


def test_a_missing_module_of_our_own_is_no_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"fervor\.nothing"):
        plugins.load("fervor.nothing", extra="train")
