"""Decode what clients send in processes of their own, which may be killed.

A decoder runs in C, and nothing but the end of its process stops it: `Decoder` starts one at the
first need, and another one where it was ended for its time, its memory or a client that has left.
The server's own process sees headers and pixels alone.
"""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import BytesIO
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.errors import InputError, counted
from fervor.io.frame import Frame, Span
from fervor.io.sources import decode_image, is_animated
from fervor.io.video import read_facts, read_video


__all__ = ["Decoder"]

ANIMATION = "an animation: expected a still picture; fervor predict reads animations"
"""Why an image that moves is not answered: its first frame alone would pass for all of it."""
SECONDS = 4.0
"""Of processor time for one picture, or from one frame of a video to the next."""
PATIENCE = 5.0
"""Times as many seconds may pass on a machine that has other work."""
MEMORY = 700_000_000
"""Bytes that a process may hold: 64 megapixels are 256 MB, and a JPEG's scans 384 MB more."""
PICTURES = 1_000
"""After so many a process is replaced: what a decoder loses of its memory ends with it."""
TIMERS: dict[int, int] = {}
"""What measures processor time, and time, and the signal with which it ends a process."""
if sys.platform != "win32":
    TIMERS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
STRIPE = 4_000_000
"""Bytes of pixels that are handed over at a time."""

Header = dict[str, Any]


class Decoder:
    """One process, with one task at a time; for one thread, but for `stop`.

    Args:
        seconds: of processor time for one picture, or from one frame of a video to the next.
        memory: bytes that the process may hold, where the system can hold it to that.
        files: descriptors that it may read.
    """

    def __init__(
        self, *, seconds: float = SECONDS, memory: int = MEMORY, files: Sequence[int] = ()
    ) -> None:
        self._seconds, self._memory, self._files = seconds, memory, files
        self._process: subprocess.Popen[bytes] | None = None
        self._pictures = 0
        self._lock = Lock()

    def picture(self, content: bytes, source: str, *, max_pixels: int) -> Frame:
        """One picture, turned upright; never raises for what it holds."""
        if self._pictures == PICTURES:
            self.close()
        self._pictures += 1
        try:
            task = {"task": "picture", "name": source, "max_pixels": max_pixels}
            output = self._ask(task, content)
            header = _header(output)
            image = _image(output, header)
        except (EOFError, OSError):
            return Frame(source, 0, None, None, self._reason())
        return Frame(source, 0, None, image, header["error"])

    def facts(self, path: str, *, most_frames: int) -> Header:
        """What a video's file says of itself: the fields of VideoFacts, or `error`."""
        try:
            return _header(self._ask({"task": "facts", "path": path, "most": most_frames}))
        except (EOFError, OSError):
            return {"error": self._reason()}

    def video(self, path: str, source: str, span: Span, *, max_pixels: int) -> Generator[Frame]:
        """The frames of a video; never raises for what it holds. Closing it ends the process."""
        task = {"task": "video", "path": path, "max_pixels": max_pixels, "every": span.every}
        number, time_s = -1, 0.0
        try:
            output = self._ask(task)
            while not (header := _header(output)).get("done"):
                number, time_s = header["frame"], header["time_s"]
                pixels = _pixels(output, header)
                yield Frame(source, number, time_s, pixels, header["error"])
        except (EOFError, OSError):
            yield Frame(source, number + 1, time_s, None, self._reason())
        finally:
            self.close()

    def stop(self) -> None:
        """End the task under way, from any thread; what waits for its answer gets an error."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        """End the process; a further task starts another one."""
        self.stop()
        with self._lock:
            self._forget()

    def _ask(self, task: Header, content: bytes = b"") -> BinaryIO:
        """Give a task to the process; what it answers."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._forget()  # stopped after its last answer
            if self._process is None:
                self._process = self._start()
            process = self._process
        assert process.stdin is not None and process.stdout is not None, "asked for"
        _send(process.stdin, task | {"bytes": len(content)}, [content])
        return process.stdout  # type: ignore[return-value]  # bytes go through it

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__, str(self._seconds), str(self._memory)]
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries write there what strangers' files say
            pass_fds=self._files,
            env={**os.environ, **single},
        )

    def _forget(self) -> None:
        process, self._process = self._process, None
        self._pictures = 0
        if process is not None:
            assert process.stdin is not None and process.stdout is not None, "asked for"
            with suppress(OSError):  # what was never sent
                process.stdin.close()
            process.stdout.close()

    def _reason(self) -> str:
        """Why the process has ended."""
        with self._lock:
            process = self._process
        code = process.wait() if process is not None else 0
        self.close()
        if -code in TIMERS.values():
            return f"decoding takes longer than {counted(self._seconds, 'second')}"
        return "its decoder ended before it was done"


