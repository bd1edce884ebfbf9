"""What files say of themselves is read rightly, in bounded work, and too much of it refused."""

import io
import struct
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fervor.errors import InputError
from fervor.io.image_header import ImageHeader, check_header, read_header
from fervor.io.image_header import header as bounds
from fervor.io.sources import decode_image


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from hostile import (
    Part,
    black_png,
    content_of,
    grid,
    many_scans,
    png_chunk,
    png_header,
    put_together,
    scans_in_tiff,
)


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


SIZED = box(b"moov", box(b"ispe", struct.pack(">III", 0, 64, 64)))
ALL = 10**9
SECONDS = 2.0
"""Of processor time, for one file."""


def saved(kind: str, frames: int = 1, **options: Any) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs fervor[heic]").register_heif_opener()
    noise = np.random.default_rng(0).integers(0, 256, (frames, 90, 70, 3), np.uint8)
    first, *rest = map(Image.fromarray, noise)
    if rest:
        options |= {"save_all": True, "append_images": rest}
    file = io.BytesIO()
    first.save(file, kind, **options)
    return file.getvalue()


def header_of(content: bytes) -> ImageHeader | None:
    start = time.process_time()
    try:
        return read_header(io.BytesIO(content))
    finally:
        assert time.process_time() - start < SECONDS


def reason_of(content: bytes) -> str:
    """Why the file is refused, by its header alone."""
    with pytest.raises(InputError) as refused:
        header = header_of(content)
        assert header is not None
        check_header(header, max_pixels=128_000_000)
    start = time.process_time()
    assert decode_image(io.BytesIO(content), "x").error == str(refused.value)
    assert time.process_time() - start < SECONDS
    return str(refused.value)


@pytest.mark.parametrize(
    ("kind", "options", "frames"),
    [
        ("JPEG", {}, 1),
        ("PNG", {}, 1),
        ("PNG", {}, 3),
        ("GIF", {}, 1),
        ("GIF", {}, 3),
        ("WEBP", {}, 1),
        ("WEBP", {"lossless": True}, 1),
        ("WEBP", {}, 3),
        ("BMP", {}, 1),
        ("TIFF", {}, 1),
        ("TIFF", {"compression": "jpeg"}, 3),
        ("TIFF", {"big_tiff": True}, 3),
        ("HEIF", {}, 1),
        ("AVIF", {}, 1),
        ("AVIF", {}, 3),
    ],
)
def test_size_and_frames_of_every_format(kind: str, options: dict[str, Any], frames: int) -> None:
    coded = 70 * 90 if kind in ("HEIF", "AVIF") else 0
    expected = ImageHeader(kind, 70, 90, frames, coded=coded)
    assert header_of(saved(kind, frames, **options)) == expected


@pytest.mark.parametrize("size", [(1, 1), (16_383, 1), (1, 16_383), (300, 257)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    header = header_of(file.getvalue())
    assert header is not None and (header.width, header.height) == size


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"%PDF-1.7", b"\xff\xd8", b"RIFF"])
def test_what_is_no_picture_has_no_header(content: bytes) -> None:
    assert header_of(content) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_a_file_that_ends_early_is_damaged_or_says_its_size(kind: str) -> None:
    content = saved(kind)
    for length in (12, 16, 20, 24, 30, 60, 200, len(content) // 2):
        try:
            header = header_of(content[:length])
        except InputError as error:
            assert "does not say its size" in str(error)
        else:
            assert header is None or header.format == kind


def test_scans_are_counted() -> None:
    def scans(content: bytes) -> int:
        header = header_of(content)
        assert header is not None
        return header.scans

    assert scans(saved("JPEG")) == 1
    assert scans(saved("JPEG", progressive=True)) == 10
    thumbnail = saved("JPEG", progressive=True)
    with_thumbnail = saved("JPEG", exif=b"Exif\0\0" + thumbnail)
    assert b"\xff\xda" in thumbnail and scans(with_thumbnail) == 1
    content = saved("JPEG", progressive=True)
    for fill in (b"\xff\xff\xff", b"no marker \xff\x00 \xff"):  # what libjpeg passes over
        assert scans(content.replace(b"\xff\xda", fill + b"\xda")) == 10


def test_scans_are_bounded() -> None:
    assert "64 x 64 pixels in more than 100 scans" in reason_of(many_scans(64, 200))
    assert "expected at most 25" in reason_of(many_scans(8000, 30))
    few = many_scans(64, 20)
    assert decode_image(io.BytesIO(few), "x").error is None


def test_scans_of_jpegs_in_a_tiff_are_counted() -> None:
    header = header_of(scans_in_tiff(64, 20))
    assert header is not None and 21 < header.scans < 30
    assert decode_image(io.BytesIO(scans_in_tiff(64, 20)), "x").error is None
    assert "64 x 64 pixels in more than 100 scans" in reason_of(scans_in_tiff(64, 200))
    assert "expected at most 25" in reason_of(scans_in_tiff(8000, 30))
    unsaid = scans_in_tiff(64, 200).replace(struct.pack("<HHI", 279, 4, 1), bytes(8))
    assert "more than 100 scans" in reason_of(unsaid)


@pytest.mark.parametrize("strip_size", [8 * 70 * 3, 16 * 70 * 3])
def test_strips_of_a_tiff_are_counted_one_by_one(strip_size: int) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (900, 70, 3), np.uint8)
    Image.fromarray(noise).save(file, "TIFF", compression="jpeg", strip_size=strip_size)
    assert file.getvalue().count(b"\xff\xda") > 50  # one each
    assert header_of(file.getvalue()) == ImageHeader("TIFF", 70, 900)


