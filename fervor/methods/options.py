"""A method's options from plain values: names and types checked, the right names listed."""

import math
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from fervor.errors import UsageError
from fervor.methods import method_class
from fervor.prompts.templates import read_template


def method_options(method: str, values: dict[str, Any]) -> Any:
    """The `Options` of a method, filled with the given values and its defaults.

    Raises:
        UsageError: an option that the method does not have, or a value of another type.
    """
    return checked_options(method_class(method).Options, values, method)


def checked_options(kind: type[Any], values: dict[str, Any], method: str) -> Any:
    """An instance of the dataclass `kind` with the given values; errors name the method.

    Raises:
        UsageError: an option that it does not have, or a value of another type.
    """
    names = [field.name for field in fields(kind)]
    unknown = sorted(values.keys() - set(names))
    if unknown:
        raise UsageError(
            f"method {method} has no option {unknown[0]!r}: expected one of "
            f"{', '.join(names) or 'none'}"
        )
    if empty := [name for name, value in values.items() if value is None]:
        raise UsageError(f"method {method}: option {empty[0]!r} has no value")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "options")
    try:
        options = parser.instantiate(parser.parse_object({"options": values})).options
    except ArgumentError as error:
        raise UsageError(f"method {method}: {' '.join(str(error).split())}") from None
    for name in names:
        value = getattr(options, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"method {method}: option {name} is {value}, expected a finite number")
    return options


def with_sentences(values: dict[str, Any]) -> dict[str, Any]:
    """The options with the sentences of a template's file in place of its name.

    A run folder then is whole without that file.

    Raises:
        UsageError: a template that is no number, no sentence and no file of sentences.
    """
    if "template" not in values:
        return values
    return {**values, "template": read_template(values["template"])}
