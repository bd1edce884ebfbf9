"""Videos and webcams -> frames with their true times, through PyAV (the extra `video`).

Only files are opened, and only by the demuxers in `CONTAINERS`: a playlist that calls itself a
video and names other files or addresses is refused.
"""

import os
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fervor.errors import InputError, UsageError, counted
from fervor.io.frame import WEBCAM, Frame, Span


if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

__all__ = [
    "ENDINGS",
    "VideoFacts",
    "check_webcam",
    "is_container",
    "need_av",
    "read_facts",
    "read_video",
    "read_webcam",
]

ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts"),
    *(".wmv", ".flv", ".ogv", ".3gp"),
)
"""What counts as a video in a folder, in any case."""

DECODERS = (
    *("h264", "hevc", "libdav1d", "av1", "libvpx", "libvpx-vp9", "vp8", "vp9", "vc1", "theora"),
    *("mpeg1video", "mpeg2video", "mpegvideo", "mpeg4", "msmpeg4v2", "msmpeg4", "h263", "flv"),
    *("wmv1", "wmv2", "wmv3", "mjpeg", "prores", "dnxhd", "dvvideo", "ffv1", "png", "rawvideo"),
)
"""Decoders of what cameras, phones, editors and video sites write; FFmpeg's others never run."""
ANY = 2**31 - 1
"""Pixels, the most that FFmpeg can be told."""
ALIGNED = 4_000_000
"""Pixels by which a decoder's image may exceed the one that is shown: whole blocks."""

CONTAINERS = ("mov", "matroska", "avi", "mpeg", "mpegts", "asf", "flv", "ogg")
STARTS = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"0&\xb2u\x8ef\xcf\x11")
"""How Matroska and WebM, FLV, Ogg, MPEG and ASF files begin; for the others see `is_container`."""

CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""How a platform's cameras are opened: FFmpeg's input format and its name for a number."""

MICROSECOND = Fraction(1, 1_000_000)
MISSING = 1.0
"""A video that ends so many seconds before its header says was cut off."""
HOLE = 100
"""Bytes of a Matroska file between two packets that are more than what tells them apart."""
REORDERED = 16
"""Packets between a frame's place in the file and its place in time, at most."""
EARLY = 500
"""Packets among which the first image that is shown is looked for."""
LATE = Fraction(3, 2)
"""Of the usual time from a frame to the next: a jump."""


def need_av(source: str) -> None:
    """Raises UsageError where PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f'{source}: videos and webcams need PyAV; pip install "fervor[video]"'
        ) from error


def is_container(start: bytes) -> bool:
    """Whether a file that begins with these (200 or more) bytes is a video by its form."""
    return (
        start.startswith(STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
        or start[4:8] in (b"ftyp", b"moov", b"mdat")
        or start[:1] == start[188:189] == b"G"  # two packets of an MPEG transport stream,
        or start[4:5] == start[196:197] == b"G"  # each with a time before it
    )


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What a video's file says before a frame is decoded.

    Attributes:
        seconds: by its header; None where it says nothing.
        width: in pixels, as shown.
        height: likewise.
        frames: counted, up to one more than was asked for.
    """

    seconds: float | None
    width: int
    height: int
    frames: int


def read_facts(source: str, *, most_frames: int) -> VideoFacts:
    """What a file says of itself; frames are counted by their packets.

    Raises:
        InputError: it is no video that can be read.
    """
    import av

    try:
        with _open_file(source, max_pixels=ANY) as container:
            stream = _video_stream(container, max_pixels=ANY)
            longest = container.duration
            packets = (one for one in container.demux(stream) if one.size and not one.is_discard)
            return VideoFacts(
                None if longest is None else float(longest * MICROSECOND),
                round(stream.width * _aspect(stream)),
                stream.height,
                sum(1 for _ in islice(packets, most_frames + 1)),
            )
    except (av.error.FFmpegError, MemoryError) as error:
        raise InputError(_reason(error, opened=False)) from error


def _open_file(source: str, *, max_pixels: int) -> "InputContainer":
    import av

    # The last two hold for what is decoded to find out what streams hold, too.
    options = {
        "format_whitelist": ",".join(CONTAINERS),
        "protocol_whitelist": "file",
        "codec_whitelist": ",".join(DECODERS),
        "max_pixels": str(min(max_pixels + ALIGNED, ANY)),
    }
    return av.open(f"file:{os.path.abspath(source)}", options=options)


