"""Measure video: speed and memory over a long film, and what following faces costs in accuracy.

    python benchmarks/measure_video.py [--minutes 10] [--threads 1] [--precision auto]
        [--ferplus FERPLUS]

The film is 640 x 480 at 30 frames a second, H.264: the portrait of examples/ moves before a still
background for 20 seconds, and again and again as one stream. Every frame is decoded, its face found
or followed and classified, and its row written with smoothed columns. For each minute of film:
frames a second, processor time a frame (all threads), memory. With --ferplus, 60 faces of the
validation split move through 15 frames each; the answers of frames that were followed are compared
with those of a look at every whole frame. Only a temporary folder is written.
"""

import argparse
import tempfile
import time
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor import Predictor
from fervor.data.datasets import load
from fervor.faces.types import iou
from fervor.inference.precision import Precision
from fervor.io.frame import Frame, Span
from fervor.io.prefetch import prefetch
from fervor.io.sources import MAX_PIXELS, PREFETCH_PIXELS
from fervor.io.video import read_video
from fervor.outputs.tables import open_table


EXAMPLE = Path(__file__).parent.parent / "examples" / "astronaut.jpg"
RATE, SECONDS = 30, 20
WIDTH, HEIGHT = 640, 480


def scene(number: int, face: Image.Image, background: Image.Image) -> NDArray[np.uint8]:
    """The background with the face somewhere on its way."""
    turn = 2 * np.pi * number / (RATE * SECONDS)
    x = (WIDTH - face.width) * (0.5 + 0.4 * np.sin(3 * turn))
    y = (HEIGHT - face.height) * (0.5 + 0.4 * np.cos(2 * turn))
    picture = background.copy()
    picture.paste(face, (round(x), round(y)))
    return np.asarray(picture)


def write_clip(path: Path) -> None:
    """Encode the film's 20 seconds."""
    portrait = Image.open(EXAMPLE).convert("RGB")
    face = portrait.crop((124, 16, 324, 216)).resize((220, 220))
    background = portrait.crop((300, 200, 512, 512)).resize((WIDTH, HEIGHT))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(RATE * SECONDS):
            frame = av.VideoFrame.from_ndarray(scene(number, face, background), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def looped(clip: Path, count: int) -> Generator[Frame]:
    """The clip again and again, as one stream of frames with their numbers and times."""
    number = 0
    while number < count:
        for frame in read_video(str(clip), Span(), max_pixels=MAX_PIXELS):
            if number < count:
                yield Frame("film.mp4", number, number / RATE, frame.image, frame.error)
                number += 1


def resident() -> float:
    """Megabytes that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def video(clip: Path, output: Path, minutes: float, threads: int, precision: Precision) -> None:
    """Run the film and print a line for each of its minutes."""
    predictor = Predictor(threads=threads, precision=precision)
    print(predictor.name)
    count = round(minutes * 60 * RATE)
    frames = prefetch(looped(clip, count), weight=lambda frame: frame.pixels, limit=PREFETCH_PIXELS)
    print("minute  frames/s  ms of processor a frame  MB")
    rows = 0
    started, worked = time.perf_counter(), time.process_time()
    with open_table(output, predictor.labels, smooth=True) as table:
        for number, answer in enumerate(predictor.stream(frames), start=1):
            assert answer[0].frame == number - 1
            assert answer[0].status == "ok"
            table.write(answer)
            rows += len(answer)
            if number % (60 * RATE) == 0 or number == count:
                now, work = time.perf_counter(), time.process_time()
                part = (number - 1) % (60 * RATE) + 1
                print(
                    f"{number / (60 * RATE):6.2f}  {part / (now - started):8.1f}  "
                    f"{1000 * (work - worked) / part:23.2f}  {resident():5.0f}",
                    flush=True,
                )
                started, worked = now, work
    print(f"{count} frames, {rows} rows")


def passing(faces: list[Image.Image]) -> Iterator[Frame]:
    """Each face moves through 15 frames of a film of its own."""
    background = Image.open(EXAMPLE).convert("RGB").crop((300, 200, 512, 512))
    background = background.resize((WIDTH, HEIGHT))
    for index, face in enumerate(faces):
        for number in range(15):
            image = scene(7 * index + number, face, background)
            yield Frame(f"{index}.mp4", number, number / RATE, image, None)


def following(root: str) -> None:
    """Compare answers of followed faces with those of looks at whole frames."""
    random = np.random.default_rng(0)
    samples = load("ferplus", root, "valid", protocol="majority")
    faces = []
    for index in random.choice(len(samples), 60, replace=False):
        picture = Image.open(samples[index].path).convert("RGB")
        small = np.pad(np.asarray(picture), ((9, 9), (9, 9), (0, 0)), mode="edge")
        faces.append(Image.fromarray(small).resize((220, 220), Image.Resampling.BICUBIC))
    whole = list(Predictor(threads=1, whole_every=1).stream(passing(faces)))
    followed = list(Predictor(threads=1).stream(passing(faces)))
    pairs = [
        (one[0], other[0])
        for one, other in zip(whole, followed, strict=True)
        if one[0].status == "ok" and one[0].frame % 10  # frames 0 and 10 are looked at either way
    ]
    kept = [(one, other) for one, other in pairs if other.box is not None]
    shared = [iou(one.box, other.box) for one, other in kept if one.box and other.box]
    apart = [
        max(abs(one.probabilities[name] - other.probabilities[name]) for name in one.probabilities)
        for one, other in kept
    ]
    same = [one.label == other.label for one, other in kept]
    print(f"{len(pairs)} frames with a face that was followed: {len(kept)} kept it")
    print(f"  iou of the boxes: mean {np.mean(shared):.3f}, least {min(shared):.3f}")
    print(f"  same expression: {np.mean(same):.1%}")
    print(f"  largest difference of a probability: mean {np.mean(apart):.3f}")
    # How much a pixel's move changes the same answer by itself: neighbours, whole looks.
    steps = [
        before[0].label == after[0].label
        for before, after in pairwise(whole)
        if before[0].source == after[0].source and before[0].status == after[0].status == "ok"
    ]
    print(f"  same expression in neighbouring frames, whole looks: {np.mean(steps):.1%}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="auto", choices=get_args(Precision))
    parser.add_argument("--ferplus", default="")
    given = parser.parse_args()
    if given.ferplus:
        following(given.ferplus)
    with tempfile.TemporaryDirectory() as folder:
        clip, rows = Path(folder) / "clip.mp4", Path(folder) / "rows.csv"
        write_clip(clip)
        video(clip, rows, given.minutes, given.threads, given.precision)


if __name__ == "__main__":
    main()
