"""Measure the server under load: 200 clients on this machine, good, bad and slow ones mixed.

    python scripts/measure_serving.py [--clients 200] [--seconds 20] [--threads 1]

Of ten clients eight send the portrait of examples/ again and again, one sends what must be refused
or answered with an error row (no picture, a broken form, too many bytes, no form), and one takes
two seconds to upload its picture. A refused client waits as long as Retry-After says. Beside them
one client asks for /v1/health twice a second. Printed: answers by status, answers a second, their
times, and the largest memory of the server. It starts its own server at a free port and talks to
127.0.0.1 alone; it stops by itself.
"""

import argparse
import asyncio
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np


PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
BOUNDARY = b"measured"
SLOW_SECONDS, PIECES = 2.0, 20
TIMEOUT = 120.0


def request(content: bytes, *, boundary: bytes = BOUNDARY, path: str = "/v1/predict") -> bytes:
    """A whole HTTP request with one file."""
    part = b'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = b"--" + BOUNDARY + b"\r\n" + part + content + b"\r\n--" + BOUNDARY + b"--\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary.decode()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


GOOD = request(PORTRAIT.read_bytes())
BAD = (
    request(b"no picture"),
    request(PORTRAIT.read_bytes(), boundary=b"another"),
    request(b"x" * 21_000_000),
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Length: 2\r\n\r\n{}",
)
HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def exchange(port: int, sent: bytes, *, slowly: bool = False) -> tuple[int, float, float]:
    """Status (0 where the connection broke), seconds, and seconds to wait before the next."""
    start = time.perf_counter()
    answer = b""
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                size = -(-len(sent) // PIECES) if slowly else len(sent)
                for place in range(0, len(sent), size):
                    writer.write(sent[place : place + size])
                    await writer.drain()
                    if slowly:
                        await asyncio.sleep(SLOW_SECONDS / PIECES)
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        pass
    found = re.match(rb"HTTP/1.1 (\d+) ", answer)
    wait = re.search(rb"retry-after: (\d+)", answer)
    taken = time.perf_counter() - start
    return int(found[1]) if found else 0, taken, float(wait[1]) if wait else 0.0


class Load:
    """What the clients met."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port, self.until = port, time.perf_counter() + seconds
        self.statuses: dict[str, Counter[int]] = {}
        self.times: dict[str, list[float]] = {}

    async def client(self, kind: str, number: int) -> None:
        while time.perf_counter() < self.until:
            sent = {"bad": BAD[number % len(BAD)], "health": HEALTH}.get(kind, GOOD)
            status, taken, wait = await exchange(self.port, sent, slowly=kind == "slow")
            self.statuses.setdefault(kind, Counter())[status] += 1
            if status == 200:
                self.times.setdefault(kind, []).append(taken)
            await asyncio.sleep(0.5 if kind == "health" else wait)

    async def run(self, clients: int) -> None:
        kinds = [
            "bad" if n % 10 == 8 else "slow" if n % 10 == 9 else "good" for n in range(clients)
        ]
        works = [self.client(kind, number // 10) for number, kind in enumerate(kinds)]
        await asyncio.gather(self.client("health", 0), *works)


def memory(process: int) -> float:
    """Largest memory so far, in MB."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.clients > 500 or given.seconds > 120:
        parser.error("expected at most 500 clients and 120 seconds")
    command = [sys.executable, "-m", "fervor", "serve", "--port", "0"]
    command += ["--threads", str(given.threads)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None, "asked for"
    try:
        port = int(re.findall(r":(\d+) ", server.stdout.readline())[0])
        asyncio.run(exchange(port, GOOD))
        before = memory(server.pid)
        load = Load(port, given.seconds)
        start = time.perf_counter()
        asyncio.run(load.run(given.clients))
        taken = time.perf_counter() - start
        print(f"{given.clients} clients, {taken:.1f} s, load {os.getloadavg()[0]:.1f}")
        for kind, counts in sorted(load.statuses.items()):
            times = np.array(load.times.get(kind, [np.nan]))
            quantiles = ", ".join(f"{value:.2f}" for value in np.quantile(times, [0.5, 0.95, 1]))
            print(f"{kind:7}{dict(sorted(counts.items()))}  median, 95 %, most: {quantiles} s")
        print(f"good answers a second: {load.statuses['good'][200] / taken:.1f}")
        print(
            f"memory: {before:.0f} MB after the first answer, at most {memory(server.pid):.0f} MB"
        )
    finally:
        server.terminate()
        code = server.wait(90)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor time of the server {used.ru_utime + used.ru_stime:.1f} s, exit code {code}")


if __name__ == "__main__":
    main()
