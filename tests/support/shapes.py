"""The check of types and shapes in the packages that pyproject.toml names to jaxtyping."""

from collections.abc import Callable
from typing import IO, Any, Self

from beartype import BeartypeConf, beartype


CHECK: Callable[..., Any] = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Whole numbers serve as numbers, as for type checkers."""

UNKNOWN = {str(Self), str(IO[bytes])}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked.

    jaxtyping decorates methods one by one, and beartype knows `Self` in whole classes alone; it
    takes no file of a zip archive for `IO[bytes]`.
    """
    if UNKNOWN & {*map(str, function.__annotations__.values())}:
        return function
    return CHECK(function)
