"""`Args:` of docstrings against signatures."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "fervor").glob("**/*.py"))
SECTION = re.compile(r"^Args:\n((?:    .*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+(?:, \w+)*):", re.MULTILINE)


def parameters(node: ast.AST) -> set[str]:
    """Names of a function's parameters, of a class's __init__, or of its fields without one."""
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                return parameters(member)
        fields = (member.target for member in node.body if isinstance(member, ast.AnnAssign))
        return {field.id for field in fields if isinstance(field, ast.Name)}
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = node.args
    rest = [one for one in (given.vararg, given.kwarg) if one is not None]
    return {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)}


def strangers(source: str) -> Iterator[str]:
    """Entries below `Args:` that name no parameter."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            section = SECTION.search(ast.get_docstring(node) or "")
            for entry in ENTRY.findall(section[1]) if section else ():
                unknown = set(entry.split(", ")) - parameters(node)
                yield from (f"{node.name}: {name}" for name in sorted(unknown))


def test_args_name_parameters() -> None:
    unknown = {
        f"{path.relative_to(ROOT)} {entry}"
        for path in FILES
        for entry in strangers(path.read_text())
    }
    assert not unknown


DOCSTRING = """
    '''One.

    Args:
        a, b: both,
            c: of the second.
        x: another.
    '''
"""


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("def one(a, *, b):", ""),
        ("async def one(*a, **b):", ""),
        ("class one:", "    def __init__(self, a, b, /): ..."),
        ("class one:", "    a: int\n    b: int"),
    ],
)
def test_an_entry_that_names_no_parameter_is_seen(head: str, rest: str) -> None:
    assert list(strangers(head + DOCSTRING + rest)) == ["one: x"]
