"""Files that ask for far more work or memory than they weigh, made where they are needed."""

import io
import struct
import zlib
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
