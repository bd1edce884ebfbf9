"""Files that ask for far more work or memory than they weigh, made where they are needed."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image


CHANNELS = {0: 1, 2: 3, 6: 4}
"""Of a PNG, by its kind of colours."""


def many_scans(side: int = 8000, scans: int = 1500) -> bytes:
    """A black progressive JPEG whose last scans refine nothing: each passes over every block."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG", progressive=True)
    # One code of one bit: a run of 2**14 blocks without news, and as many as the next 14 bits say.
    table = _segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0]))
    blocks = (-(-side // 8)) ** 2
    bits = ("0" + "1" * 14) * -(-blocks // (2**15 - 1))
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    scan = _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x10])) + data
    return file.getvalue()[:-2] + table + scan * scans + b"\xff\xd9"


def scans_in_tiff(side: int = 8000, scans: int = 85) -> bytes:
    """`many_scans` as the one strip of a TIFF, whose decoder stops at the hundredth scan alone."""
    strip = many_scans(side, scans)
    entries = {256: side, 257: side, 258: 8, 259: 7, 262: 1, 273: 0, 277: 1, 278: side}
    entries |= {273: 8 + 2 + 12 * 9 + 4, 279: len(strip)}  # behind the entries
    body = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in entries.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + bytes(4) + strip


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def black_png(width: int = 8000, height: int = 8000, *, kind: int = 2) -> bytes:
    """A PNG of zeros, a thousandth of its pixels in bytes; `kind` 0 is grey, 2 RGB, 6 RGBA."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width * CHANNELS[kind])
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in chunks)


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IEND", b"")


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


@dataclass(frozen=True)
class Part:
    """A picture in a HEIC or AVIF: what it is, its bytes, its size as it is stated beside it, and
    the numbers (from 1) of the pictures that it is put together from.

    None are the bytes of the part before it.
    """

    kind: bytes
    content: bytes | None
    size: tuple[int, int]
    parts: Sequence[int] = ()


def put_together(picture: bytes, parts: Sequence[Part]) -> bytes:
    """A HEIC or AVIF that shows the first part; what its decoder must know is that of `picture`."""
    boxes = dict(_boxes(picture))
    properties = dict(_boxes(dict(_boxes(boxes[b"meta"][4:]))[b"iprp"]))[b"ipco"]
    kept = [_box(name, body) for name, body in _boxes(properties) if name != b"ispe"]
    sizes = [_full_box(b"ispe", struct.pack(">II", *part.size)) for part in parts]
    kinds, used, references, contents = b"", b"", b"", b""
    places: list[tuple[int, int]] = []
    for number, part in enumerate(parts, 1):
        kinds += _full_box(b"infe", struct.pack(">HH4sx", number, 0, part.kind), 2)
        numbers = [number, *range(len(parts) + 1, len(parts) + 1 + len(kept))]
        used += struct.pack(f">HB{len(numbers)}H", number, len(numbers), *numbers)
        if part.parts:
            listed = struct.pack(f">HH{len(part.parts)}H", number, len(part.parts), *part.parts)
            references += _box(b"dimg", listed)
        if part.content is not None:
            places.append((len(contents), len(part.content)))
            contents += part.content
        else:
            places.append(places[-1])

    def described(start: int) -> bytes:
        lines = (
            struct.pack(">HHHII", number, 0, 1, start + at, size)
            for number, (at, size) in enumerate(places, 1)
        )
        inside = [
            _full_box(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            _full_box(b"pitm", struct.pack(">H", 1)),
            _full_box(b"iinf", struct.pack(">H", len(parts)) + kinds),
            _full_box(b"iloc", struct.pack(">BBH", 0x44, 0, len(parts)) + b"".join(lines)),
            _box(
                b"iprp",
                _box(b"ipco", b"".join(sizes + kept))
                + _full_box(b"ipma", struct.pack(">I", len(parts)) + used, flags=1),
            ),
            _full_box(b"iref", references),
        ]
        return _box(b"ftyp", boxes[b"ftyp"]) + _full_box(b"meta", b"".join(inside))

    return described(len(described(0)) + 8) + _box(b"mdat", contents)


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """What stands in a picture of tiles."""
    return struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)


def content_of(picture: bytes) -> bytes:
    """The pixels of a HEIC or AVIF of one picture, as they are stored."""
    return dict(_boxes(picture))[b"mdat"]


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        yield name, content[at + 8 : at + size]
        at += size


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _full_box(name: bytes, content: bytes, version: int = 0, *, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + content)


def large_frames(path: Path, *, side: int = 16_000, frames: int = 4) -> Path:
    """A video of few black frames with many pixels; Motion PNG, which is made soonest."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "PNG", compress_level=1)
    return _video(path, [file.getvalue()] * frames, side, side)


def many_frames(path: Path, *, frames: int = 20_000) -> Path:
    """A video of many small frames in few bytes."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(file, "PNG")
    return _video(path, [file.getvalue()] * frames, 16, 16)


def _video(path: Path, packets: list[bytes], width: int, height: int) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        for number, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return path
