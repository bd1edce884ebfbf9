"""Who may ask: names of hosts, origins and tokens."""

import asyncio
import logging
import socket
from typing import Any

import pytest


pytest.importorskip("fastapi", reason="needs fervor[serve]")

from fervor.server.guard import Access, Guard, _same, is_loopback
from fervor.server.limits import Quotas
from fervor.server.metrics import Metrics


LOCAL = Access(frozenset({"faces.example.org"}), "", loopback=True)
OPEN = Access(frozenset({"faces.example.org"}), "secret", loopback=False)


@pytest.mark.parametrize(
    ("host", "local", "shared"),
    [
        ("localhost:8000", True, True),
        ("LOCALHOST", True, True),
        ("127.0.0.1:8000", True, True),
        ("127.1.2.3", True, True),
        ("[::1]:8000", True, True),
        ("faces.example.org", True, True),
        ("Faces.Example.org:443", True, True),
        ("192.0.2.7:8000", False, True),
        (socket.gethostname(), socket.gethostname() == "localhost", True),
        ("evil.example", False, False),
        ("localhost.evil.example", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("faces.example.org.evil.example", False, False),
        ("evil.example#localhost", False, False),
        ("[::1", False, False),
        ("", False, False),
    ],
)
def test_names_of_hosts(host: str, local: bool, shared: bool) -> None:
    assert (LOCAL.knows(host), OPEN.knows(host)) == (local, shared)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Bearer  secret ", True),
        ("Bearer secre", False),
        ("Bearer secret2", False),
        ("Bearer s\xe9cret", False),
        ("Basic secret", False),
        ("secret", False),
        ("", False),
    ],
)
def test_tokens(given: str, right: bool) -> None:
    assert OPEN.admits(given) == right
    assert LOCAL.admits(given)


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("https://faces.example.org", "faces.example.org", True),
        ("https://faces.example.org", "faces.example.org:443", True),
        ("http://localhost:3000", "localhost:8000", False),
        ("http://localhost", "localhost:8000", False),
        ("https://evil.example", "faces.example.org", False),
        ("null", "localhost", False),
        ("http://[", "localhost", False),
    ],
)
def test_origins(origin: str, host: str, same: bool) -> None:
    assert _same(origin, host) == same


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) == own


def test_a_fault_is_logged_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    name = "what a client sent"

    async def app(*_: Any) -> None:
        raise ValueError(name)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    requests = Quotas("request", most=0, each=1)
    guard = Guard(app, LOCAL, requests, Metrics(), open_paths=(), paths=())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    with caplog.at_level(logging.DEBUG):
        asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 500 and b'"error": "internal"' in sent[1]["body"]
    assert "ValueError in" in caplog.text and "test_guard.py" in caplog.text
    assert name not in caplog.text + repr(sent)
