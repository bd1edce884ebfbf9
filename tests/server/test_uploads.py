"""Forms that ask for more work than they weigh are refused in seconds, whoever's limit it is."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest


pytest.importorskip("fastapi", reason="needs fervor[serve]")

from fastapi import Request

from fervor.server.limits import Quotas, Refused
from fervor.server.uploads import Upload, UploadLimits, receive
from tests.support.serving import BOUNDARY, form


MOST = UploadLimits(files=16, file_bytes=20_000_000, request_bytes=64_000_000, seconds=60.0)
PIECE = 1 << 16
"""Bytes that come at a time, as from a socket."""
SECONDS = 1.0
"""Of processor time: with python-multipart 0.0.20, whose headers might grow, the first took 12."""

START = f"--{BOUNDARY}\r\n".encode()
GREEDY = {
    "a header's value that grows": START + b"X: " + b"x" * 10_500_000,
    "a header's name that grows": START + b"x" * 10_500_000,
    "headers without end": START + b"X: x\r\n" * 1_750_000,
    "parts without end": (START + b'Content-Disposition: form-data; name="x"\r\n\r\n\r\n')
    * 150_000,
    "files without end": form([("a", b"")] * 100_000),
    "words before the form": b"\r\n" * 5_000_000,
    "words behind it": form([("a", b"a")]) + b"x" * 10_500_000,
}


def received(body: bytes, boundary: str = BOUNDARY) -> tuple[list[Upload], Quotas]:
    """What a server holds of a request."""
    pieces = [body[start : start + PIECE] for start in range(0, len(body), PIECE)]

    def messages() -> Iterator[dict[str, Any]]:
        for piece in pieces:
            yield {"type": "http.request", "body": piece, "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}

    following = messages()

    async def message() -> dict[str, Any]:
        return next(following)

    kind = f"multipart/form-data; boundary={boundary}".encode()
    request = Request({"type": "http", "headers": [(b"content-type", kind)]}, message)
    held = Quotas("byte", most=512_000_000, each=256_000_000)
    return asyncio.run(receive(request, MOST, held, "client")), held


@pytest.mark.parametrize("case", GREEDY)
def test_a_form_without_end_costs_little(case: str) -> None:
    begin = time.process_time()
    try:
        uploads, _ = received(GREEDY[case])
    except Refused as refused:
        assert refused.status in (400, 413)
    else:
        assert case == "words behind it" and len(uploads) == 1  # as the standard has it
    assert time.process_time() - begin < SECONDS


def test_a_boundary_has_a_length() -> None:
    with pytest.raises(Refused, match="Boundary length") as refused:
        received(b"", "b" * 60_000)
    assert refused.value.status == 400


def test_what_was_held_of_a_refused_form_is_given_back() -> None:
    body = form([("a", b"a" * 1000)])[:-4] + b"\r\n" + START + b"X: " + b"x" * 100_000
    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()

    async def message() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    held = Quotas("byte", most=10_000, each=10_000)
    request = Request({"type": "http", "headers": [(b"content-type", kind)]}, message)
    with pytest.raises(Refused):
        asyncio.run(receive(request, MOST, held, "client"))
    assert held.taken == 0
