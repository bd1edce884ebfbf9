"""Which package may import what, and what importing a module may load, checked in fresh processes.

`PACKAGES` is the table of the architecture: arrows only point down. Every module below fervor/
falls under exactly one row; a new package fails here until it is given its place.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import fervor


PACKAGE = Path(fervor.__file__).parent

LIGHTNING = ("lightning", "pytorch_lightning", "torchmetrics")
TORCH = (*LIGHTNING, "torch", "transformers", "kornia", "onnx", "onnxscript", "ray")
HEAVY = (*TORCH, "onnxruntime", "av", "fastapi", "matplotlib", "pandas", "pyarrow", "scipy")


@dataclass(frozen=True)
class Package:
    """What the modules of a package may import."""

    imports: frozenset[str]
    """Other packages; the top may be imported by all."""
    never: tuple[str, ...] = ()
    """Libraries that importing a module must not load."""
    torch: bool = False
    """Whether torch is loaded; it is then loaded once for all such modules, to save time."""
    lazy: bool = False
    """Whether a function may import what the module must not load."""


def package(imports: str, **rest: Any) -> Package:
    return Package(frozenset(imports.split()), **rest)


TOP = ("fervor", "__main__", "errors", "labels", "config", "plugins", "recipes")
"""Words and settings; nothing happens here."""

PACKAGES = {
    "top": package("", never=HEAVY),
    "io": package("", never=TORCH),
    "faces": package("io", never=TORCH),
    "artifacts": package("io", never=TORCH),
    "prompts": package("io", never=HEAVY),
    "inference": package("faces artifacts prompts io", never=TORCH),
    "outputs": package("inference faces io", never=TORCH),
    "server": package("inference outputs io", never=TORCH),
    "data": package("faces io", never=TORCH),
    "models": package("prompts io", never=LIGHTNING, torch=True),
    "methods": package("models artifacts prompts data io", never=LIGHTNING, torch=True),
    "evaluation": package("methods data artifacts faces inference io", never=LIGHTNING, torch=True),
    "training": package("evaluation methods models data artifacts io", torch=True),
    "graphs": package("methods models artifacts data io", never=LIGHTNING, torch=True),
    "experiments": package("evaluation methods data artifacts io", never=HEAVY),
    "cli": package(
        "io faces artifacts prompts inference outputs server data models methods evaluation"
        " training graphs experiments",
        never=HEAVY,
        lazy=True,
    ),
}

BATCHES = (
    *("batch", "image_set", "loading", "augmentation", "samplers", "splits"),
    *("augmentation.degradations", "augmentation.occlusion", "distillation"),
)
PLAIN_MEASURES = (
    "metrics",
    "operating_points",
    "significance",
    "subgroups",
    "results",
    "figures",
    "corruptions",
)

INTERFACE = frozenset("inference outputs data methods evaluation training graphs".split())
"""Where the names of `fervor` come from; none of it is loaded before a name is used."""

EXCEPTIONS = {
    "fervor": replace(PACKAGES["top"], imports=INTERFACE, lazy=True),
    "__main__": replace(PACKAGES["top"], imports=frozenset({"cli"})),
    "inference.cluster": replace(PACKAGES["inference"], never=("torch", "transformers")),
    **{f"data.{name}": replace(PACKAGES["data"], never=LIGHTNING, torch=True) for name in BATCHES},
    **{
        f"evaluation.{name}": replace(PACKAGES["evaluation"], never=TORCH, torch=False)
        for name in ("label_mapping", *PLAIN_MEASURES)
    },
}
"""Modules whose row is not their package's: the lazy top, Ray, batches, torch-free metrics."""

INDIRECT = {"onnxscript", "tensorboard"}
"""Declared, and loaded by others: by torch.onnx, and by Lightning's logger."""

PROBE = """
import importlib, json, os, sys, traceback

names, preload = json.loads(sys.argv[1])
for name in preload:
    importlib.import_module(name)
assert "fervor" not in sys.modules
for name in names:  # each in its own copy of this process
    if os.fork() == 0:
        try:
            importlib.import_module(name)
            answer = sorted(sys.modules)
        except BaseException:
            answer = traceback.format_exc(limit=-2)
        os.write(1, json.dumps([name, answer]).encode() + b"\\n")
        os._exit(0)
    os.wait()
"""


def short_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "fervor"


