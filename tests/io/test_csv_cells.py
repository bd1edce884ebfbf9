"""Texts as cells: harmless to spreadsheets and terminals, and the same again."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.io.csv_cells import harmless, original


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("plain.jpg", "plain.jpg"),
        ("größe 表情 👩‍👧.jpg", "größe 表情 👩‍👧.jpg"),
        ("\x1b[31mred\x1b]0;title\x07.jpg", r"\x1b[31mred\x1b]0;title\x07.jpg"),
        ("two\nlines\r\n.jpg", r"two\x0alines\x0d\x0a.jpg"),
        ("\x9b31m C1, and DEL \x7f", r"\x9b31m C1, and DEL \x7f"),
        ("a\u2028b\u202egpj.exe", r"a\u2028b\u202egpj.exe"),
        ("\t=1+1", r"\x09=1+1"),
        (r"C:\photos\x.jpg", r"C:\photos\x.jpg"),
        (r"C:\photos\x1b.jpg", r"C:\\photos\\x1b.jpg"),
        ("C:\\photos\\\x1b.jpg", r"C:\\photos\\\x1b.jpg"),
        (r"\\server\share", r"\\server\share"),
        (r"a byte in no encoding \udcff.jpg", r"a byte in no encoding \udcff.jpg"),
        ("=1+1", "'=1+1"),
        ("=\x1b", r"'=\x1b"),
    ],
)
def test_cells(text: str, cell: str) -> None:
    assert harmless(text) == cell
    assert original(cell).removeprefix("'") == text


def test_a_path_stays_a_path() -> None:
    assert harmless("=a.jpg", path=True) == f".{os.sep}=a.jpg"


@given(st.text(st.sampled_from("\\xu01bdcf28'=\x1b\n\u2028a")) | st.text())
def test_any_text_comes_back(text: str) -> None:
    cell = harmless(text)
    assert original(cell) in (text, f"'{text}")
    assert all(sign.isprintable() or ord(sign) > 0x9F for sign in cell)