def test_strips_of_a_tiff_that_overlap_are_not_read_again_and_again() -> None:
    strip = many_scans(64, 20)
    count, start = 20_000, 8 + 2 + 12 * 6 + 4
    entries = {256: (1, 64), 257: (1, 64), 259: (1, 7), 273: (count, start)}
    entries |= {278: (1, 1), 279: (count, start + 4 * count)}
    body = b"".join(struct.pack("<HHII", tag, 4, *both) for tag, both in entries.items())
    place = start + 8 * count
    lists = struct.pack(f"<{count}I", *range(place, place + count))
    lists += struct.pack(f"<{count}I", *[len(strip)] * count)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    content = head + body + bytes(4) + lists + strip * 10
    assert "overlap" in reason_of(content)


def pages(*entries: tuple[tuple[int, int, int], ...]) -> bytes:
    """A TIFF of pages with such entries: tag, amount and value, as 32-bit numbers."""
    content = b"II*\0\x08\0\0\0"
    for number, page in enumerate(entries):
        content += struct.pack("<H", len(page))
        content += b"".join(struct.pack("<HHII", tag, 4, *both) for tag, *both in page)
        behind = len(content) + 4
        content += struct.pack("<I", behind if number + 1 < len(entries) else 0)
    return content


def test_a_tiff_is_its_first_page() -> None:
    sizes = [((256, 1, 90), (257, 1, 6)), ((256, 1, 6), (257, 1, 90)), ((256, 1, 0), (257, 1, 0))]
    assert header_of(pages(*sizes)) == ImageHeader("TIFF", 90, 6, 3)
    assert header_of(pages(*sizes)[:-20]) == ImageHeader("TIFF", 90, 6, 2)


@pytest.mark.parametrize("compression", [1, 7])
def test_lists_that_pages_of_a_tiff_share_are_not_read_for_each(compression: int) -> None:
    count, number = 20_000, 300
    lists = 8 + number * (2 + 5 * 12 + 4)
    page = ((256, 1, 64), (257, 1, 64), (259, 1, compression))
    page += ((273, count, lists), (279, count, lists))
    content = pages(*[page] * number) + bytes(4 * count)
    reads = []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            reads.append(len(found))
            return found

    read_header(Counted(content))
    assert sum(reads) < 3 * len(content)


def test_bytes_behind_a_webp_are_no_part_of_it() -> None:
    content = saved("WEBP")
    assert header_of(content + b"VP8 \x05\0\0\0ab") == header_of(content)


@pytest.mark.parametrize("brand", [b"heic", b"hevx", b"hevm", b"hevs", b"mif1"])
def test_every_brand_that_is_decoded_is_known(brand: bytes) -> None:
    content = tile("HEIF")
    branded = content[:8] + brand + content[12:]
    assert header_of(branded) == header_of(content)
    assert decode_image(io.BytesIO(branded), "x").error is None


SIDE = 64
"""Of the picture that others are put together from."""


@cache
def tile(kind: str, side: int = SIDE) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs fervor[heic]").register_heif_opener()
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, kind)
    return file.getvalue()


def tiled(kind: str, count: int, *, size: tuple[int, int], stated: int = SIDE) -> bytes:
    """A grid of so many tiles, all of the same bytes; `size` is the whole picture's."""
    picture = tile(kind)
    numbers = range(2, 2 + count)
    side = round(count**0.5)
    content = content_of(picture)
    parts = [Part(b"grid", grid(side, side, *size), size, numbers)]
    for number in numbers:
        here = content if number == 2 else None
        parts.append(Part(KINDS[kind], here, (stated, stated)))
    return put_together(picture, parts)


