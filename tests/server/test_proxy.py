"""The reverse proxy of docs/serving.md in front of a server: real nginx, on this machine alone."""

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.models import write_model
from tests.support.serving import (
    BOUNDARY,
    PHOTOGRAPH,
    PREDICT,
    VIDEO,
    Reply,
    Running,
    form,
    serving,
)
from tests.support.videos import moving, write_video


pytest.importorskip("fastapi", reason="needs fervor[serve]")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from hostile import black_png


NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or ""
if sys.platform != "linux" or not NGINX or not shutil.which("openssl"):
    pytest.skip("needs Linux, nginx and openssl", allow_module_level=True)


NAME = "faces.example.org"
DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


class Proxy:
    """The example's nginx, and clients that ask it over TLS."""

    def __init__(self, port: int, certificate: Path, process: int) -> None:
        self.port, self.process = port, process
        self._trust = ssl.create_default_context(cafile=str(certificate))

    def request(
        self, method: str, path: str, body: bytes = b"", *, address: str = FIRST, **headers: str
    ) -> Reply:
        """One request under the server's public name; names of headers with _ for -."""
        connection = self.connection(address)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        try:
            connection.request(
                method, path, body, {"Host": f"{NAME}:{self.port}", "Content-Type": kind, **names}
            )
            answer = connection.getresponse()
            own = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, own, answer.read())
        finally:
            connection.close()

    def files(self) -> list[str]:
        """What nginx has open in its folder for bodies."""
        links = Path(f"/proc/{self.process}/fd").iterdir()
        names = [os.readlink(link) for link in links]
        return [name for name in names if "/client_body/" in name]

    def connection(self, address: str) -> http.client.HTTPSConnection:
        """From one of this machine's addresses."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=60, source_address=(address, 0), context=self._trust
        )


class Ended:
    """Closes a connection at the end of a block."""

    def __init__(self, connection: http.client.HTTPSConnection) -> None:
        self._connection = connection

    def __enter__(self) -> http.client.HTTPSConnection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def example() -> str:
    (text,) = re.findall(r"```nginx\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model = write_model(tmp_path_factory.mktemp("model"))
    words = ("--hosts", NAME, "--trusted_proxy", "127.0.0.1", "--client_requests", "1")
    with serving("--model", model, *words) as running:
        yield running


@contextmanager
def proxied(server: Running, folder: Path, text: str) -> Iterator[Proxy]:
    """nginx as `text` says, in front of a server."""
    certificate, key, port = folder / "faces.pem", folder / "faces.key", free_port()
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=faces -addext".split()
    names = [f"subjectAltName=DNS:{NAME},IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([*make, *names], check=True, capture_output=True)
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/faces.pem": str(certificate),
        "/etc/ssl/faces.key": str(key),
        "http://127.0.0.1:8000": server.address,
    }.items():
        assert text.count(old) == 1, f"{old} in {DOCUMENT}"
        text = text.replace(old, new)
    own = "".join(
        f"{kind}_temp_path {folder / kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder / 'pid'};\nerror_log stderr;\n"
        f"events {{ worker_connections 500; }}\nhttp {{\naccess_log off;\n{own}{text}}}\n"
    )
    log = folder / "log"
    with log.open("w") as errors:
        words = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        process = subprocess.Popen(words, stderr=errors)
    try:
        made, until = Proxy(port, certificate, process.pid), time.monotonic() + 30
        while True:
            try:
                assert made.request("GET", "/v1/health").status == 200
                break
            except ConnectionRefusedError:
                assert process.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.05)
        yield made
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def proxy(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxied(server, tmp_path_factory.mktemp("nginx"), example()) as made:
        yield made


def test_the_page_and_answers_come_through(proxy: Proxy, server: Running) -> None:
    assert "<title>" in proxy.request("GET", "/").body.decode()
    body = form([("a.jpg", PHOTOGRAPH.read_bytes())])
    own = f"https://{NAME}:{proxy.port}"
    answer = proxy.request("POST", PREDICT, body, Origin=own)
    direct = server.post(PREDICT, [("a.jpg", PHOTOGRAPH.read_bytes())])
    assert (answer.status, answer.json) == (200, direct.json)
    assert proxy.request("POST", PREDICT, body, Origin="https://other.example.org").status == 403
    assert proxy.request("GET", "/v1/health", Host="other.example.org").status == 403


def test_rows_of_a_video_come_as_they_are_known(
    proxy: Proxy, server: Running, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    video = write_video(tmp_path / "a.mp4", moving(60, lambda number: (60 + number, 60)))
    connection = proxy.connection(FIRST)
    kind = {"Host": NAME, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    try:
        connection.request("POST", VIDEO, form([("a.mp4", video.read_bytes())]), kind)
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.readline())["frame"] == 0
        assert server.metric("fervor_requests_in_flight") == 1  # and the next are not known yet
        assert len(answer.read().splitlines()) >= 59
    finally:
        connection.close()


def test_clients_keep_their_shares(proxy: Proxy, server: Running) -> None:
    """One has its only request under way; what it says of its address is not believed."""
    long = form([("a.png", black_png(4000, 4000))])
    short = form([("a.jpg", b"no picture")])
    busy = threading.Thread(target=proxy.request, args=("POST", PREDICT, long))
    busy.start()
    server.wait_for("fervor_requests_in_flight", 1)
    claim = {"X_Forwarded_For": "192.0.2.1"}
    assert proxy.request("POST", PREDICT, short, **claim).status == 429
    assert proxy.request("POST", PREDICT, short, address=SECOND).status == 200
    busy.join()
    assert proxy.request("POST", PREDICT, short, **claim).status == 200


def is_a_page_of_nginx(body: bytes) -> bool:
    return b"<html>" in body and b"nginx" in body


def test_one_address_has_so_many_connections(proxy: Proxy) -> None:
    most = int(re.findall(r"limit_conn clients (\d+);", example())[0])
    assert f"a {most + 1}rd request from one" in DOCUMENT.read_text(encoding="utf-8")
    with ExitStack() as held:
        for number in range(most):
            one = held.enter_context(Ended(proxy.connection(FIRST)))
            one.putrequest("POST", VIDEO)
            one.putheader("Content-Length", "1000000")
            one.endheaders(b"a part of it")
            if number == most - 2:
                time.sleep(0.2)
                assert proxy.request("GET", "/v1/health").status == 200
        until = time.monotonic() + 30
        while (answer := proxy.request("GET", "/v1/health")).status != 503:
            assert time.monotonic() < until
        assert is_a_page_of_nginx(answer.body)
        assert proxy.request("GET", "/v1/health", address=SECOND).status == 200
    until = time.monotonic() + 30
    while proxy.request("GET", "/v1/health").status != 200:
        assert time.monotonic() < until


def test_the_largest_video_that_the_server_takes_comes_through(proxy: Proxy) -> None:
    """A body that is too large is refused by its length, before any of it is sent."""
    for length, refused in ((256_000_000, False), (280_000_000, True)):
        with Ended(proxy.connection(FIRST)) as connection:
            connection.putrequest("POST", VIDEO)
            connection.putheader("Content-Length", str(length))
            connection.endheaders()
            connection.sock.settimeout(2.0)
            answer = b""
            with suppress(TimeoutError):
                while part := connection.sock.recv(65536):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 413") is refused
            assert is_a_page_of_nginx(answer) is refused


def test_half_a_header_is_not_waited_for(server: Running, tmp_path: Path) -> None:
    """nginx ends the connection after `client_header_timeout`, here a second."""
    text = example().replace("client_header_timeout 15s", "client_header_timeout 1s")
    assert text != example()
    with proxied(server, tmp_path, text) as proxy, Ended(proxy.connection(FIRST)) as connection:
        connection.connect()
        connection.sock.settimeout(10)
        began = time.monotonic()
        connection.sock.sendall(b"GET /v1/health HTTP/1.1\r\nHost: ")
        assert connection.sock.recv(1) == b""
        assert 0.5 < time.monotonic() - began < 8
        assert server.metric("fervor_requests_in_flight") == 0


@pytest.mark.parametrize("buffering", [True, False])
def test_a_large_upload_may_lie_on_the_disk_of_nginx(
    buffering: bool, proxy: Proxy, server: Running, tmp_path: Path
) -> None:
    with ExitStack() as ending:
        if not buffering:
            text = example().replace("proxy_buffering", "proxy_request_buffering")
            proxy = ending.enter_context(proxied(server, tmp_path, text))
        connection = ending.enter_context(Ended(proxy.connection(SECOND)))
        connection.putrequest("POST", VIDEO, skip_host=True)
        connection.putheader("Host", NAME)
        connection.putheader("Content-Length", "2000000")
        connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        connection.endheaders(form([("a.mp4", bytes(1_000_000))])[:900_000])
        if buffering:
            until = time.monotonic() + 30
            while not proxy.files():
                assert time.monotonic() < until
        else:
            server.wait_for("fervor_uploaded_bytes", 800_000)
            assert proxy.files() == []
