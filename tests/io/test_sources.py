"""Pictures and folders become frames in order; what cannot be read says why in its frame."""

import base64
import io
import os
import random
import re
import struct
import sys
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image, features

from fervor.errors import InputError
from fervor.io import sources as media
from fervor.io.frame import Span
from fervor.io.sources import (
    ENDINGS,
    Frame,
    find,
    frame_of,
    frames_of,
    is_moving,
    is_video,
    open_inputs,
    read,
    read_image,
    skipped_files,
)
from tests.support.videos import flat, write_video


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.indices((height, width))
    planes = [rows * 255 // height, columns * 255 // width, (rows + columns) * 4 % 256]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def pixels_of(frame: Frame) -> np.ndarray:
    assert frame.error is None, frame.error
    assert frame.image is not None
    return frame.image


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"picture{ending}"
    options: dict[str, Any] = {"lossless": True} if ending == ".webp" else {}
    if ending in (".heic", ".heif"):
        plugin = pytest.importorskip("pillow_heif", reason="needs fervor[heic]")
        plugin.register_heif_opener()
        options = {"format": "HEIF", "quality": -1}  # lossless but for the change of colours
    gradient().save(path, **options)
    frame = read_image(str(path))
    assert (frame.source, frame.frame, frame.time_s) == (str(path), 0, None)
    lossy = {
        ".jpg": 40,
        ".jpeg": 40,
        ".heic": 60,
        ".heif": 60,
        ".gif": 16,
        ".avif": 16,
    }  # colours at half the resolution
    tolerance = lossy.get(ending, 0)
    difference = pixels_of(frame).astype(int) - np.asarray(gradient())
    assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_modes_of_png(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.png"
    image = gradient().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(path)
    expected = np.asarray(gradient().convert("L" if mode == "I;16" else mode).convert("RGB"))
    np.testing.assert_array_equal(pixels_of(read_image(str(path))), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """Each way to store a picture shows the same upright one."""
    store = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = gradient()
    stored = upright.transpose(store[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    np.testing.assert_array_equal(pixels_of(read_image(str(path))), np.asarray(upright))
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels_of(frame_of(image)), np.asarray(upright))


def test_camera_file_with_several_pictures_shows_the_first(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    gradient().save(path, "MPO", save_all=True, append_images=[gradient(8, 8)])
    assert pixels_of(read_image(str(path))).shape == (16, 24, 3)


def test_damaged_metadata_does_not_hide_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    gradient().save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert pixels_of(read_image(str(path))).shape == (16, 24, 3)


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def saved(format_name: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format_name)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.jpg", b"", "the file is empty (0 bytes)"),
        ("text.jpg", b"no picture at all\n", "not a picture in a known format"),
        ("cut.jpg", truncated(saved("JPEG")), "damaged or truncated"),
        ("cut.png", truncated(saved("PNG")), "damaged or truncated"),
        ("cut.webp", truncated(saved("WEBP")), ""),
        ("cut.bmp", truncated(saved("BMP")), "damaged or truncated"),
        ("cut.tiff", truncated(saved("TIFF")), ""),
        ("header.png", saved("PNG")[:20], ""),
        ("cartoon.png", saved("PPM"), "not a picture in a known format"),  # not on the list
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_unreadable_pictures_give_one_line(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    frame = read_image(str(path))
    assert frame.image is None
    assert frame.error
    assert reason in frame.error
    assert "\n" not in frame.error
    assert str(tmp_path) not in frame.error


def test_damaged_bytes_never_raise(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    chance = random.Random(0)
    for format_name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        good = saved(format_name)
        for _ in range(40):
            data = bytearray(good)
            for _ in range(chance.randint(1, 30)):
                data[chance.randrange(min(len(data), chance.choice([60, 10**9])))] = (
                    chance.randrange(256)
                )
            path.write_bytes(data)
            frame = read_image(str(path), max_pixels=10**6)
            assert (frame.image is None) == (frame.error is not None)


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends


@pytest.mark.parametrize("side", [12_000, 16_000, 50_000])
def test_size_is_checked_before_decoding(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    error = read_image(str(path)).error
    assert error
    assert "pixels: expected at most 128,000,000" in error


def test_largest_size_is_an_option(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    gradient().save(path)
    assert read_image(str(path), max_pixels=24 * 16).error is None
    assert read_image(str(path), max_pixels=24 * 16 - 1).error


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read_image(str(tmp_path / "pipe.jpg")).error == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    gradient().save(path)
    path.chmod(0)
    assert read_image(str(path)).error == "cannot be read: Permission denied"


def test_folder_is_read_sorted_and_below(tmp_path: Path) -> None:
    names = ["b.png", "a/z.JPG", "a/b/c.webp", "a.png", "a-b/q.png", ".DS_Store", "notes.txt"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    found = [os.path.relpath(source, tmp_path) for source in find([tmp_path])]
    assert found == ["a/b/c.webp", "a/z.JPG", "a-b/q.png", "a.png", "b.png"]


def test_link_to_its_own_folder_ends(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    assert find([tmp_path]) == [str(tmp_path / "a.png")]


def test_inputs_keep_their_order(tmp_path: Path) -> None:
    for name in ("2.png", "1.png", "folder/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        gradient().save(tmp_path / name)
    inputs = [tmp_path / "2.png", tmp_path / "folder", tmp_path / "1.png", tmp_path / "2.png"]
    sources = [Path(frame.source).name for frame in open_inputs(inputs)]
    assert sources == ["2.png", "3.png", "1.png", "2.png"]


def test_named_file_of_any_ending_is_read_by_its_content(tmp_path: Path) -> None:
    gradient().save(tmp_path / "download", "PNG")
    assert next(open_inputs([tmp_path / "download"])).error is None


def test_missing_input_is_said_before_the_first_frame(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"nowhere does not exist: expected"):
        open_inputs([tmp_path / "a.png", tmp_path / "nowhere"])


def test_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no picture and no video"):
        open_inputs([tmp_path])


def test_dangling_link_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (frame,) = open_inputs([tmp_path])
    assert frame.error == "cannot be read: No such file or directory"


def test_arrays_and_images() -> None:
    image = gradient()
    for picture in (image, np.asarray(image)):
        frame = frame_of(picture)
        assert frame.source == ""
        np.testing.assert_array_equal(pixels_of(frame), np.asarray(image))


def spooled(data: bytes) -> Any:
    """What FastAPI gives; and it stands at its end."""
    file = tempfile.SpooledTemporaryFile()
    file.write(data)
    return file


def zipped(data: bytes) -> Any:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", data)
    return zipfile.ZipFile(packed).open("a.png")


def address(data: bytes) -> str:
    return base64.b64encode(data).decode()


URL = "data:image/png;base64,"
FORMS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "spooled": lambda path: spooled(path.read_bytes()),
    "in a zip": lambda path: zipped(path.read_bytes()),
    "data URL": lambda path: URL + address(path.read_bytes()),
    "of many lines": lambda path: (
        "DATA:;BASE64,\n" + "\r\n".join(re.findall(".{1,76}", address(path.read_bytes())))
    ),
    "without padding": lambda path: URL + address(path.read_bytes()).rstrip("="),
    "for URLs": lambda path: URL + base64.urlsafe_b64encode(path.read_bytes()).decode(),
    "percent signs": lambda path: URL + quote(address(path.read_bytes())),
}
"""One picture in every form but its path."""


@pytest.mark.parametrize("form", FORMS)
def test_pictures_in_memory(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.png"
    gradient(25).save(path)
    given = FORMS[form](path)
    frame = frame_of(given)
    assert frame.error is None
    assert frame.source == {"open file": str(path), "in a zip": "a.png"}.get(form, "")
    np.testing.assert_array_equal(pixels_of(frame), np.asarray(gradient(25)))
    if not isinstance(given, str | bytes | bytearray):
        given.close()
        assert str(frame_of(given).error).startswith("cannot be read: ")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (b"", "the file is empty"),
        (io.BytesIO(b"no picture"), "not a picture in a known format"),
        ("data:image/png;base64,", "the file is empty"),
        ("data:image/png;base64,%%%", "a data URL that is no base64"),
        ("data:image/png;base64,iVBORw0KGgo", "damaged or truncated|not a picture"),
        ("data:image/png,abc", "is no data URL in base64: expected data:image/jpeg;base64,"),
        ("data:", "is no data URL in base64"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "not a picture in a known format"),
    ],
)
def test_what_memory_holds_no_picture_says_so_in_one_line(given: Any, reason: str) -> None:
    frame = frame_of(given)
    assert frame.picture is None and frame.source == ""
    assert re.search(reason, str(frame.error)) and "\n" not in str(frame.error)
    assert len(str(frame.error)) < 200


def test_texts_that_are_no_path(tmp_path: Path) -> None:
    bare = base64.b64encode(PHOTOGRAPH.read_bytes()).decode()
    with pytest.raises(InputError, match=r"^a text of [\d,]+ characters: .*base64,") as refused:
        frame_of(bare)
    assert len(str(refused.value)) < 200
    (tmp_path / "a.txt").write_text("text")
    with (tmp_path / "a.txt").open() as file, pytest.raises(InputError, match='mode "rb"'):
        frame_of(file)  # type: ignore[arg-type]


def test_folders_and_videos_among_pictures(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    gradient().save(tmp_path / "b.png")
    write_video(tmp_path / "a.mp4", [flat((9, 9, 9))] * 2)
    frames = [*frames_of([gradient(), tmp_path, str(tmp_path / "a.mp4")], span=Span(every=2))]
    names = [os.path.basename(frame.source) for frame in frames]
    assert names == ["", "a.mp4", "b.png", "a.mp4"]
    with pytest.raises(InputError, match=r"webcam:0 has no end: read it with predictor\.video"):
        next(frames_of(["webcam:0"]))


def test_lazily_opened_damaged_image(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(truncated(saved("PNG")))
    with Image.open(path) as image:
        frame = frame_of(image)
    assert frame.source == str(path)
    assert frame.error


def test_heic_is_turned_upright_once(tmp_path: Path) -> None:
    plugin = pytest.importorskip("pillow_heif", reason="needs fervor[heic]")
    plugin.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.heic"
    gradient().save(path, "HEIF", quality=-1, exif=exif)
    with Image.open(path) as image:  # the plug-in's own idea of upright
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(read_image(str(path))), expected)


def test_heic_without_the_plug_in_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = pytest.importorskip("pillow_heif", reason="needs fervor[heic]")
    plugin.register_heif_opener()
    gradient().save(tmp_path / "a.heic", "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (frame,) = open_inputs([tmp_path])
    assert frame.error == 'a HEIC picture: needs pip install "fervor[heic]"'


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_heic_without_its_ending_is_no_video(tmp_path: Path, brand: bytes) -> None:
    path = tmp_path / "download"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(300))
    assert not is_video(str(path))
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(300))
    assert is_video(str(path))


def test_folder_with_pictures_and_videos(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    gradient().save(tmp_path / "a.png")
    write_video(tmp_path / "b.mp4", [flat((9, 9, 9))] * 3)
    (tmp_path / "c.mov").write_bytes(b"")
    gradient().save(tmp_path / "d.png")
    os.mkfifo(tmp_path / "e.mkv")
    frames = [(Path(f.source).name, f.frame, f.time_s, f.error) for f in open_inputs([tmp_path])]
    assert frames == [
        ("a.png", 0, None, None),
        ("b.mp4", 0, 0.0, None),
        ("b.mp4", 1, 0.04, None),
        ("b.mp4", 2, 0.08, None),
        ("c.mov", 0, None, "the file is empty (0 bytes)"),
        ("d.png", 0, None, None),
        ("e.mkv", 0, None, "not a regular file"),
    ]


def test_pictures_are_decoded_ahead_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader takes its time; no more waits than the bound allows, and one in hand."""
    gradient(100, 100).save(tmp_path / "a.png")
    alive = 0
    most = 0

    class Counted(Frame):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def counted(source: str, *, max_pixels: int) -> Frame:
        nonlocal alive, most
        frame = read_image(source, max_pixels=max_pixels)
        alive += 1
        most = max(most, alive)
        return Counted(source, 0, None, frame.image, None)

    monkeypatch.setattr(media, "read_image", counted)
    monkeypatch.setattr(media, "PREFETCH_PIXELS", 50_000)
    frames: Iterator[Frame] = read([str(tmp_path / "a.png")] * 60)
    for _ in range(60):
        next(frames)
        if alive < 5:
            time.sleep(0.002)
    assert 2 <= most <= 5 + 2
    assert next(frames, None) is None


def test_videos_are_not_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    path = write_video(tmp_path / "clip.mp4", [flat((9, 9, 9))])
    with pytest.raises(InputError, match="is a video: expected a picture"):
        frame_of(path)


def test_folder_is_not_one_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: expected a picture"):
        frame_of(tmp_path)


TIMES = [100, 40, 0, 250]
"""Milliseconds that each picture of an animation is shown; 0 counts as 100, as in browsers."""
STARTS = [0.0, 0.1, 0.14, 0.24]


def animation(path: Path, count: int = 4) -> Path:
    colours = [(60 * number % 256, 255 - 60 * number % 256, 30) for number in range(count)]
    frames = [Image.new("RGB", (24, 16), colour) for colour in colours]
    times = [TIMES[number % 4] for number in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
    return path


ANIMATED = [
    pytest.param(ending, marks=pytest.mark.skipif(not known, reason=f"Pillow without {ending}"))
    for ending, known in (
        *((".gif", True), (".png", True), (".webp", features.check("webp"))),
        (".avif", features.check("avif")),
    )
]


@pytest.mark.parametrize("ending", ANIMATED)
def test_animated_pictures_are_frames_with_times(tmp_path: Path, ending: str) -> None:
    path = animation(tmp_path / f"a{ending}")
    frames = list(open_inputs([path]))
    assert [frame.error for frame in frames] == [None] * 4
    assert [frame.frame for frame in frames] == [0, 1, 2, 3]
    assert [frame.time_s for frame in frames] == pytest.approx(STARTS, abs=0.002)
    for number, frame in enumerate(frames):
        red = int(pixels_of(frame)[8, 12, 0])
        assert red == pytest.approx(60 * number, abs=12)
    assert all(len(str(frame.time_s)) < 7 for frame in frames)  # no 0.14000000000000001
    part = list(open_inputs([path], span=Span(every=2, start=0.05, end=0.2)))
    assert [frame.frame for frame in part] == [2]
    assert frame_of(path.read_bytes()).time_s is None  # in memory: its first picture
    assert is_moving(str(path)) and not is_video(str(path))


@pytest.mark.parametrize("name", ["a\0b", "a\0b.gif", "a\0b.mp4", "a\ud800"])
def test_a_name_that_no_file_can_have_does_not_exist(name: str) -> None:
    assert is_moving(name) == name.endswith(".mp4")  # by its ending, as of any missing file
    with pytest.raises(InputError, match="does not exist"):
        find([name])


@pytest.mark.parametrize("ending", ANIMATED)
def test_a_still_picture_of_such_a_format_has_no_time(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    gradient().save(path)
    (frame,) = open_inputs([path])
    assert (frame.frame, frame.time_s, frame.error) == (0, None, None)
    assert not is_moving(str(path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take shorter paths")
def test_a_path_of_more_than_a_thousand_characters_is_one(tmp_path: Path) -> None:
    """Systems take 4,096 bytes; what is longer is no path but, by all appearance, a content."""
    deep = tmp_path.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    path = str(animation(deep / "a.gif"))
    assert len(path) > 1000 and is_moving(path)
    assert [frame.frame for frame in open_inputs([path])] == [0, 1, 2, 3]
    assert len(list(frames_of([path]))) == 4


def test_the_picture_before_an_animation_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    colours = ["red", "lime", "blue"]
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in colours)
    first.save(path, save_all=True, append_images=others, duration=100, default_image=True)
    frames = list(open_inputs([path]))
    assert [tuple(pixels_of(frame)[0, 0]) for frame in frames] == [(0, 255, 0), (0, 0, 255)]
    assert [frame.time_s for frame in frames] == [0.0, 0.1]


def test_a_thousand_frames_are_read_one_by_one_and_damage_loses_none_before(
    tmp_path: Path,
) -> None:
    path = animation(tmp_path / "long.gif", 1000)
    frames = list(open_inputs([path]))
    assert len(frames) == 1000 and all(frame.error is None for frame in frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = list(open_inputs([path]))
    assert 400 < len(cut) < 600
    assert [frame.error is None for frame in cut[:-2]] == [True] * (len(cut) - 2)
    for frame in cut:
        assert frame.error is None or "\n" not in frame.error
    assert [frame.time_s for frame in cut[:-1]] == [
        frame.time_s for frame in frames[: len(cut) - 1]
    ]


def test_what_a_folder_holds_besides_is_counted(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    for name in ("b.txt", "c.TXT", "d.pdf", "Makefile", ".hidden", "e.jfif.txt"):
        (tmp_path / name).write_text("text")
    skipped: Counter[str] = Counter()
    assert find([tmp_path], skipped=skipped) == [str(tmp_path / "a.png")]
    assert skipped_files(skipped) == "5 files skipped (3 .txt, 1 .pdf, 1 without ending)"
    assert skipped_files(Counter()) == ""
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"no video; 5 files skipped \(3 \.txt.*: expected \.jpg"):
        find([tmp_path])


def test_several_decoders_give_what_one_gives(tmp_path: Path) -> None:
    """Pictures of any size, damaged ones and moving ones, in their order."""
    for number, side in enumerate((8, 900, 30, 400, 2000, 16, 500, 12)):
        Image.new("RGB", (side, side), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3a.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 200)]
    frames[0].save(tmp_path / "5a.gif", save_all=True, append_images=frames[1:])
    names = find([tmp_path])
    alone, several = (list(read(names, decoders=count)) for count in (1, 3))
    assert len(alone) == 11
    for one, other in zip(alone, several, strict=True):
        assert (one.source, one.frame, one.error) == (other.source, other.frame, other.error)
        np.testing.assert_array_equal(one.image, other.image)


def test_decoders_hold_a_bounded_number_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        Image.new("RGB", (100, 100)).save(tmp_path / f"{number:02}.png")
    decoding, most, lock, real = 0, 0, threading.Lock(), media.read_image

    def slow(source: str, *, max_pixels: int) -> Frame:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.02)
        with lock:
            decoding -= 1
        return real(source, max_pixels=max_pixels)

    monkeypatch.setattr(media, "read_image", slow)
    for limit, count in ((10_000_000, 4), (25_000, 2), (1, 1)):
        most = 0
        monkeypatch.setattr(media, "PREFETCH_PIXELS", limit)
        assert len(list(read(find([tmp_path]), decoders=4))) == 12
        assert most == count


def test_an_animation_leaves_the_filters_of_warnings_between_its_frames(tmp_path: Path) -> None:
    """Also where nobody asks for its last frame."""
    before = list(warnings.filters)
    several = [media._read_moving([str(animation(tmp_path / name))], Span(), 10_000)
               for name in ("a.gif", "b.gif")]  # fmt: skip
    for frames in (several[0], several[1], several[0]):
        next(frames)
        assert list(warnings.filters) == before
    with warnings.catch_warnings():  # somebody else's, who ends while they are read
        warnings.simplefilter("once")
        next(several[1])
        assert warnings.filters[0][0] == "once"
    assert list(warnings.filters) == before
    del several
    assert list(warnings.filters) == before


def test_threads_that_silence_warnings_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    first, second = threading.Event(), threading.Event()

    def begins_first_and_ends_first() -> None:
        with media._silence:
            first.set()
            assert second.wait(5)

    thread = threading.Thread(target=begins_first_and_ends_first)
    thread.start()
    assert first.wait(5)
    with media._silence:
        second.set()
        thread.join()
        warnings.warn("nobody hears this", stacklevel=1)
    assert list(warnings.filters) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_damaged_picture_takes_is_given_back() -> None:
    """A WebP that states 56 megapixels: 224 MB for a moment, which fuzzers may show as growth."""

    def megabytes() -> float:
        return (
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        )

    file = io.BytesIO()
    gradient(24, 24).save(file, "WEBP")
    content = bytearray(file.getvalue())
    place = content.index(b"VP8 ") + 14
    content[place : place + 4] = struct.pack("<HH", 8000, 7000)
    assert "damaged" in str(media.decode_image(io.BytesIO(content), "x").error)
    before = megabytes()
    for _ in range(10):
        assert media.decode_image(io.BytesIO(content), "x").error
    assert megabytes() - before < 50


def test_a_slow_reader_gets_a_webcam_s_newest_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made = threading.Semaphore(0), threading.Semaphore(0)

    def camera(source: str, span: Span, *, max_pixels: int) -> Iterator[Frame]:
        image = np.zeros((480, 640, 3), np.uint8)
        for number in range(401):
            yield Frame(source, number, number / 30, image, None, live=True)
            if number % 100 == 0:  # a hundred frames for each that is asked for
                made.release()
                assert asked.acquire(timeout=5)
        yield Frame(source, 401, None, None, "the webcam stopped", live=True)

    monkeypatch.setattr(media, "read_webcam", camera)
    frames = read(["webcam:0", "webcam:0"])
    for _ in range(2):
        newest = [next(frames)]
        assert made.acquire(timeout=5)
        for _ in range(4):
            asked.release()
            assert made.acquire(timeout=5)
            newest.append(next(frames))
        asked.release()
        assert [(frame.frame, frame.time_s) for frame in newest] == [
            (number, number / 30) for number in (0, 100, 200, 300, 400)
        ]
        assert next(frames).error == "the webcam stopped"
    assert not list(frames)


def test_a_slow_reader_gets_every_frame_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "webcam:0").mkdir()  # named like a camera, and none
    write_video(tmp_path / "webcam:0" / "a.mp4", [flat((9, 9, 9))] * 30)
    numbers = []
    for frame in read(find(["webcam:0"])):
        assert not frame.live
        numbers.append(frame.frame)
        time.sleep(0.002)
    assert numbers == list(range(30))