KINDS = {"HEIF": b"hvc1", "AVIF": b"av01"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_tiles_is_read(kind: str) -> None:
    content = tiled(kind, 4, size=(120, 110))
    assert header_of(content) == ImageHeader(kind, 120, 110, coded=4 * SIDE**2)
    assert decode_image(io.BytesIO(content), "x").shape == (110, 120)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_of_all_tiles_are_counted(kind: str) -> None:
    """A picture of few pixels may be put together from thousands of large ones."""
    content = tiled(kind, 900, size=(SIDE, SIDE), stated=600)
    assert "324,000,000 pixels in the parts of a picture: expected at most 256" in reason_of(
        content
    )


def test_pictures_of_pictures_are_counted() -> None:
    """Each shows the next one four times."""
    overlay = bytes(10) + struct.pack(">HH", SIDE, SIDE) + bytes(32)
    size = (SIDE, SIDE)
    parts = [Part(b"iovl", overlay, size, [number + 1] * 4) for number in range(1, 9)]
    whole = [*parts, Part(b"hvc1", content_of(tile("HEIF")), size)]
    assert f"{4**8 * SIDE**2:,} pixels" in reason_of(put_together(tile("HEIF"), whole))
    deep = put_together(tile("HEIF"), [*parts, Part(b"iovl", overlay, size, [1])])
    assert "pictures of pictures in more than 8 levels" in reason_of(deep)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_tiles_states_its_size_itself(kind: str) -> None:
    content = put_together(
        tile(kind),
        [
            Part(b"grid", grid(1, 1, 30_000, 30_000), (SIDE, SIDE), [2]),
            Part(KINDS[kind], content_of(tile(kind)), (SIDE, SIDE)),
        ],
    )
    assert reason_of(content).startswith("30000 x 30000 pixels")


@pytest.mark.parametrize("frames", [1, 3])
def test_a_stream_of_av1_states_its_size_itself(frames: int) -> None:
    """Frames of 300 x 300 beside which 8 x 8 is stated; a video has a longer header."""
    file = io.BytesIO()
    first, *rest = [Image.new("RGB", (300, 300), (40 * number,) * 3) for number in range(frames)]
    first.save(file, "AVIF", save_all=frames > 1, append_images=rest)
    place = file.getvalue().index(b"mdat") + 4
    picture = tile("AVIF")
    parts = [Part(b"av01", file.getvalue()[place:], (8, 8))]
    header = header_of(put_together(picture, parts))
    assert header is not None and header.coded == frames * 300 * 300
    thousands = [Part(b"grid", grid(32, 32, 256, 256), (256, 256), range(2, 1026))]
    thousands += [Part(b"av01", content_of(tile("AVIF", 600)), (8, 8))]
    thousands += [Part(b"av01", None, (8, 8))] * 1023
    assert "368,640,000 pixels" in reason_of(put_together(picture, thousands))


def test_frames_behind_the_one_that_is_shown_are_counted() -> None:
    for kind, unit in (("AVIF", b"\x32\x01\0"), ("HEIF", b"\0\0\0\3\2\1\x80")):
        stream = content_of(tile(kind)) + 70_000 * unit
        content = put_together(tile(kind), [Part(KINDS[kind], stream, (SIDE, SIDE))])
        assert f"{70_001 * SIDE**2:,} pixels in the parts" in reason_of(content)
        many = put_together(tile(kind), [Part(KINDS[kind], 2 * stream, (SIDE, SIDE))])
        assert "more than 100,000 units" in reason_of(many)


def test_what_a_description_must_not_say() -> None:
    stream, size = content_of(tile("HEIF")), (SIDE, SIDE)
    plain = put_together(tile("HEIF"), [Part(b"hvc1", stream, size)])
    described = plain[plain.index(b"meta") - 4 : plain.index(b"mdat") - 4]
    assert "described twice" in reason_of(plain + described)
    twice = plain.replace(b"hdlr", b"idat").replace(b"pitm", b"idat")
    assert "described twice" in reason_of(twice)
    elsewhere = plain.replace(b"hdlr", b"free")
    method = elsewhere.index(b"iloc")
    elsewhere = elsewhere[: method + 4] + b"\2" + elsewhere[method + 5 :]
    with pytest.raises(InputError):
        header_of(elsewhere)
    assert "does not say its size" in reason_of(plain.replace(b"ispe", b"free") + SIZED)
    overlapping = [Part(b"hvc1", stream + bytes(100_000), size)]
    shifted = put_together(tile("HEIF"), overlapping + [Part(b"hvc1", None, size)] * 5)
    at = shifted.index(b"iloc") + 12
    for number in range(6):  # each begins a byte later
        place = at + 14 * number + 6
        (start,) = struct.unpack_from(">I", shifted, place)
        shifted = shifted[:place] + struct.pack(">I", start + number) + shifted[place + 4 :]
    assert "overlap" in reason_of(shifted)


def test_pixels_and_sides_are_bounded() -> None:
    assert reason_of(png_header(12_000, 12_000)).endswith("pixels: expected at most 128,000,000")
    assert reason_of(png_header(2**31, 2**31)).endswith("pixels: expected at most 128,000,000")
    assert "sides of at most 65,535" in reason_of(png_header(65_536, 1))
    assert "sides of at most 65,535" in reason_of(png_header(1, 100_000))
    assert decode_image(io.BytesIO(black_png(65_535, 1, kind=0)), "x").error is None


def tiff(*entries: tuple[int, int, int]) -> bytes:
    """A TIFF whose first page has such entries: tag, amount and value, as 32-bit numbers."""
    page = b"".join(struct.pack("<HHII", tag, 4, amount, value) for tag, amount, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + page + bytes(4)


def heif(*properties: bytes, references: bytes = b"") -> bytes:
    inside = box(b"iprp", box(b"ipco", b"".join(properties))) + references
    return box(b"ftyp", b"heic" + bytes(4)) + box(b"meta", bytes(4) + inside)


SIZE = box(b"ispe", struct.pack(">III", 0, 100, 100))

PARTS: dict[str, tuple[bytes, str]] = {
    "segments": (
        b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000 + saved("JPEG")[2:],
        "more than 100,000 segments",
    ),
    "segments apart": (
        b"\xff\xd8" + b"\xff\xe0\0\2 " * 200_000 + saved("JPEG")[2:],
        "more than 100,000 segments",
    ),
    "restarts": (
        b"\xff\xd8\xff\xe0\0\2" + b"\xff\xd0" * 1_000_000 + saved("JPEG")[2:],
        "more than 100,000 segments",
    ),
    "chunks": (
        saved("PNG")[:33] + png_chunk(b"tIME", b"") * 200_000 + saved("PNG")[33:],
        "more than 100,000 chunks",
    ),
    "chunks of WebP": (
        b"RIFF\0\0\0\0WEBP" + b"EXIF\0\0\0\0" * 200_000 + saved("WEBP")[12:],
        "more than 100,000 chunks",
    ),
    "blocks": (
        saved("GIF")[:13] + b"!\xff" + b"\1x" * 2_000_000,
        "more than 1,000,000 blocks",
    ),
    "strips": (
        tiff((256, 1, 100), (257, 1, 100), (273, 5_000_000, 8)),
        "more than 100,000 strips or tiles",
    ),
    "tiles": (
        tiff((256, 1, 16), (257, 1, 16), (322, 1, 60_000), (323, 1, 60_000)),
        "60000 x 60000",
    ),
    "a size said twice": (
        tiff((256, 1, 60_000), (256, 1, 1), (257, 1, 1), (257, 1, 60_000)),
        "60000 x 60000",
    ),
    "pages": (
        b"II*\0\x08\0\0\0"
        + b"".join(struct.pack("<HI", 0, 14 + 6 * number) for number in range(200_000)),
        "more than 100,000 entries",
    ),
    "boxes": (heif(SIZE, box(b"free", b"") * 200_000), "more than 100,000 boxes"),
    "pictures put together": (
        heif(SIZE, references=box(b"iref", bytes(4) + box(b"dimg", bytes(4 + 2 * 65_536)))),
        "tiles: expected a picture of fewer",
    ),
    "a large tile": (heif(SIZE, box(b"ispe", struct.pack(">III", 0, 60_000, 60_000))), "60000 x"),
    "a frame beyond a GIF's screen": (
        b"GIF89a"
        + struct.pack("<HHBBB", 70, 90, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 60_000, 60_000, 5_000, 5_000, 0),
        "65000 x 65000",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_are_bounded(case: str) -> None:
    content, reason = PARTS[case]
    with pytest.raises(InputError, match=reason):
        header = header_of(content)
        assert header is not None
        check_header(header, max_pixels=128_000_000)


def test_a_large_photograph_stays_within_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cameras write is far from every bound: a tenth of each is enough."""
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8)
    monkeypatch.setattr(bounds, "MAX_PARTS", bounds.MAX_PARTS // 10)
    for kind, options in (
        ("JPEG", {"progressive": True, "quality": 95, "restart_marker_rows": 1}),
        ("PNG", {"compress_level": 1}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ):
        file = io.BytesIO()
        Image.fromarray(noise).save(file, kind, **options)
        header = header_of(file.getvalue())
        assert header is not None
        check_header(header, max_pixels=128_000_000)