def read_video(source: str, span: Span, *, max_pixels: int) -> Iterator[Frame]:
    """The frames of a file; never raises for what the file holds.

    A part that cannot be decoded becomes one frame that says so, in its place, and so does an end
    that comes too early or a file that is no video.
    """
    import av

    reader = None
    try:
        with _open_file(source, max_pixels=max_pixels) as container:
            origin = _first_shown(container, max_pixels=max_pixels)
        with _open_file(source, max_pixels=max_pixels) as container:
            reader = _Reader(source, container, span, max_pixels, origin=origin)
            yield from reader.frames()
    except (av.error.FFmpegError, InputError, MemoryError) as error:
        number = 0 if reader is None else reader.number
        yield Frame(source, number, None, None, _reason(error, opened=reader is not None))


def _first_shown(container: "InputContainer", *, max_pixels: int) -> int | None:
    """The stamp of the first image that a player shows; None where none comes early.

    It is not that of the first packet: a part that was cut out without decoding it begins
    at an earlier key frame, whose images are to be decoded and not to be shown.
    """
    import av

    stream = _video_stream(container, max_pixels=max_pixels)
    stream.thread_type = "SLICE"  # the first image comes out at once
    for packet in islice(container.demux(stream), EARLY):
        try:
            for image in packet.decode():
                return _stamp(image, container)
        except av.error.FFmpegError:
            continue
    return None


def read_webcam(source: str, span: Span, *, max_pixels: int) -> Generator[Frame]:
    """The frames of a camera, until `span` ends, it is taken away, or the caller stops."""
    import av

    kind, name = check_webcam(source)
    options = {"framerate": "30", "video_size": "640x480"}
    reader = None
    try:
        with av.open(name, format=kind, options=options) as container:
            reader = _Reader(source, container, span, max_pixels, live=True)
            yield from reader.frames()
    except (av.error.FFmpegError, InputError, ValueError) as error:
        if reader is None:  # ValueError: a build of PyAV without the platform's cameras
            raise InputError(
                f"{source} ({name}) cannot be opened: {_one_line(error)}; "
                "is another program using it, and may this one?"
            ) from error
        if not isinstance(error, av.error.FFmpegError | InputError):
            raise
        reason = f"the webcam stopped: {_one_line(error)}"
        yield Frame(source, reader.number, None, None, reason, live=True)


def check_webcam(source: str) -> tuple[str, str]:
    """FFmpeg's input format and device for "webcam:0".

    Raises:
        InputError: no such camera.
        UsageError: PyAV is not installed.
    """
    need_av(source)
    number = source.removeprefix(WEBCAM)
    if not (number.isascii() and number.isdigit()):
        raise InputError(f"{source}: expected the number of a webcam, as in {WEBCAM}0")
    if sys.platform == "win32":
        return "dshow", f"video={_windows_camera(source, int(number))}"
    kind, name = CAMERAS.get(sys.platform, CAMERAS["linux"])
    name = name.format(number)
    if kind == "v4l2" and not os.path.exists(name):
        raise InputError(
            f"{source}: this computer has no webcam {name}; connect it or name another"
        )
    return kind, name


def _windows_camera(source: str, number: int) -> str:
    from av.device import enumerate_input_devices

    try:
        devices = enumerate_input_devices("dshow")
    except ValueError as error:
        raise InputError(f"{source}: this PyAV reads no webcam: {_one_line(error)}") from error
    names = [device.name for device in devices if "video" in device.media_types]
    if number >= len(names):
        raise InputError(
            f"{source}: this computer has {counted(len(names), 'webcam')}, counted from 0"
        )
    return names[number]


