"""A server in a process of its own, as `fervor serve` starts it, and what clients send it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
PREDICT, VIDEO, EXPLAIN = "/v1/predict", "/v1/video", "/v1/explain"
BOUNDARY = "a-boundary"
START_SECONDS = 120


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    port: int
    notice: str

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(
        self,
        path: str,
        files: Sequence[tuple[str, bytes]],
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.request("POST", path, form(files), {**kind, **(headers or {})})

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        connection = self.connection()
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """One number of /metrics, 0 where it was never counted."""
        text = self.get("/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for(self, name: str, least: float) -> None:
        until = time.monotonic() + 30
        while self.metric(name) < least:
            assert time.monotonic() < until, f"{name} stays below {least}"
            time.sleep(0.02)

    def stop(self, by: int = signal.SIGTERM) -> tuple[int, str, str]:
        """A signal; exit code, and what it printed since its start on both streams."""
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.send_signal(by)
        code = self.process.wait(90)
        return code, self.process.stdout.read(), self.process.stderr.read()


def form(files: Sequence[tuple[str, bytes]], *, field: str = "file") -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def serving(
    *words: str | Path, within: Sequence[str] = (), **environment: str
) -> Iterator[Running]:
    """`fervor serve` at a free port until the block ends, started by the command `within`."""
    pytest.importorskip("fastapi", reason="needs fervor[serve]")
    command = [*within, sys.executable, "-m", "fervor", "serve", "--port", "0", *map(str, words)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        notice = process.stdout.readline()
        if not notice:
            pytest.fail(f"the server did not start: {process.communicate()[1]}")
        port = int(re.findall(r":(\d+) ", notice)[0])
        yield Running(process, port, notice)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
