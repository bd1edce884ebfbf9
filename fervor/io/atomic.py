"""Files that have their name when they are whole, one writer at a time, and none over an input.

A process that is killed leaves its part behind, under a name that starts with a dot and says
`.partial`: nobody reads it, and `forget_partial` removes it where one process alone writes.
"""

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fervor.errors import UsageError


if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "LOCK",
    "RowFile",
    "atomic_write",
    "beside",
    "check_inputs_stay",
    "forget_partial",
    "lock_file",
    "lock_folder",
    "write_bytes",
    "write_image",
]


LOCK = ".lock"
"""In a folder that one process alone writes into, as long as it does."""

LONGEST_NAME, LONGEST_ENDING = 255, 16
"""Bytes of a file's name, as most systems have it, and letters of its ending."""


def beside(path: Path, *, before: str = "", after: str = "") -> Path:
    """A path in the same folder with more around its name; a digest stands for one too long."""
    name = f"{before}{path.name}{after}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        name = f"{before}{digest}{after}"
    return path.with_name(name)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path`, with the same ending, that takes its name when the block ends well.

    Whatever ends it otherwise, an interruption or a full disk too, leaves nothing behind. Every
    process has its own, so that two of them that write the same file do not mix their parts.
    """
    ending = path.suffix if len(path.suffix) < LONGEST_ENDING else ""
    after = f".{os.getpid()}.partial{ending}"
    partial = beside(path.with_name(path.name.removesuffix(ending)), before=".", after=after)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def write_image(path: Path, image: "Image.Image", form: str, **options: Any) -> None:
    """Write an image whole or not at all, in Pillow's format `form`.

    It is encoded in memory: Pillow's own writing to a full disk says no more than a number.
    """
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    write_bytes(path, buffer.getbuffer())


def forget_partial(folder: Path) -> None:
    """Remove what killed processes left below a folder; no other process may be writing there."""
    for path in folder.rglob(".*.partial*"):
        path.unlink(missing_ok=True)


StrPath = str | os.PathLike[str]


def check_inputs_stay(
    option: str, outputs: Iterable[StrPath], inputs: Iterable[StrPath], *, kind: str = "file"
) -> None:
    """Refuse an output that is an input, whatever name or link, hard or symbolic, leads to it.

    Args:
        option: and its value, as the message begins.
        outputs: files that will be written; those that do not exist yet are free.
        inputs: files that are read, folders for the files directly in them; what is neither, such
            as a webcam, is passed over.
        kind: what to name another one of: file or folder.

    Raises:
        UsageError: an input would be overwritten.
    """
    written = {identity for path in outputs if (identity := _identity(path)) is not None}
    if not written:
        return
    for given in inputs:
        for path in _files_in(given) if os.path.isdir(given) else (given,):
            if _identity(path) in written:
                raise UsageError(
                    f"{option}: the input {os.fspath(path)} would be overwritten; "
                    f"name another {kind}"
                )


def _identity(path: StrPath) -> tuple[int, int] | None:
    """Of the file that a path leads to; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # no name that a file can have
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _files_in(folder: StrPath) -> Iterable[StrPath]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries]
    except OSError:  # reading it says why
        return []


_REFUSED = "{} is being written by another process: wait until it ends, or name another --output"


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Be the only process that writes a file.

    Raises:
        UsageError: another one is.
    """
    with _locked(path, beside(path, before=".", after=".lock")):
        yield


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a folder; one that is made goes if it stays empty.

    Raises:
        UsageError: another one is.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder, folder / LOCK):
            yield
    finally:
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def _locked(what: Path, file: Path) -> Iterator[None]:
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(_REFUSED.format(what)) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            file.unlink()
        lock.release()


class RowFile:
    """Takes whole rows in NAME.partial; `finish` gives it its name when all are there.

    Rows reach the file at once, so that whoever kills the process finds all that were written, and
    the earlier file as it was.

    Attributes:
        partial: where the rows are until then.

    Raises:
        UsageError: another process is writing the same file.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))  # a link stays one
        self.partial = beside(self._path, after=".partial")
        self._direct = self._path.exists() and not self._path.is_file()  # a pipe or a device
        self._size = self._rows = 0
        with ExitStack() as stack:
            if not self._direct:
                stack.enter_context(lock_file(self._path))
            # No buffer: rows go to the system whole, in one call, and so none is cut here.
            self._file = (self._path if self._direct else self.partial).open("wb", buffering=0)
            self._lock = stack.pop_all()

    def write(self, text: str, *, heading: bool = False) -> None:
        """Add rows, or what stands above them.

        Raises:
            UsageError: they cannot be written; those before them are kept.
        """
        rows = text.encode("utf-8")
        try:
            rest = memoryview(rows)
            while rest:  # a pipe, or a disk that is nearly full, may take a part
                rest = rest[os.write(self._file.fileno(), rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            self.finish(complete=False)
            remark = f"; the rows so far are in {self.partial}" if self._rows else ""
            raise UsageError(
                f"{self._path}: {error.strerror}{remark}; make room or name another --output"
            ) from error
        self._size += len(rows)
        self._rows += not heading

    def finish(self, *, complete: bool = True) -> None:
        """The rows are complete; or those that are whole stay where they are."""
        if self._file.closed:
            return
        with self._lock:
            self._file.close()
            if self._direct:
                return
            if complete:
                self.partial.replace(self._path)
            elif self._rows:
                os.truncate(self.partial, self._size)
            else:
                self.partial.unlink()