class _Reader:
    """Goes through one open container; `number` is that of the next frame."""

    def __init__(
        self,
        source: str,
        container: "InputContainer",
        span: Span,
        max_pixels: int,
        *,
        live: bool = False,
        origin: int | None = None,
    ) -> None:
        self.number = 0
        self._source = source
        self._container, self._span, self._max_pixels = container, span, max_pixels
        self._live = live
        self._stream = _video_stream(container, max_pixels=max_pixels)
        self._stream.thread_type = "SLICE" if live else "AUTO"  # several frames at once come late
        base = self._stream.time_base
        assert base is not None, "an opened stream has a time base"
        self._base: Fraction = base
        # The first shown frame's stamp; what the header says is at times the sound's.
        self._origin = origin
        self._last: Fraction | None = None
        self._end = Fraction(0)
        self._damage: str | None = None
        self._before: Packet[VideoStream] | None = None
        self._reached = 0  # bytes of the file
        self._torn = 0  # packets after a torn one in which the time may jump
        self._lost: tuple[str, Fraction] | None = None
        self._key: int | None = None
        self._leading = 0

    def frames(self) -> Iterator[Frame]:
        for packet in self._packets():
            for image in self._decode(packet):
                moment = self._time(self._stamp(image))
                if not self._counted(image):
                    continue
                self._find_place(moment)
                if float(moment) >= self._span.end:
                    return
                if float(moment) >= self._span.start or self._span.start == 0:
                    yield from self._damaged()
                    if self.number % self._span.every == 0:
                        yield self._frame(self.number, moment, image)
                self._damage, self._last = None, moment
                self.number += 1
        self._find_place(None)
        if (ends := self._cut_off()) is not None:  # and what is left of the last packet is no news
            yield ends
        else:
            yield from self._damaged()

    def _packets(self) -> Iterator["Packet[VideoStream]"]:
        """Packets from the last key frame before `start` on; those before it are only counted."""
        waiting: list[Packet[VideoStream]] = []
        skipping = self._span.start > 0 and not self._live
        for packet in self._demuxed():
            if packet.size and not packet.is_discard:
                self._end = max(self._end, self._time(self._stamp(packet)) + self._length(packet))
            if not skipping:
                self._leading += self._leads(packet)
                yield packet
                continue
            shown = self._time(self._stamp(packet)) + self._reordering
            before = packet.size > 0 and float(shown) <= self._span.start
            if before and packet.is_keyframe:
                self.number += sum(not one.is_discard for one in waiting)
                self._key = self._stamp(packet) if self.number else None
                waiting.clear()
            waiting.append(packet)
            if not before:
                skipping = False
                self._leading = sum(map(self._leads, waiting))
                yield from waiting
                waiting.clear()

    def _demuxed(self) -> Iterator["Packet[VideoStream]"]:
        import av

        while self._live:
            try:
                yield from self._container.demux(self._stream)
                return
            except av.error.BlockingIOError:  # a camera that has no new image yet
                time.sleep(0.005)
        for packet in self._container.demux():
            if packet.stream.index == self._stream.index:
                own = cast("Packet[VideoStream]", packet)
                self._look_for_loss(own)
                yield own
            self._reached = max(self._reached, (packet.pos or 0) + packet.size)

    def _look_for_loss(self, packet: "Packet[VideoStream]") -> None:
        """Find what some demuxers skip without a word: time is missing, and so are bytes."""
        before = self._before
        self._before = packet if packet.size else None
        if before is None or before.dts is None or packet.dts is None:
            return
        hole = packet.pos is not None and packet.pos - self._reached > HOLE
        torn = packet.is_corrupt or (hole and "matroska" in self._container.format.name)
        self._torn = REORDERED if torn else self._torn - 1
        if self._torn > 0 and (packet.dts - before.dts) * self._base > LATE * self._usual:
            self._torn = 0
            self._lose("damaged part of the video")

    def _lose(self, reason: str) -> None:
        """Keep what was lost until its place: earlier images may still be in the decoder."""
        self._lost = self._lost or (reason, self._end)

    def _find_place(self, moment: Fraction | None) -> None:
        """What was lost is due now, before an image: at a gap, or past it; None for the end."""
        if self._lost is None:
            return
        reason, end = self._lost
        last = -self._usual if self._last is None else self._last
        if moment is None or moment > end or moment - last > LATE * self._usual:
            self._damage, self._lost = self._damage or reason, None

    @property
    def _usual(self) -> Fraction:
        """Seconds from a frame to the next."""
        return 1 / (self._stream.average_rate or self._stream.guessed_rate or Fraction(25))

    @property
    def _reordering(self) -> Fraction:
        """Seconds by which an image of AVI may be shown later than its packet says."""
        return REORDERED * self._usual if self._container.format.name == "avi" else Fraction(0)

    def _leads(self, packet: "Packet[VideoStream]") -> bool:
        """Whether it is shown before the key frame that decoding began with."""
        stamp = self._stamp(packet)
        return self._key is not None and stamp is not None and stamp < self._key

    def _counted(self, image: "VideoFrame") -> bool:
        """False for what is shown before the key frame: whether it can be decoded depends."""
        if self._key is None:
            return True
        stamp = self._stamp(image)
        if stamp is not None and stamp < self._key:
            return False
        if self._reordering and stamp is not None:  # as many as are before it in time
            self.number = round(self._time(stamp) / self._usual)
        else:
            self.number += self._leading
        self._key = None
        return True

    def _decode(self, packet: "Packet[VideoStream]") -> "list[VideoFrame]":
        import av

        try:
            return packet.decode()
        except av.error.FFmpegError as error:
            self._lose(f"damaged part of the video: {_one_line(error)}")
            return []

    def _damaged(self) -> Iterator[Frame]:
        """One frame for what could not be decoded, at the time at which the next was due."""
        if self._damage is not None:
            due = float(self._time(None))
            yield Frame(self._source, self.number, due, None, self._damage, live=self._live)
            self._damage = None
            self.number += 1

    def _cut_off(self) -> Frame | None:
        stated = _stated_length(self._container, self._stream)
        if self._live or stated is None or self._last is None:
            return None
        late = max(0, (self._origin or 0)) * self._base  # some headers count from before the start
        if float(stated - self._end - late) <= MISSING:
            return None
        ends = f"it ends at {float(self._end):.2f} s of {float(stated):.2f} s"
        return Frame(self._source, self.number, None, None, f"the video is cut off: {ends}")

    def _time(self, stamp: int | None) -> Fraction:
        """Seconds from the start; where there is no stamp, one frame after the last."""
        if stamp is None:
            return Fraction(0) if self._last is None else self._last + self._usual
        if self._origin is None:
            self._origin = stamp
        return (stamp - self._origin) * self._base

    def _stamp(self, part: "Packet[VideoStream] | VideoFrame") -> int | None:
        return _stamp(part, self._container)

    def _length(self, packet: "Packet[VideoStream]") -> Fraction:
        return (packet.duration or 0) * self._base

    def _frame(self, number: int, moment: Fraction, image: "VideoFrame") -> Frame:
        try:
            width = _check_size(
                self._stream, image.width, image.height, max_pixels=self._max_pixels
            )
        except InputError as error:
            return Frame(self._source, number, float(moment), None, str(error), live=self._live)
        pixels: NDArray[Any] = image.to_ndarray(format="rgb24", width=width)
        turns = round(image.rotation / 90) % 4  # counter-clockwise
        upright = np.ascontiguousarray(np.rot90(pixels, turns))
        return Frame(self._source, number, float(moment), upright, None, live=self._live)


