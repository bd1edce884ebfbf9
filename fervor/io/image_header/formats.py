"""The header of every format that is read, walked in bounded steps."""

import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

from fervor.errors import InputError
from fervor.io.image_header import header
from fervor.io.image_header.header import MAX_SCANS, ImageHeader, bounded, unpack
from fervor.io.image_header.heif import is_heif, read_heif


__all__ = ["read_header"]

MAX_BLOCKS = 1_000_000
"""Blocks of at most 255 bytes of a GIF."""
START = 32
"""Bytes that tell the format."""
PIECE = 1 << 20


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
    return read_heif if is_heif(start) else None


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
        segments = bounded(segments + 1, "segments")
        if marker == _END:
            break
        if marker in _BARE:
            continue
        (length,) = unpack(">H", file)
        if marker in _FRAMES:
            _, rows, columns = unpack(">BHH", file)
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
    width, height = unpack(">II", file)
    frames = 1
    for head in _chunks(file, 8, lambda head: 12 + int.from_bytes(head[:4], "big")):
        if head[4:] == b"acTL":
            (frames,) = unpack(">I", file)
    return ImageHeader("PNG", width, height, max(1, frames))


def _chunks(file: BinaryIO, position: int, step: Callable[[bytes], int]) -> Iterator[bytes]:
    """The heads of chunks, 8 bytes each, the file behind them; `step` leads to the next one."""
    count = 0
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        count = bounded(count + 1, "chunks")
        yield head
        position += step(head)


# GIF: CompuServe, Graphics Interchange Format, version 89a.


def _gif(file: BinaryIO) -> ImageHeader:
    file.seek(6)
    width, height, flags, _, _ = unpack("<HHBBB", file)
    file.seek(_colours(flags), os.SEEK_CUR)
    frames = blocks = 0
    while kind := file.read(1):
        blocks = bounded(blocks + 1, "blocks", MAX_BLOCKS)
        if kind == b",":
            frames += 1
            left, top, columns, rows, flags = unpack("<HHHHB", file)
            width, height = max(width, left + columns), max(height, top + rows)
            file.seek(_colours(flags) + 1, os.SEEK_CUR)
        elif kind == b"!":
            file.read(1)
        elif kind == b";":
            break
        else:
            continue
        while (size := file.read(1)) and size[0]:
            blocks = bounded(blocks + 1, "blocks", MAX_BLOCKS)
            file.seek(size[0], os.SEEK_CUR)
    return ImageHeader("GIF", width, height, max(1, frames))


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


# WebP: RFC 9649.


def _even(length: int) -> int:
    return length + length % 2


def _webp(file: BinaryIO) -> ImageHeader:
    width = height = frames = 0
    file.seek(4)
    (length,) = unpack("<I", file)  # what lies behind is no part of it
    chunks = _chunks(file, 12, lambda head: 8 + _even(int.from_bytes(head[4:], "little")))
    for head in chunks:
        if length and file.tell() > 8 + length:
            break
        columns, rows = _webp_size(head[:4], file.read(10))
        width, height = max(width, columns), max(height, rows)
        frames += head[:4] == b"ANMF"
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
    (length,) = unpack("<I", file)
    width, height = unpack("<HH" if length == 12 else "<ii", file)
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
    """Of the first page, which alone is decoded; the others are counted."""
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    big = unpack(f"{order}H", file)[0] == 43
    if big:
        file.seek(8)
    address = "Q" if big else "I"
    (offset,) = unpack(order + address, file)
    width = height = scans = pages = entries = 0
    seen: set[int] = set()
    while offset and offset not in seen:
        seen.add(offset)
        file.seek(offset)
        try:
            (count,) = unpack(order + ("Q" if big else "H"), file)
            entries = bounded(entries + 1 + count, "entries")
            if pages:
                file.seek(count * (20 if big else 12), os.SEEK_CUR)
            else:
                width, height, scans = _tiff_page(file, order, count, big=big)
            (offset,) = unpack(order + address, file)
        except struct.error:
            if pages:  # a later page is cut off
                break
            raise
        pages += 1
    if not width or not height:
        raise ValueError("no picture")
    return ImageHeader("TIFF", width, height, pages, scans)


def _tiff_page(file: BinaryIO, order: str, count: int, *, big: bool) -> tuple[int, int, int]:
    """Width, height and scans of a page of so many entries; the file is then behind them."""
    values: Counter[int] = Counter()
    jpeg, listed, parts = False, 0, dict[int, list[int]]()
    for tag, numbers in _tiff_entries(file, order, count, big=big):
        jpeg = jpeg or (tag == _COMPRESSION and not _JPEGS.isdisjoint(numbers))
        # which of two entries counts is the decoder's matter
        values[tag] = max([values[tag], *numbers])
        listed = bounded(listed + len(numbers), "strips or tiles", 4 * header.MAX_PARTS)
        parts.setdefault(tag, []).extend(numbers)
    width, height = (max(values[tag] for tag in tags) for tags in (_WIDTHS, _HEIGHTS))
    end = file.tell()
    scans = _tiff_scans(file, parts) if jpeg else 1
    file.seek(end)
    return width, height, scans


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
        tag, kind, amount = unpack(layout, file)
        value = file.read(room)
        if tag in _PLACES:
            bounded(amount, "strips or tiles")
        if kind not in _INTEGERS:
            continue
        if amount == 1:
            yield tag, [int(struct.unpack_from(order + _INTEGERS[kind], value)[0])]
        elif tag in _LISTS and 0 < amount <= header.MAX_PARTS:
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
