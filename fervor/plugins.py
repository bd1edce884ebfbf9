"""Methods, data sets and encoders by name, our own and those of other packages; missing packages.

A part is looked up as a name of the tables below, as an entry point of its group that an installed
package declares, or as `package.module:Class`. Nothing is imported before it is asked for.

Importing runs code, so a file does not decide it. What a user gives, on the command line or in
Python, is imported. What a recipe or a model.json names is imported where an installed package
declares it as an entry point, where the program has imported its module already, or where the
environment variable FERVOR_PLUGINS lists its package.
"""

import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from fervor.errors import UsageError


Group = Literal["methods", "datasets", "image_encoders", "text_encoders"]

METHODS = {
    "classifier": "fervor.methods.classifier:Classifier",
    "ke": "fervor.methods.ke:KE",
    "mpa": "fervor.methods.mpa:MPA",
    "lacovl": "fervor.methods.lacovl.method:LaCoVL",
    "vlm": "fervor.methods.vlm:VLM",
}

DATASETS = {
    "ferplus": "fervor.data.datasets.ferplus",
    "rafdb": "fervor.data.datasets.rafdb",
    "affectnet": "fervor.data.datasets.affectnet",
    "ckplus": "fervor.data.datasets.ckplus",
    "folder": "fervor.data.datasets.folder",
    "csv": "fervor.data.datasets.table",
}

IMAGE_ENCODERS = {
    "face-mobilenet": "fervor.models.image:build_face_encoder",
    "face-resnet": "fervor.models.image:build_face_encoder",
    "vlm": "fervor.models.image.vlm:build_vlm",
    "ir50": "fervor.models.image:build_ir50",
    "mobilefacenet": "fervor.models.image.mobilefacenet:build_mobilefacenet",
    **dict.fromkeys(
        ("resnet18", "swin-t-112", "swin-t", "vit-b16", "clip", "align", "blip"),
        "fervor.models.image.huggingface:build_tower",
    ),
}

TEXT_ENCODERS = {
    "minilm-vectors": "fervor.models.text.encoders:StoredText",
    "minilm": "fervor.models.text.encoders:MiniLMText",
    "vlm-vectors": "fervor.models.text.encoders:stored_vlm_text",
    "vlm": "fervor.models.text.encoders:projected_text",
    "simplex": "fervor.models.text.controls:SimplexText",
}

TABLES: dict[Group, dict[str, str]] = {
    "methods": METHODS,
    "datasets": DATASETS,
    "image_encoders": IMAGE_ENCODERS,
    "text_encoders": TEXT_ENCODERS,
}

WORDS: dict[Group, str] = {
    "methods": "method",
    "datasets": "data set",
    "image_encoders": "encoder",
    "text_encoders": "text encoder",
}

