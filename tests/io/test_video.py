"""Videos give every frame with its number and its true time, whatever the file does."""

import itertools
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fervor.errors import InputError, UsageError
from fervor.io import prefetch, sources, video
from fervor.io.frame import Frame, Span
from fervor.io.sources import MAX_PIXELS, find, is_video, open_inputs
from tests.support.videos import STEP, flat, write_video


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from hostile import large_frames, many_frames


av = pytest.importorskip("av", reason="needs fervor[video]")

COUNT = 40
GREYS = [flat((6 * number,) * 3) for number in range(COUNT)]
KINDS = {
    "clip.mp4": "libx264",
    "clip.mov": "mpeg4",
    "clip.mkv": "libx264",
    "clip.webm": "libvpx-vp9",
    "clip.avi": "mpeg4",
    "clip.mts": "libx264",
}


def frames(path: Path, **span: Any) -> list[Frame]:
    return list(video.read_video(str(path), Span(**span), max_pixels=MAX_PIXELS))


def grey(frame: Frame) -> float:
    assert frame.image is not None, frame.error
    return float(frame.image.mean())


@pytest.mark.parametrize(("name", "codec"), KINDS.items())
def test_every_frame_of_every_kind(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, GREYS, codec=codec)
    read = frames(path)
    assert [frame.error for frame in read] == [None] * COUNT
    assert [frame.frame for frame in read] == list(range(COUNT))
    assert [frame.time_s for frame in read] == pytest.approx(
        [STEP * number / 1000 for number in range(COUNT)], abs=0.0005
    )
    assert {frame.source for frame in read} == {str(path)}
    assert [grey(frame) for frame in read] == pytest.approx(
        [6 * number for number in range(COUNT)], abs=6
    )


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov"])
def test_times_of_a_variable_frame_rate(tmp_path: Path, name: str) -> None:
    steps = np.random.default_rng(0).integers(1, 400, COUNT)
    times = [0, *np.cumsum(steps)[:-1].tolist()]
    read = frames(write_video(tmp_path / name, GREYS, times=times))
    assert [frame.time_s for frame in read] == pytest.approx(
        [time / 1000 for time in times], abs=0.0005
    )


def test_time_starts_with_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", GREYS[:5], times=[5000, 5040, 5080, 5120, 5160])
    assert [frame.time_s for frame in frames(path)] == [0, 0.04, 0.08, 0.12, 0.16]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270, -90])
