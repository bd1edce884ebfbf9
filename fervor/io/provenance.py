"""Where a number or a file comes from: commit, versions, checksums; and writing without halves."""

import hashlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fervor import __version__
from fervor.io.atomic import write_bytes


PACKAGES = (
    "numpy",
    "pillow",
    "onnxruntime",
    "torch",
    "transformers",
    "pytorch-lightning",
    "kornia",
)


def versions() -> dict[str, str]:
    """Versions of fervor, and of what decides its numbers, where installed."""
    by_package = {"fervor": __version__}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package


def commit() -> str:
    """The source tree's git commit, `-dirty` where it was changed; empty outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8"))
