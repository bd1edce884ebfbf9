"""A function -> its command line: its parameters are the options, every mistake is one line."""

import inspect
import os
import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from fervor.config import RENAMED, Run, with_new_names
from fervor.errors import UsageError
from fervor.recipes import (
    LISTED,
    check_file,
    check_values,
    name_of,
    nearest,
    of_another_set,
    read_settings,
    recipe_path,
)


__all__ = ["arguments_of"]

GIVEN = frozenset[str]
"""Annotation of a parameter that takes the dotted names of the options that were given."""

TYPES = {"<class 'int'>": "a whole number", "<class 'float'>": "a number"}


def arguments_of(
    command: str, function: Callable[..., int], given: Sequence[str]
) -> dict[str, Any]:
    """Arguments for the function, read from a command line.

    A parameter without a default is required; `list[str]` takes words, as does a `str` before the
    `*`; `bool` is a switch, and a `Run` has its fields as options and a recipe for their defaults.
    A `frozenset[str]` is no option: it takes the names of those that were given.

    Raises:
        UsageError: an unknown option, a missing or a wrong value.
    """
    parser = _parser(command, function)
    takes_run = Run in (p.annotation for p in inspect.signature(function).parameters.values())
    recipe, ordered = _recipe_first(given) if takes_run else ("", _plain_names(given, function))
    try:
        parsed = parser.parse_args(ordered)
        if takes_run:
            check_values(parsed.items())
        values = dict(parser.instantiate(parsed).__dict__)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.annotation == GIVEN:
                values[name] = GIVEN(parser.parse_args(ordered, defaults=False).keys())
    except ArgumentError as error:
        raise UsageError(_explained(str(error), parser, ordered)) from None
    if takes_run:
        run = Run(**{field.name: values.pop(field.name) for field in fields(Run)})
        values.pop("config")
        run.check()
        values["run"] = run if run.name else replace(run, name=recipe)
    return values


