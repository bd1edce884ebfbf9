"""Videos made by the tests: a portrait that moves, of any codec, with any times."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


ASTRONAUT = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
MILLISECOND = Fraction(1, 1000)
STEP = 40
"""Milliseconds between frames where no times are given."""


def portrait(
    x: int, y: int, side: int = 200, *, size: tuple[int, int] = (480, 640)
) -> NDArray[np.uint8]:
    """A flat picture, [h w 3], with the head of ASTRONAUT in a square of `side` at x, y."""
    head = Image.open(ASTRONAUT).convert("RGB").crop((124, 16, 324, 216))
    picture = Image.new("RGB", (size[1], size[0]), (128, 128, 128))
    picture.paste(head.resize((side, side), Image.Resampling.LANCZOS), (x, y))
    return np.asarray(picture)


def flat(colour: tuple[int, int, int], *, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.full((*size, 3), colour, np.uint8)


def write_video(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    rotation: int = 0,
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    sound: bool = False,
    base: int = 1000,
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
) -> Path:
    """Encode pictures [h w 3]; `times` in milliseconds, stored in units of 1 / `base` seconds."""
    unit = Fraction(1, base)
    av = pytest.importorskip("av", reason="needs fervor[video]")
    with av.open(str(path), "w", options=dict(container or {})) as file:
        stream = None
        if sound:
            audio = file.add_stream("aac", rate=16000)
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = file.add_stream(codec, rate=25, options=dict(options or {}))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixels
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                stream.time_base = stream.codec_context.time_base = unit
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            time = times[number] if times is not None else number * STEP
            frame.pts, frame.time_base = round(time * MILLISECOND / unit), unit
            file.mux(stream.encode(frame))
        if stream is not None:
            file.mux(stream.encode(None))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.rate = 16000
            file.mux(audio.encode(silence))
            file.mux(audio.encode(None))
    return path


def moving(count: int, place: Callable[[int], tuple[int, int]]) -> Iterable[NDArray[np.uint8]]:
    """Frames in which the portrait lies at `place` of the frame's number."""
    return (portrait(*place(number)) for number in range(count))
