"""HEIC and AVIF: ISO/IEC 23008-12 (HEIF) in boxes of ISO/IEC 14496-12.

An image there may be put together from others (tiles, layers), each named as often as one likes,
and its size stands in three places: beside it, in the picture it is put together to, and in its
own stream. What a decoder makes of all that is added up here.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from fervor.errors import InputError
from fervor.io.image_header.header import MAX_TILES, ImageHeader, bounded, unpack


__all__ = ["is_heif", "read_heif"]

MAX_META = 4_000_000
"""Bytes of the boxes that describe a file."""
DEEPEST = 8
"""Pictures of pictures; a phone's gain map over tiles is two."""
BRANDS = 1024
"""Bytes at the start of a file in which its formats are named."""
HEIF_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),
)
AVIF_BRANDS = (b"avif", b"avis")

_INSIDE = {
    **dict.fromkeys((b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl"), 0),
    **{b"meta": 4, b"iref": 4},
}
"""Boxes that hold boxes, and the bytes of version and flags before those."""
_CANVAS = {b"grid": 4, b"iovl": 10}
"""Kinds of pictures that are put together, and the bytes before the size that they state."""
_FULL_SIZE = 18
"""Bytes of such a statement."""
_HEVC = (b"hvc1", b"hev1", b"lhv1")
_AV1 = b"av01"

Box = tuple[bytes, bytes, int, int]
"""Its name, the bytes, and where its content begins and ends in them."""


def is_heif(start: bytes) -> bool:
    """Whether a file that begins so is an image in the container that videos have, too."""
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS + AVIF_BRANDS


def read_heif(file: BinaryIO) -> ImageHeader:
    """The header; raises struct.error or ValueError where it is cut off."""
    file.seek(0)
    (length,) = unpack(">I", file)
    brands = file.read(min(length, BRANDS) - 4)
    kind = "AVIF" if any(brand in brands for brand in AVIF_BRANDS) else "HEIF"
    width = height = tiles = described = boxes = coded = 0
    frames, lists = 1, 0
    for name, body in _top_boxes(file):
        described += len(body)
        if described > MAX_META:
            raise InputError(f"more than {MAX_META:,} bytes of description: expected fewer")
        inside: list[Box] = [(name, body, 0, len(body))]
        while inside:
            boxes = bounded(boxes + 1, "boxes")
            inner, _, start, end = inside.pop()
            if inner in _INSIDE:
                inside.extend(_boxes(body, start + _INSIDE[inner], end))
            elif inner == b"ispe":
                columns, rows = struct.unpack_from(">II", body, start + 4)
                width, height = max(width, columns), max(height, rows)
            elif inner == b"dimg":  # 2 or 4 bytes each
                tiles = bounded(tiles + (end - start) // 2, "tiles", 2 * MAX_TILES)
            elif inner == b"stsz":
                frames = max(frames, struct.unpack_from(">I", body, start + 8)[0])
            elif inner == b"tkhd":  # 16.16 numbers at the end
                columns, rows = struct.unpack_from(">HxxH", body, end - 8)
                width, height = max(width, columns), max(height, rows)
        if name == b"meta":
            lists = _once(lists + 1)
            items = _Items(file, body)
            columns, rows, coded = items.largest()
            width, height = max(width, columns), max(height, rows)
    if not width or not height:
        raise ValueError("no picture")
    return ImageHeader(kind, width, height, frames, coded=coded)


def _once(times: int) -> int:
    if times > 1:
        raise InputError("a picture that is described twice: expected one description")
    return times


class _Bits:
    """Numbers of any width, one after the other, the most significant bit first."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def take(self, bits: int) -> int:
        """The next one; raises ValueError where the bytes end before it does."""
        first, self._at = self._at, self._at + bits
        if self._at > 8 * len(self._content):
            raise ValueError("too short")
        whole = int.from_bytes(self._content[first // 8 : -(-self._at // 8)], "big")
        return whole >> -self._at % 8 & ((1 << bits) - 1)


class _Items:
    """The pictures that a description lists by their numbers, and what decoding them takes."""

    def __init__(self, file: BinaryIO, body: bytes) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._left = 2 * self._size
        self._units = 0
        self._data = b""
        self._kinds: dict[int, bytes] = {}
        self._parts: dict[int, list[int]] = {}
        self._places: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {}
        self._boxes: list[tuple[bytes, bytes]] = []
        self._own: dict[int, list[int]] = {}
        self._streams: dict[tuple[object, ...], tuple[int, int]] = {}
        self._coded: dict[int, int] = {}
        times = {name: 0 for name in (b"iinf", b"iref", b"iloc", b"iprp", b"idat")}
        for name, _, start, end in _boxes(body, 4, len(body)):
            if name not in times:
                continue
            times[name] = _once(times[name] + 1)
            if name == b"iinf":
                self._read_kinds(body, start, end)
            elif name == b"iref":
                self._read_parts(body, start, end)
            elif name == b"iloc":
                self._read_places(_Bits(body[start:end]))
            elif name == b"iprp":
                self._read_properties(body, start, end)
            else:
                self._data = body[start:end]

    def largest(self) -> tuple[int, int, int]:
        """The largest width and height of pictures that are put together, and the most pixels that
        are decoded for one."""
        width = height = coded = 0
        for item, kind in self._kinds.items():
            if kind in _CANVAS:
                columns, rows = self._canvas(item, _CANVAS[kind])
                width, height = max(width, columns), max(height, rows)
            coded = max(coded, self._decoded(item))
        return width, height, coded

    def _decoded(self, item: int, depth: int = 0) -> int:
        """Pixels that are decoded for a picture, of its parts where it has some."""
        if depth > DEEPEST:
            raise InputError(f"pictures of pictures in more than {DEEPEST} levels: expected fewer")
        if item not in self._coded:
            parts = sum(self._decoded(part, depth + 1) for part in self._parts.get(item, ()))
            self._coded[item] = max(parts, self._pixels(item))
        return self._coded[item]

    def _pixels(self, item: int) -> int:
        """Pixels of a picture with a stream of its own, in all its frames."""
        kind = self._kinds.get(item, b"")
        sizes = [struct.unpack_from(">II", size, 4) for size in self._properties(item, b"ispe")]
        stated = max((columns * rows for columns, rows in sizes), default=0)
        if kind != _AV1 and kind not in _HEVC:
            return stated
        if not stated:
            raise ValueError("no size")
        prefix = max([1 + (box[21] & 3) for box in self._properties(item, b"hvcC")], default=4)
        key = (kind, prefix, self._places.get(item))
        if key not in self._streams:
            self._streams[key] = self._frames(kind, prefix, self._stream(item, self._size))
        pixels, frames = self._streams[key]
        return max(stated, pixels) * max(1, frames)

    def _frames(self, kind: bytes, prefix: int, stream: bytes) -> tuple[int, int]:
        """Pixels of a frame as a stream states them, 0 where it states none, and its frames: all
        that are decoded, and slices of HEVC, each of which may reach over a whole one."""
        pixels = frames = 0
        for unit, at in _av1_units(stream) if kind == _AV1 else _hevc_units(stream, prefix):
            self._units = bounded(self._units + 1, "units")
            if kind == _AV1 and unit == _SEQUENCE:
                pixels = max(pixels, _frame_pixels(_Bits(stream[at : at + _SEQUENCE_BYTES])))
            frames += unit in (_FRAMES if kind == _AV1 else _SLICES)
        return pixels, frames

    def _canvas(self, item: int, at: int) -> tuple[int, int]:
        stated = self._stream(item, _FULL_SIZE)
        columns, rows = struct.unpack_from(">II" if stated[1] & 1 else ">HH", stated, at)
        return columns, rows

    def _properties(self, item: int, name: bytes) -> list[bytes]:
        numbers = [number for number in self._own.get(item, ()) if 0 <= number < len(self._boxes)]
        return [self._boxes[number][1] for number in numbers if self._boxes[number][0] == name]

    def _stream(self, item: int, most: int) -> bytes:
        """What is stored for a picture, up to so many bytes."""
        method, extents = self._places.get(item, (0, ()))
        if method > 1:
            raise InputError("a picture inside another one's bytes: expected each in its own place")
        pieces, total = [], 0
        for start, length in extents:
            size = len(self._data) if method else self._size
            length = max(0, min(length or size, size - start, most - total))  # 0: up to the end
            self._left -= length
            if self._left < 0:
                raise InputError("pictures that overlap: expected each in its own place")
            if method:
                pieces.append(self._data[start : start + length])
            elif length:
                self._file.seek(start)
                pieces.append(self._file.read(length))
            total += length
        return b"".join(pieces)

    def _read_kinds(self, body: bytes, start: int, end: int) -> None:
        for name, _, first, last in _boxes(body, start + (8 if body[start] else 6), end):
            if name == b"infe":
                bits = _Bits(body[first:last])
                version = bits.take(8)
                bits.take(24)
                if version >= 2:
                    item = bits.take(16 if version == 2 else 32)
                    _once(1 + (item in self._kinds))
                    bits.take(16)
                    self._kinds[item] = bits.take(32).to_bytes(4, "big")

    def _read_parts(self, body: bytes, start: int, end: int) -> None:
        size = 32 if body[start] else 16
        for name, _, first, last in _boxes(body, start + 4, end):
            if name == b"dimg":
                bits = _Bits(body[first:last])
                whole, count = bits.take(size), bits.take(16)
                self._parts.setdefault(whole, []).extend(bits.take(size) for _ in range(count))

    def _read_places(self, bits: _Bits) -> None:
        version = bits.take(8)
        bits.take(24)
        at, length, base, index = (8 * bits.take(4) for _ in range(4))
        size = 16 if version < 2 else 32
        parts = 0
        for _ in range(bits.take(size)):
            item = bits.take(size)
            _once(1 + (item in self._places))
            method = bits.take(16) & 15 if version else 0
            bits.take(16)
            start, count = bits.take(base), bits.take(16)
            parts = bounded(parts + 1 + count, "parts")
            extents = []
            for _ in range(count):
                bits.take(index if version else 0)
                extents.append((start + bits.take(at), bits.take(length)))
            self._places[item] = (method, tuple(extents))

    def _read_properties(self, body: bytes, start: int, end: int) -> None:
        lists = parts = 0
        for name, _, first, last in _boxes(body, start, end):
            if name == b"ipco":
                lists = _once(lists + 1)
                held = _boxes(body, first, last)
                self._boxes = [(kind, body[begin:until]) for kind, _, begin, until in held]
            elif name == b"ipma":
                bits = _Bits(body[first:last])
                version, flags = bits.take(8), bits.take(24)
                size = 16 if flags & 1 else 8
                mask = (1 << (size - 1)) - 1  # the first bit says whether readers must know it
                for _ in range(bits.take(32)):
                    own = self._own.setdefault(bits.take(32 if version else 16), [])
                    count = bits.take(8)
                    parts = bounded(parts + 1 + count, "properties")
                    own += [(bits.take(size) & mask) - 1 for _ in range(count)]


def _top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The boxes that describe a file, with what is in them."""
    position = boxes = 0
    size = file.seek(0, os.SEEK_END)
    while position + 8 <= size:
        boxes = bounded(boxes + 1, "boxes")
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,) = unpack(">Q", file)
            head = 16
        length = size - position if length == 0 else max(length, head)
        if name in (b"meta", b"moov"):
            yield name, file.read(min(length - head, MAX_META + 1))
        position += length


def _boxes(body: bytes, start: int, end: int) -> list[Box]:
    """The boxes in a part of a box: name, the bytes, and where theirs begin and end."""
    boxes: list[Box] = []
    while start + 8 <= end:
        length, name = struct.unpack_from(">I4s", body, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", body, start + 8)
            head = 16
        last = end if length == 0 else min(end, start + max(length, head))
        bounded(len(boxes) + 1, "boxes")
        boxes.append((name, body, start + head, last))
        start = last
    return boxes


# AV1: AV1 Bitstream & Decoding Process Specification, 5.5; HEVC: ITU-T H.265, 7.3.

_SEQUENCE, _FRAMES = 1, (3, 6)
_SEQUENCE_BYTES = 600
"""Of the longest header of a sequence."""
_SLICES = range(32)
"""Units of HEVC that hold pixels."""


def _av1_units(stream: bytes) -> Iterator[tuple[int, int]]:
    """The kind of each unit, and where its content begins."""
    at = 0
    while at < len(stream):
        head = stream[at]
        at += 2 if head & 4 else 1
        length = len(stream) - at
        if head & 2:
            length = 0
            for place in range(8):
                byte = stream[at]
                at += 1
                length |= (byte & 127) << 7 * place
                if byte < 128:
                    break
        yield head >> 3 & 15, at
        at += length


def _hevc_units(stream: bytes, prefix: int) -> Iterator[tuple[int, int]]:
    """Likewise; `prefix` is the bytes of each unit's length."""
    at = 0
    while at + prefix < len(stream):
        yield stream[at + prefix] >> 1 & 63, at + prefix
        at += prefix + int.from_bytes(stream[at : at + prefix], "big")


def _frame_pixels(bits: _Bits) -> int:
    """What the header of an AV1 sequence allows a frame."""
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced to what a still picture needs
        bits.take(5)
    else:
        _skip_points(bits)
    columns, rows = 1 + bits.take(4), 1 + bits.take(4)
    return (1 + bits.take(columns)) * (1 + bits.take(rows))


def _skip_points(bits: _Bits) -> None:
    """Pass over timing, the model of decoders and operating points."""
    delay = 0
    if bits.take(1):
        bits.take(64)
        if bits.take(1):
            zeros = 0
            while not bits.take(1):
                zeros += 1
            bits.take(zeros if zeros < 32 else 0)
        if bits.take(1):
            delay = 1 + bits.take(5)
            bits.take(42)
    initial = bits.take(1)
    for _ in range(1 + bits.take(5)):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay and bits.take(1):
            bits.take(2 * delay + 1)
        if initial and bits.take(1):
            bits.take(4)
