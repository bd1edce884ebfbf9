"""Display times over a matrix of containers, codecs and cuts: each picture says which one it is."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fervor.io import video
from fervor.io.frame import Frame, Span
from fervor.io.sources import MAX_PIXELS
from tests.support.videos import write_video


av = pytest.importorskip("av", reason="needs fervor[video]")

COUNT, STEP = 150, 40
"""Pictures of a clip, and milliseconds between them."""
BITS = 8
SIDE = 16
B_FRAMES = {"bf": "3", "g": "48", "x264-params": "b-adapt=0"}
OPEN = {"bf": "3", "g": "48", "x264-params": "open-gop=1:b-adapt=0:keyint=48:min-keyint=48"}


def numbered(number: int) -> NDArray[np.uint8]:
    """A picture [16 128 3] that holds its number in black and white squares."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, SIDE)
    return np.broadcast_to(row[None, :, None], (SIDE, SIDE * BITS, 3)).copy()


def number_of(frame: Frame) -> int:
    assert frame.image is not None, frame.error
    squares = frame.image[4:12].reshape(8, BITS, SIDE, 3)[:, :, 4:12].mean(axis=(0, 2, 3))
    return sum(int(value > 127) << bit for bit, value in enumerate(squares))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is cut: closed and open groups of pictures with B-frames, and none."""
    folder = tmp_path_factory.mktemp("clips")
    kinds = {"closed": ("libx264", B_FRAMES), "open": ("libx264", OPEN), "plain": ("mpeg4", {})}
    return {
        kind: write_video(
            folder / f"{kind}.mp4",
            map(numbered, range(COUNT)),
            codec=codec,
            times=[STEP * number for number in range(COUNT)],
            options=options,
        )
        for kind, (codec, options) in kinds.items()
    }


def cut(source: Path, target: Path, start: float, **options: str) -> Path:
    """A part without decoding it, as `ffmpeg -ss START -i SOURCE -c copy TARGET` makes it.

    It begins at the key frame before; containers with edit lists are told what to show.
    """
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as made:
        stream = given.streams.video[0]
        base = stream.time_base
        given.seek(int(start / base), stream=stream)
        copy = made.add_stream_from_template(stream)
        shift = int(start / base)
        for packet in given.demux(stream):
            if packet.dts is None:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copy
            made.mux(packet)
    return target


def read(path: Path, **span: Any) -> list[Frame]:
    frames = list(video.read_video(str(path), Span(**span), max_pixels=MAX_PIXELS))
    return [frame for frame in frames if frame.error is None]


def check(frames: list[Frame], *, step: float = STEP / 1000) -> None:
    """Each is shown as long after the first as it was in the clip; frames in their order."""
    numbers = [number_of(frame) for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + len(frames)))
    times = [frame.time_s for frame in frames]
    assert times == pytest.approx([step * number for number in range(len(frames))], abs=0.0015)
    assert [frame.frame for frame in frames] == list(range(len(frames)))


@pytest.mark.parametrize("kind", ["closed", "open", "plain"])
@pytest.mark.parametrize("start", [0.0, 1.0, 2.5, 3.3, 4.1])
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts"])
def test_a_part_cut_out_starts_with_its_first_picture(
    clips: Mapping[str, Path], tmp_path: Path, kind: str, start: float, ending: str
) -> None:
    if ending == "ts" and kind != "closed":
        pytest.skip("a copy into a transport stream lacks the headers to decode these")
    path = cut(clips[kind], tmp_path / f"cut.{ending}", start)
    frames = read(path)
    assert len(frames) >= COUNT - 1 - start * 1000 / STEP
    check(frames)
    if ending in ("mp4", "mov"):  # they hold what is shown; the others begin at the key frame
        assert number_of(frames[0]) == pytest.approx(start * 1000 / STEP, abs=1)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_span_of_a_part_has_the_times_of_the_whole(
    clips: Mapping[str, Path], tmp_path: Path, ending: str
) -> None:
    path = cut(clips["closed"], tmp_path / f"cut.{ending}", 1.3)
    whole = [(frame.frame, frame.time_s, number_of(frame)) for frame in read(path)]
    for start, end in ((0.5, 1.0), (2.0, 2.5)):
        part = [(one.frame, one.time_s, number_of(one)) for one in read(path, start=start, end=end)]
        assert part == [one for one in whole if start <= (one[1] or 0) < end] != []


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("h264.avi", "libx264", B_FRAMES),
        ("asp.avi", "mpeg4", {"bf": "2"}),
        ("asp.mp4", "mpeg4", {"bf": "2"}),
        ("mpeg2.ts", "mpeg2video", {"bf": "2"}),
        ("mpeg1.mpg", "mpeg1video", {"bf": "2"}),
    ],
)
def test_pictures_that_are_coded_by_later_ones(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    """AVI and old codecs say in which order pictures are decoded, not when each is shown."""
    times = [STEP * number for number in range(60)]
    pictures = map(numbered, range(60))
    path = write_video(
        tmp_path / name, pictures, codec=codec, times=times, options=options, base=25
    )
    frames = read(path)
    assert len(frames) == 60
    check(frames)
    whole = [(one.frame, one.time_s, number_of(one)) for one in frames]
    for start in (0.7, 1.45, 1.5, 2.2):
        later = [(one.frame, one.time_s, number_of(one)) for one in read(path, start=start)]
        assert later == [one for one in whole if (one[1] or 0) >= start]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_pictures_at_any_times_after_a_cut(tmp_path: Path, ending: str) -> None:
    steps = np.random.default_rng(3).integers(10, 200, COUNT)
    times = [0, *np.cumsum(steps)[:-1].tolist()]
    clip = write_video(
        tmp_path / "clip.mp4", map(numbered, range(COUNT)), times=times, options=B_FRAMES
    )
    frames = read(cut(clip, tmp_path / f"cut.{ending}", 4.0))
    first = times[number_of(frames[0])]
    for frame in frames:
        due = (times[number_of(frame)] - first) / 1000
        assert frame.time_s == pytest.approx(due, abs=0.002)


@pytest.mark.parametrize("offset", [-0.5, 0.0, 700.0])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_start_before_or_long_after_zero(
    clips: Mapping[str, Path], tmp_path: Path, offset: float, ending: str
) -> None:
    path = tmp_path / f"late.{ending}"
    with av.open(str(clips["closed"])) as given, av.open(str(path), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        shift = int(Fraction(offset) / stream.time_base)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = copy
                made.mux(packet)
    check(read(path))


def test_webm_and_a_turned_part(tmp_path: Path) -> None:
    webm = write_video(
        tmp_path / "clip.webm", map(numbered, range(60)), codec="libvpx-vp9", options={"g": "20"}
    )
    check(read(cut(webm, tmp_path / "cut.webm", 1.1)))
    turned = write_video(
        tmp_path / "turned.mov", map(numbered, range(60)), rotation=180, options=B_FRAMES
    )
    frames = read(cut(turned, tmp_path / "cut.mov", 0.9))
    assert frames[0].time_s == 0
    assert [frame.time_s for frame in frames] == pytest.approx(
        [STEP / 1000 * number for number in range(len(frames))], abs=0.0015
    )
