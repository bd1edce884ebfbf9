"""Write a file aside and give it its name when it is whole.

A process that is killed leaves its part behind, under a name that starts with a dot and says
`.partial`: nobody reads it, and `forget_partial` removes it where one process alone writes.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from PIL import Image

__all__ = ["aside", "forget_partial", "write_bytes", "write_picture"]


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside `path`, with the same ending, that takes its name when the block ends well.

    Whatever ends it otherwise, an interruption or a full disk too, leaves nothing behind. Every
    process has its own, so that two of them that write the same file do not mix their parts.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
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
