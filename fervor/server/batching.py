"""Pictures of waiting requests -> one run of the model, whoever sent them."""

import logging
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from threading import Condition, Thread
from time import monotonic

from fervor.inference.prediction import Prediction
from fervor.inference.predictor import Predictor
from fervor.io.frame import Frame
from fervor.io.prefetch import ahead
from fervor.io.sources import AHEAD_PIXELS, decode_picture
from fervor.server.limits import Limits, Refused
from fervor.server.metrics import Metrics
from fervor.server.uploads import Upload


__all__ = ["Batcher"]

BATCH = 32
"""Pictures that are run together at most; the answers do not depend on it."""
WAIT = 0.005
"""Seconds that a picture waits for others to be run with."""

Answer = list[list[Prediction]]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    pictures: Sequence[Upload]
    future: Future[Answer] = field(default_factory=Future)


class Batcher:
    """One thread that owns the way from a picture's bytes to its faces.

    Pictures are decoded when their turn comes, a few ahead, so that memory does not grow with the
    number of requests.

    Args:
        predictor: the model.
        limits: its `waiting` and `pixels` count here.
        wait: seconds that a picture waits for others.
        most: pictures that are run together.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        metrics: Metrics,
        *,
        wait: float = WAIT,
        most: int = BATCH,
    ) -> None:
        self._predictor, self._limits, self._metrics = predictor, limits, metrics
        self._wait, self._most = wait, most
        self._jobs: deque[_Job] = deque()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name="fervor-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that no run has taken yet."""
        with self._changed:
            return self._count()

    def submit(self, pictures: Sequence[Upload]) -> Future[Answer]:
        """The faces of each picture, later; cancelling takes the pictures out of the line.

        Raises:
            Refused: too many pictures wait.
        """
        job = _Job(pictures)
        with self._changed:
            if self._closed:
                raise Refused(503, "stopping", "the server is stopping", retry=5)
            if self._jobs and self._count() + len(pictures) > self._limits.waiting:
                raise Refused(503, "busy", "too many pictures wait; try again", retry=1)
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _count(self) -> int:
        return sum(len(job.pictures) for job in self._jobs)

    def _run(self) -> None:
        while jobs := self._gathered():
            if wanted := [job for job in jobs if job.future.set_running_or_notify_cancel()]:
                self._answer(wanted)

    def _gathered(self) -> list[_Job]:
        """What is run next, at least one job; none at the end."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            until = monotonic() + self._wait
            while self._count() < self._most and not self._closed:
                if (left := until - monotonic()) <= 0:
                    break
                self._changed.wait(left)
            jobs: list[_Job] = []
            pictures = 0
            while self._jobs and (not jobs or pictures + len(self._jobs[0].pictures) <= self._most):
                jobs.append(self._jobs.popleft())
                pictures += len(jobs[-1].pictures)
            return jobs

    def _answer(self, jobs: Sequence[_Job]) -> None:
        self._metrics.batch(sum(len(job.pictures) for job in jobs))
        frames = ahead(self._frames(jobs), weight=lambda frame: frame.pixels, limit=AHEAD_PIXELS)
        done = 0
        try:
            with closing(frames):
                answers = self._predictor.stream(frames)
                for job in jobs:
                    faces = [next(answers) for _ in job.pictures]
                    done += 1
                    self._note(faces)
                    job.future.set_result(faces)
        except Exception as error:
            left = jobs[done:]
            if len(left) > 1:  # one request's trouble is not another's
                for job in left:
                    self._answer([job])
            elif left:
                left[0].future.set_exception(error)
            else:  # all is answered; the trouble was in ending
                logging.getLogger(__name__).error("a batch ended with %s", type(error).__name__)

    def _frames(self, jobs: Sequence[_Job]) -> Generator[Frame]:
        for job in jobs:
            for upload in job.pictures:
                yield decode_picture(upload.file, upload.name, max_pixels=self._limits.pixels)

    def _note(self, faces: Answer) -> None:
        statuses = [answer[0].status for answer in faces]
        count = sum(prediction.status == "ok" for answer in faces for prediction in answer)
        self._metrics.pictures(statuses, count)
