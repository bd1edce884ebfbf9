"""A method's options from plain values, as a recipe or a command line gives them."""

import re
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from fervor.cli.arguments import arguments_of
from fervor.cli.research.train import train
from fervor.errors import UsageError
from fervor.methods import method_class
from fervor.methods.ke import KE
from fervor.methods.options import method_options
from fervor.plugins import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_nothing_given_is_the_defaults(method: str) -> None:
    assert method_options(method, {}) == method_class(method).Options()


def test_given_values_replace_defaults() -> None:
    options = method_options("ke", {"temperature": 0.1, "centre": True, "contrast": "simclr"})
    assert options == KE.Options(temperature=0.1, centre=True, contrast="simclr")


WORDS = [
    (method, name, word)
    for method in METHODS
    for name, kind in get_type_hints(method_class(method).Options).items()
    if get_origin(kind) is Literal
    for word in get_args(kind)
]


@pytest.mark.parametrize(("method", "name", "word"), WORDS)
def test_every_word_that_an_option_takes_can_be_said(method: str, name: str, word: str) -> None:
    """YAML reads some words as truth values."""
    given = arguments_of("train", train, ["--method", method, f"--options.{name}", word])["run"]
    assert getattr(method_options(method, given.options), name) == word


def test_a_whole_number_serves_as_a_number() -> None:
    assert method_options("ke", {"margin": 1}).margin == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_misspelt_option_lists_the_right_names(method: str) -> None:
    names = ", ".join(field.name for field in fields(method_class(method).Options)) or "none"
    message = f"method {method} has no option 'temprature': expected one of {names}"
    with pytest.raises(UsageError, match=re.escape(message)):
        method_options(method, {"temprature": 0.1})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"temperature": "warm"}, "temperature"),
        ({"bottleneck": 2.5}, "bottleneck"),
        ({"centre": "perhaps"}, "centre"),
        ({"join": "middle"}, "join"),
    ],
)
def test_a_value_of_another_type_is_one_line(values: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"^method ke: .*{name}") as caught:
        method_options("ke", values)
    assert "\n" not in str(caught.value)


def test_an_impossible_value_is_one_line() -> None:
    with pytest.raises(UsageError, match="temperature is -1") as caught:
        method_options("ke", {"temperature": -1})
    assert "\n" not in str(caught.value)
