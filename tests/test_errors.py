"""How messages count: one mechanism, `counted`, wherever a number of things may be one."""

import ast
import itertools
import re
from pathlib import Path

import pytest

import fervor
from fervor.errors import counted


NOUNS = (
    *("class", "column", "core", "entry", "epoch", "episode", "face", "file", "folder"),
    *("frame", "image", "model", "person", "picture", "process", "request", "row"),
    *("sample", "second", "tensor", "thread", "time", "track", "video", "webcam", "word", "worker"),
)
PLURALS = "|".join(counted(2, noun).removeprefix("2 ") for noun in NOUNS)


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "face", "0 faces"),
        (1, "face", "1 face"),
        (2, "face", "2 faces"),
        (3137, "picture", "3,137 pictures"),
        (1.0, "second", "1 second"),
        (0.5, "second", "0.5 seconds"),
        (1, "entry", "1 entry"),
        (2, "entry", "2 entries"),
        (2, "box", "2 boxes"),
        (2, "class", "2 classes"),
    ],
)
def test_counts(number: float, noun: str, expected: str) -> None:
    assert counted(number, noun) == expected


def counted_by_hand(path: Path) -> list[str]:
    """A number in braces before a noun in the plural, which would read "1 pictures" of one.

    Names in capitals are constants above one.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        values = node.values if isinstance(node, ast.JoinedStr) else []
        for value, text in itertools.pairwise(values):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            number = ast.unparse(value.value)
            if match := re.match(rf" (?!of )(\w+ )?({PLURALS})\b(?!/)", text.value):
                if not re.fullmatch(r"[A-Z_.]+", number):
                    found.append(f"{path.name}:{node.lineno}: {{{number}}}{match[0]}")
    return found


EXCEPTIONS = {
    "check.py: {part} pictures": "the name of a split",
    "predictor.py: {self.faces} faces": "which faces: all or largest",
    "ferplus.py: {usage} rows": "the name of a split",
    "ferplus.py: {USAGES[split]} rows": "the name of a split",
    "descriptions.py: {count} words": "more than LONGEST_WORDS",
    "__init__.py: {part} pictures": "the name of a split",
}


def test_messages_count_by_one_mechanism() -> None:
    package = Path(fervor.__file__).parent
    found = [fault for path in sorted(package.rglob("*.py")) for fault in counted_by_hand(path)]
    faults = {re.sub(r":\d+:", ":", fault): fault for fault in found}
    assert not (faults.keys() - EXCEPTIONS.keys()), "\n".join(faults)
    assert EXCEPTIONS.keys() <= faults.keys()
