"""What every request passes before it reaches an endpoint, and what every answer carries.

Names of hosts are checked because a page elsewhere may lead its own name to this machine (DNS
rebinding), origins because a page elsewhere may post to it unasked.
"""

import asyncio
import hmac
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from fervor.server.limits import Quotas, Refused, client_of
from fervor.server.metrics import Metrics


__all__ = [
    "CLIENT",
    "CROWDED",
    "FAULT",
    "Access",
    "Guard",
    "is_address",
    "is_loopback",
    "same_address",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",  # pictures and videos that were chosen, shown from memory
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PAGE_CACHE, ANSWER_CACHE = "no-cache", "no-store"

CLIENT = "fervor.client"
"""In the scope of a request: who asks, in whose turn and share it is."""
CROWDED = "crowded"
"""In the state of a request: its connection is one too many."""

FAULT = Refused(500, "internal", "the server failed; its log says where, not on what")
"""Answers what nobody expected."""
LINGERING, LINGERING_BYTES = 20.0, 64_000_000
"""How long, and how much, a refused client is listened to: one that is cut off at once while it
sends never reads why."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: names, besides addresses and this machine's own, under which the server is reached.
        token: that answers are given for; empty where none is needed.
        loopback: whether only this machine can reach the server.
    """

    hosts: frozenset[str]
    token: str
    loopback: bool

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server; an address cannot be led elsewhere."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.hosts or name == "localhost":
            return True
        if self.loopback:
            return is_loopback(name)
        return is_address(name) or name == socket.gethostname().lower()

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header holds the token; takes as long for each wrong one."""
        kind, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self.token.encode())
        return not self.token or (right and kind.lower() == "bearer")


def is_loopback(host: str) -> bool:
    """Whether an address or name stands for this machine alone."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def same_address(one: str, other: str) -> bool:
    """Whether two texts are one address, which IPv6 writes in several ways."""
    if not (is_address(one) and is_address(other)):
        return one == other
    return ip_address(one) == ip_address(other)


def is_address(name: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


class Guard:
    """An ASGI application around another one.

    Args:
        app: answers what passes.
        access: who may ask.
        requests: what each client may have received or answered at the same time.
        open_paths: what needs no token: the page and what belongs to it.
        paths: of the endpoints, which are counted by name.
    """

    def __init__(
        self,
        app: App,
        access: Access,
        requests: Quotas,
        metrics: Metrics,
        *,
        open_paths: Iterable[str],
        paths: Iterable[str],
    ) -> None:
        self._app, self._access, self._metrics = app, access, metrics
        self._requests = requests
        self._open, self._paths = frozenset(open_paths), frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the start and the end of the server
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        names = {name for name, value in scope["headers"] if value != b"0"}
        has_body = not names.isdisjoint({b"content-length", b"transfer-encoding"})
        cache = self._cache(scope["path"])
        crowded = bool(scope.get("state", {}).get(CROWDED))
        exchange = _Exchange(receive, send, cache=cache, has_body=has_body, last=crowded)
        try:
            await self._answer(scope, exchange)
        except asyncio.CancelledError:  # the server has waited long enough for its end
            await exchange.refuse(Refused(503, "stopping", "the server is stopping", retry=5))
            return
        except Exception as error:
            # Where it failed, without the message: that could hold what a client sent.
            where = "".join(traceback.format_tb(error.__traceback__))
            logging.getLogger(__name__).error("%s in\n%s", type(error).__name__, where)
            await exchange.refuse(FAULT)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, exchange.status, perf_counter() - start)
        await exchange.finish()

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        try:
            if exchange.last:
                message = "too many connections from one address are open; try again"
                raise Refused(429, "client_busy", message, retry=1)
            self._check(scope)
            client = client_of((scope.get("client") or ("",))[0])
            method = "GET" if scope["method"] == "HEAD" else scope["method"]  # bodies are left out
            scope = {**scope, "method": method, CLIENT: client}
            with self._requests.one(client) if method == "POST" else nullcontext():
                await self._app(scope, exchange.receive, exchange.send)
        except Refused as refusal:
            self._metrics.refusal(refusal.code)
            await exchange.refuse(refusal)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        host = headers.get("host", b"").decode("latin-1")
        if not self._access.knows(host):
            raise Refused(
                403,
                "unknown_host",
                "this server is not known by that name; see fervor serve --hosts",
            )
        origin = headers.get("origin", b"").decode("latin-1")
        if origin and scope["method"] not in ("GET", "HEAD") and not _same(origin, host):
            raise Refused(403, "other_origin", "pages of other origins may not post here")
        if self._is_open(scope["path"]):
            return
        if not self._access.admits(headers.get("authorization", b"").decode("latin-1")):
            raise Refused(401, "token_needed", "expected the header `Authorization: Bearer TOKEN`")

    def _is_open(self, path: str) -> bool:
        return path in self._open or path.startswith("/static/")

    def _cache(self, path: str) -> str:
        page = self._is_open(path) and not path.startswith("/v1/")
        return PAGE_CACHE if page else ANSWER_CACHE


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return parts.netloc.lower().removesuffix(default) == host.lower().removesuffix(default)


class _Exchange:
    """One request and its answer: adds the headers, and ends politely where it ends early."""

    def __init__(
        self, receive: Receive, send: Send, *, cache: str, has_body: bool, last: bool
    ) -> None:
        self.status = 499  # what is counted where the client left before an answer
        self.last = last  # on its connection
        self._receive, self._send, self._cache = receive, send, cache
        self._received = not has_body
        self._started = self._held_open = self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._received = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            added = {**HEADERS, "cache-control": self._cache}
            if self.last or (self.status >= 400 and not self._received):
                added["connection"] = "close"
            own = [(name.encode(), value.encode()) for name, value in added.items()]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        elif not message.get("more_body", False):
            self._held_open = self.status >= 400 and not self._received
            self._ended = not self._held_open
            message = {**message, "more_body": self._held_open}
        await self._send(message)

    async def refuse(self, refusal: Refused) -> None:
        """Answer with an error, unless an answer has begun."""
        if self._started:
            return
        body, headers = refusal.answer()
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})

    async def finish(self) -> None:
        """Listen a little to what a refused client still sends, then end."""
        if not self._held_open or self._ended:
            return
        heard = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGERING):
                while not self._received and heard < LINGERING_BYTES:
                    heard += len((await self.receive()).get("body", b""))
        self._ended = True
        await self._send({"type": "http.response.body", "body": b""})
