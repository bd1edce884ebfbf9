"""Listing folders and reading text: what is left out, and one line for what cannot be read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fervor.data.datasets.files import files, folders, images, lines, rows, shown
from fervor.errors import DataError
from tests.support.trees import loop, undecodable


def test_names_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".DS_Store", ".hidden.png"):
        (tmp_path / name).touch()
    for name in ("two", "one", ".git"):
        (tmp_path / name).mkdir()
    assert files(tmp_path) == ["a.JPG", "b.png", "notes.txt"]
    assert images(tmp_path) == ["a.JPG", "b.png"]
    assert folders(tmp_path) == ["one", "two"]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "data" / "one").mkdir(parents=True)
    (tmp_path / "away.png").touch()
    (tmp_path / "data" / "file.png").symlink_to(tmp_path / "away.png")
    (tmp_path / "data" / "two").symlink_to(tmp_path / "data" / "one")
    (tmp_path / "data" / "nowhere.png").symlink_to(tmp_path / "nowhere")
    assert files(tmp_path / "data") == ["file.png"]
    assert folders(tmp_path / "data") == ["one", "two"]


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder.rmdir(), "data is missing: expected a folder"),
        (loop, "data is a symbolic link that leads back to itself"),
        (lambda folder: loop(folder / "a"), "data/a is a symbolic link that leads back to itself"),
        (undecodable, r"data/face\\xe9.jpg has a name that is no UTF-8"),
        (
            lambda folder: (folder / "up").symlink_to(folder.parent),
            "data/up is a symbolic link to a folder that holds it",
        ),
        (
            lambda folder: (folder / "same").symlink_to(folder),
            "data/same is a symbolic link to a folder that holds it",
        ),
    ],
)
def test_what_cannot_be_listed(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    spoil(folder)
    for listing in (files, folders, images):
        with pytest.raises(DataError, match=message):
            listing(folder)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_a_name_that_no_folder_can_have_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing: no folder can have that name"):
        files(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_may_not_be_listed(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be listed: Permission denied"):
            files(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_lines_and_rows_have_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffone 1\r\n\r\n  two 2 \n".encode())
    assert list(lines(path)) == [(1, "one 1"), (3, "two 2")]
    path.write_bytes('\ufeffa,"b\nc"\n\nd,e\n\n'.encode())
    assert list(rows(path)) == [(2, ["a", "b\nc"]), (4, ["d", "e"])]


@pytest.mark.parametrize("read", [lines, rows])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", r"list\.txt is no (UTF-8 text|readable CSV file)"), (None, "is missing")],
)
def test_what_cannot_be_read(
    read: Callable[[Path], object], content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read(path))  # type: ignore[call-overload]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_list_that_is_a_folder_or_a_loop(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        list(lines(tmp_path))
    loop(tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"list\.txt is a symbolic link that leads back"):
        list(rows(tmp_path / "list.txt"))


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes")
def test_names_are_shown_as_text() -> None:
    assert shown(os.fsdecode(b"a\xe9b")) == r"a\xe9b"
    assert shown(Path("näme")) == "näme"
