"""Reading what stands below a data set's folder; every mistake is one line that names the path."""

import csv
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fervor.errors import DataError


ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What counts as an image in a folder, in any case."""


def shown(path: Path | str) -> str:
    r"""A path as text; bytes that are no UTF-8 appear as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def files(folder: Path) -> list[str]:
    """Sorted names of a folder's files; hidden ones (.DS_Store) are left out.

    Raises:
        DataError: no such folder, a link that leads back to itself, or a name that is no UTF-8.
    """
    return sorted(name for name, is_folder in entries(folder) if not is_folder)


def folders(folder: Path) -> list[str]:
    """Sorted names of a folder's sub-folders; raises as `files` does."""
    return sorted(name for name, is_folder in entries(folder) if is_folder)


def images(folder: Path) -> list[str]:
    """Sorted names of a folder's images, by their endings; raises as `files` does."""
    return [name for name in files(folder) if name.lower().endswith(ENDINGS)]


def entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Name of each file and sub-folder, in no order, and whether it is one; raises as `files`."""
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.name.startswith("."):
                    continue
                _check_name(entry.path)
                if entry.is_dir():
                    if entry.is_symlink():
                        _check_link(entry.path)
                    yield entry.name, True
                elif entry.is_file():  # a link to nowhere is neither
                    yield entry.name, False
    except OSError as error:
        path = shown(error.filename or folder)
        if error.errno == errno.ELOOP:
            raise DataError(f"{path} is a symbolic link that leads back to itself") from None
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise DataError(f"{path} is missing: expected a folder") from None
        raise DataError(f"{path} cannot be listed: {error.strerror}") from None
    except ValueError:  # a zero byte, which no name may hold
        raise DataError(f"{str(folder)!r} is missing: no folder can have that name") from None


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(f"{shown(path)} has a name that is no UTF-8: rename it") from None


def _check_link(path: str) -> None:
    holder, target = os.path.realpath(os.path.dirname(path)), os.path.realpath(path)
    if Path(holder).is_relative_to(target):
        raise DataError(f"{path} is a symbolic link to a folder that holds it: remove it")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """A text file's lines with their numbers, from 1; empty ones are left out.

    Raises:
        DataError: no such file, or no UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """A CSV file's rows with their line numbers, from 1; empty ones are left out.

    Raises:
        DataError: no such file, or no CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no readable CSV file: {error}") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    if error.errno == errno.ELOOP:
        return DataError(f"{path} is a symbolic link that leads back to itself")
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} is missing: see docs/data.md for the official tree")
    return DataError(f"{path} cannot be read: {error.strerror}")
