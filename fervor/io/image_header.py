"""What an image file says of itself, and whether that is too much, before a decoder runs.

A decoder's work is not bounded by a file's size: a few bytes make it pass over all pixels again, or
ask for an image of gigabytes. Here the bytes that say so are walked in bounded steps, for each
format that is read.
"""

import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fervor.errors import InputError


__all__ = ["MAX_SCANS", "MAX_SIDE", "ImageHeader", "check_header", "is_heif", "read_header"]

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
MAX_BLOCKS = 1_000_000
"""Blocks of at most 255 bytes of a GIF."""
MAX_META = 4_000_000
"""Bytes of the boxes that describe a HEIC or AVIF file."""
START = 32
"""Bytes that tell the format."""
PIECE = 1 << 20

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of the image in it.

    Attributes:
        format: the decoder's name: JPEG, PNG, GIF, WEBP, BMP, TIFF, HEIF or AVIF.
        width: in pixels, the largest that any part of the file states.
        height: likewise.
        frames: images of an animation, or pages.
        scans: passes over the pixels that a decoder makes.
    """

    format: str
    width: int
    height: int
    frames: int = 1
    scans: int = 1

    @property
    def pixels(self) -> int:
        """Of one frame."""
        return self.width * self.height


def read_header(file: BinaryIO) -> ImageHeader | None:
    """The header of an open file; None of what is no image in a known format.

    Raises:
        InputError: it has more parts than any image needs, or is cut off before it says its size.
    """
    file.seek(0)
    start = file.read(START)
    reader = _reader(start)
    if reader is None:
        return None
    try:
        return reader(file)
    except (struct.error, IndexError, ValueError, OverflowError):
        raise InputError("damaged or truncated picture: it does not say its size") from None
    finally:
        file.seek(0)


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


def _reader(start: bytes) -> Callable[[BinaryIO], ImageHeader] | None:
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if start.startswith((b"GIF87a", b"GIF89a")):
        return _gif
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp
    if start.startswith(b"BM"):
        return _bmp
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff
    return _heif if is_heif(start) else None


def is_heif(start: bytes) -> bool:
    """Whether a file that begins so is an image in the container that videos have, too."""
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS + AVIF_BRANDS


def _unpack(layout: str, file: BinaryIO) -> tuple[int, ...]:
    numbers: tuple[int, ...] = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return numbers


def _count(parts: int, what: str, most: int = MAX_PARTS) -> int:
    if parts > most:
        raise InputError(f"more than {most:,} {what}: expected a picture of fewer")
    return parts


# JPEG: ITU-T T.81, annex B.

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A marker that ends a scan's data, and the last of the fill bytes before it. With all of them
("+") the search, which passes over the whole image, takes 16 times as long."""


def _jpeg(file: BinaryIO) -> ImageHeader:
    width = height = scans = segments = 0
    position = 2
    while (segment := _marker(file, position)) is not None:
        marker, position = segment
        segments = _count(segments + 1, "segments")
        if marker == _END:
            break
        if marker in _BARE:
            continue
        (length,) = _unpack(">H", file)
        if marker in _FRAMES:
            _, rows, columns = _unpack(">BHH", file)
            width, height = max(width, columns), max(height, rows)
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                break
        position += max(length, 2)
    if not width or not height:
        raise ValueError("no frame")
    return ImageHeader("JPEG", width, height, scans=max(1, scans))


def _marker(file: BinaryIO, position: int) -> tuple[int, int] | None:
    """The next marker from a position on, and where it ends; None at the end of the file."""
    file.seek(position)
    near = file.read(2)
    if len(near) == 2 and near[0] == 0xFF and near[1] not in (0x00, 0xFF):  # the usual place
        return near[1], position + 2
    size = START
    while more := file.read(size):
        piece = near + more
        if match := _MARKER.search(piece):
            end = position + match.end()
            file.seek(end)
            return piece[match.end() - 1], end
        position += len(piece) - 1
        near = piece[-1:]
        size = min(2 * size, PIECE)
    return None


# PNG and APNG: W3C, Portable Network Graphics, third edition.


def _png(file: BinaryIO) -> ImageHeader:
    file.seek(16)
    width, height = _unpack(">II", file)
    frames, chunks, position = 1, 0, 8
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        chunks = _count(chunks + 1, "chunks")
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"acTL":
            (frames,) = _unpack(">I", file)
        position += 12 + length
    return ImageHeader("PNG", width, height, max(1, frames))


# GIF: CompuServe, Graphics Interchange Format, version 89a.


