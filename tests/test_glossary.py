"""The glossary: one word for a thing, the field's, in names, options and pages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fervor"

BUT = {
    "film": "video",
    "cutout": "face crop",
    "cutter": "cropper",
    "suppress": "nms",
    "aside": "atomic write",
    "ahead": "prefetch",
    "mapped": "map_ordered",
    "quantise": "quantize",
    "prompting": "prompt learning",
    "plausible": "validation",
    "finishing": "finalize",
    "gathered": "all_gather",
    "overlap": "iou",
    "looks": "passes",
    "share": "fraction, probability",
    "found": "the noun of what it is",
    "wanted": "the noun of what it is",
    "chosen": "the noun of what it is",
    "picture": "image",
}
"""Words that are not used, and what stands for them; plurals go with them."""

KEPT: dict[str, set[str]] = {}


def named(path: Path) -> Iterator[str]:
    """Names that a module defines: its own, and of functions, classes, arguments and variables."""
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


def words(name: str) -> set[str]:
    """The words of a name, lower case, each in its singular too."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    lower = {part.lower() for part in parts}
    return lower | {word.removesuffix("s") for word in lower}


if __name__ == "__main__":
    import collections

    c = collections.defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for n in named(path):
            for w in words(n) & BUT.keys():
                c[w, path.relative_to(PACKAGE).as_posix()].add(n)
    for (w, p), n in sorted(c.items()):
        print(w, p, sorted(n))
