"""The work of `fervor predict`: every frame of the inputs through the model, to its outputs."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fervor.errors import UsageError, counted
from fervor.inference.prediction import Answer
from fervor.inference.predictor import Predictor
from fervor.io import sources as media
from fervor.io.atomic import check_inputs_stay
from fervor.io.progress import progress
from fervor.outputs import tables
from fervor.outputs.summary import Summary, check_summary


if TYPE_CHECKING:
    from fervor.faces.landmarks import PointFinder
    from fervor.outputs.annotator import Annotator


__all__ = ["Outputs", "answers", "run"]


class Outputs:
    """Where the answers go: a file of rows or a table on the terminal, drawings, and a summary.

    `landmarks` adds each face's points to rows and drawings, a terminal shows none; `covered` adds
    the parts that seem covered to rows and terminal, drawings always have them. `inputs` are the
    files that are read beside the sources, and folders of such.

    Raises:
        UsageError: an output that cannot be written, or would be written over an input.
    """

    def __init__(
        self,
        output: str,
        annotate: str,
        *,
        smooth: bool,
        sources: Sequence[str],
        landmarks: bool = False,
        covered: bool = False,
        summary: str = "",
        inputs: Sequence[str] = (),
    ) -> None:
        self.output, self.smooth = output, smooth
        self.landmarks, self.covered = landmarks, covered
        self.stream = sys.stdout
        if output:
            tables.check_output(Path(output))
            written = [Path(output), tables.partial_of(Path(output))]
            check_inputs_stay(f"output {output}", written, [*sources, *inputs])
        self._summary = Path(summary) if summary else None
        if self._summary is not None:
            check_summary(self._summary)
            written = [self._summary, tables.partial_of(self._summary)]
            check_inputs_stay(f"summary {summary}", written, [*sources, *inputs])
            if output and os.path.realpath(output) == os.path.realpath(summary):
                raise UsageError(
                    f"summary {summary}: is the file of output too; name another for one of them"
                )
            if not any(map(media.is_moving, sources)):
                raise UsageError(f"summary {summary}: needs a video, and none is named")
        self.annotator = _annotator(Path(annotate), sources, inputs) if annotate else None

    def table(self, labels: Sequence[str], sources: Sequence[str]) -> tables.Writer:
        """Opens the rows; on a terminal `smooth` has no place."""
        if self.output:
            return tables.open_table(
                Path(self.output),
                labels,
                smooth=self.smooth,
                landmarks=self.landmarks,
                covered=self.covered,
            )
        timed = any(map(media.is_moving, sources))
        return tables.TextTable(self.stream, sources, labels, timed=timed, covered=self.covered)

    def summary(self, labels: Sequence[str]) -> Summary | None:
        """What is gathered of videos, where it is asked for."""
        if self._summary is None:
            return None
        return Summary(self._summary, labels, smooth=self.smooth)


def answers(
    predictor: Predictor,
    sources: Sequence[str],
    *,
    span: media.Span,
    finder: "PointFinder | None" = None,
) -> Generator[Answer]:
    """Every frame of the sources with its answer, in order."""
    with closing(media.read(sources, span=span, decoders=predictor.decoders)) as frames:
        for frame, answer in predictor.with_frames(frames):
            yield (
                frame,
                answer,
                () if finder is None else finder(frame, [face.box for face in answer]),
            )


def run(
    answers: Generator[Answer], labels: Sequence[str], sources: Sequence[str], outputs: Outputs
) -> Counter[str]:
    """Number of pictures, videos, frames and of rows by status, and of videos "without_frames".

    Each of the latter is a line on the error stream.

    Raises:
        KeyboardInterrupt: it was stopped; its message says where the rows so far are.
    """
    try:
        return _run(answers, labels, sources, outputs)
    except KeyboardInterrupt:
        if outputs.output and (left := tables.partial_of(Path(outputs.output))).is_file():
            raise KeyboardInterrupt(
                f"stopped: the rows so far are in {left}, and {outputs.output} is as it was"
            ) from None
        raise


def _run(
    answers: Generator[Answer], labels: Sequence[str], sources: Sequence[str], outputs: Outputs
) -> Counter[str]:
    counts: Counter[str] = Counter()
    moving = {source for source in sources if media.is_moving(source)}
    counts["pictures"] = sum(source not in moving for source in sources)
    counts["videos"] = len(sources) - counts["pictures"]
    total = None if moving else len(sources)
    without_frames = dict.fromkeys(source for source in sources if source in moving)
    with ExitStack() as stack:
        stop = stack.enter_context(_stoppable())
        with stop.held():
            # What is entered last ends first: rows are complete whatever the others meet then.
            if (summary_file := outputs.summary(labels)) is not None:
                stack.enter_context(summary_file)
            if outputs.annotator is not None:
                stack.enter_context(outputs.annotator)
            table = stack.enter_context(outputs.table(labels, sources))
            unit = "frames" if moving else "pictures"
            bar = stack.enter_context(progress(total, unit=unit, shown=bool(outputs.output)))
            stack.enter_context(closing(answers))
            stack.callback(stop.hold)  # while all of these are finished
        for frame, answer, points in answers:
            with stop.held():
                table.write(answer, points)
                if outputs.annotator is not None:
                    outputs.annotator.write(frame, answer, points)
                if summary_file is not None:
                    summary_file.add(frame, answer)
            counts["frames"] += frame.source in moving
            without_frames.pop(frame.source, None)
            counts.update(prediction.status for prediction in answer)
            bar.update()
    for source in without_frames:
        advice = "name an earlier --start, a later --end or a smaller --every"
        print(f"{tables.visible(source)}: no frame of it is taken; {advice}", file=sys.stderr)
    counts["without_frames"] = len(without_frames)
    return counts


def summary(
    output: str,
    counts: Counter[str],
    smallest_side: float | None = None,
    skipped: Counter[str] | None = None,
) -> str:
    """One line for a person: "rows.csv: 3 pictures, 1 video (250 frames), 240 faces, ...".

    `smallest_side` is the longer side of the smallest face that was looked for, in pixels;
    `skipped` counts the files of folders that are no input.
    """
    what = []
    if counts["pictures"] or not counts["videos"]:
        what.append(counted(counts["pictures"], "picture"))
    if counts["videos"]:
        frames = counted(counts["frames"], "frame")
        what.append(f"{counted(counts['videos'], 'video')} ({frames})")
    size = "" if smallest_side is None else f"; looked for faces of {smallest_side:g} px and more"
    return (
        f"{output}: {', '.join(what)}, {counted(counts['ok'], 'face')}, "
        f"{counts['no_face']:,} without a face, {counts['error']:,} unreadable{size}"
        + (f"; {media.skipped_files(skipped)}" if skipped else "")
    )


def _annotator(folder: Path, sources: Sequence[str], inputs: Sequence[str]) -> "Annotator":
    from fervor.outputs.annotator import (
        Annotator,  # most runs draw nothing, and start sooner without
    )

    return Annotator(folder, sources, inputs=inputs)


class _Stop:
    """Ctrl-C and a polite end (SIGTERM, of a service or a container): both raise KeyboardInterrupt.

    The first one waits while something is held, so that no row, film or file is left between two
    states; a second one does not.
    """

    def __init__(self) -> None:
        self.asked = False
        self._held = False

    def __call__(self, *_: object) -> None:
        """The handler of both signals."""
        waits = self._held and not self.asked
        self.asked = True
        if not waits:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """Wait from now on."""
        self._held = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the end of the block.

        Raises:
            KeyboardInterrupt: at its end, where one was asked for meanwhile.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    stop = _Stop()
    heard = (signal.SIGINT, signal.SIGTERM)
    numbers = [number for number in heard if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        before = [signal.signal(number, stop) for number in numbers]
    except ValueError:  # not in the main thread: somebody else's to decide
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if stop.asked:
        raise KeyboardInterrupt
