"""An uploaded video -> JSON Lines while it is read.

Where the system has files in memory the video never lies on a disk; it is gone with the answer.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, MutableMapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from threading import Lock
from typing import Any, BinaryIO

from fastapi.responses import StreamingResponse

from fervor.errors import counted
from fervor.inference.prediction import Prediction, row_of, without_face
from fervor.inference.predictor import Predictor
from fervor.io.frame import Span
from fervor.io.sources import is_video
from fervor.server.decoding import Decoder
from fervor.server.limits import Limits, Refused
from fervor.server.metrics import Metrics
from fervor.server.uploads import Upload


__all__ = ["VideoResponse", "check", "decoder", "lines", "memory"]

CHUNK = 8
"""Frames whose rows are sent together."""
MEDIA_TYPE = "application/jsonl"


def memory() -> BinaryIO:
    """A file that has a path for the decoder: in memory on Linux, elsewhere temporary."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("fervor-video"), "w+b")
    return tempfile.NamedTemporaryFile("w+b")  # type: ignore[return-value]  # as good as one


def _path(file: BinaryIO) -> str:
    file.flush()
    number = f"/proc/self/fd/{file.fileno()}"
    return number if os.path.exists(number) else file.name


def decoder(upload: Upload) -> Decoder:
    """What decodes one video, in a process that is started at the first question."""
    return Decoder(files=[upload.file.fileno()])


def check(upload: Upload, decoder: Decoder, limits: Limits) -> None:
    """Refuse what is no video, and one that is too long or too large by what it says itself.

    Raises:
        Refused: so it is, or this server reads no videos.
    """
    if find_spec("av") is None:
        raise Refused(501, "no_videos", "this server reads no videos")
    path = _path(upload.file)
    if not is_video(path):
        raise Refused(415, "no_video", f"{upload.name}: not a video in a known format")
    facts = decoder.facts(path, most_frames=limits.video_frames)
    if facts["error"] is not None:
        raise Refused(415, "no_video", f"{upload.name}: {facts['error']}")
    seconds, width, height = facts["seconds"], facts["width"], facts["height"]
    if seconds is not None and seconds > limits.video_seconds:
        stated = counted(round(seconds), "second")
        raise Refused(413, "video_too_long", f"{upload.name}: {_too_long(stated, limits)}")
    if facts["frames"] > limits.video_frames:
        reason = (
            f"{upload.name}: a video of more than {counted(limits.video_frames, 'frame')} (those "
            f"that `every` passes over count); {_shorter('frames')}"
        )
        raise Refused(413, "too_many_frames", reason)
    if width * height > limits.pixels:
        most = f"expected at most {limits.pixels:,}"
        raise Refused(413, "too_many_pixels", f"{upload.name}: {width} x {height} pixels, {most}")


def _too_long(what: str, limits: Limits) -> str:
    most = counted(limits.video_seconds, "second")
    return f"a video of {what}: expected at most {most}; {_shorter('seconds')}"


def _shorter(what: str) -> str:
    return f"send a shorter part, or see fervor serve --max_video_{what}"


def lines(
    upload: Upload,
    decoder: Decoder,
    predictor: Predictor,
    limits: Limits,
    metrics: Metrics,
    *,
    every: int,
    covered: bool,
) -> Generator[bytes]:
    """The rows of each frame, as in `fervor predict --output rows.jsonl`.

    A video that is longer than it says ends with a row that says so.
    """
    path, line = _path(upload.file), partial(_line, upload, predictor.labels, covered)
    frames = decoder.video(path, path, Span(every), max_pixels=limits.pixels)
    with closing(frames):
        for frame, answer in predictor.with_frames(frames):
            metrics.frame()
            if frame.time_s is not None and frame.time_s > limits.video_seconds:
                ended = replace(frame, picture=None, error=_too_long("more", limits))
                yield line(without_face(ended, predictor.name))
                return
            yield b"".join(map(line, answer))


def _line(upload: Upload, labels: Sequence[str], covered: bool, prediction: Prediction) -> bytes:
    row = row_of(replace(prediction, source=upload.name), labels, covered=covered)
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


class VideoResponse(StreamingResponse):
    """Streams what a generator makes in threads, and calls `done` however that ends."""

    def __init__(self, made: Generator[bytes], done: Callable[[], None]) -> None:
        super().__init__(self._chunks(), media_type=MEDIA_TYPE)
        self._made, self._done, self._turn = made, done, Lock()
        self._closed = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Not awaited, because a client that left cancels this; the step under way ends first.
            asyncio.get_running_loop().run_in_executor(None, self._close)

    async def _chunks(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while chunk := await loop.run_in_executor(None, self._step):
            yield chunk

    def _step(self) -> bytes:
        with self._turn:
            return b"" if self._closed else b"".join(islice(self._made, CHUNK))

    def _close(self) -> None:
        with self._turn:
            self._closed = True
            self._made.close()
            self._done()
