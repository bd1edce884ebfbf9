"""The work of `fervor serve`: check who may ask, load the model, answer until told to stop."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Timer
from threading import enumerate as enumerate_threads
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fervor.errors import DONE, INTERRUPTED, UsageError
from fervor.inference.predictor import Predictor
from fervor.server.app import application
from fervor.server.batching import THREAD
from fervor.server.guard import CROWDED, Access, Guard, is_address, is_loopback, same_address
from fervor.server.limits import Limits, client_of


__all__ = ["Limits", "Place", "serve"]

HEADER_SECONDS = 15.0
"""In which a request's first line and headers must have come."""
SENDING_SECONDS = 30.0
"""In which a client must take a piece of its answer."""
STOPPING, LAST = 5, 8.0
"""Seconds that requests under way have when the server stops, until the work on them is ended, and
until the process is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and to whom.

    Attributes:
        host: an address or name of this machine.
        port: 0 for any that is free.
        token: that clients must send; needed where others than this machine can reach the server.
        hosts: further names under which it is reached.
        trusted_proxy: the address of a proxy that says for whom it asks (X-Forwarded-For); what
            others say of that is ignored.

    Raises:
        UsageError: others can reach the server and there is no token, or one that no header holds;
            a proxy's address that is none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    hosts: Sequence[str] = ()
    trusted_proxy: str = ""

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
        if self.trusted_proxy and not is_address(self.trusted_proxy):
            raise UsageError(f"trusted_proxy={self.trusted_proxy}: expected an address, 127.0.0.1")

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
            is_name = isinstance(error, socket.gaierror)  # its numbers are no system's
            is_host = is_name or error.errno == errno.EADDRNOTAVAIL
            reason = error.strerror if is_name else os.strerror(error.errno or 0)
            raise UsageError(
                f"host={self.host} port={self.port}: {reason}; name another "
                f"--{'host' if is_host else 'port'}"
            ) from error


def serve(
    place: Place,
    options: Mapping[str, Any],
    *,
    limits: Limits,
    announce: Callable[[str, Predictor], None],
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those under way have STOPPING seconds then.

    `options` are those of Predictor. `announce` is told the address once the server can be reached.

    Raises:
        ModelError: see Predictor.
        UsageError: see Place and Predictor.
        KeyboardInterrupt: at the end, after Ctrl-C.
    """
    server: _Server | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        """Before uvicorn listens to signals; it raises its own again after a polite end."""
        if server is None:
            raise SystemExit(DONE)
        if server.code is None:
            server.handle_exit(number, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with place.listening() as listening:
            predictor = Predictor(**options, most_faces=limits.faces + 1)
            app = application(predictor, place.access, limits)
            server = _Server(_settings(app, place, limits))
            announce(_address(listening, place.host), predictor)
            server.run(sockets=[listening])
            if server.code == INTERRUPTED:  # uvicorn's own is lost where SIGINT was ignored before
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGTERM, before)
        code = None if server is None else server.code
        if code is not None and any(one.name == THREAD for one in enumerate_threads()):
            os._exit(code)  # a run of the model: its threads outlive no tidy end


def _settings(app: Guard, place: Place, limits: Limits) -> uvicorn.Config:
    """HTTP alone, with our limits, and without a word about requests.

    uvicorn's and the form parser's loggers tell of each malformed request, which anybody can send,
    and say what was in it.
    """
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    connections = Connections(limits, trusted=place.trusted_proxy)
    return uvicorn.Config(
        app,
        http=partial(_ImpatientProtocol, connections),  # type: ignore[arg-type]  # makes one
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(place.trusted_proxy),
        forwarded_allow_ips=[place.trusted_proxy],
        timeout_graceful_shutdown=STOPPING,
    )


class _Server(uvicorn.Server):
    """Ends for sure: a run of the model on a large picture can be neither ended nor waited for.

    Attributes:
        code: with which the process is to end; None until it is.
    """

    code: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.code = INTERRUPTED if sig == signal.SIGINT else DONE
        end = Timer(LAST, os._exit, (self.code,))
        end.daemon = True
        end.start()


def _address(listening: socket.socket, host: str) -> str:
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Connections:
    """All open connections, by client; one too many takes the place of one that is idle.

    Idle is one on which no request's headers are complete, whether it waits for the next or sends
    headers that never end. The one that has been open longest goes: of a client that has its share,
    its own; where all places are taken, one of the client that has most.

    Args:
        limits: its `connections` and `client_connections` count here.
        trusted: a proxy's address, whose connections are many clients'.
    """

    def __init__(self, limits: Limits, *, trusted: str = "") -> None:
        self._most, self._each, self._trusted = (
            limits.connections,
            limits.client_connections,
            trusted,
        )
        self._open: dict[str, dict[_ImpatientProtocol, None]] = {}

    def add(self, connection: "_ImpatientProtocol") -> bool:
        """Whether there is room for one more, made where it can be."""
        client = self._client(connection)
        own = self._open.setdefault(client, {})
        own[connection] = None
        if len(own) > self._each and client != self._trusted:
            return self._close_idle(own, but=connection)
        if sum(map(len, self._open.values())) > self._most:
            return self._close_idle(max(self._open.values(), key=len), but=connection)
        return True

    def remove(self, connection: "_ImpatientProtocol") -> None:
        """Forget one that has ended."""
        client = self._client(connection)
        own = self._open.get(client, {})
        own.pop(connection, None)
        if not own:
            self._open.pop(client, None)

    def _client(self, connection: "_ImpatientProtocol") -> str:
        """Whose share it counts in; the proxy is itself alone, not the network of its address."""
        address = connection.address
        proxied = bool(self._trusted) and same_address(address, self._trusted)
        return self._trusted if proxied else client_of(address)

    def _close_idle(
        self, own: dict["_ImpatientProtocol", None], *, but: "_ImpatientProtocol"
    ) -> bool:
        oldest = next((one for one in own if one.idle and one is not but), None)
        if oldest is None:
            return False
        self.remove(oldest)  # now: its end is told later
        oldest.transport.abort()
        return True


class _ImpatientProtocol(H11Protocol):
    """A connection that keeps to its client's share.

    It is closed where headers do not end, and where nobody takes what is sent: one that is merely
    told to close stays open until all is taken.
    """

    _timer: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None

    def __init__(self, all_connections: Connections, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._all = all_connections

    @property
    def address(self) -> str:
        """Where it comes from."""
        return self.client[0] if self.client else ""

    @property
    def idle(self) -> bool:
        """Whether no request on it is being received or answered."""
        return self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that any byte that is not taken is told
        if not self._all.add(self):
            self.app_state = {**self.app_state, CROWDED: True}
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.remove(self)
        for timer in (self._timer, self._sending):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()

    def _watch_sending(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._sending = self.loop.call_later(SENDING_SECONDS, self._cut_off, left)

    def _cut_off(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch_sending()
        else:
            self.transport.abort()

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