def _gif(file: BinaryIO) -> ImageHeader:
    file.seek(6)
    width, height, flags, _, _ = _unpack("<HHBBB", file)
    file.seek(_colours(flags), os.SEEK_CUR)
    frames = blocks = 0
    while kind := file.read(1):
        blocks = _count(blocks + 1, "blocks", MAX_BLOCKS)
        if kind == b",":
            frames += 1
            left, top, columns, rows, flags = _unpack("<HHHHB", file)
            width, height = max(width, left + columns), max(height, top + rows)
            file.seek(_colours(flags) + 1, os.SEEK_CUR)
        elif kind == b"!":
            file.read(1)
        elif kind == b";":
            break
        else:
            continue
        while (size := file.read(1)) and size[0]:
            blocks = _count(blocks + 1, "blocks", MAX_BLOCKS)
            file.seek(size[0], os.SEEK_CUR)
    return ImageHeader("GIF", width, height, max(1, frames))


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


# WebP: RFC 9649.


def _webp(file: BinaryIO) -> ImageHeader:
    width = height = frames = chunks = 0
    position = 12
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        chunks = _count(chunks + 1, "chunks")
        body = file.read(10)
        columns, rows = _webp_size(head[:4], body)
        width, height = max(width, columns), max(height, rows)
        frames += head[:4] == b"ANMF"
        length = int.from_bytes(head[4:], "little")
        position += 8 + length + length % 2
    if not width or not height:
        raise ValueError("no picture")
    return ImageHeader("WEBP", width, height, max(1, frames))


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        columns, rows = struct.unpack("<HH", body[6:10])
        return columns & 0x3FFF, rows & 0x3FFF
    return 0, 0


# BMP: Microsoft, BITMAPCOREHEADER and BITMAPINFOHEADER.


def _bmp(file: BinaryIO) -> ImageHeader:
    file.seek(14)
    (length,) = _unpack("<I", file)
    width, height = _unpack("<HH" if length == 12 else "<ii", file)
    return ImageHeader("BMP", abs(width), abs(height))


# TIFF: Adobe, TIFF revision 6.0, and BigTIFF.

