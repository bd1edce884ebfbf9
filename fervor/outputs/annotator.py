"""A folder of what was seen: annotated pictures and videos, and timelines."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from fervor.errors import UsageError
from fervor.faces.types import Points
from fervor.inference.prediction import Prediction
from fervor.inference.smoothing import Smoother
from fervor.io.atomic import beside, check_inputs_stay, lock_folder, write_image
from fervor.io.frame import WEBCAM, Frame
from fervor.io.video import need_av
from fervor.outputs import drawing, timeline
from fervor.outputs.drawing import annotated


__all__ = ["Annotator", "output_names"]

CLOCK = Fraction(1, 60_000)
"""Unit of time of an annotated video: exact for common frame rates, and allowed by both codecs."""
LONGEST = 200
"""Bytes of a drawing's name before a digest stands for the rest; systems take 255."""
PARTIAL = ".partial.mp4"
"""How the name of a video ends until it is complete."""
KEPT = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""Formats that an annotated picture keeps; the others become PNG."""
WIDEST = {"JPEG": 65_500, "WEBP": drawing.WIDEST}
"""The longest side that a format holds, in pixels; what is drawn longer is made smaller."""
LONGEST_STEP = 3600 * CLOCK.denominator
"""Of two frames, in units of the clock: an hour. Codecs take no step of ten."""


class Annotator:
    """Writes drawings into a folder as the frames come; leaving the `with` block finishes them.

    A picture keeps its name and its place below the folder that all sources share. A video becomes
    NAME.mp4, without sound, its frames at their own times, with NAME-timeline.png and .html. Files
    are written aside and then renamed. `inputs` are the files that are read beside the sources.

    Raises:
        UsageError: the folder would receive drawings in place of an input, or is no folder.
    """

    def __init__(self, folder: Path, sources: Sequence[str], *, inputs: Sequence[str] = ()) -> None:
        self._folder = folder
        self._names = output_names(sources)
        written = [folder / file for name in self._names.values() for file in _files_of(name)]
        check_inputs_stay(f"annotate {folder}", written, [*sources, *inputs], kind="folder")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"annotate {folder} is a file: expected a folder")
        self._video: _Video | None = None
        self._lock = ExitStack()

    def write(
        self,
        frame: Frame,
        predictions: Sequence[Prediction],
        points: Sequence[Points | None] = (),
    ) -> None:
        """Draw one frame; `points` are each prediction's landmarks, where they are wanted."""
        path = self._folder / self._names[frame.source]
        video = self._video
        if video is not None and (video.source != frame.source or video.frame >= frame.frame):
            self._finish()
        if path.suffix == ".mp4":
            if self._video is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._video = _Video(frame.source, path)
            self._video.add(frame, predictions, points)
            return
        if frame.image is None:
            return
        probabilities = [prediction.probabilities for prediction in predictions]
        drawn = annotated(frame.image, predictions, probabilities, points)
        kind = KEPT[path.suffix.lower()]
        if max(drawn.size) > (widest := WIDEST.get(kind, max(drawn.size))):
            drawn.thumbnail((widest, widest))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, drawn, kind, quality=92)

    def _finish(self, *, complete: bool = True) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.close(complete=complete)

    def __enter__(self) -> Self:
        self._lock.enter_context(lock_folder(self._folder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._finish(complete=kind is None)


def output_names(sources: Sequence[str], *, several: bool = False) -> dict[str, str]:
    """For each source the path below the output folder; no two of them, nor their timelines, alike.

    With `several` drawings of a source, whose names add to the stem, no two stems are alike.
    """
    from fervor.io.sources import is_animated, is_moving, is_webcam

    files = [source for source in sources if not is_webcam(source)]
    parents = {os.path.dirname(os.path.abspath(source)) for source in files}
    try:
        root = os.path.commonpath(parents) if parents else ""
    except ValueError:  # on two drives
        root = ""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        if is_webcam(source):
            name = f"webcam-{source.removeprefix(WEBCAM)}.mp4"
        else:
            path = os.path.abspath(source)
            name = os.path.relpath(path, root) if root else os.path.basename(path)
            stem, ending = os.path.splitext(name)
            if is_moving(source):
                if is_animated(source):
                    need_av(source)
                name = f"{stem}.mp4"
            elif ending.lower() not in KEPT:
                name = f"{name}.png"
        if source not in names:
            names[source] = _free(_short(name), taken, several=several)
            taken.update(_reserved(names[source], several=several))
    return names


def _short(name: str) -> str:
    """A name with room for what drawings add to it: `-timeline.html`, `.partial`, a number."""
    folder, base = os.path.split(name)
    if len(os.fsencode(base)) <= LONGEST:
        return name
    stem, ending = os.path.splitext(base)
    digest = hashlib.sha256(os.fsencode(base)).hexdigest()[:8]
    room = LONGEST - len(os.fsencode(f"-{digest}{ending}"))
    kept = os.fsencode(stem)[: max(room, 0)].decode("utf-8", "ignore")
    return os.path.join(folder, f"{kept}-{digest}{ending}")


def _files_of(name: str) -> list[str]:
    """What is written for a source: a video is partial at first, and has its timeline too."""
    stem, ending = os.path.splitext(name)
    if ending.lower() != ".mp4":
        return [name]
    return [name, f"{stem}{PARTIAL}", f"{stem}-timeline.png", f"{stem}-timeline.html"]


def _reserved(name: str, *, several: bool) -> set[str]:
    """What no other source's name may be, in lower case: some systems tell no case apart."""
    files = [os.path.splitext(name)[0]] if several else _files_of(name)
    return {file.lower() for file in files}


def _free(name: str, taken: set[str], *, several: bool) -> str:
    stem, ending = os.path.splitext(name)
    number, free = 1, name
    while _reserved(free, several=several) & taken:
        number += 1
        free = f"{stem}-{number}{ending}"
    return free


class _Video:
    """One annotated video under way, and its timeline."""

    def __init__(self, source: str, path: Path) -> None:
        need_av(source)
        self.source = source
        self._path = path
        self._partial = beside(path.with_suffix(""), after=PARTIAL)
        self._container: Any = None
        self._stream: Any = None
        self._smoother = Smoother()
        self._timeline = timeline.Timeline()
        self._last = -1
        self._left_out = 0  # units of the clock by which later frames come earlier
        self.frame = -1

    def add(
        self, frame: Frame, predictions: Sequence[Prediction], points: Sequence[Points | None]
    ) -> None:
        self.frame = frame.frame
        probabilities = self._smoother(predictions)
        self._timeline.add(predictions, probabilities, frame.image)
        if frame.image is None or frame.time_s is None:
            return
        import av

        drawn = annotated(frame.image, predictions, probabilities, points, extend=False)
        if self._container is None:
            self._open(drawn)
        if drawn.size != (self._stream.width, self._stream.height):
            drawn = _fitted(drawn, self._stream.width, self._stream.height)
        picture = av.VideoFrame.from_ndarray(np.asarray(drawn), format="rgb24")
        now = max(round(frame.time_s / CLOCK) - self._left_out, self._last + 1)
        if self._last >= 0 and now - self._last > LONGEST_STEP:
            self._left_out += now - self._last - LONGEST_STEP
            now = self._last + LONGEST_STEP
        self._last = picture.pts = now
        picture.time_base = CLOCK
        self._container.mux(self._stream.encode(picture))

    def _open(self, drawn: Image.Image) -> None:
        import av

        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._container = av.open(str(self._partial), "w")
        self._stream = self._container.add_stream(codec, rate=30)
        # Both codecs want even sides.
        self._stream.width = max(2, drawn.width // 2 * 2)
        self._stream.height = max(2, drawn.height // 2 * 2)
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = CLOCK

    def close(self, *, complete: bool) -> None:
        """Finish it; one that is not complete stays NAME.partial.mp4."""
        if self._container is None:  # no frame could be read
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise
        if not complete:
            return
        self._partial.replace(self._path)
        title = os.path.basename(self.source)
        timeline.write(self._timeline, title, self._path.with_name(f"{self._path.stem}-timeline"))


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture without its last odd row and column; one of another size on black."""
    if abs(picture.width - width) <= 1 and abs(picture.height - height) <= 1:
        return picture.crop((0, 0, width, height))
    picture.thumbnail((width, height))
    result = Image.new("RGB", (width, height))
    result.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return result
