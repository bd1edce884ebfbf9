"""A file of text rows that is right at every moment: whole rows only, and nothing lost.

Rows reach the file at once, so that whoever kills the process finds all that were written. What
the name held before lies aside until the new rows are complete: where they cannot be, on a full
disk, the name gets it back.
"""

import os
from contextlib import suppress
from pathlib import Path

from fervor.errors import UsageError


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
