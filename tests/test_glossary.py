"""The glossary: one word for a thing, the field's, in names, options and pages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fervor.recipes import setting_names


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fervor"

DENIED = {
    "ahead": "prefetch",
    "aside": "atomic write",
    "chosen": "the noun of what it is",
    "cutout": "face crop",
    "cutter": "cropper",
    "film": "video",
    "finishing": "finalize",
    "found": "the noun of what it is",
    "gathered": "all_gather",
    "looks": "passes",
    "mapped": "map_ordered",
    "overlap": "iou",
    "picture": "image",
    "plausible": "validation",
    "prompting": "prompt learning",
    "quantise": "quantize",
    "share": "fraction, probability",
    "suppress": "nms",
    "wanted": "the noun of what it is",
}
"""Words that are not used, and what stands for them; plurals go with them."""

EXCEPTIONS = {
    "pictures": "an option of export and robustness, for people who use them",
    "picture": "how `Predictor` and `Frame` name what was given, before it is decoded to an image",
    "prototype_pictures": "an option that stored runs hold",
    "prior_share": "stored in model.json",
    "_share_constants": "the verb",
}
"""Names that stay, and why."""

USERS_SIDE = ("inference", "outputs", "server")
"""Packages whose words are those of their users: there a picture is what somebody hands in."""


def names_of(path: Path) -> Iterator[str]:
    """What a module defines: its own name, functions, classes, arguments and variables."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def denied(name: str) -> set[str]:
    """The denied words of a name in camel or snake case."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    return DENIED.keys() & (words | {word.removesuffix("s") for word in words})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FaceCutter", {"cutter"}),
        ("_found", {"found"}),
        ("PICTURES", {"picture"}),
        ("batch_shares", {"share"}),
        ("shared", set()),
        ("profound", set()),
    ],
)
def test_what_a_name_says(name: str, expected: set[str]) -> None:
    assert denied(name) == expected


def test_names_are_the_fields() -> None:
    faults = [
        f"{path.relative_to(PACKAGE)}: {name} ({word}: {DENIED[word]})"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in sorted(set(names_of(path)) - EXCEPTIONS.keys())
        for word in denied(name)
        if word != "picture" or path.relative_to(PACKAGE).parts[0] not in USERS_SIDE
    ]
    assert not faults, "\n".join(faults)


def test_settings_are_the_fields() -> None:
    assert not [name for name in setting_names() if denied(name)]


ON_PAGES = r"\b(films?|cut-?outs?|face cutters?|eight bits|quantis\w+|companion networks?)\b"


def test_pages_say_it_alike() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    faults = [
        f"{page.relative_to(ROOT)}:{number}: {match[0]}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        for match in re.finditer(ON_PAGES, line, re.IGNORECASE)
    ]
    assert not faults, faults


def test_exceptions_are_needed() -> None:
    names = {name for path in PACKAGE.rglob("*.py") for name in names_of(path)}
    assert EXCEPTIONS.keys() <= names