def _aspect(stream: "VideoStream") -> Fraction:
    """Width of a pixel by its height; 1 where the file says nothing or nonsense."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return aspect if Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _check_size(stream: "VideoStream", width: int, height: int, *, max_pixels: int) -> int:
    """The width that is shown; InputError where an image has too many pixels."""
    width = round(width * _aspect(stream))
    if width * height > max_pixels:
        raise InputError(f"{width} x {height} pixels: expected at most {max_pixels:,}")
    return width


def _video_stream(container: "InputContainer", *, max_pixels: int) -> "VideoStream":
    """The stream that is shown, bound to images of so many pixels before one is decoded."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a song
            _check_decoder(stream)
            _check_size(stream, stream.width, stream.height, max_pixels=max_pixels)
            most = str(min(max_pixels + ALIGNED, ANY))
            stream.codec_context.options = {"max_pixels": most}
            return stream
    raise InputError("holds no video, only sound or data")


def _check_decoder(stream: "VideoStream") -> None:
    """Raises InputError where none of DECODERS reads the stream."""
    context = stream.codec_context
    if context is None or context.codec.name not in DECODERS:
        name = "an unknown form" if context is None else context.codec.name
        raise InputError(f"a video in {name}: expected H.264, HEVC, AV1, VP9 or another usual one")


def _stated_length(container: "InputContainer", stream: "VideoStream") -> Fraction | None:
    """Seconds of video that the header promises; None where they may be those of the sound."""
    if len(container.streams) > 1 and "mov" not in container.format.name:
        return None
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return container.duration * MICROSECOND if container.duration else None


def _stamp(part: "Packet[VideoStream] | VideoFrame", container: "InputContainer") -> int | None:
    """When a packet or image is shown, in the stream's unit; None where nothing says it.

    AVI knows the order of decoding alone, and what FFmpeg makes of it mixes up images that are
    coded by later ones; these come out of the decoder in their order, and so do those stamps.
    """
    if part.pts is None or container.format.name == "avi":
        return part.dts
    return part.pts


def _reason(error: Exception, *, opened: bool) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError):
        return "cannot be decoded in the memory there is"
    if opened:
        return f"damaged or cut-off video: {_one_line(error)}"
    return f"not a video that can be read: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    """FFmpeg's own words, without the name of its function or the file."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())
