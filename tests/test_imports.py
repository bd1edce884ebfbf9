"""Which module may import what: the package's layers, checked in fresh processes.

Every module below fervor/ must fall under exactly one rule; a new module that falls under none
fails here until it is given its place.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import fervor


PACKAGE = Path(fervor.__file__).parent

LIGHTNING = ("lightning", "pytorch_lightning", "torchmetrics")
TORCH = (*LIGHTNING, "torch", "transformers", "kornia", "onnx", "onnxscript", "ray")
HEAVY = (*TORCH, "onnxruntime", "av", "fastapi", "matplotlib", "pandas", "pyarrow", "scipy")

PLAIN = (
    *("fervor", "labels", "errors", "config", "preprocess", "prompts"),
    *(
        "provenance",
        "inventory",
        "describe",
        "hub",
        "extras",
        "captions",
        "frame",
        "ahead",
        "aside",
        "jsonfile",
        "parallel",
    ),
)
PICTURES = (
    *("inference", "prediction", "modelfolder", "detector", "faces", "media", "video"),
    *("tracking", "cutouts", "smoothing", "neutral", "corruptions", "explain", "jointspace"),
    *("minilm", "vocabulary", "points", "remote", "sessions", "eightbits"),
)
OUTPUTS = (
    "tables",
    "rowfile",
    "panels",
    "explaining",
    "layout",
    "render",
    "timeline",
    "annotate",
    "predict",
    "serve",
)
SERVER = ("server", "server.*")
RUNTIME = (*PICTURES, *OUTPUTS, *SERVER)
DATASETS = ("fervor", "labels", "errors", "datasets", "datasets.*")
READING = (
    *("crops", "cache", "align", "manifest", "transfer", "duplicates", "datacheck"),
    "facemesh",
)
FIGURES = ("metrics", "significance", "slices", "results", "figures")
RUNS = ("published", "runs", "reproduce", "sweep", "arguments", "results", "recipefile")
NETWORKS = (
    *("encoders", "features", "towers", "statedicts", "facenets"),
    *("text", "prompting", "losses", "vlm", "companions", "ir50", "landmarknet", "processes"),
    *("landmark_guided", "transformer", "gated_attention", "cross_similarity", "vision_language"),
    "pickles",
)


@dataclass(frozen=True)
class Rule:
    """What a group of modules may load.

    Names of modules are patterns without the leading `fervor.`; `fervor` is the package itself.
    """

    modules: tuple[str, ...]
    never: tuple[str, ...] = ()
    """Packages that importing the module must not load."""
    own: tuple[str, ...] = ("*",)
    """Modules of fervor that importing the module may load."""
    lazy: bool = False
    """Whether a function may import what the module must not load."""
    torch: bool = False
    """Whether torch is allowed; it is then loaded once for all such modules, to save time."""


RULES = {
    "nothing heavy": Rule(PLAIN, never=HEAVY, own=PLAIN),
    "command line": Rule(
        ("__main__", "arguments", "recipefile", "commands", "commands.*", "exitcodes"),
        never=HEAVY,
        lazy=True,
    ),
    "prediction": Rule(RUNTIME, never=TORCH, own=(*PLAIN, *RUNTIME)),
    "data sets": Rule(
        ("datasets", "datasets.*"),
        never=HEAVY,
        own=DATASETS,
    ),
    "figures": Rule(FIGURES, never=TORCH, own=(*PLAIN, *DATASETS, *FIGURES)),
    "reading data sets": Rule(READING, never=TORCH, own=(*PLAIN, *PICTURES, *DATASETS, *READING)),
    "networks": Rule(NETWORKS, never=LIGHTNING, own=(*PLAIN, *NETWORKS), torch=True),
    "data": Rule(
        ("data", "precision", "sampling", "splits", "subsets", "views"), never=LIGHTNING, torch=True
    ),
    "methods": Rule(
        ("methods", "methods.*"),
        never=LIGHTNING,
        own=(*PLAIN, *NETWORKS, "methods", "methods.*"),
        torch=True,
    ),
    "measuring and storing": Rule(
        (
            *("evaluation", "report", "robustness", "export", "checkpoint", "preparation"),
            *("card", "options", "plausible", "optimisation", "finishing", "convert"),
            "resume",
            *("pointerrors", "pointexport", "quantise"),
        ),
        never=LIGHTNING,
        torch=True,
    ),
    "runs": Rule(
        ("published", "runs", "reproduce", "sweep"),
        never=HEAVY,
        own=(*PLAIN, *DATASETS, *RUNS),
        lazy=True,
    ),
    "training": Rule(("training", "landmarks"), torch=True),
    "cluster": Rule(("cluster",), never=(*LIGHTNING, "torch", "transformers")),
}

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


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def governed(rule: Rule) -> list[str]:
    return [name for name in MODULES if matches(name, rule.modules)]


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
    extras = {key: value for key, value in project["optional-dependencies"].items() if key != "dev"}
    imported = set().union(*map(imported_in, MODULES.values()))
    owners = packages_distributions()
    used = {
        owner.lower().replace("_", "-")
        for module in imported - sys.stdlib_module_names - {"fervor"}
        for owner in owners[module][:1]
    }
    assert used <= declared(project["dependencies"], *extras.values())
    assert declared(project["dependencies"], *extras.values()) - used <= INDIRECT


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_one_rule(name: str) -> None:
    rules = [title for title, rule in RULES.items() if matches(name, rule.modules)]
    assert len(rules) == 1, f"fervor/{name} falls under {rules or 'no rule'}: see RULES"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork (Linux, macOS)")
@pytest.mark.parametrize("title", [title for title, rule in RULES.items() if governed(rule)])
def test_modules_load_only_what_their_rule_allows(title: str) -> None:
    rule = RULES[title]
    alike = [
        name for other in RULES.values() if other.torch == rule.torch for name in governed(other)
    ]
    found = loaded_by(tuple(alike), *(("torch", "transformers") if rule.torch else ()))
    for name in governed(rule):
        loaded = found[name]
        forbidden = sorted(set(rule.never) & set(loaded))
        assert not forbidden, f"importing fervor/{name} loads {forbidden}"
        own = {part.removeprefix("fervor.") for part in loaded if part.split(".")[0] == "fervor"}
        strangers = sorted(part for part in own if not matches(part, (*rule.own, name)))
        assert not strangers, f"importing fervor/{name} loads fervor's {strangers}"


@pytest.mark.parametrize(
    "name",
    [name for rule in RULES.values() if not rule.lazy and rule.never for name in governed(rule)],
)
def test_no_function_imports_what_its_module_must_not(name: str) -> None:
    never = next(rule.never for rule in RULES.values() if matches(name, rule.modules))
    forbidden = sorted(imported_in(MODULES[name]) & set(never))
    assert not forbidden, f"fervor/{name} imports {forbidden}"


def test_the_probe_sees_a_forbidden_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "intruder.py").write_text("def f():\n    import wave\n\n\nf()\n", encoding="utf-8")
    (tmp_path / "bystander.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(f"{__name__}.full_name", str)
    loaded = loaded_by(("intruder", "bystander"))
    assert "wave" in loaded["intruder"]
    assert "wave" not in loaded["bystander"]
    assert imported_in(tmp_path / "intruder.py") == {"wave"}
