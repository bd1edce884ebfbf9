"""Pictures of waiting requests -> runs of the model, in fair turns of their clients."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from threading import Condition, Thread
from time import monotonic
from typing import Any, cast

from fervor.errors import counted
from fervor.inference.prediction import Prediction
from fervor.inference.predictor import Predictor
from fervor.io.frame import Frame
from fervor.server.decoding import Decoder
from fervor.server.fair_queue import FairQueue
from fervor.server.limits import Limits, Refused
from fervor.server.metrics import Metrics
from fervor.server.uploads import Upload


__all__ = ["THREAD", "Batcher", "Explain", "Job"]

BATCH = 32
"""Pictures that are run together at most; the answers do not depend on it."""
WAIT = 0.005
"""Seconds that a picture waits for others to be run with."""
DECODERS = 2
"""Processes that decode; a client has one at a time, so that a slow picture holds up its own."""
BESIDE = 16_000_000
"""Pixels that may be decoded or wait for the model beside a picture of the largest size; pictures
that are run together have so many at most."""
RUNNERS = 2
"""Threads that run the model, one of them never for large pictures and explanations."""
LARGE = 4_000_000
"""Pixels of a picture in which small faces are looked for so long that others are not to wait."""
PICTURE_COST = 1_000_000
"""What a picture costs beside its pixels, in pixels of the same time: finding and naming faces."""
EXPLANATION_COST = 16_000_000
"""What an explanation costs beside that: a pass of the model for each of 81 places of one face."""
THREAD = "fervor-batches"
ENDING = 2.0
"""Seconds for a run under way when the server ends."""

Explain = Callable[[Frame], Any]


@dataclass(eq=False)
class Job:
    """What one request asks for.

    Attributes:
        client: whose turn it takes.
        pictures: its files.
        pixels: of each, by their headers; 0 of what is no picture.
        explain: makes the answer of one picture, in place of the faces of all.
        predictor: the model at another operating point than the server's; None for the server's.
        future: the faces of each picture, or what `explain` gives.
        sizes: width and height of each decoded picture, upright; 0, 0 where it cannot be read.
    """

    client: str
    pictures: Sequence[Upload]
    pixels: Sequence[int]
    explain: Explain | None = None
    predictor: Predictor | None = None
    future: Future[Any] = field(default_factory=Future)
    faces: dict[int, list[Prediction]] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """One of a job's pictures, in the line or decoded."""

    job: Job
    number: int

    @property
    def pixels(self) -> int:
        return self.job.pixels[self.number]

    @property
    def alone(self) -> bool:
        """Whether it takes the model so long that others are not to wait for it."""
        return self.pixels > LARGE or self.job.explain is not None