def test_rotation_of_the_metadata_is_applied(tmp_path: Path, rotation: int) -> None:
    """The upright picture is red at the top, whichever way it was stored."""
    upright = flat((40, 40, 40), size=(64, 96))
    upright[:24] = (220, 20, 20)
    stored = np.rot90(upright, -rotation // 90)
    (frame,) = frames(write_video(tmp_path / "clip.mp4", [stored], rotation=rotation))
    assert frame.image is not None
    assert frame.image.shape == upright.shape
    assert frame.image.flags.c_contiguous
    top, bottom = frame.image[:20, 8:-8].mean((0, 1)), frame.image[-20:, 8:-8].mean((0, 1))
    assert top[0] > 150 > 80 > bottom[0]


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", GREYS[:2], options={"x264-params": "sar=3/2"})
    assert [frame.image.shape for frame in frames(path) if frame.image is not None] == [
        (48, 96, 3)
    ] * 2


@pytest.mark.parametrize("colour", [(200, 30, 30), (30, 200, 30), (30, 30, 200)])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_colours_come_back(tmp_path: Path, colour: tuple[int, int, int], matrix: str) -> None:
    """Both matrices in use, where the file says which one it is."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        number = {"bt709": 1, "smpte170m": 6}[matrix]
        stream.codec_context.colorspace = number
        target = {"bt709": "ITU709", "smpte170m": "ITU601"}[matrix]
        frame = av.VideoFrame.from_ndarray(flat(colour), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=target)
        frame.colorspace, frame.pts = number, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    (read,) = frames(path)
    assert read.image is not None
    np.testing.assert_allclose(read.image.mean((0, 1)), colour, atol=6)


GROUPS = {
    "closed": "keyint=12:bframes=3:scenecut=0",
    "open": "keyint=12:open-gop=1:bframes=3:b-adapt=0:scenecut=0",
}


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mts"])
@pytest.mark.parametrize(
    "span",
    [
        {"every": 7},
        {"start": 0.1},
        {"start": 0.48},
        {"start": 0.5, "every": 3},
        {"start": 0.97, "end": 1.2},
        {"end": 0.4},
        {"start": 9.0},
    ],
)
def test_a_span_is_that_part_of_the_whole(
    tmp_path: Path, name: str, groups: str, span: dict[str, Any]
) -> None:
    """Numbers, times and pixels are those of the whole video, though decoding begins later."""
    path = write_video(tmp_path / name, GREYS, options={"x264-params": GROUPS[groups]})
    chosen = Span(**span)
    expected = [
        frame
        for frame in frames(path)
        if frame.time_s is not None
        and chosen.start <= frame.time_s < chosen.end
        and frame.frame % chosen.every == 0
    ]
    read = frames(path, **span)
    assert [(one.frame, one.time_s) for one in read] == [(f.frame, f.time_s) for f in expected]
    for one, other in zip(read, expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_a_start_decodes_no_more_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "clip.mp4", GREYS, options={"x264-params": GROUPS["closed"]})
    decoded: list[int] = []
    plain = video._Reader._decode

    def counted(self: Any, packet: Any) -> Any:
        decoded.append(packet.size)
        return plain(self, packet)

    monkeypatch.setattr(video._Reader, "_decode", counted)
    assert len(frames(path, start=1.0)) == 15
    assert len(decoded) <= 17  # from the key frame 24 on, and the flush


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm"])
def test_a_video_that_is_cut_off_gives_its_rows_and_an_error(tmp_path: Path, name: str) -> None:
    index_first = {"movflags": "faststart"} if name.endswith(("mp4", "mov")) else {}
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 48, 64, 3), dtype=np.uint8)
    times = [100 * number for number in range(COUNT)]
    path = write_video(
        tmp_path / name, noise, codec=KINDS[name], times=times, container=index_first
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    *read, last = frames(path)
    assert 5 < len(read) < COUNT - 5
    assert all(frame.error is None for frame in read)
    assert [frame.frame for frame in [*read, last]] == list(range(len(read) + 1))
    assert last.image is None
    assert last.error
    assert "cut off" in last.error
    assert "s of 3.9" in last.error


def test_a_damaged_part_is_one_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", GREYS, codec="mpeg4", options={"g": "4", "bf": "0"})
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        broken = bytes(packets[10]), bytes(packets[11])
    data = path.read_bytes()
    for packet in broken:
        assert data.count(packet) == 1
        data = data.replace(packet, bytes(len(packet)))
    path.write_bytes(data)
    read = frames(path)
    assert read[-1].time_s == pytest.approx(1.56)
    bad = [frame for frame in read if frame.error]
    assert len(bad) == 1
    assert bad[0].error and "damaged part" in bad[0].error
    assert bad[0].time_s == pytest.approx(0.4)
    times = [frame.time_s for frame in read if frame.time_s is not None]
    assert all(before < after for before, after in pairwise(times))
    assert [frame.frame for frame in read] == list(range(len(read)))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("text.mp4", b"no video at all, only words\n" * 20, "not a video that can be read"),
        ("noise.mkv", b"\x1aE\xdf\xa3" + bytes(range(256)) * 8, "not a video that can be read"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "not a video"),
        ("list.mkv", b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    (frame,) = frames(path)
    assert (frame.frame, frame.time_s, frame.image) == (0, None, None)
    assert frame.error
    assert reason in frame.error
    assert "\n" not in frame.error
    assert str(tmp_path) not in frame.error


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "song.mp4", [], sound=True)
    (frame,) = frames(path)
    assert frame.error == "holds no video, only sound or data"


def test_longer_sound_is_no_cut_off_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", GREYS[:3], sound=True)
    assert [frame.error for frame in frames(path)] == [None] * 3


def test_too_many_pixels(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", GREYS[:2])
    read = list(video.read_video(str(path), Span(), max_pixels=48 * 64 - 1))
    assert [frame.error for frame in read] == ["64 x 48 pixels: expected at most 3,071"]


@pytest.mark.parametrize("name", ["download", "clip.bin"])
@pytest.mark.parametrize("kind", [".mp4", ".mkv", ".avi", ".mts"])
def test_a_name_without_a_known_ending_is_read_by_its_content(
    tmp_path: Path, name: str, kind: str
) -> None:
    made = write_video(tmp_path / f"clip{kind}", GREYS, codec=KINDS[f"clip{kind}"])
    path = made.rename(tmp_path / name)
    assert is_video(str(path))
    assert len(list(open_inputs([path]))) == COUNT


def test_without_av_a_named_video_is_wrong_use_and_a_found_one_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "clip.mp4", GREYS[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r'pip install "fervor\[video\]"'):
        find([path])
    (frame,) = open_inputs([tmp_path])
    assert frame.error
    assert "fervor[video]" in frame.error
    with pytest.raises(UsageError, match=r"fervor\[video\]"):
        find(["webcam:0"])


class TestWebcam:
    """A file stands in for the camera."""

    @pytest.fixture
    def camera(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        path = write_video(tmp_path / "camera.mkv", GREYS, times=[9000 + 33 * k for k in range(40)])
        opened: list[tuple[Any, ...]] = []
        plain = av.open

        def fake(name: str, **options: Any) -> Any:
            opened.append((name, options.get("format")))
            return plain(str(path))

        monkeypatch.setattr(av, "open", fake)
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(video.os.path, "exists", lambda name: name == "/dev/video0")
        return opened

    def test_frames_with_times_from_the_first_one(self, camera: list[tuple[Any, ...]]) -> None:
        read = list(video.read_webcam("webcam:0", Span(), max_pixels=MAX_PIXELS))
        assert camera == [("/dev/video0", "v4l2")]
        assert [frame.frame for frame in read] == list(range(COUNT))
        assert [frame.time_s for frame in read] == pytest.approx(
            [0.033 * number for number in range(COUNT)], abs=0.0005
        )
        assert {frame.source for frame in read} == {"webcam:0"}
        assert all(frame.live and frame.moving for frame in read)

    def test_an_end_stops_it(self, camera: list[tuple[Any, ...]]) -> None:
        span = Span(every=2, end=0.3)
        read = list(video.read_webcam("webcam:0", span, max_pixels=MAX_PIXELS))
        assert [frame.frame for frame in read] == [0, 2, 4, 6, 8]

    def test_waits_for_a_camera_that_has_nothing_new(
        self, camera: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[float] = []

        class Slow:
            def __init__(self, container: Any) -> None:
                self.container, self.turn = container, 0

            def __getattr__(self, name: str) -> Any:
                return getattr(self.container, name)

            def demux(self, stream: Any) -> Any:
                self.turn += 1
                if self.turn <= 2:
                    raise av.error.BlockingIOError(11, "Resource temporarily unavailable")
                return self.container.demux(stream)

        monkeypatch.setattr(video.time, "sleep", waited.append)
        with av.open("webcam:0") as container:
            reader = video._Reader("webcam:0", Slow(container), Span(), MAX_PIXELS, live=True)
            read = list(reader.frames())
        assert len(read) == COUNT
        assert len(waited) == 2

    def test_no_such_camera(self, camera: list[tuple[Any, ...]]) -> None:
        with pytest.raises(InputError, match=r"webcam:3: this computer has no webcam /dev/video3"):
            open_inputs(["webcam:3"])
        with pytest.raises(InputError, match="expected the number of a webcam"):
            open_inputs(["webcam:front"])

    def test_a_camera_that_cannot_be_opened(
        self, camera: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(*_: Any, **__: Any) -> Any:
            raise av.error.OSError(16, "Device or resource busy")

        monkeypatch.setattr(av, "open", busy)
        with pytest.raises(InputError, match=r"cannot be opened: Device or resource busy; is"):
            list(open_inputs(["webcam:0"]))

    def test_a_camera_that_this_build_cannot_read(
        self, camera: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import av.device

        def without(name: str, *_: Any, **__: Any) -> Any:
            raise ValueError("no container format 'v4l2'")

        monkeypatch.setattr(av, "open", without)
        with pytest.raises(InputError, match=r"cannot be opened: no container format 'v4l2'; is"):
            list(open_inputs(["webcam:0"]))
        monkeypatch.setattr(av.device, "enumerate_input_devices", without)
        monkeypatch.setattr(sys, "platform", "win32")
        with pytest.raises(InputError, match="webcam:0: this PyAV reads no webcam: no container"):
            video.check_webcam("webcam:0")

    @pytest.mark.parametrize("given", [0, 3])
    def test_a_camera_that_falls_silent_has_stopped(
        self, camera: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, given: int
    ) -> None:
        gone = threading.Event()
        plain = video.read_webcam

        def silent(*arguments: Any, **options: Any) -> Generator[Frame]:
            yield from itertools.islice(plain(*arguments, **options), given)
            gone.wait()

        monkeypatch.setattr(sources, "read_webcam", silent)
        monkeypatch.setattr(sources, "SILENCE", 0.3)
        monkeypatch.setattr(prefetch, "PATIENCE", 0.1)
        with closing(open_inputs(["webcam:0"])) as frames:
            read = list(frames)
        gone.set()
        assert read[-1].error == "the webcam stopped: it gave no image for 0.3 seconds"
        assert read[-1].live and read[-1].frame == given
        assert all(frame.error is None for frame in read[:-1])

    @pytest.mark.parametrize(
        ("platform", "device"),
        [("linux", ("v4l2", "/dev/video0")), ("darwin", ("avfoundation", "0"))],
    )
    def test_devices_of_platforms(
        self,
        camera: list[tuple[Any, ...]],
        monkeypatch: pytest.MonkeyPatch,
        platform: str,
        device: tuple[str, str],
    ) -> None:
        monkeypatch.setattr(sys, "platform", platform)
        assert video.check_webcam("webcam:0") == device

    def test_cameras_of_windows_have_names(
        self, camera: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from types import SimpleNamespace

        import av.device

        devices = [
            SimpleNamespace(name="Microphone", media_types=["audio"]),
            SimpleNamespace(name="Front", media_types=["video"]),
        ]
        monkeypatch.setattr(av.device, "enumerate_input_devices", lambda _: devices)
        monkeypatch.setattr(sys, "platform", "win32")
        assert video.check_webcam("webcam:0") == ("dshow", "video=Front")
        with pytest.raises(InputError, match="has 1 webcam, counted from 0"):
            video.check_webcam("webcam:1")


def test_large_frames_are_refused_before_one_is_decoded(tmp_path: Path) -> None:
    start = time.process_time()
    (frame,) = video.read_video(
        str(large_frames(tmp_path / "large.mov", frames=2)), Span(), max_pixels=10**8
    )
    assert frame.error and time.process_time() - start < 5  # most of it to make the file


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_picture_that_grows_is_refused_by_the_decoder(tmp_path: Path, codec: str) -> None:
    """The header says one size, the pictures have another."""
    small = write_video(tmp_path / "small.mp4", GREYS[:1], codec=codec)
    grey = [np.full((768, 1024, 3), 128, np.uint8)]
    large = write_video(tmp_path / "large.mp4", grey, codec=codec)
    facts = video.read_facts(str(large), most_frames=10)
    assert (facts.width, facts.height, facts.frames) == (1024, 768, 1)
    assert video.read_facts(str(small), most_frames=10).width == 64
    (frame,) = video.read_video(str(large), Span(), max_pixels=1024 * 768 - 1)
    assert frame.error == "1024 x 768 pixels: expected at most 786,431"


def test_flat_pixels_count_as_they_are_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "flat.mkv", GREYS[:1], aspect=Fraction(8))
    assert video.read_facts(str(path), most_frames=10).width == 8 * 64
    (frame,) = video.read_video(str(path), Span(), max_pixels=4 * 64 * 48)
    assert frame.error == "512 x 48 pixels: expected at most 12,288"


def test_frames_are_counted_up_to_a_bound(tmp_path: Path) -> None:
    path = str(many_frames(tmp_path / "many.mov", frames=300))
    assert video.read_facts(path, most_frames=1000).frames == 300
    assert video.read_facts(path, most_frames=100).frames == 101


def test_a_decoder_that_is_not_listed_never_runs(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mov", GREYS[:2], codec="qtrle", pixels="rgb24")
    (frame,) = video.read_video(str(path), Span(), max_pixels=10**6)
    assert frame.error == ("a video in qtrle: expected H.264, HEVC, AV1, VP9 or another usual one")
    with pytest.raises(InputError, match="a video in qtrle"):
        video.read_facts(str(path), most_frames=10)
