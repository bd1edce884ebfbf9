"""Recipes that may come from strangers: plain values, few of them, and possible numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from difflib import SequenceMatcher
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from fervor import plugins
from fervor.config import RENAMED, Data, Run
from fervor.errors import UsageError


__all__ = [
    "LISTED",
    "RECIPES",
    "changed_run",
    "check_file",
    "check_values",
    "name_of",
    "nearest",
    "of_another_set",
    "read_recipe",
    "read_settings",
    "recipe_path",
    "recipes",
    "setting_names",
]

LARGEST = 64_000
"""Bytes; the largest recipe of the package has some two thousand."""

CLASSES = {"class_path", "init_args", "dict_kwargs", "config"}
"""With these the parser of options would import and call whatever they name."""

SECTIONS = {field.name for field in fields(Run) if field.default is MISSING}
"""Settings that are groups of others."""

PARTS: dict[str, plugins.Group] = {
    "method": "methods",
    "data.name": "datasets",
    "encoder.name": "image_encoders",
    "teacher.name": "image_encoders",
    "text.name": "text_encoders",
}
"""Settings that name parts, which other packages may bring."""

TAG = "tag:yaml.org,2002:"
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map", "merge")
"""Kinds of values."""

MOST, DEEPEST = 10_000, 20
"""Values of a recipe after its references are written out, and levels of them."""


def check_file(path: Path) -> None:
    """Look at a recipe before anything is made of it.

    Raises:
        UsageError: see `read_settings`; or it names code that the user has not agreed to.
    """
    _check_parts(read_settings(path), path)


def read_settings(path: Path) -> dict[str, Any]:
    """The plain values of a recipe, or of a run's config.yaml.

    Raises:
        UsageError: too large, no YAML in UTF-8, tags that would make objects, or references that
            unfold to more than a recipe can hold.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is larger than {LARGEST:,} bytes: expected a recipe")
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (UnicodeDecodeError, RecursionError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no readable YAML: {reason}") from None
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path} holds no settings: expected lines as `method: ke`")
    _check_sections(root, path)
    values, levels = _unfolded(root, {}, path)
    if values > MOST or levels > DEEPEST:
        raise UsageError(
            f"{path} unfolds to {values:,} values in {levels} levels: expected at most {MOST:,} "
            f"in {DEEPEST}"
        )
    try:
        settings: dict[str, Any] = yaml.safe_load(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from None
    return settings


def _check_parts(values: dict[str, Any], path: Path) -> None:
    """Parts of other packages that the file names, in either way of writing a setting."""
    flat = {name: value for name, value in values.items() if not isinstance(value, dict)}
    for section in SECTIONS:
        settings = values.get(section)
        if isinstance(settings, dict):
            flat |= {f"{section}.{name}": value for name, value in settings.items()}
    for setting, group in PARTS.items():
        if isinstance(name := flat.get(setting), str):
            plugins.check_stranger(group, name, path)


def _check_sections(root: yaml.MappingNode, path: Path) -> None:
    """A text in place of a group of settings would name a class, or a file of them."""
    for key, value in root.value:
        if key.value in SECTIONS and not isinstance(value, yaml.MappingNode):
            raise UsageError(f"{path}: {key.value} is no group of settings")


def _unfolded(node: Any, known: dict[int, tuple[int, int]], path: Path) -> tuple[int, int]:
    """How many values a node is with its references written out, and how many levels deep."""
    if id(node) in known:
        return known[id(node)]
    if node.tag.removeprefix(TAG) not in PLAIN:
        raise UsageError(f"{path} has the tag {node.tag}: expected plain values")
    known[id(node)] = (MOST + 1, 1)  # so large is one that holds itself
    parts: list[Any] = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if not CLASSES.isdisjoint(str(key.value).split(".")):
                raise UsageError(f"{path} has the setting {key.value}: expected plain values")
        parts = [part for pair in parts for part in pair]
    sizes = [_unfolded(part, known, path) for part in parts]
    known[id(node)] = (
        1 + sum(values for values, _ in sizes),
        1 + max((levels for _, levels in sizes), default=0),
    )
    return known[id(node)]


def value_of(word: str) -> Any:
    """A word as a whole number, a number, a truth value or itself."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(word.lower(), word)


RECIPES = Path(__file__).parent
OF_ONE_SET = ("protocol", "train_protocol", "annotations", "fold", "classes")
"""Settings of a recipe that hold for its own data set alone."""

LISTED = 12
"""Right names shown after a misspelt one."""


def recipes() -> list[str]:
    """Names of the recipes that the package holds."""
    paths = RECIPES.rglob("*.yaml")
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in paths)


def recipe_path(recipe: str) -> Path:
    """The file of a recipe: a YAML file's path, or a name of the package.

    Raises:
        UsageError: neither.
    """
    if recipe in (packaged := recipes()):
        return RECIPES / f"{recipe}.yaml"
    path = Path(recipe)
    if path.is_file():
        return path
    names = ", ".join(nearest(recipe, packaged)[:LISTED])
    raise UsageError(f"--config {recipe}: expected a YAML file or one of {names}")


def setting_names() -> list[str]:
    """The settings of a run by their dotted names; what options a method has it knows itself."""
    return [
        f"{group}.{name}" if isinstance(values, dict) else group
        for group, values in Run().resolved().items()
        for name in (values if isinstance(values, dict) else [""])
    ]


def check_values(settings: Iterable[tuple[str, Any]]) -> None:
    """Refuse settings, by their dotted names, whose value is null; the parser lets it be anything.

    Raises:
        UsageError: the first of them.
    """
    names = set(setting_names())
    for name, value in settings:
        if value is None and name in names:
            raise UsageError(f"{name} has no value: give it one, or leave it out for its default")


def name_of(path: Path) -> str:
    """What the results of a recipe are filed under: its name in the package, or of its file."""
    if path.is_relative_to(RECIPES):
        return path.relative_to(RECIPES).with_suffix("").as_posix()
    return path.stem


def of_another_set(values: Mapping[str, Any], asked: object) -> dict[str, Any]:
    """Settings that take back what a recipe says of its own data set, where another is asked for.

    Labels and protocols of FERPlus mean nothing on RAF-DB.
    """
    data = values.get("data") or {}
    own = data.get("name", Data().name)
    if not (isinstance(asked, str) and isinstance(own, str)) or Data(own) == Data(asked):
        return {}
    return {f"data.{name}": getattr(Data(), name) for name in OF_ONE_SET if name in data}


def read_recipe(recipe: str | Path, changes: Mapping[str, Any] = MappingProxyType({})) -> Run:
    """The run of a recipe, with some settings changed by their dotted names.

    Args:
        recipe: a name of the package such as finetune/folder, or a YAML file's path.
        changes: such as {"data.root": "faces", "optim.epochs": 4}.

    Raises:
        UsageError: no such recipe or setting, or a value of another type or beyond its limits.
    """
    path = recipe_path(str(recipe))
    check_file(path)
    run = changed_run(read_settings(path), changes, where=str(recipe))
    return run if run.name else replace(run, name=name_of(path))


def changed_run(values: Mapping[str, Any], changes: Mapping[str, Any], *, where: str) -> Run:
    """The run of plain values, with some settings changed by their dotted names.

    Args:
        values: of a recipe.
        changes: see `read_recipe`.
        where: what the line about a mistake begins with.

    Raises:
        UsageError: see `read_recipe`.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Run)
    groups = {group: part for group, part in values.items() if isinstance(part, dict)}
    for name in (*changes, *(f"{group}.{key}" for group, part in groups.items() for key in part)):
        if name in RENAMED:
            raise UsageError(f"{name} has a new name: {RENAMED[name]}")
    valid_names = setting_names()
    for name in changes:
        if name not in valid_names and not name.startswith("options."):
            names = ", ".join(nearest(name, valid_names)[:LISTED])
            raise UsageError(f"no setting {name}: expected options.NAME or one of {names}")
    nested: dict[str, Any] = {}
    for settings in (values, of_another_set(values, changes.get("data.name")), changes):
        for name, value in settings.items():
            group, _, setting = name.partition(".")
            if setting:
                nested[group] = {**nested.get(group, {}), setting: value}
            else:
                nested[group] = value
    try:
        given = parser.parse_object(nested)
        check_values(given.items())
        parsed = parser.instantiate(given)
    except ArgumentError as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from None
    run = Run(**parsed.as_dict())
    run.check()
    return run


def nearest(wrong: str, names: Iterable[str]) -> list[str]:
    """The names, most similar first."""
    return sorted(names, key=lambda name: -SequenceMatcher(None, wrong, name).ratio())