@cache
def _parser(command: str, function: Callable[..., int]) -> ArgumentParser:
    text = parse_docstring(function.__doc__ or "")
    described = {parameter.arg_name: parameter.description for parameter in text.params}
    parser = ArgumentParser(
        prog=f"fervor {command}",
        description=text.short_description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    for name, parameter in inspect.signature(function).parameters.items():
        kind, default, explained = parameter.annotation, parameter.default, described.get(name)
        if kind == GIVEN:
            continue
        if kind == list[str]:
            parser.add_argument(name, nargs="+", metavar=name[:-1].upper(), help=explained)
        elif kind is str and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            parser.add_argument(name, type=str, metavar=name.upper(), help=explained)
        elif kind is Run:
            parser.add_argument("--config", action="config", metavar="RECIPE", help=explained)
            parser.add_class_arguments(Run)
        elif is_dataclass(kind):
            parser.add_class_arguments(kind, name)
        elif kind is bool:
            parser.add_argument(f"--{name}", action="store_true", help=explained)
        elif default is inspect.Parameter.empty:
            parser.add_argument(f"--{name}", type=kind, required=True, help=explained)
        else:
            parser.add_argument(f"--{name}", type=kind, default=default, help=explained)
    return parser


def _plain_names(given: Sequence[str], function: Callable[..., int]) -> list[str]:
    """The words, where --a.b is another spelling of --a_b if the function has that parameter."""
    names = inspect.signature(function).parameters
    words = []
    for word in given:
        name, equals, value = word.partition("=")
        plain = name.removeprefix("--").replace(".", "_")
        dotted = name.startswith("--") and "." in name and plain in names
        words.append(f"--{plain}{equals}{value}" if dotted else word)
    return words


def _recipe_first(given: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe's name, and the arguments with its file in front, so that options override it."""
    recipe, rest = _taken("--config", given)
    run, _ = _taken("--resume", given)
    if recipe is None and run is None:
        return "", rest
    if recipe is not None and run is not None:
        raise UsageError("--resume goes on with the run's own settings: leave --config out")
    if run is not None:
        path = Path(run) / "config.yaml"
        if not path.is_file():
            raise UsageError(f"--resume {run}: expected a run folder; it has no config.yaml")
        check_file(path)
        stored = with_new_names(read_settings(path))
        return "", ["--config", yaml.safe_dump(stored), *rest]
    path = recipe_path(str(recipe))
    check_file(path)
    return name_of(path), ["--config", str(path), *_of_another_set(path, rest), *rest]


def _of_another_set(recipe: Path, given: Sequence[str]) -> list[str]:
    """See `recipes.of_another_set`; what is given itself comes behind."""
    name_there, _ = _taken("--data.name", given)
    values = read_settings(recipe)
    return [f"--{name}={value}" for name, value in of_another_set(values, name_there).items()]


def _taken(option: str, given: Sequence[str]) -> tuple[str | None, list[str]]:
    """An option's value, None where it is not given, and the other words."""
    value, rest = None, []
    words = iter(given)
    for word in words:
        name, _, own = word.partition("=")
        if name == option:
            value = own or next(words, "")
        else:
            rest.append(word)
    return value, rest


def _explained(message: str, parser: ArgumentParser, given: Sequence[str]) -> str:
    """One line: what was given, what was expected."""
    if match := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
        wrong = next((word for word in given if word.startswith("-") and word in match[1]), "")
        if not wrong:
            return f"unexpected argument {match[1]}: see {parser.prog} --help"
        if os.path.lexists(wrong):
            return f"{wrong} begins with - as options do: write .{os.sep}{wrong}"
        return _unknown(wrong.partition("=")[0].lstrip("-"), parser)
    if match := re.match(r"Option '(.*)' is not accepted", message):
        return _unknown(match[1], parser)
    if match := re.match(r"Group '(.*)' does not accept option '(.*)'", message):
        return _unknown(f"{match[1]}.{match[2]}", parser)
    if match := re.match(
        r'Parser key "(.*?)":\s+Expected an? (.*)\. Got value: (.*)', message, re.S
    ):
        name, expected, value = match.groups()
        choices = ", ".join(re.findall(r"'(\w[^']*)'", expected))
        expected = TYPES.get(expected, f"one of {choices}" if "Literal" in expected else expected)
        return f"--{name} {value}: expected {expected}"
    if match := re.match(r'Parser key "(\w+)":.*Unable to load config "(.*?)"', message, re.S):
        name, value = match.groups()
        inner = [key for key in parser.get_defaults().keys() if key.startswith(f"{name}.")]
        likely = f"--{name}.name {value}" if f"{name}.name" in inner else f"--{inner[0]}"
        return f"--{name} {value}: {name} is a group of settings, expected one as {likely}"
    if match := re.match(r'Parser key "(.*?)":.*Union subtypes', message, re.S):
        value = re.search(r"Given value: (.*)", message)
        kinds = re.findall(r"Expected an? (<class '\w+'>|typing\.Literal\[.*?\])", message)
        names = [TYPES.get(kind) or ", ".join(re.findall(r"'(\w[^']*)'", kind)) for kind in kinds]
        return f"--{match[1]} {value[1] if value else ''}: expected {' or '.join(names)}"
    if match := re.match(r"the following arguments are required: (.*)", message):
        options = parser.format_help()
        names = [
            f"--{name}" if f"--{name}" in options else name.upper().removesuffix("S")
            for name in match[1].split(", ")
        ]
        return f"missing {', '.join(names)}: see {parser.prog} --help"
    if match := re.match(r"argument (--\S+): expected one argument", message):
        option = match[1]
        following = next((b for a, b in pairwise(given) if a == option), "")
        if re.match(r"-[^-]", following):
            spelling = f"{option}={following}"
            return f"{option}: expected a value; one that begins with - is written {spelling}"
        return f"{option}: expected a value"
    return " ".join(message.split())


def _unknown(wrong: str, parser: ArgumentParser) -> str:
    if wrong in RENAMED:
        return f"--{wrong} has a new name: --{RENAMED[wrong]}"
    options = parser.format_help()  # takes longer than all else here
    names = nearest(wrong, {*parser.get_defaults().keys(), "help"})
    names = [name for name in names if f"--{name}" in options]
    shown = ", ".join(f"--{name}" for name in names[:LISTED])
    more = f" (all: {parser.prog} --help)" if len(names) > LISTED else ""
    return f"unknown option --{wrong}: expected one of {shown}{more}"
