"""One writer at a time: a lock of the system on a file or folder, gone with its process."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fervor.errors import UsageError
from fervor.io.atomic import beside


__all__ = ["lock_file", "lock_folder"]

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
    """Be the only process that writes into a folder, which is made; it goes if it stays empty.

    Raises:
        UsageError: another one is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder, folder / ".lock"):
            yield
    finally:
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
