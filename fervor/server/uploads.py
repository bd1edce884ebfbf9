"""Multipart uploads -> files in memory, refused as soon as they are too large.

Starlette's own reading of forms spools files to the disk before a limit is looked at; here nothing
is written anywhere, and what a client calls its file is a name in the answer, never a path.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import BinaryIO, TypeVar

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fervor.errors import counted
from fervor.server.limits import Quotas, Refused


__all__ = [
    "BytesIO",
    "Disconnected",
    "Upload",
    "UploadLimits",
    "give_back",
    "receive",
    "while_connected",
]

T = TypeVar("T")

FIELD = "file"
NAME = 255
"""Letters of a file's name that are kept."""
OVERHEAD = 100_000
"""Bytes of headers and boundaries that a request may have beside its files."""


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """One file of a request: the name that the client gave it, and its bytes."""

    name: str
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much one request may upload: files, bytes of each and of all, seconds."""

    files: int
    file_bytes: int
    request_bytes: int
    seconds: float


class Disconnected(Exception):
    """The client has left before its request was complete."""


async def receive(
    request: Request,
    most: UploadLimits,
    held: Quotas,
    client: str,
    *,
    memory: Callable[[], BinaryIO] = BytesIO,
) -> list[Upload]:
    """The files of a request, in their order; `held` counts their bytes until `give_back`.

    `memory` makes what holds a file.

    Raises:
        Refused: no multipart form, another field than `file`, nothing in it, or too much of it.
        Disconnected: the client has left.
    """
    parts = _Parts(_boundary(request), most, partial(held.take, client), memory)
    stated = request.headers.get("content-length", "0")[:20]
    if int(stated) > most.request_bytes + OVERHEAD:  # h11 lets digits alone pass
        raise _too_large(f"{int(stated):,} bytes", most)
    try:
        async with asyncio.timeout(most.seconds):
            async for chunk in _chunks(request):
                parts.feed(chunk)
        return parts.finished()
    except TimeoutError:
        give_back(parts.uploads, held, client)
        raise Refused(
            408, "upload_too_slow", f"the upload took longer than {counted(most.seconds, 'second')}"
        ) from None
    except BaseException:
        give_back(parts.uploads, held, client)
        raise


def give_back(uploads: list[Upload], held: Quotas, client: str) -> None:
    """Forget files and give back the room that they took."""
    for upload in uploads:
        if not upload.file.closed:
            held.give(client, upload.file.seek(0, os.SEEK_END))
            upload.file.close()


async def while_connected(request: Request, answer: Awaitable[T]) -> T:
    """What an answer comes to; given up where the client of a received request leaves.

    Raises:
        Disconnected: it has left.
    """
    working = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Disconnected
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(
            415, "no_multipart", f"expected multipart/form-data with one or more fields `{FIELD}`"
        )
    return options[b"boundary"]


def _too_large(what: str, most: UploadLimits) -> Refused:
    return Refused(
        413,
        "request_too_large",
        f"a request of {what}: expected at most {most.request_bytes:,}",
    )


class _Parts:
    """Takes a form in chunks, and holds its files."""

    def __init__(
        self,
        boundary: bytes,
        most: UploadLimits,
        take: Callable[[int], None],
        memory: Callable[[], BinaryIO],
    ) -> None:
        self.uploads: list[Upload] = []
        self._most, self._take, self._memory = most, take, memory
        self._header, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._size = self._received = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._most.request_bytes + OVERHEAD:
            raise _too_large("more bytes", self._most)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(error) from error

    def finished(self) -> list[Upload]:
        if not self._ended:
            raise Refused(400, "malformed_form", "the form ends before its last boundary")
        if not self.uploads:
            raise Refused(400, "no_file", f"expected one or more fields `{FIELD}`, found none")
        for upload in self.uploads:
            upload.file.seek(0)
        return self.uploads

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        headers, self._headers = self._headers, {}
        _, options = parse_options_header(headers.get(b"content-disposition", b""))
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if field != FIELD:
            raise Refused(
                400, "unknown_field", f"field `{_clean(field)}`: expected fields `{FIELD}` alone"
            )
        if b"filename" not in options:
            raise Refused(
                400,
                "no_file",
                f"field `{FIELD}` is a text: expected an uploaded file; paths and addresses are "
                "never read",
            )
        if len(self.uploads) == self._most.files:
            raise Refused(
                413,
                "too_many_files",
                f"expected at most {counted(self._most.files, 'file')} in a request",
            )
        name = _clean(options[b"filename"].decode("utf-8", "replace"))
        self.uploads.append(Upload(name, self._memory()))
        self._size = 0

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        upload, size = self.uploads[-1], end - start
        self._size += size
        if self._size > self._most.file_bytes:
            raise Refused(
                413,
                "file_too_large",
                f"{upload.name}: expected a file of at most "
                f"{counted(self._most.file_bytes, 'byte')}",
            )
        self._take(size)
        upload.file.write(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self._ended = True


def _malformed(error: FormParserError) -> Refused:
    return Refused(400, "malformed_form", f"not a multipart form: {' '.join(str(error).split())}")


def _clean(name: str) -> str:
    """A client's name for a file: no folders, nothing that commands a terminal, not too long."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(sign if sign.isprintable() else "?" for sign in last)[:NAME]
