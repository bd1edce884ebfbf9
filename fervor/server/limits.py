"""What a server takes on at most, of all and of each client, and how it says no."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Lock

from fervor.errors import FervorError, UsageError, counted


__all__ = ["Limits", "Quotas", "Refused", "client_of"]

HOUSE = 64
"""Bits of an IPv6 address that one subscriber cannot choose."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest amounts; what goes beyond is refused, and none of it is kept. All defaults are ours.

    Attributes:
        file_bytes: of one picture's file.
        request_bytes: of a whole request with pictures.
        files: pictures in a request.
        pixels: of a picture, or of a frame of a video, read before one is decoded.
        request_pixels: of all pictures of a request; sixteen photographs of 12 megapixels.
        faces: in a picture.
        requests: that wait for the model or are answered at the same time, uploads complete.
        client_requests: of one client that are received, wait or are answered at the same time.
        client_pixels: of one client that wait at the same time.
        held_bytes: of all uploads together that are in memory at the same time.
        client_bytes: of those, from one client.
        upload_seconds: in which a request must have been received.
        video_bytes: of a video's file.
        video_seconds: of a video.
        video_frames: of a video, looked at or not.
        videos: that are read at the same time, one of each client.
        connections: that are open at the same time, idle ones included.
        client_connections: of those, from one client.

    Raises:
        UsageError: a number below 1.
    """

    file_bytes: int = 20_000_000
    request_bytes: int = 64_000_000
    files: int = 16
    pixels: int = 64_000_000
    request_pixels: int = 200_000_000
    faces: int = 100
    requests: int = 64
    client_requests: int = 32
    client_pixels: int = 400_000_000
    held_bytes: int = 512_000_000
    client_bytes: int = 256_000_000
    upload_seconds: float = 60.0
    video_bytes: int = 256_000_000
    video_seconds: float = 600.0
    video_frames: int = 18_000
    videos: int = 2
    connections: int = 800
    client_connections: int = 100

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


def client_of(address: str) -> str:
    """Whom an address stands for: itself, and of IPv6 the network that one subscriber is given."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, HOUSE), strict=False))
    return address


class Quotas:
    """Counts what clients hold at the same time, for any number of threads.

    Args:
        what: is counted, in the singular.
        most: that all clients together may hold; 0 for any number.
        each: that one client may hold.
        retry: seconds until there may be room.
    """

    def __init__(self, what: str, *, most: int, each: int, retry: int = 1) -> None:
        self._what, self._most, self._each, self._retry = what, most, each, retry
        self._taken: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def taken(self) -> int:
        """What all clients hold together."""
        with self._lock:
            return self._taken.total()

    def take(self, client: str, amount: int = 1) -> None:
        """Count more for a client.

        Raises:
            Refused: it would hold too much (429), or all together would (503).
        """
        with self._lock:
            if self._taken[client] + amount > self._each:
                reason = (
                    f"expected at most {counted(self._each, self._what)} at once from one address"
                )
                raise Refused(429, "client_busy", f"{reason}; try again", retry=self._retry)
            if self._most and self._taken.total() + amount > self._most:
                raise Refused(
                    503, "busy", f"too many {self._what}s at once; try again", retry=self._retry
                )
            self._taken[client] += amount

    def give(self, client: str, amount: int = 1) -> None:
        """Count less for a client; who holds nothing is forgotten."""
        with self._lock:
            self._taken[client] -= amount
            if not self._taken[client]:
                del self._taken[client]

    @contextmanager
    def one(self, client: str) -> Iterator[None]:
        """Take one, and give it back at the end of the block."""
        self.take(client)
        try:
            yield
        finally:
            self.give(client)