class Batcher:
    """The way from pictures' bytes to their faces: a line, decoders, and threads of the model.

    A few pictures are decoded ahead of the model, so that memory does not grow with the number of
    requests.

    Args:
        predictor: the model.
        limits: its `requests`, `client_pixels` and `pixels` count here.
        wait: seconds that a picture waits for others.
        most: pictures that are run together.
        decoders: what decodes, each in a thread of its own.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        metrics: Metrics,
        *,
        wait: float = WAIT,
        most: int = BATCH,
        decoders: Sequence[Decoder] | None = None,
    ) -> None:
        self._predictor, self._limits, self._metrics = predictor, limits, metrics
        self._wait, self._most = wait, most
        self._decoders = [Decoder() for _ in range(DECODERS)] if decoders is None else decoders
        self._jobs: list[Job] = []
        self._line: FairQueue[_Picture] = FairQueue()
        self._decoding: dict[Decoder, _Picture] = {}
        self._decoded: list[tuple[_Picture, Frame]] = []
        self._pixels = 0  # decoded, or about to be, and not yet run
        self._changed = Condition()
        self._closed = False
        self._running_alone = False
        works: list[Callable[[], None]] = [self._run] * RUNNERS
        works += [partial(self._decode, decoder) for decoder in self._decoders]
        self._threads = [Thread(target=work, name=THREAD, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that no decoder has taken yet."""
        with self._changed:
            return len(self._line)

    def submit(self, job: Job) -> None:
        """Put a job into the line; its future has the answer later.

        Raises:
            Refused: the client has too much waiting, or too many requests wait.
        """
        each = PICTURE_COST + (0 if job.explain is None else EXPLANATION_COST)
        costs = [pixels + each for pixels in job.pixels]
        with self._changed:
            if self._closed:
                raise Refused(503, "stopping", "the server is stopping", retry=5)
            own = sum(sum(other.pixels) for other in self._jobs if other.client == job.client)
            if own and own + sum(job.pixels) > self._limits.client_pixels:
                most = f"{counted(self._limits.client_pixels, 'pixel')} waiting from one address"
                raise Refused(429, "client_busy", f"expected at most {most}; try again", retry=1)
            if len(self._jobs) >= self._limits.requests:
                self._make_room(job.client, sum(costs))
            job.future.set_running_or_notify_cancel()  # who waits for it may leave, it stays whole
            self._jobs.append(job)
            for number, cost in enumerate(costs):
                self._line.put(_Picture(job, number), job.client, cost)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """End the work on a job whose client has left; nothing where it is done."""
        with self._changed:
            if job in self._jobs:
                self._leave(job)

    def close(self) -> None:
        """Refuse what waits, and end the threads and processes.

        A run of the model cannot be ended: one on a large picture may go on for seconds.
        """
        with self._changed:
            self._closed = True
            for job in list(self._jobs):
                self._refuse(job, Refused(503, "stopping", "the server is stopping", retry=5))
            self._changed.notify_all()
        until = monotonic() + ENDING
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))
        for decoder in self._decoders:
            decoder.close()

    def _make_room(self, client: str, cost: int) -> None:
        """Refuse the last job of who has most waiting, unless that is who asks."""
        busy = Refused(503, "busy", "too many requests wait; try again", retry=1)
        heaviest = self._line.heaviest()
        cost += self._line.cost_of(client)
        if heaviest is None or heaviest == client or self._line.cost_of(heaviest) <= cost:
            raise busy
        last = [job for job in self._jobs if job.client == heaviest and not job.faces]
        if not last:
            raise busy
        self._refuse(last[-1], busy)

    def _refuse(self, job: Job, reason: Exception) -> None:
        self._leave(job)
        job.future.set_exception(reason)

    def _leave(self, job: Job) -> None:
        """Take a job out of everything."""
        self._jobs.remove(job)
        self._line.remove(lambda picture: picture.job is job)
        for decoder, picture in self._decoding.items():
            if picture.job is job:
                decoder.stop()
        self._pixels -= sum(one.pixels for one, _ in self._decoded if one.job is job)
        self._decoded = [pair for pair in self._decoded if pair[0].job is not job]
        self._changed.notify_all()

    def _decode(self, decoder: Decoder) -> None:
        while (following := self._next(decoder)) is not None:
            picture, content = following
            upload = picture.job.pictures[picture.number]
            frame = decoder.picture(content, upload.name, max_pixels=self._limits.pixels)
            del content
            height, width = frame.shape
            picture.job.sizes[picture.number] = (width, height)
            with self._changed:
                del self._decoding[decoder]
                if picture.job in self._jobs:
                    self._decoded.append((picture, frame))
                else:
                    self._pixels -= picture.pixels
                self._changed.notify_all()
            del following, picture, frame  # not held while the next one is awaited

    def _next(self, decoder: Decoder) -> tuple[_Picture, bytes] | None:
        """The picture that a decoder takes, with its bytes, once there is one; None at the end."""
        with self._changed:
            while not self._closed:
                if (picture := self._line.take(self._may_begin)) is not None:
                    self._decoding[decoder] = picture
                    self._pixels += picture.pixels
                    upload = picture.job.pictures[picture.number]
                    return picture, cast(BytesIO, upload.file).getvalue()
                self._changed.wait()
        return None

    def _may_begin(self, picture: _Picture) -> bool:
        if any(other.job.client == picture.job.client for other in self._decoding.values()):
            return False
        return self._pixels + picture.pixels <= self._limits.pixels + BESIDE

    def _run(self) -> None:
        while batch := self._batch():
            pixels = sum(picture.pixels for picture, _ in batch)
            picture, frame = batch[0]
            alone = picture.alone
            if picture.job.explain is not None:
                self._explain(picture.job, picture.job.explain, frame)
            else:
                self._predict(batch)
            del batch, picture, frame  # not held while the next ones are decoded
            with self._changed:
                self._pixels -= pixels
                self._running_alone = self._running_alone and not alone
                self._changed.notify_all()

    def _batch(self) -> list[tuple[_Picture, Frame]]:
        """What is run next: a picture alone, or small ones together; nothing at the end."""
        with self._changed:
            until = 0.0
            while not self._closed:
                batch = self._ready()
                if not batch:
                    self._changed.wait()
                    until = monotonic() + self._wait
                    continue
                alone = batch[0][0].alone
                if alone or len(batch) == self._most or monotonic() >= until:
                    self._running_alone |= alone
                    self._decoded = [pair for pair in self._decoded if pair not in batch]
                    return batch
                self._changed.wait(until - monotonic())
        return []

    def _ready(self) -> list[tuple[_Picture, Frame]]:
        """The first decoded picture, where it is small with those that may be run with it."""
        batch: list[tuple[_Picture, Frame]] = []
        pixels = 0
        for picture, frame in self._decoded:
            if picture.alone:
                if not batch and not self._running_alone:
                    return [(picture, frame)]
            elif not batch or (
                len(batch) < self._most
                and pixels + picture.pixels <= BESIDE
                and picture.job.predictor is batch[0][0].job.predictor
            ):
                batch.append((picture, frame))
                pixels += picture.pixels
        return batch

    def _explain(self, job: Job, explain: Explain, frame: Frame) -> None:
        self._metrics.batch(1)
        try:
            self._answer(job, explain(frame))
        except Exception as error:
            self._fail(job, error)

    def _predict(self, batch: Sequence[tuple[_Picture, Frame]]) -> None:
        if not batch:
            return
        self._metrics.batch(len(batch))
        done = 0
        try:
            predictor = batch[0][0].job.predictor or self._predictor
            answers = predictor.stream(frame for _, frame in batch)
            for (picture, _), faces in zip(batch, answers, strict=True):
                done += 1
                self._note(picture, faces)
        except Exception as error:
            left = batch[done:]
            if len(left) > 1:  # one request's trouble is not another's
                for pair in left:
                    self._predict([pair])
            elif left:
                self._fail(left[0][0].job, error)
            else:  # all is answered; the trouble was in ending
                logging.getLogger(__name__).error("a batch ended with %s", type(error).__name__)

    def _note(self, picture: _Picture, faces: list[Prediction]) -> None:
        self._metrics.picture(faces)
        job = picture.job
        job.faces[picture.number] = faces
        if len(job.faces) == len(job.pictures):
            self._answer(job, [job.faces[number] for number in range(len(job.pictures))])

    def _answer(self, job: Job, answer: Any) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                job.future.set_result(answer)

    def _fail(self, job: Job, error: Exception) -> None:
        with self._changed:
            if job in self._jobs:
                self._refuse(job, error)
