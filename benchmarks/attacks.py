"""Attack a server of fervor's own on this machine, and measure what others notice of it.

    python benchmarks/attacks.py [--seconds 20] [--attacks scans pixels ...] [--output FILE]

For each attack a server is started at a free port; one address (127.0.0.1) attacks it with bounded
loops, and six other addresses (127.0.0.2 and further) ask for a portrait again and again. Printed
as JSON: what the attacker was answered and how soon, the good clients' answers by status with the
median and the longest of their seconds, the most memory of the server and its processes together,
and how long it took to stop after SIGTERM. Talks to 127.0.0.0/8 alone; Linux only.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event, Lock, Thread
from typing import Any

import hostile


PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
BOUNDARY = b"attack"
ATTACKER, GOOD = "127.0.0.1", tuple(f"127.0.0.{number}" for number in range(2, 8))
TIMEOUT = 30.0
SAMPLE = 0.05
"""Seconds between two looks at the memory."""


@dataclass
class Notes:
    """Answers by status, 0 where the connection broke, and their seconds; for any threads."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lines: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    def add(self, status: int, seconds: float, body: bytes = b"") -> None:
        """One answer; `body` says why where it is an error."""
        reasons = re.findall(rb'"(?:message|error)": ?"([^"]+)"', body)
        with self.lock:
            self.statuses[status] += 1
            self.seconds.append(seconds)
            self.lines.update(reason.decode() for reason in reasons[-1:])

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "median_seconds": round(median(self.seconds or [0.0]), 2),
            "longest_seconds": round(max(self.seconds, default=0.0), 2),
            "reasons": dict(self.lines.most_common(3)),
        }