SHUFFLED = "shuffled:"
"""In front of a text encoder's name: its vectors, each given to another expression."""

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""package.module:Class."""

TRUSTED = "FERVOR_PLUGINS"
"""Environment variable: packages, separated by commas, whose parts files may name."""

OWN_EXTRA = {"optuna": "sweep"}
"""Packages that another extra brings than the one a module asks for."""


def load(group: Group, name: str) -> Any:
    """The part of a name, imported: a class, a function, or the module of a data set.

    Raises:
        UsageError: no part has that name, or its package lacks it or is not installed.
    """
    target = reference(group, name)
    module_name, _, attribute = target.partition(":")
    own = target in TABLES[group].values()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if own:
            raise
        raise UsageError(
            f"{WORDS[group]} {name}: package {error.name} is not installed; install it, or correct "
            "the name"
        ) from error
    try:
        return getattr(module, attribute) if attribute else module
    except AttributeError:
        raise UsageError(
            f"{WORDS[group]} {name}: module {module_name} has no {attribute}; expected "
            "package.module:Class"
        ) from None


def reference(group: Group, name: str) -> str:
    """Where a part lies, as `module:Class`; nothing is imported.

    Raises:
        UsageError: no part has that name.
    """
    table = TABLES[group]
    if name in table:
        return table[name]
    if is_reference(name):
        return name
    declared = _declared(group)
    targets = sorted({point.value for point in declared if point.name == name})
    if not targets:
        names = [*table, *sorted({point.name for point in declared})]
        raise UsageError(
            f"unknown {WORDS[group]} {name!r}: expected one of {', '.join(names)}, or "
            "package.module:Class"
        )
    if len(targets) > 1:
        raise UsageError(
            f"{WORDS[group]} {name!r} is declared by several packages: expected one of "
            f"{', '.join(targets)}"
        )
    return targets[0]


def stored(group: Group, name: str) -> str:
    """The one name of a part in settings and files: one of our own, or where a foreign part lies.

    A name that no part has stays as it is: a text encoder may also be a folder or a hub name.

    Raises:
        UsageError: several packages declare it.
    """
    if name in TABLES[group]:
        return name
    if group == "text_encoders" and name.startswith(SHUFFLED):
        return SHUFFLED + stored(group, name.removeprefix(SHUFFLED))
    if not known(group, name):
        return name
    target = reference(group, name)
    own = [word for word, place in TABLES[group].items() if place == target]
    return own[0] if len(own) == 1 else target


def known(group: Group, name: str) -> bool:
    """Whether a name stands in a table, is declared by an installed package, or a reference."""
    return (
        name in TABLES[group]
        or is_reference(name)
        or name in {point.name for point in _declared(group)}
    )


def is_reference(name: str) -> bool:
    """Whether a name has the form package.module:Class."""
    return REFERENCE.fullmatch(name) is not None and not name.startswith(SHUFFLED)


def title(name: str) -> str:
    """A part's name in names of files: the class of package.module:Class."""
    return name.rpartition(":")[2] if is_reference(name) else name


def check_stranger(group: Group, name: str, source: object) -> None:
    """Refuse code that a file names and the user has not agreed to; nothing is imported.

    Raises:
        UsageError: no installed package declares the part, its module is not imported yet, and
            FERVOR_PLUGINS does not list its package.
    """
    if group == "text_encoders":
        name = name.removeprefix(SHUFFLED)
    if not is_reference(name):
        return
    module = name.partition(":")[0]
    package = module.partition(".")[0]
    agreed = {word.strip() for word in os.environ.get(TRUSTED, "").split(",")}
    declared = {point.value for point in _declared(group)}
    if name in declared or module in sys.modules or package in agreed:
        return
    raise UsageError(
        f"{source} names the {WORDS[group]} {name}, which no installed package declares: install "
        f"{package} where you trust it, or allow it with {TRUSTED}={package}"
    )


def agreed(names: Iterable[str]) -> str:
    """FERVOR_PLUGINS for another process, which shall take these parts from files."""
    packages = {name.removeprefix(SHUFFLED).split(".")[0] for name in names if ":" in name}
    return ",".join(sorted({*os.environ.get(TRUSTED, "").split(","), *packages} - {""}))


def _declared(group: Group) -> list[EntryPoint]:
    return list(entry_points(group=f"fervor.{group}"))


@contextmanager
def quiet(logger: str, level: int, **ignored: Any) -> Iterator[None]:
    """Without another library's notes below a level, and without some of its warnings.

    Args:
        logger: that writes the notes; empty for the root logger.
        level: the least that is still written.
        ignored: the warnings, as `warnings.filterwarnings` names them; without, all are shown.
    """
    notes = logging.getLogger(logger)
    before = notes.level
    notes.setLevel(level)
    try:
        with warnings.catch_warnings():
            if ignored:
                warnings.filterwarnings("ignore", **ignored)
            yield
    finally:
        notes.setLevel(before)


@contextmanager
def missing_extra(extra: str) -> Iterator[None]:
    """Imports within it need what `extra` brings.

    Raises:
        UsageError: one of these packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "fervor":
            raise
        extra_needed = OWN_EXTRA.get(error.name or "", extra)
        raise UsageError(
            f'needs {error.name}, which is not installed: pip install "fervor[{extra_needed}]"'
        ) from error
