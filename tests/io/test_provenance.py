"""Commit, versions, checksums; files written whole or not at all."""

import hashlib
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from fervor.io import provenance


def test_versions_name_what_decides_numbers() -> None:
    pytest.importorskip("torch", reason="needs fervor[train]")
    found = provenance.versions()
    assert found["torch"] == version("torch")
    assert found["numpy"] == version("numpy")
    assert {"transformers", "kornia", "pytorch-lightning", "onnxruntime", "pillow"} <= found.keys()


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-of-fervor"))
    assert "numpy" in provenance.versions()
    assert "no-such-package-of-fervor" not in provenance.versions()


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=fervor", "-c", "user.email=fervor@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.commit() == ""  # no checkout
    git(tmp_path, "init", "--quiet")
    assert provenance.commit() == ""  # no commit yet
    module.write_text("first")
    git(tmp_path, "add", "provenance.py")
    git(tmp_path, "commit", "--quiet", "-m", "First")
    git(tmp_path, "tag", "v1")
    assert re.fullmatch("[0-9a-f]{40}", provenance.commit())
    module.write_text("second")
    assert re.fullmatch("[0-9a-f]{40}-dirty", provenance.commit())


def test_without_git_the_commit_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance.commit() == ""


@pytest.mark.parametrize("content", [b"", b"fervor" * 300_000])
def test_checksums(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert provenance.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_text_is_written_below_new_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    provenance.write_text(path, "first")
    provenance.write_text(path, "zweite, größer")
    assert path.read_text(encoding="utf-8") == "zweite, größer"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    provenance.write_text(path, "whole")

    def full_disk(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="no space left"):
            provenance.write_text(path, "changed")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
