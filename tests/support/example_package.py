"""The package of CONTRIBUTING.md, as files and installed by pip without the network."""

import re
import subprocess
import sys
from pathlib import Path


FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

METHOD = "fervor_example.arc:Arc"


def write(folder: Path) -> Path:
    """Its source tree."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, text in FILE.findall(page):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def install(source: Path, target: Path) -> Path:
    """Build it with its own backend and unpack it into a folder: modules and entry points."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(write(source))]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target
