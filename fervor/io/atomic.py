"""Write a file aside and give it its name when it is whole.

A process that is killed leaves its part behind, under a name that starts with a dot and says
`.partial`: nobody reads it, and `forget_partial` removes it where one process alone writes.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fervor.errors import UsageError


if TYPE_CHECKING:
    from PIL import Image

__all__ = ["aside", "beside", "forget_partial", "write_bytes", "write_picture"]


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
def aside(path: Path) -> Iterator[Path]:
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
    with aside(path) as partial:
        partial.write_bytes(content)


def write_picture(path: Path, image: "Image.Image", form: str, **options: Any) -> None:
    """Write a picture whole or not at all, in Pillow's format `form`.

    It is encoded in memory: Pillow's own writing to a full disk says no more than a number.
    """
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    write_bytes(path, buffer.getbuffer())


def forget_partial(folder: Path) -> None:
    """Remove what killed processes left below a folder; no other process may be writing there."""
    for path in folder.rglob(".*.partial*"):
        path.unlink(missing_ok=True)


class RowFile:
    """Takes whole rows; `finish` when all are there.

    While it is written the earlier file is .NAME.before; a process that is killed leaves it so,
    and the next one takes it for the earlier file.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))  # a link stays one
        self._before = self._path.with_name(f".{self._path.name}.before")
        self._partial = self._path.with_name(f"{self._path.stem}.partial{self._path.suffix}")
        self._whole = 0
        moved = self._path.is_file() and not self._before.exists()
        if moved:
            self._path.rename(self._before)
        try:
            self._file = self._path.open("wb")
        except OSError:
            if moved:
                self._before.rename(self._path)
            raise

    def write(self, text: str) -> None:
        """Add rows.

        Raises:
            UsageError: they cannot be written; those before them are kept.
        """
        rows = text.encode("utf-8")
        try:
            self._file.write(rows)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._give_up()
            kept = f"; the rows so far are in {self._partial}" if self._whole else ""
            raise UsageError(
                f"{self._path}: {error.strerror}{kept}; make room or name another --output"
            ) from error
        self._whole += len(rows)

    def _give_up(self) -> None:
        """Keep the whole rows under another name, and give the name back what it held."""
        with suppress(OSError):  # what waits in its buffer fails again
            self._file.close()
        if not self._path.is_file():  # a pipe or a device
            return
        if self._whole:
            os.truncate(self._path, self._whole)
            self._path.replace(self._partial)
        else:
            self._path.unlink()
        if self._before.exists():
            self._before.rename(self._path)

    def finish(self) -> None:
        """The rows are complete; what was there before goes."""
        if not self._file.closed:
            self._file.close()
            self._before.unlink(missing_ok=True)
