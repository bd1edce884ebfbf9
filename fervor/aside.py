"""Write a file aside and give it its name when it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


__all__ = ["aside"]


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside `path`, with the same ending, that takes its name when the block ends well.

    Whatever ends it otherwise, an interruption too, leaves nothing behind.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