def head(path: str, length: int) -> bytes:
    """The headers of a request with a form of `length` bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def request(files: list[bytes], path: str = "/v1/predict") -> bytes:
    """A whole request."""
    part = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = b"".join(b"--" + BOUNDARY + b"\r\n" + part + content + b"\r\n" for content in files)
    body += b"--" + BOUNDARY + b"--\r\n"
    return head(path, len(body)) + body


def connect(port: int, address: str) -> socket.socket:
    """A connection from an address."""
    return socket.create_connection(("127.0.0.1", port), TIMEOUT, (address, 0))


def ask(port: int, sent: bytes, notes: Notes, address: str = ATTACKER) -> int:
    """One request; its status."""
    start, answer = time.perf_counter(), b""
    try:
        with connect(port, address) as connection:
            connection.sendall(sent)
            while chunk := connection.recv(1 << 20):
                answer += chunk
    except OSError:
        pass
    found = re.match(rb"HTTP/1.1 (\d+) ", answer)
    status = int(found[1]) if found else 0
    notes.add(status, time.perf_counter() - start, answer)
    return status


# Attacks: each runs until `end` is set, or through once.


def repeated(sent: bytes, clients: int, port: int, notes: Notes, end: Event) -> None:
    """Several clients of one address send the same request again and again."""

    def client(_: int) -> None:
        while not end.wait(0.05):
            if not ask(port, sent, notes):  # the server has gone
                end.wait(1.0)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))


def open_ended(sent: bytes, count: int, port: int, notes: Notes, end: Event) -> None:
    """Many connections that send something and never end it."""
    with ExitStack() as stack:
        for _ in range(count):
            try:
                connection = stack.enter_context(connect(port, ATTACKER))
                connection.sendall(sent)
            except OSError:
                notes.add(0, 0.0)
        end.wait()


def leaving(sent: bytes, port: int, notes: Notes, end: Event) -> None:
    """A client that sends a request and leaves, again and again."""
    while not end.is_set():
        try:
            with connect(port, ATTACKER) as connection:
                connection.sendall(sent)
                time.sleep(0.1)
        except OSError:
            notes.add(0, 0.0)


Attack = Callable[[int, Notes, Event], None]


def attacks(folder: Path) -> dict[str, Callable[[], Attack]]:
    """By name; each is made when it is needed."""
    scans = partial(hostile.many_scans, 8000)
    return {
        "nothing": lambda: lambda port, notes, end: None,
        "scans": lambda: partial(repeated, request([scans(1500)]), 16),
        "scans-in-tiff": lambda: partial(repeated, request([hostile.scans_in_tiff()]), 16),
        "allowed-scans": lambda: partial(repeated, request([scans(9)] * 3), 16),
        "pixels": lambda: partial(repeated, request([hostile.black_png()] * 16), 16),
        "allowed-pixels": lambda: partial(repeated, request([hostile.black_png()] * 3), 16),
        "transparent": lambda: partial(repeated, request([hostile.black_png(kind=6)]), 16),
        "leaving": lambda: partial(leaving, request([hostile.black_png()] * 3)),
        "headers": lambda: partial(open_ended, b"GET / HTTP/1.1\r\nHost: localhost\r\nX", 950),
        "bodies": lambda: partial(open_ended, head("/v1/video", 1_000_000), 60),
        "large-frames": lambda: partial(
            repeated, _video(hostile.large_frames(folder / "large.mov")), 2
        ),
        "many-frames": lambda: partial(
            repeated, _video(hostile.many_frames(folder / "many.mov")), 2
        ),
    }


def _video(path: Path) -> bytes:
    return request([path.read_bytes()], "/v1/video")


def memory_of(process: int) -> float:
    """MB that a process and those it started hold."""
    total = 0.0
    waiting = [process]
    while waiting:
        number = waiting.pop()
        try:
            status = Path(f"/proc/{number}/status").read_text(encoding="utf-8")
            for task in Path(f"/proc/{number}/task").iterdir():
                children = (task / "children").read_text(encoding="utf-8")
                waiting.extend(map(int, children.split()))
        except OSError:  # it has ended
            continue
        found = re.search(r"VmRSS:\s+(\d+)", status)
        total += int(found[1]) / 1000 if found else 0
    return total


@contextmanager
def most_memory(process: int) -> Iterator[list[float]]:
    """What `memory_of` reaches during the block, in a list of one."""
    most, end = [0.0], Event()

    def watch() -> None:
        while not end.wait(SAMPLE):
            most[0] = max(most[0], memory_of(process))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        end.set()
        thread.join()


def good_client(port: int, address: str, notes: Notes, until: float) -> None:
    """Asks for the portrait until the time is over."""
    sent = request([PORTRAIT.read_bytes()])
    while time.perf_counter() < until:
        ask(port, sent, notes, address)
        time.sleep(0.2)


def measured(attack: Attack, seconds: float) -> dict[str, Any]:
    """One attack on a server of its own."""
    command = [sys.executable, "-m", "fervor", "serve", "--port", "0", "--threads", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None, "asked for"
    attacker, good, end = Notes(), Notes(), Event()
    try:
        port = int(re.findall(r":(\d+) ", server.stdout.readline())[0])
        ask(port, request([PORTRAIT.read_bytes()]), Notes())
        with most_memory(server.pid) as most, ThreadPoolExecutor(1 + len(GOOD)) as pool:
            attacking = pool.submit(attack, port, attacker, end)
            time.sleep(1.0)
            until = time.perf_counter() + seconds
            clients = [pool.submit(good_client, port, one, good, until) for one in GOOD]
            try:
                for client in clients:
                    client.result()
                start = time.perf_counter()
                server.send_signal(signal.SIGTERM)  # under attack
                code = server.wait(60)
                stopping = time.perf_counter() - start
            finally:
                end.set()
            attacking.result()
    finally:
        server.kill()
        server.communicate()
    return {
        "attacker": attacker.told(),
        "good": good.told(),
        "most_memory_mb": round(most[0]),
        "seconds_to_stop": round(stopping, 1),
        "exit_code": code,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:
        known = attacks(Path(folder))
        parser.add_argument("--seconds", type=float, default=20, help="of each attack")
        parser.add_argument("--attacks", nargs="+", choices=known, default=list(known))
        parser.add_argument("--output", type=Path, help="a file for the JSON too")
        given = parser.parse_args()
        if not 0 < given.seconds <= 120:
            parser.error("expected up to 120 seconds")
        found: dict[str, Any] = {"load": round(os.getloadavg()[0], 1)}
        for name in given.attacks:
            found[name] = measured(known[name](), given.seconds)
            print(json.dumps({name: found[name]}), flush=True)
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