def _send(file: BinaryIO | Any, header: Header, parts: Sequence[bytes] | Iterator[bytes]) -> None:
    text = json.dumps(header).encode()
    file.write(struct.pack("<I", len(text)) + text)
    for part in parts:
        file.write(part)
    file.flush()


def _header(file: BinaryIO) -> Header:
    """What `_send` has sent, up to its parts; EOFError at the end."""
    (size,) = struct.unpack("<I", _exactly(file, 4))
    header: Header = json.loads(_exactly(file, size))
    return header


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _image(file: BinaryIO, header: Header) -> Image.Image | None:
    width, height = header["width"], header["height"]
    if not width:
        return None
    image = Image.new("RGB", (width, height))
    rows = _rows(width)
    for top in range(0, height, rows):
        stripe = (width, min(rows, height - top))
        content = _exactly(file, 3 * stripe[0] * stripe[1])
        image.paste(Image.frombuffer("RGB", stripe, content, "raw", "RGB", 0, 1), (0, top))
    return image


def _pixels(file: BinaryIO, header: Header) -> NDArray[np.uint8] | None:
    width, height = header["width"], header["height"]
    if not width:
        return None
    return np.frombuffer(_exactly(file, 3 * width * height), np.uint8).reshape(height, width, 3)


def _rows(width: int) -> int:
    return max(1, STRIPE // (3 * width))


# In the process that decodes


def _work(input_: BinaryIO, output: BinaryIO, seconds: float) -> None:
    while True:
        try:
            task = _header(input_)
            content = _exactly(input_, task["bytes"])
        except EOFError:
            return
        if task["task"] == "picture":
            with _deadline(seconds):
                if is_animated(task["name"], content):
                    frame = Frame("", 0, None, None, ANIMATION)
                else:
                    frame = decode_image(BytesIO(content), "", max_pixels=task["max_pixels"])
            del content
            _send_frame(output, frame)
            del frame  # not held while the next one is awaited
        elif task["task"] == "facts":
            with _deadline(seconds):
                facts = _facts(task["path"], task["most"])
            _send(output, facts, [])
        else:
            frames = read_video(task["path"], Span(task["every"]), max_pixels=task["max_pixels"])
            while True:
                with _deadline(seconds):
                    following = next(frames, None)
                if following is None:
                    break
                _send_frame(output, following)
            _send(output, {"done": True}, [])


def _facts(path: str, most_frames: int) -> Header:
    try:
        return {"error": None, **asdict(read_facts(path, most_frames=most_frames))}
    except InputError as error:
        return {"error": str(error)}


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """The system ends this process where the block takes longer, even inside a decoder."""
    for timer, factor in zip(TIMERS, (1.0, PATIENCE), strict=False):
        signal.setitimer(timer, factor * seconds)
    try:
        yield
    finally:
        for timer in TIMERS:
            signal.setitimer(timer, 0)


def _send_frame(output: BinaryIO, frame: Frame) -> None:
    height, width = frame.shape
    header = {"frame": frame.frame, "time_s": frame.time_s, "error": frame.error}
    _send(output, header | {"width": width, "height": height}, _stripes(frame))


def _stripes(frame: Frame) -> Iterator[bytes]:
    picture, (height, width) = frame.picture, frame.shape
    if isinstance(picture, Image.Image):
        rows = _rows(width)
        for top in range(0, height, rows):
            yield picture.crop((0, top, width, min(top + rows, height))).tobytes()
    elif picture is not None:
        yield picture.tobytes()


def _bounded(memory: int) -> None:
    """Hold this process to so much memory of its own."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def main() -> None:
    """Answer tasks until the standard input ends."""
    for name in ("SIGINT", "SIGTERM"):  # meant for the server, which ends this one
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _bounded(int(sys.argv[2]))
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    with suppress(BrokenPipeError):
        _work(sys.stdin.buffer, output, float(sys.argv[1]))


if __name__ == "__main__":
    main()
