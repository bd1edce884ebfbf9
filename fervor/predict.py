"""The work of `fervor predict`: every frame of the inputs through the model, to its outputs."""

import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fervor import media, tables
from fervor.inference import Predictor
from fervor.parallel import progress


if TYPE_CHECKING:
    from fervor.annotate import Annotator
    from fervor.points import PointFinder


__all__ = ["Outputs", "run"]


class Outputs:
    """Where the answers go: a file of rows or a table on the terminal, and drawings.

    `finder` adds each face's landmarks to both; a terminal shows none.

    Raises:
        UsageError: an output that cannot be written.
    """

    def __init__(
        self,
        output: str,
        annotate: str,
        *,
        smooth: bool,
        sources: Sequence[str],
        finder: "PointFinder | None" = None,
    ) -> None:
        self.output, self.smooth, self.finder = output, smooth, finder
        if output:
            tables.check_output(Path(output))
        self.annotator = _annotator(Path(annotate), sources) if annotate else None

    def table(self, labels: Sequence[str], sources: Sequence[str]) -> tables.Writer:
        """Opens the rows; on a terminal `smooth` has no place."""
        if self.output:
            return tables.open_table(
                Path(self.output), labels, smooth=self.smooth, landmarks=self.finder is not None
            )
        timed = any(map(media.is_video, sources)) or any(map(media.is_webcam, sources))
        return tables.TextTable(sys.stdout, sources, timed=timed)


def run(
    predictor: Predictor, sources: Sequence[str], outputs: Outputs, *, span: media.Span
) -> Counter[str]:
    """Number of pictures, videos, frames and of rows by status; stopping finishes all outputs."""
    counts: Counter[str] = Counter()
    moving = {source for source in sources if media.is_webcam(source) or media.is_video(source)}
    counts["pictures"] = sum(source not in moving for source in sources)
    counts["videos"] = len(sources) - counts["pictures"]
    total = None if moving else len(sources)
    with ExitStack() as stack:
        stack.enter_context(_stoppable())
        table = stack.enter_context(outputs.table(predictor.labels, sources))
        if outputs.annotator is not None:
            stack.enter_context(outputs.annotator)
        unit = "frames" if moving else "pictures"
        bar = stack.enter_context(progress(total, unit=unit, shown=bool(outputs.output)))
        frames = stack.enter_context(closing(media.read(sources, span=span)))
        for frame, answer in predictor.with_frames(frames):
            points = () if outputs.finder is None else outputs.finder(frame, answer)
            table.write(answer, points)
            if outputs.annotator is not None:
                outputs.annotator.write(frame, answer, points)
            counts["frames"] += frame.source in moving
            counts.update(prediction.status for prediction in answer)
            if bar is not None:
                bar.update()
    return counts


def summary(output: str, counts: Counter[str]) -> str:
    """One line for a person: "rows.csv: 3 pictures, 1 video (250 frames), 240 faces, ..."."""
    what = []
    if counts["pictures"] or not counts["videos"]:
        what.append(f"{counts['pictures']} pictures")
    if counts["videos"]:
        noun = "video" if counts["videos"] == 1 else "videos"
        what.append(f"{counts['videos']} {noun} ({counts['frames']} frames)")
    return (
        f"{output}: {', '.join(what)}, {counts['ok']} faces, "
        f"{counts['no_face']} without a face, {counts['error']} unreadable"
    )


def _annotator(folder: Path, sources: Sequence[str]) -> "Annotator":
    from fervor.annotate import Annotator  # most runs draw nothing, and start sooner without

    return Annotator(folder, sources)


@contextmanager
def _stoppable() -> Iterator[None]:
    """A polite end (SIGTERM, of a service or a container) finishes the outputs as Ctrl-C does."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread: somebody else's to decide
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
