"""A file has its name when it is whole, and else nothing is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fervor.errors import UsageError
from fervor.io.atomic import (
    RowFile,
    atomic_write,
    check_inputs_stay,
    lock_file,
    lock_folder,
    write_bytes,
)


def test_it_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.png"
    path.write_text("before")
    with atomic_write(path) as partial:
        assert partial.suffix == ".png"
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_end_before_it_is_whole_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.png"
    path.write_text("before")
    with pytest.raises(error), atomic_write(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# Rows


def test_rows_take_their_name_when_they_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("earlier\n")
    rows = RowFile(path)
    rows.write("head\n", heading=True)
    rows.write("one\n")
    assert path.read_text() == "earlier\n"  # whoever kills the process now leaves both
    assert (tmp_path / "rows.csv.partial").read_text() == "head\none\n"
    rows.finish()
    rows.finish()
    assert path.read_text() == "head\none\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("written", [0, 1])
def test_rows_that_are_not_complete_stay_beside(written: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("earlier\n")
    rows = RowFile(path)
    rows.write("head\n", heading=True)
    for _ in range(written):
        rows.write("one\n")
    rows.finish(complete=False)
    assert path.read_text() == "earlier\n"
    assert rows.partial.is_file() == bool(written)
    assert len(list(tmp_path.iterdir())) == 1 + written


def test_rows_go_to_the_system_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they are: a kill between two calls would cut one."""
    calls, real = [], os.write

    def counted(file: int, content: memoryview) -> int:
        calls.append(len(content))
        return real(file, content)

    monkeypatch.setattr(os, "write", counted)
    rows = RowFile(tmp_path / "rows.csv")
    rows.write("heading\n", heading=True)
    rows.write(100_000 * "a row\n")
    assert calls == [8, 600_000]
    assert rows.partial.stat().st_size == 600_008
    rows.finish()


def test_what_takes_a_part_of_the_rows_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, content: real(file, content[:7]))
    rows = RowFile(tmp_path / "rows.csv")
    rows.write("twenty letters a row\n")
    rows.finish()
    assert (tmp_path / "rows.csv").read_text() == "twenty letters a row\n"


LOCKED = """
import sys
from fervor.errors import UsageError
from fervor.io.atomic import lock_file, lock_folder
import subprocess
import sys
from pathlib import Path
try:
    with (lock_file if sys.argv[1] == "file" else lock_folder)(Path(sys.argv[2])):
        print("mine")
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_process_is_refused_while_one_writes(kind: str, tmp_path: Path) -> None:
    what = tmp_path / "rows.csv" if kind == "file" else tmp_path / "folder"

    def other() -> str:
        command = [sys.executable, "-c", LOCKED, kind, str(what)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with lock_file(what) if kind == "file" else lock_folder(what):
        refused = f"{what} is being written by another process: wait until it ends, or name "
        assert other() == f"{refused}another --output"
    assert other() == "mine"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays_although_it_is_empty(tmp_path: Path) -> None:
    for folder, stays in ((tmp_path / "there", True), (tmp_path / "made" / "deep", False)):
        if stays:
            folder.mkdir()
        with lock_folder(folder):
            assert folder.is_dir()
        assert folder.is_dir() is stays


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from fervor.io.atomic import RowFile\n"
    code += "rows = RowFile(Path(sys.argv[1])); rows.write('one\\n'); os.kill(os.getpid(), 9)"
    path = tmp_path / "rows.csv"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert (tmp_path / "rows.csv.partial").read_text() == "one\n"
    rows = RowFile(path)
    rows.write("two\n")
    rows.finish()
    assert path.read_text() == "two\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "ä" * 125 + ".csv", "a." + "y" * 250])
def test_the_longest_names_are_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_bytes(path, b"content")
    assert path.read_bytes() == b"content"
    rows = RowFile(path)
    rows.write("one\n")
    assert path.read_bytes() == b"content"
    rows.finish()
    assert path.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", ["a.csv", "folder/../a.csv", "soft.csv", "hard.csv", "folder/a.csv"]
)
def test_no_input_is_an_output_under_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.csv").write_text("theirs")
    (tmp_path / "soft.csv").symlink_to("a.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "a.csv")
    (tmp_path / "folder" / "a.csv").symlink_to("../soft.csv")
    message = r"^output b: the input \S+ would be overwritten; name another file$"
    outputs = [tmp_path / "new.csv", tmp_path / name]
    for given in (tmp_path / "a.csv", tmp_path / "folder"):
        with pytest.raises(UsageError, match=message):
            check_inputs_stay("output b", outputs, ["webcam:0", "", "a\0", "auto", given])


def test_what_is_no_input_may_be_an_output(tmp_path: Path) -> None:
    for name in ("earlier.csv", "input.csv"):
        (tmp_path / name).write_text("same")
    (tmp_path / "nowhere.csv").symlink_to("gone.csv")
    outputs = [tmp_path / name for name in ("earlier.csv", "new.csv", "nowhere.csv", "a\0")]
    inputs = [tmp_path / "input.csv", tmp_path / "nowhere.csv", "webcam:0", "", "x" * 5000]
    check_inputs_stay("output b", outputs, inputs)
