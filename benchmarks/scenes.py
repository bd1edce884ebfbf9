"""The pictures and the film that are timed, composed of examples/astronaut.jpg alone."""

import random
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image


EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "astronaut.jpg"
WIDTH, HEIGHT, RATE = 640, 480, 30
FACE = (124, 16, 324, 216)
BACKGROUND = (300, 200, 512, 512)  # without a face


def scene(side: int, x: float, y: float) -> Image.Image:
    """The portrait, `side` pixels wide, before a still background; x and y in 0..1 say where."""
    with Image.open(EXAMPLE) as opened:
        portrait = opened.convert("RGB")
    picture = portrait.crop(BACKGROUND).resize((WIDTH, HEIGHT))
    face = portrait.crop(FACE).resize((side, side))
    picture.paste(face, (round(x * (WIDTH - side)), round(y * (HEIGHT - side))))
    return picture


def write_photos(folder: Path, count: int) -> list[str]:
    """Photographs of 640 x 480 with one face each, 160 to 400 px wide with its surroundings."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, paths = random.Random(0), []
    for number in range(count):
        path = folder / f"{number:04}.jpg"
        scene(chance.randint(160, 400), chance.random(), chance.random()).save(path, quality=92)
        paths.append(str(path))
    return paths


def write_video(path: Path, frames: int) -> str:
    """The face on its way through 640 x 480, H.264, 30 frames a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            turn = 2 * np.pi * number / 600
            picture = scene(220, 0.5 + 0.4 * np.sin(3 * turn), 0.5 + 0.4 * np.cos(2 * turn))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        file.mux(stream.encode(None))
    return str(path)


def enlarged(face: Image.Image) -> NDArray[np.uint8]:
    """A face of 48 px as detectors are shown it: 192 px, its edge repeated for 48 px around it."""
    large = face.convert("RGB").resize((192, 192), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(large), ((48, 48), (48, 48), (0, 0)), mode="edge")