_WIDTHS, _HEIGHTS = (256, 322), (257, 323)
"""Tags of the image's and a tile's."""
_PLACES = {273: 279, 324: 325}
"""Tags that list where strips or tiles lie, and those that list how many bytes each has."""
_COMPRESSION, _JPEGS = 259, {6, 7}
"""Each strip or tile is a JPEG by itself, whose scans are passes over it."""
_SCAN = bytes([0xFF, _START_OF_SCAN])
_LISTS = {*_PLACES, *_PLACES.values()}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Kinds of numbers by their code, as struct names them."""


def _tiff(file: BinaryIO) -> ImageHeader:
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    big = _unpack(f"{order}H", file)[0] == 43
    if big:
        file.seek(8)
    address = "Q" if big else "I"
    (offset,) = _unpack(order + address, file)
    width = height = pages = entries = scans = 0
    seen: set[int] = set()
    while offset and offset not in seen:
        seen.add(offset)
        file.seek(offset)
        try:
            (count,) = _unpack(order + ("Q" if big else "H"), file)
            entries = _count(entries + 1 + count, "entries")
            values: Counter[int] = Counter()
            jpeg, listed, parts = False, 0, dict[int, list[int]]()
            for tag, numbers in _tiff_entries(file, order, count, big=big):
                jpeg = jpeg or (tag == _COMPRESSION and not _JPEGS.isdisjoint(numbers))
                # which of two entries counts is the decoder's matter
                values[tag] = max([values[tag], *numbers])
                listed = _count(listed + len(numbers), "strips or tiles", 4 * MAX_PARTS)
                parts.setdefault(tag, []).extend(numbers)
            (offset,) = _unpack(order + address, file)
            if jpeg:
                scans = max(scans, _tiff_scans(file, parts))
        except struct.error:
            if pages:  # a later page is cut off; the first is what is read
                break
            raise
        pages += 1
        width = max(width, *(values[tag] for tag in _WIDTHS))
        height = max(height, *(values[tag] for tag in _HEIGHTS))
    if not width or not height:
        raise ValueError("no picture")
    return ImageHeader("TIFF", width, height, pages, max(1, scans))


def _tiff_scans(file: BinaryIO, parts: dict[int, list[int]]) -> int:
    """The most scans that a strip or tile has; more than MAX_SCANS are MAX_SCANS + 1."""
    size = file.seek(0, os.SEEK_END)
    most, left = 1, 2 * size
    for places, lengths in _PLACES.items():
        starts = parts.get(places, [])
        given = [*parts.get(lengths, []), *[0] * len(starts)]
        for start, length in set(zip(starts, given, strict=False)):
            length = min(length or size, size - start)  # none is said: up to the end
            if length <= 0:
                continue
            left -= length
            if left < 0:
                raise InputError("strips or tiles that overlap: expected each in its own place")
            file.seek(start)
            most = max(most, min(file.read(length).count(_SCAN), MAX_SCANS + 1))
    return most


def _tiff_entries(
    file: BinaryIO, order: str, count: int, *, big: bool
) -> Iterator[tuple[int, list[int]]]:
    """Tags with their numbers, the one that stands in the entry itself or those of a list."""
    layout, room = (f"{order}HHQ", 8) if big else (f"{order}HHI", 4)
    for _ in range(count):
        tag, kind, amount = _unpack(layout, file)
        value = file.read(room)
        if tag in _PLACES:
            _count(amount, "strips or tiles")
        if kind not in _INTEGERS:
            continue
        if amount == 1:
            yield tag, [int(struct.unpack_from(order + _INTEGERS[kind], value)[0])]
        elif tag in _LISTS and 0 < amount <= MAX_PARTS:
            yield tag, _tiff_list(file, order, kind, amount, value)


def _tiff_list(file: BinaryIO, order: str, kind: int, amount: int, value: bytes) -> list[int]:
    """The numbers of an entry, which stand in it or where it says; those that the file holds."""
    number = struct.Struct(order + _INTEGERS[kind])
    content = value
    if amount * number.size > len(value):
        back = file.tell()
        (start,) = struct.unpack(order + ("Q" if len(value) == 8 else "I"), value)
        file.seek(min(start, file.seek(0, os.SEEK_END)))
        content = file.read(amount * number.size)
        file.seek(back)
    whole = len(content) // number.size * number.size
    return [one for (one,) in number.iter_unpack(content[:whole])][:amount]


# HEIC and AVIF: ISO/IEC 23008-12 (HEIF) in boxes of ISO/IEC 14496-12.

_INSIDE = {b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_INSIDE_FULL = {b"meta", b"iref"}
"""Boxes that hold boxes; the second kind begins with four bytes of version and flags."""


def _heif(file: BinaryIO) -> ImageHeader:
    file.seek(0)
    (length,) = _unpack(">I", file)
    brands = file.read(min(length, START * START) - 4)
    kind = "AVIF" if any(brand in brands for brand in AVIF_BRANDS) else "HEIF"
    width = height = tiles = described = boxes = 0
    frames = 1
    for name, body in _top_boxes(file):
        described += len(body)
        if described > MAX_META:
            raise InputError(f"more than {MAX_META:,} bytes of description: expected fewer")
        inside = [(name, body, 0, len(body))]
        while inside:
            boxes = _count(boxes + 1, "boxes")
            name, body, start, end = inside.pop()
            if name in _INSIDE or name in _INSIDE_FULL:
                inside.extend(_boxes(body, start + 4 * (name in _INSIDE_FULL), end))
            elif name == b"ispe":
                columns, rows = struct.unpack_from(">II", body, start + 4)
                width, height = max(width, columns), max(height, rows)
            elif name == b"dimg":  # 2 or 4 bytes each
                tiles = _count(tiles + (end - start) // 2, "tiles", 2 * MAX_TILES)
            elif name == b"stsz":
                frames = max(frames, struct.unpack_from(">I", body, start + 8)[0])
            elif name == b"tkhd":  # 16.16 numbers at the end
                columns, rows = struct.unpack_from(">HxxH", body, end - 8)
                width, height = max(width, columns), max(height, rows)
    if not width or not height:
        raise ValueError("no picture")
    return ImageHeader(kind, width, height, frames)


def _top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The boxes that describe a file, with what is in them."""
    position = boxes = 0
    size = file.seek(0, os.SEEK_END)
    while position + 8 <= size:
        boxes = _count(boxes + 1, "boxes")
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,) = _unpack(">Q", file)
            head = 16
        length = size - position if length == 0 else max(length, head)
        if name in (b"meta", b"moov"):
            yield name, file.read(min(length - head, MAX_META + 1))
        position += length


def _boxes(body: bytes, start: int, end: int) -> list[tuple[bytes, bytes, int, int]]:
    """The boxes in a part of a box: name, the bytes, and where theirs begin and end."""
    boxes: list[tuple[bytes, bytes, int, int]] = []
    while start + 8 <= end:
        length, name = struct.unpack_from(">I4s", body, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", body, start + 8)
            head = 16
        last = end if length == 0 else min(end, start + max(length, head))
        _count(len(boxes) + 1, "boxes")
        boxes.append((name, body, start + head, last))
        start = last
    return boxes
