"""What a server takes on at most, and how it says no."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from threading import Lock

from fervor.errors import FervorError, UsageError


__all__ = ["Clients", "Limits", "Refused", "Room"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest amounts; what goes beyond is refused, and none of it is kept. All defaults are ours.

    Attributes:
        file_bytes: of one picture's file.
        request_bytes: of a whole request with pictures.
        files: pictures in a request.
        pixels: of a picture, read from its header before a pixel is decoded.
        faces: in a picture.
        requests: that are being received or answered at the same time.
        client_requests: of those, from one client's address.
        waiting: pictures that wait for the model.
        held_bytes: of all uploads together that are in memory at the same time.
        upload_seconds: in which a request must have been received.
        video_bytes: of a video's file.
        video_seconds: of a video.
        videos: that are read at the same time.
        explanations: that are computed or wait at the same time.

    Raises:
        UsageError: a number below 1.
    """

    file_bytes: int = 20_000_000
    request_bytes: int = 64_000_000
    files: int = 16
    pixels: int = 64_000_000
    faces: int = 100
    requests: int = 64
    client_requests: int = 32
    waiting: int = 256
    held_bytes: int = 512_000_000
    upload_seconds: float = 60.0
    video_bytes: int = 256_000_000
    video_seconds: float = 600.0
    videos: int = 1
    explanations: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 1:
                value = getattr(self, field.name)
                raise UsageError(f"limit {field.name}={value}: expected 1 or more")


class Refused(FervorError):
    """A request that is not answered with a result.

    Args:
        status: of HTTP, 400 to 599.
        code: a word for programs.
        message: one line for people.
        retry: seconds after which the same request may succeed; None where it never will.
    """

    def __init__(self, status: int, code: str, message: str, *, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry = status, code, message, retry

    def answer(self) -> tuple[bytes, dict[str, str]]:
        """The body and headers that say so."""
        text = json.dumps({"error": self.code, "message": self.message}, ensure_ascii=False)
        body = text.encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        if self.retry is not None:
            headers["retry-after"] = str(self.retry)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return body, headers


class Room:
    """Counts what is held at the same time, for any number of threads.

    Args:
        most: what fits.
        refusal: the code and the message where it does not.
        retry: seconds until it may.
    """

    def __init__(self, most: int, refusal: tuple[str, str], *, retry: int = 1) -> None:
        self.taken = 0
        self._most, self._refusal, self._retry = most, refusal, retry
        self._lock = Lock()

    def take(self, amount: int = 1) -> None:
        """Raises Refused (503) where so much more does not fit."""
        with self._lock:
            if self.taken + amount > self._most:
                raise Refused(503, *self._refusal, retry=self._retry)
            self.taken += amount

    def give(self, amount: int = 1) -> None:
        """Give back what was taken."""
        with self._lock:
            self.taken -= amount

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take one place, and give it back at the end of the block."""
        self.take()
        try:
            yield
        finally:
            self.give()


class Clients:
    """Counts what each client holds at the same time; for one thread.

    Args:
        most: what one client may hold.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, client: str) -> Iterator[None]:
        """Take one place of a client's, and give it back at the end of the block.

        Raises:
            Refused: it has none left (429).
        """
        if self._taken[client] >= self._most:
            raise Refused(
                429,
                "client_busy",
                f"expected at most {self._most} requests at once from one address; try again",
                retry=1,
            )
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]  # who has left is forgotten
