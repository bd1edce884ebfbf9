"""The package of CONTRIBUTING.md, installed into a folder without the network."""

import re
import tomllib
from pathlib import Path


FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

METHOD = "fervor_example.arc:Arc"


def install(target: Path, *, declared: bool = True) -> Path:
    """Write it into a folder as installers do: modules, and unless told otherwise entry points."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = dict(FILE.findall(page))
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    if declared:
        lines = []
        for group, points in project["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        distribution = f"fervor_example-{project['version']}.dist-info"
        files |= {
            f"{distribution}/entry_points.txt": "\n".join(lines) + "\n",
            f"{distribution}/METADATA": (
                f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
            ),
        }
    for name, text in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text, encoding="utf-8")
    return target
