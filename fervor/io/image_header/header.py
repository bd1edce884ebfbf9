"""What is said of an image, and the bounds of it."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from fervor.errors import InputError


__all__ = [
    "MAX_SCANS",
    "MAX_SIDE",
    "MAX_TILES",
    "ImageHeader",
    "bounded",
    "check_header",
    "unpack",
]

MAX_SIDE = 65_535
"""Pixels of a side, what JPEG can say; one row of millions costs more than its pixels."""
MAX_SCANS = 100
"""Passes over an image; a usual progressive JPEG has ten."""
SCANNED_PIXELS = 1_600_000_000
"""Scans times pixels: large images may have fewer scans, at the largest size a dozen."""
MAX_PARTS = 100_000
"""Segments, chunks, boxes, strips or tiles of a file; an image of 128 megapixels has thousands."""
MAX_TILES = 4_096
"""Images that a HEIC or AVIF file puts together to one; at the largest size 488 of 512 x 512."""
CODED = 2
"""Times as many pixels as an image may have are decoded of all its tiles, which reach over the
edges, and of the frames behind it."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of the image in it.

    Attributes:
        format: the decoder's name: JPEG, PNG, GIF, WEBP, BMP, TIFF, HEIF or AVIF.
        width: in pixels, the largest that any part of the file states.
        height: likewise.
        frames: images of an animation, or pages.
        scans: passes over the pixels that a decoder makes.
        coded: pixels of all tiles and frames that a HEIC or AVIF is made of; 0 for other formats.
    """

    format: str
    width: int
    height: int
    frames: int = 1
    scans: int = 1
    coded: int = 0

    @property
    def pixels(self) -> int:
        """Of one frame."""
        return self.width * self.height


def check_header(header: ImageHeader, *, max_pixels: int) -> None:
    """Raises InputError where decoding an image would take too much memory or time."""
    size = f"{header.width} x {header.height} pixels"
    if header.pixels > max_pixels:
        raise InputError(f"{size}: expected at most {max_pixels:,}")
    if max(header.width, header.height) > MAX_SIDE:
        raise InputError(f"{size}: expected sides of at most {MAX_SIDE:,}")
    scans = min(MAX_SCANS, SCANNED_PIXELS // max(1, header.pixels))
    if header.scans > scans:
        raise InputError(f"{size} in more than {scans} scans: expected at most {scans}")
    if header.coded > CODED * max_pixels:
        raise InputError(
            f"{header.coded:,} pixels in the parts of a picture: expected at most "
            f"{CODED * max_pixels:,}"
        )


def unpack(layout: str, file: BinaryIO) -> tuple[int, ...]:
    """The next numbers of a file; raises struct.error where it ends before."""
    numbers: tuple[int, ...] = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return numbers


def bounded(parts: int, what: str, most: int = 0) -> int:
    """The number of parts; raises InputError above so many, MAX_PARTS where none is given."""
    most = most or MAX_PARTS
    if parts > most:
        raise InputError(f"more than {most:,} {what}: expected a picture of fewer")
    return parts
