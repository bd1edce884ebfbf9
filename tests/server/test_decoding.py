"""Pictures and videos decoded in another process: the same pixels, and an end to all work."""

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervor.io.frame import Frame, Span
from fervor.io.sources import decode_image, read
from fervor.server import decoding
from fervor.server.decoding import Decoder
from tests.support.videos import flat, write_video


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from hostile import black_png, large_frames, many_frames, many_scans


PIXELS = 64_000_000


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def decoded(decoder: Decoder, content: bytes) -> Frame:
    return decoder.picture(content, "a", max_pixels=PIXELS)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(mode: str, width: int = 70, height: int = 90) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


GOOD = saved(noise("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_pixels_are_those_of_this_process(decoder: Decoder, mode: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    large = noise("RGB", 3000, 1000)  # handed over in several parts
    for content in (saved(noise(mode), exif=turned), saved(large, "JPEG")):
        frame, expected = decoded(decoder, content), decode_image(io.BytesIO(content), "a")
        assert isinstance(frame.picture, Image.Image) and frame.picture.mode == "RGB"
        np.testing.assert_array_equal(frame.image, expected.image)
        assert (frame.source, frame.frame, frame.time_s, frame.error) == ("a", 0, None, None)


def test_what_cannot_be_read_says_why(decoder: Decoder) -> None:
    for content in (b"", b"no picture", GOOD[:100], many_scans(64, 200), black_png(9000, 9000)):
        expected = decode_image(io.BytesIO(content), "a", max_pixels=PIXELS)
        frame = decoded(decoder, content)
        assert frame.picture is None and frame.error == expected.error != ""
    assert decoded(decoder, GOOD).error is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs timers that end a process")
def test_an_image_that_moves_is_no_picture(decoder: Decoder) -> None:
    """Its first frame alone would pass for all of it."""
    frames = [Image.new("L", (30, 20), shade) for shade in (0, 90, 200)]
    for several, error in ((frames[1:], "an animation: expected a still picture"), ([], None)):
        file = io.BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=several)
        frame = decoder.picture(file.getvalue(), "a.gif", max_pixels=10**6)
        assert (frame.error or "").startswith(error or "") and (frame.image is None) == bool(error)


def test_too_long_a_picture_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Decoder(seconds=0.2)) as decoder:
        frame = decoded(decoder, many_scans(8000, 15))
        assert frame.error == "decoding takes longer than 0.2 seconds"
        assert decoded(decoder, GOOD).error is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs a bound on memory")
def test_too_much_memory_is_refused() -> None:
    with closing(Decoder(memory=100_000_000)) as decoder:
        frame = decoded(decoder, black_png(kind=0))
        assert frame.error is not None and "memory" in frame.error
        assert decoded(decoder, GOOD).error is None


def test_a_transparent_picture_of_the_largest_size_fits(decoder: Decoder) -> None:
    frame = decoded(decoder, black_png(kind=6))
    assert frame.error is None and frame.shape == (8000, 8000)
    assert frame.picture.getextrema() == ((255, 255),) * 3


def test_the_work_ends_from_another_thread(decoder: Decoder) -> None:
    decoded(decoder, GOOD)
    long, start = many_scans(8000, 15), time.monotonic()
    threading.Timer(0.2, decoder.stop).start()
    frame = decoded(decoder, long)
    assert frame.error == "its decoder ended before it was done"
    assert time.monotonic() - start < 10
    decoder.stop()  # nothing is under way: what comes next is not hurt
    assert decoded(decoder, GOOD).error is None
    decoder.stop()
    assert decoded(decoder, GOOD).error is None


def test_a_process_is_replaced_in_time(monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> None:
    monkeypatch.setattr(decoding, "PICTURES", 2)
    numbers = []
    for _ in range(5):
        assert decoded(decoder, GOOD).error is None
        numbers.append(decoder._process.pid)
    assert len(set(numbers)) == 3 and numbers[0] == numbers[1]
    for number in numbers[:-1]:
        if number != numbers[-1]:
            with pytest.raises(ProcessLookupError):
                os.kill(number, 0)


def test_no_process_is_started_before_the_first_need() -> None:
    with closing(Decoder()) as decoder:
        assert decoder._process is None


def test_a_video_has_the_frames_of_this_process(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    path = write_video(tmp_path / "a.mp4", [flat((9 * number,) * 3) for number in range(12)])
    path.write_bytes(path.read_bytes())
    span = Span(every=3)
    with open(path, "rb") as file:
        place = f"/proc/self/fd/{file.fileno()}" if sys.platform == "linux" else str(path)
        decoder = Decoder(files=[file.fileno()])
        facts = decoder.facts(place, most_frames=100)
        assert facts["error"] is None
        assert (facts["width"], facts["height"], facts["frames"]) == (64, 48, 12)
        frames = list(decoder.video(place, "a.mp4", span, max_pixels=PIXELS))
    expected = list(read([str(path)], span=span))
    assert [frame.frame for frame in frames] == [0, 3, 6, 9]
    for frame, other in zip(frames, expected, strict=True):
        assert (frame.frame, frame.time_s, frame.error) == (other.frame, other.time_s, None)
        np.testing.assert_array_equal(frame.image, other.image)
    assert decoder._process is None  # ended with the video


def test_a_video_that_is_left_ends_its_process(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    path = str(many_frames(tmp_path / "many.mov", frames=2000))
    decoder = Decoder()
    frames = decoder.video(path, "a", Span(), max_pixels=PIXELS)
    assert next(frames).error is None
    process = decoder._process
    frames.close()
    assert process is not None and process.poll() is not None


def test_a_video_whose_first_frame_takes_too_long_is_an_error_there(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    clip = write_video(tmp_path / "a.mp4", [flat((200, 0, 0))] * 3)
    with closing(Decoder(seconds=0.0001)) as decoder:
        (frame,) = decoder.video(str(clip), "a.mp4", Span(), max_pixels=10**6)
    assert (frame.frame, frame.image) == (0, None) and "decoding takes longer" in str(frame.error)


def test_what_a_video_must_not_be(tmp_path: Path, decoder: Decoder) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(300))
    facts = decoder.facts(str(tmp_path / "a.mp4"), most_frames=100)
    assert facts["error"].startswith("not a video that can be read")
    path = str(large_frames(tmp_path / "large.mov", side=9000, frames=2))
    facts = decoder.facts(path, most_frames=100)
    assert (facts["error"], facts["width"]) == (None, 9000)
    (frame,) = decoder.video(path, "a", Span(), max_pixels=PIXELS)
    assert frame.picture is None and frame.error is not None
