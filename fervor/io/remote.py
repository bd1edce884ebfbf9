"""Images behind addresses such as s3://bucket/folder, through fsspec (the extra `cluster`).

fsspec brings file://, memory:// and http://; an object store needs its own package beside it, such
as s3fs for s3:// and gcsfs for gs://, which also reads the credentials, from where it always does.
"""

import io
import re
from collections import Counter
from typing import Any

from fervor.errors import InputError, UsageError
from fervor.io.frame import Frame
from fervor.io.sources import (
    ENDINGS,
    MAX_PIXELS,
    VIDEO_ENDINGS,
    decode_image,
    is_animated,
    skipped_files,
    unusable_files,
)


__all__ = ["ANIMATION", "MAX_BYTES", "find", "is_remote", "read_image"]

ANIMATION = "an animation: --cluster takes pictures; give animations without it"
"""Why an image that moves is not read: its first frame alone would pass for all of it."""

MAX_BYTES = 256_000_000
"""Of one object, which is held in memory while it is decoded."""

ABSENT = (404, 410)
"""Answers over HTTP of a server that has no such file."""

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://")


def is_remote(source: str) -> bool:
    """Whether it is an address, as s3://bucket/photo.jpg is, and no path."""
    return ADDRESS.match(source) is not None


def find(address: str, *, skipped: Counter[str] | None = None) -> list[str]:
    """The addresses that one stands for: of an image itself, of a folder its images and videos,
    recursively, sorted.

    `skipped` counts, by their endings, the files of a folder that are no input.

    Raises:
        InputError: nothing is there, it cannot be read, or a folder holds no image.
        UsageError: the package for such addresses is not installed, or nobody knows them.
    """
    system = _system(address)
    try:
        if system.info(address)["type"] == "file":
            return [address]
        names = system.find(address)
    except Exception as error:  # each object store has errors of its own
        if _is_absence(error):
            raise InputError(f"{address} does not exist: expected a picture or a folder") from error
        raise InputError(f"{address} cannot be read: {_said(_cause(error))}") from error
    matches = [name for name in names if name.lower().endswith((*ENDINGS, *VIDEO_ENDINGS))]
    others = unusable_files(set(names) - set(matches))
    if skipped is not None:
        skipped.update(others)
    if not matches:
        holds = f"; {skipped_files(others)}" if others else ""
        raise InputError(f"{address} holds no picture{holds}: expected {', '.join(ENDINGS)}")
    return [system.unstrip_protocol(name) for name in sorted(matches, key=_parts)]


def _cause(error: Exception) -> BaseException:
    """Over HTTP all that goes wrong is a file that is not found, because of something else."""
    return error.__cause__ or error if isinstance(error, FileNotFoundError) else error


def _is_absence(error: Exception) -> bool:
    cause = _cause(error)
    return isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in ABSENT


def read_image(address: str, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Frame:
    """What `fervor.io.sources.read_image` gives; never raises for what is or is not there.

    An animation is not read.
    """
    try:
        with _system(address).open(address, "rb") as file:
            content = file.read(max_bytes + 1)
    except Exception as error:
        return Frame(address, 0, None, None, f"cannot be read: {_said(error)}")
    if len(content) > max_bytes:
        return Frame(address, 0, None, None, f"expected at most {max_bytes:,} bytes")
    if is_animated(address, content):
        return Frame(address, 0, None, None, ANIMATION)
    return decode_image(io.BytesIO(content), address, max_pixels=max_pixels)


def _system(address: str) -> Any:
    """What speaks the address's protocol; chains of them ("zip://...::s3://...") are not read."""
    import fsspec

    match = ADDRESS.match(address)
    assert match is not None, f"{address} is no address"
    try:
        return fsspec.filesystem(match[1])
    except ImportError as error:
        raise UsageError(f"{address}: {_said(error)}") from error
    except ValueError as error:
        raise UsageError(
            f"{address}: {_said(error)}; expected s3://, gs:// or another that fsspec knows"
        ) from error


def _parts(name: str) -> list[str]:
    return name.split("/")


def _said(error: BaseException) -> str:
    """What an error says, in one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__