MODULES = {short_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(name: str) -> str:
    first = name.split(".")[0]
    return "top" if first in TOP else first


def rule_of(name: str) -> Package:
    return EXCEPTIONS.get(name) or PACKAGES[package_of(name)]


def full_name(name: str) -> str:
    return name if name == "fervor" else f"fervor.{name}"


@cache
def loaded_by(names: tuple[str, ...], *preload: str) -> dict[str, list[str]]:
    """The names in sys.modules after importing each module alone."""
    request = json.dumps([[full_name(name) for name in names], preload])
    answer = subprocess.run(
        [sys.executable, "-c", PROBE, request], capture_output=True, text=True, check=True
    )
    found = dict(json.loads(line) for line in answer.stdout.splitlines())
    broken = {name: loaded for name, loaded in found.items() if isinstance(loaded, str)}
    if broken:
        pytest.fail("\n".join(broken.values()), pytrace=False)
    return {name: found[full_name(name)] for name in names}


def imported_in(path: Path) -> set[str]:
    """First parts of the names of all modules that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def declared(*sections: list[str]) -> set[str]:
    """Distributions named by lists of requirements, fervor's own extras left out."""
    names = {re.split(r"[\[<>=;~! ]", line)[0] for section in sections for line in section}
    return names - {"fervor"}


def test_dependencies_are_what_the_package_imports() -> None:
    pytest.importorskip("torch", reason="names of distributions need them installed")
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    project = project["project"]
    extras = {
        key: value
        for key, value in project["optional-dependencies"].items()
        if key not in ("dev", "docs")
    }
    imported = set().union(*map(imported_in, MODULES.values()))
    owners = packages_distributions()
    used = {
        owner.lower().replace("_", "-")
        for module in imported - sys.stdlib_module_names - {"fervor"}
        for owner in owners[module][:1]
    }
    assert used <= declared(project["dependencies"], *extras.values())
    assert declared(project["dependencies"], *extras.values()) - used <= INDIRECT


def own_imports(path: Path) -> set[str]:
    """Modules of fervor, without the leading `fervor.`, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "fervor":
            found.update(alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fervor."):
            found.add(str(node.module).removeprefix("fervor."))
    return found


def test_every_row_of_the_table_is_a_package() -> None:
    assert {package_of(name) for name in MODULES} == set(PACKAGES)
    assert set(EXCEPTIONS) <= set(MODULES)


def test_arrows_between_packages_only_point_down() -> None:
    level = {name: number for number, name in enumerate(PACKAGES)}
    for name, row in PACKAGES.items():
        assert all(level[other] < level[name] for other in row.imports), name


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_package_may(name: str) -> None:
    allowed = rule_of(name).imports | {"top", package_of(name)}
    others = {package_of(other) for other in own_imports(MODULES[name])}
    assert others <= allowed, f"fervor/{name} imports {sorted(others - allowed)}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork (Linux, macOS)")
@pytest.mark.parametrize("torch", [False, True])
def test_a_module_loads_only_what_its_package_may(torch: bool) -> None:
    names = tuple(name for name in MODULES if rule_of(name).torch == torch)
    loaded = loaded_by(names, *(("torch", "transformers") if torch else ()))
    for name in names:
        forbidden = sorted(set(rule_of(name).never) & set(loaded[name]))
        assert not forbidden, f"importing fervor/{name} loads {forbidden}"


@pytest.mark.parametrize("name", [name for name in MODULES if not rule_of(name).lazy])
def test_no_function_imports_what_its_module_must_not(name: str) -> None:
    forbidden = sorted(imported_in(MODULES[name]) & set(rule_of(name).never))
    assert not forbidden, f"fervor/{name} imports {forbidden}"


def test_folders_are_small_enough_to_read() -> None:
    """At most eight modules at the top; at most twelve siblings in a package."""
    for folder in {path.parent for path in MODULES.values()}:
        siblings = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(siblings) <= (8 if folder == PACKAGE else 12), folder


def test_the_probe_sees_a_forbidden_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "intruder.py").write_text("def f():\n    import wave\n\n\nf()\n", encoding="utf-8")
    (tmp_path / "bystander.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(f"{__name__}.full_name", str)
    loaded = loaded_by(("intruder", "bystander"))
    assert "wave" in loaded["intruder"]
    assert "wave" not in loaded["bystander"]
    assert imported_in(tmp_path / "intruder.py") == {"wave"}
