"""Measure the server under load: 200 clients on this machine, good, bad and slow ones mixed.

    python benchmarks/measure_serving.py [--clients 200] [--seconds 20] [--rounds 3]
        [--threads 1] [--output FILE]

Of ten clients six are good: each sends the portrait of examples/ again and again. One is bad: it
sends what must be refused or answered with an error row (no picture, a broken form, too many bytes,
no form). One is slow: it takes two seconds to upload its picture. One is stuck: it sends a byte now
and then and never ends, until the server gives up. One is greedy: it waits for nothing, and all
greedy ones ask from one address, each other client from its own (127.1.0.1 and further). Refused
clients but the greedy wait as long as Retry-After says. Beside them one client asks for /v1/health
twice a second.

The load comes in rounds with a pause after each: memory that grows from each to the next would be a
leak. Printed as JSON: for each kind of client the
answers by status (0 where the connection broke) and the seconds until those with 200; the server's
memory, open files and threads before, after each round and at most; its processor time, and how it
ended. It starts its own server at a free port and talks to this machine alone; Linux only.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
BOUNDARY = b"measured"
KINDS = ("good",) * 6 + ("bad", "slow", "stuck", "greedy")
"""Of ten clients."""
SLOW_SECONDS, PIECES = 2.0, 20
STUCK_SECONDS = 6.0
"""What the server gives an upload, so that stuck ones meet it."""
TIMEOUT = 120.0
PAUSE = 3.0
"""Seconds after a round until the server's memory is read: connections end meanwhile."""
QUANTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}


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


async def exchange(
    port: int, sent: bytes, kind: str = "good", address: str = "127.0.0.1"
) -> tuple[int, float, float]:
    """Status (0 where the connection broke), seconds, and seconds to wait before the next."""
    start = time.perf_counter()
    answer = b""
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0)
            )
            try:
                sending = asyncio.create_task(send(writer, sent, kind))
                answer = await reader.read(65536)
                if not sending.done():  # refused before its end: no reason to go on
                    sending.cancel()
                    writer.transport.abort()
                else:
                    answer += await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        pass
    found = re.match(rb"HTTP/1.1 (\d+) ", answer)
    wait = re.search(rb"retry-after: (\d+)", answer)
    taken = time.perf_counter() - start
    return int(found[1]) if found else 0, taken, float(wait[1]) if wait else 0.0


async def send(writer: asyncio.StreamWriter, sent: bytes, kind: str) -> None:
    """All at once, in pieces (slow), or most of it and then byte by byte (stuck)."""
    size, pause = len(sent), 0.0
    if kind == "slow":
        size, pause = -(-len(sent) // PIECES), SLOW_SECONDS / PIECES
    elif kind == "stuck":
        half = len(sent) // 2
        writer.write(sent[:half])
        sent, size, pause = sent[half:], 1, 0.2
    try:
        for place in range(0, len(sent), size):
            writer.write(sent[place : place + size])
            await writer.drain()
            await asyncio.sleep(pause)
    except OSError:
        pass  # the server has hung up; what it said is read beside this


class Load:
    """One round, and what the clients met in it."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port, self.until = port, time.perf_counter() + seconds
        self.statuses: dict[str, Counter[int]] = {}
        self.times: dict[str, list[float]] = {}

    async def client(self, kind: str, number: int) -> None:
        own = f"127.1.{number // 250}.{number % 250 + 1}"
        address = "127.2.0.1" if kind == "greedy" else own
        while time.perf_counter() < self.until:
            sent = {"bad": BAD[number // 10 % len(BAD)], "health": HEALTH}.get(kind, GOOD)
            status, taken, wait = await exchange(self.port, sent, kind, address)
            self.statuses.setdefault(kind, Counter())[status] += 1
            if status == 200:
                self.times.setdefault(kind, []).append(taken)
            await asyncio.sleep({"health": 0.5, "greedy": 0.05}.get(kind, wait))

    async def run(self, clients: int) -> None:
        works = [self.client(KINDS[number % 10], number) for number in range(clients)]
        await asyncio.gather(self.client("health", clients), *works)

    def told(self) -> dict[str, Any]:
        """For each kind of client, answers by status and the seconds of those with 200."""
        found: dict[str, Any] = {}
        for kind, counts in sorted(self.statuses.items()):
            found[kind] = {"statuses": {str(key): counts[key] for key in sorted(counts)}}
            if times := self.times.get(kind):
                values = np.quantile(times, [*QUANTILES.values()])
                found[kind]["seconds"] = {
                    name: round(float(value), 3)
                    for name, value in zip(QUANTILES, values, strict=True)
                }
        return found


def state(process: int) -> dict[str, float]:
    """What a process holds now: memory in MB, the most it ever had, open files and threads."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")

    def number(name: str) -> int:
        return int(re.findall(rf"{name}:\s+(\d+)", text)[0])

    return {
        "memory_mb": number("VmRSS") / 1000,
        "most_memory_mb": number("VmHWM") / 1000,
        "files": len(os.listdir(f"/proc/{process}/fd")),
        "threads": number("Threads"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each network of the server")
    parser.add_argument("--output", type=Path, help="a file for the JSON too")
    given = parser.parse_args()
    if not 1 <= given.clients <= 500 or not 0 < given.seconds * given.rounds <= 600:
        parser.error("expected 1 to 500 clients and up to 600 seconds in all")
    command = [sys.executable, "-m", "fervor", "serve", "--port", "0"]
    command += ["--threads", str(given.threads), "--max_upload_seconds", str(STUCK_SECONDS)]
    command += ["--client_requests", "8"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None, "asked for"
    result: dict[str, Any] = {
        "command": " ".join(command[1:]),
        "clients": given.clients,
        "load": round(os.getloadavg()[0], 1),
    }
    try:
        port = int(re.findall(r":(\d+) ", server.stdout.readline())[0])
        asyncio.run(exchange(port, GOOD))
        result |= {"before": state(server.pid), "rounds": []}
        for _ in range(given.rounds):
            load = Load(port, given.seconds)
            start = time.perf_counter()
            asyncio.run(load.run(given.clients))
            taken = time.perf_counter() - start
            time.sleep(PAUSE)
            good = load.statuses["good"][200]
            round_ = {"seconds": round(taken, 1), "good_answers_a_second": round(good / taken, 1)}
            result["rounds"].append({**round_, **load.told(), "after": state(server.pid)})
    finally:
        server.terminate()
        result["exit_code"] = server.wait(90)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result["processor_seconds"] = round(used.ru_utime + used.ru_stime, 1)
    text = json.dumps(result, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
