"""Texts of strangers as cells of a CSV file: none starts a formula or commands a terminal."""

import os
import re


__all__ = ["encodable", "harmless", "original"]

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet may take for the start of a formula, full-width signs included."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, ends of lines, and what turns the direction of a text."""
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u(?!d[89a-f])[0-9a-f]{4})")
"""How they are written; a surrogate's escape stands for a byte of a name in no encoding."""
_WRITTEN = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4}))")


def encodable(text: str) -> str:
    """File names may hold bytes that are no UTF-8: they show as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def harmless(text: str, *, path: bool = False) -> str:
    r"""A text as a cell: control characters are escaped, "./" or a sign for text before a formula.

    A control character is \x1b or \u2028. A cell with such an escape, of a control character or
    in the text itself, has every other backslash twice, so that `original` can tell.
    """
    if _CONTROL.search(text) or _ESCAPE.search(text):
        text = _CONTROL.sub(_escaped, text.replace("\\", "\\\\"))
    if not text.startswith(FORMULA):
        return text
    return (f".{os.sep}" if path else "'") + text  # a path stays the same path with "./" before it


def original(cell: str) -> str:
    """The text that `harmless` made a cell of; what it put before a formula stays."""
    if not _ESCAPE.search(cell):
        return cell
    return _WRITTEN.sub(lambda match: _read(match[1] or match[2]), cell)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _read(digits: str | None) -> str:
    return chr(int(digits, 16)) if digits else "\\"
