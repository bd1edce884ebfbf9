"""The work of `fervor serve`: check who may ask, load the model, answer until told to stop."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fervor.errors import UsageError
from fervor.inference.predictor import Predictor
from fervor.server.app import application
from fervor.server.guard import CROWDED, Access, is_loopback
from fervor.server.limits import Limits


__all__ = ["Limits", "Place", "serve"]

CONNECTIONS, TOLD = 800, 100
"""Open at the same time, idle ones included, and as many more that are told that it is full; what
is beyond is closed unheard. A process may usually hold 1,024 files."""
HEADER_SECONDS = 15.0
"""In which a request's first line and headers must have come."""
STOPPING = 60
"""Seconds that requests under way have when the server stops."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and to whom.

    Attributes:
        host: an address or name of this machine.
        port: 0 for any that is free.
        token: that clients must send; needed where others than this machine can reach the server.
        hosts: further names under which it is reached.

    Raises:
        UsageError: others can reach the server and there is no token, or one that no header holds.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    hosts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise UsageError(f"port={self.port}: expected 0 to 65535")
        if not self.loopback and not self.token:
            raise UsageError(
                f"host={self.host} can be reached from other machines: expected a token; "
                "set FERVOR_TOKEN (or --token), or leave out --host"
            )
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise UsageError("the token holds spaces or special signs: expected ASCII without them")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def access(self) -> Access:
        """Who may ask."""
        names = frozenset(name.strip().lower() for name in (*self.hosts, self.host) if name.strip())
        return Access(names, self.token, self.loopback)

    def listening(self) -> socket.socket:
        """A bound socket.

        Raises:
            UsageError: the port is taken, or this machine has no such address.
        """
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((self.host, self.port), family=family, backlog=1024)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UsageError(
                f"host={self.host} port={self.port}: {reason}; name another --port"
            ) from error


def serve(
    place: Place,
    options: Mapping[str, Any],
    *,
    limits: Limits,
    announce: Callable[[str, Predictor], None],
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those under way are answered before it ends.

    `options` are those of Predictor. `announce` is told the address once the server can be reached.

    Raises:
        ModelError: see Predictor.
        UsageError: see Place and Predictor.
        KeyboardInterrupt: at the end, after Ctrl-C.
    """
    with place.listening() as listening:
        predictor = Predictor(**options, most_faces=limits.faces + 1)
        app = application(predictor, place.access, limits)
        config = uvicorn.Config(
            app,
            http=_ImpatientProtocol,
            ws="none",
            lifespan="on",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOPPING,
        )
        # These warn about each malformed request, which anybody can send, and say what was in it.
        for name in ("uvicorn.error", "python_multipart"):
            logging.getLogger(name).setLevel(logging.ERROR)
        before = signal.signal(signal.SIGTERM, lambda *_: None)  # raised again after a polite end
        try:
            announce(_address(listening, place.host), predictor)
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            signal.signal(signal.SIGTERM, before)


def _address(listening: socket.socket, host: str) -> str:
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _ImpatientProtocol(H11Protocol):
    """Bounds connections, and closes those that do not come to the end of a request's headers."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self.app_state = {**self.app_state, CROWDED: True}
        if len(self.connections) > CONNECTIONS + TOLD:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        awaited = self.conn.their_state is h11.IDLE
        if awaited and self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)
        elif not awaited and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE:
            self.timeout_keep_alive_handler()
