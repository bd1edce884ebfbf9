"""The endpoints with small limits, in this process: what is refused, and whose share it takes."""

import asyncio
import io
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


pytest.importorskip("fastapi", reason="needs fervor[serve]")

from fervor import __version__
from fervor.errors import ModelError
from fervor.inference.predictor import Predictor
from fervor.server import schema, video
from fervor.server.app import application
from fervor.server.guard import Access, Guard
from fervor.server.limits import Limits
from tests.support.models import LABELS, POINTS, write_model
from tests.support.serving import BOUNDARY, EXPLAIN, PREDICT, VIDEO, Reply, form
from tests.support.videos import flat, write_video


NOTHING = ("a.jpg", b"no picture")
ORIENTATION = 0x112
"""The tag of EXIF."""


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(write_model(tmp_path_factory.mktemp("model")), threads=1)


@pytest.fixture
def made(predictor: Predictor) -> Iterator[Callable[..., Guard]]:
    """Makes a server with limits, which is closed at the end."""
    services = []

    def make(**limits: int) -> Guard:
        guard = application(predictor, Access(frozenset(), "", True), Limits(**limits))
        services.append(guard._app)
        return guard

    yield make
    for app in services:
        asyncio.run(ended(app))


async def ended(app: Any) -> None:
    messages = iter(("startup", "shutdown"))

    async def receive() -> dict[str, Any]:
        return {"type": f"lifespan.{next(messages)}"}

    async def send(_: Any) -> None:
        pass

    await app({"type": "lifespan", "app": app, "state": {}}, receive, send)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A video of six frames."""
    path = tmp_path_factory.mktemp("videos") / "a.mp4"
    return "a.mp4", write_video(path, [flat((9, 9, 9))] * 6).read_bytes()


async def soon() -> None:
    """Nothing is waited for."""


async def asked(
    guard: Guard,
    method: str,
    path: str,
    *files: tuple[str, bytes],
    client: str = "192.0.2.1",
    last: Callable[[], Awaitable[None]] = soon,
    first: Callable[[], Awaitable[None]] = soon,
) -> Reply:
    """One request; `last` is awaited before its last byte, `first` after the answer's first."""
    path, _, query = path.partition("?")
    body = form(files) if files else b""
    parts = [body[:-1], body[-1:]]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if len(parts) == 1:
            await last()
        elif not parts:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await first()

    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
    headers = [(b"host", b"localhost"), (b"content-type", kind)]
    scope = {
        **{"type": "http", "method": method, "path": path, "query_string": query.encode()},
        **{"headers": [*headers, *[(b"transfer-encoding", b"chunked")] * bool(files)]},
        **{"client": (client, 1), "scheme": "http", "http_version": "1.1", "root_path": ""},
    }
    async with asyncio.timeout(30):
        await guard(scope, receive, send)
    names = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], names, b"".join(part.get("body", b"") for part in sent[1:]))


def drawn_face(path: Path) -> bytes:
    """A green picture, which the tiny model takes for a face."""
    Image.new("RGB", (64, 64), (0, 200, 0)).save(path)
    return path.read_bytes()


def refusal(answer: Reply) -> tuple[int, str]:
    assert answer.json.keys() == {"error", "message"} and "\n" not in answer.json["message"]
    assert (answer.status in (429, 503)) == ("retry-after" in answer.headers)
    return answer.status, answer.json["error"]


class Gate:
    """Holds who comes, and tells when somebody has."""

    def __init__(self) -> None:
        self.come, self.may = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.come.set()
        await self.may.wait()


def test_bytes_of_one_client_and_of_all_are_bounded(made: Callable[..., Guard]) -> None:
    guard = made(client_bytes=2000, held_bytes=3000)

    async def work() -> None:
        gate = Gate()
        holds = asyncio.create_task(asked(guard, "POST", PREDICT, ("a", bytes(1500)), last=gate))
        await gate.come.wait()
        for client, size, expected in (
            ("192.0.2.1", 1000, (429, "client_busy")),
            ("192.0.2.2", 1600, (503, "busy")),
        ):
            answer = await asked(guard, "POST", PREDICT, ("a", bytes(size)), client=client)
            assert refusal(answer) == expected
        other = await asked(guard, "POST", PREDICT, ("a", bytes(1000)), client="192.0.2.2")
        assert other.status == 200
        gate.may.set()
        assert (await holds).status == 200
        answer = await asked(guard, "POST", PREDICT, ("a", bytes(2000)))
        assert answer.status == 200  # all of it was given back

    asyncio.run(work())


def test_the_page_learns_in_which_pixels_boxes_count(made: Callable[..., Guard]) -> None:
    """Of the upright picture, in a header: rows have their columns alone."""
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "WEBP", exif=turned)
    files = [("a.webp", file.getvalue()), NOTHING]
    guard = made()
    assert "fervor-sizes" not in asyncio.run(asked(guard, "POST", PREDICT, *files)).headers
    answer = asyncio.run(asked(guard, "POST", f"{PREDICT}?covered=true", *files))
    assert answer.headers["fervor-sizes"] == "30x40, 0x0"
    assert [rows[0]["status"] for rows in answer.json["results"]] == ["no_face", "error"]


def test_two_videos_are_read_one_of_each_client(
    made: Callable[..., Guard], clip: tuple[str, bytes]
) -> None:
    guard = made()

    async def work() -> None:
        gates, streams = [Gate(), Gate()], []
        for client, gate in zip("ab", gates, strict=True):
            ask = asked(guard, "POST", VIDEO, clip, client=client, first=gate)
            streams.append(asyncio.create_task(ask))
            await gate.come.wait()
        for client, expected in (("a", (429, "client_busy")), ("c", (503, "busy"))):
            answer = await asked(guard, "POST", VIDEO, clip, client=client)
            assert refusal(answer) == expected
        for gate in gates:
            gate.may.set()
        for stream in streams:
            assert len((await stream).body.splitlines()) == 6
        async with asyncio.timeout(20):  # a place is given back soon after the answer's end
            while (await asked(guard, "POST", VIDEO, clip, client="c")).status == 503:
                await asyncio.sleep(0.01)
            while (
                b"\nfervor_uploaded_bytes 0\n" not in (await asked(guard, "GET", "/metrics")).body
            ):
                await asyncio.sleep(0.01)

    asyncio.run(work())


@pytest.mark.parametrize(
    ("path", "limits", "fits", "code"),
    [
        (VIDEO, {"video_bytes": 1000}, {"video_bytes": 10_000}, "file_too_large"),
        (f"{VIDEO}?every=3", {"video_frames": 5}, {"video_frames": 6}, "too_many_frames"),
        (VIDEO, {"pixels": 64 * 48 - 1}, {"pixels": 64 * 48}, "too_many_pixels"),
        (PREDICT, {"request_bytes": 100_000}, {"request_bytes": 210_000}, "request_too_large"),
    ],
)
def test_more_than_is_taken_is_refused(
    path: str,
    limits: dict[str, int],
    fits: dict[str, int],
    code: str,
    made: Callable[..., Guard],
    clip: tuple[str, bytes],
) -> None:
    files = [clip] if path.startswith(VIDEO) else [("a", bytes(70_000))] * 3
    assert refusal(asyncio.run(asked(made(**limits), "POST", path, *files))) == (413, code)
    assert asyncio.run(asked(made(**fits), "POST", path, *files)).status == 200


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("video_frames", "a video of more than 1 frame (those that `every` passes over count)"),
        ("video_seconds", "a video of 2 seconds: expected at most 1 second"),
    ],
)
def test_a_video_too_long_is_told_what_to_do(
    limit: str, reason: str, made: Callable[..., Guard], tmp_path: Path
) -> None:
    film = write_video(tmp_path / "b.mp4", [flat((9, 9, 9))] * 3, times=[0, 1000, 2000])
    answer = asyncio.run(
        asked(made(**{limit: 1}), "POST", f"{VIDEO}?every=15", ("b.mp4", film.read_bytes()))
    )
    assert answer.status == 413
    advice = f"send a shorter part, or see fervor serve --max_{limit}"
    assert answer.json["message"] == f"b.mp4: {reason}; {advice}"


def test_what_a_server_lacks_is_said(
    made: Callable[..., Guard], clip: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Predictor) -> None:
        raise ModelError("it has no places")

    monkeypatch.setattr(Predictor, "check_explainable", refuse)
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    guard = made()
    answer = asyncio.run(asked(guard, "POST", EXPLAIN, NOTHING))
    assert refusal(answer) == (501, "no_explanations")
    assert not asyncio.run(asked(guard, "GET", "/v1/model")).json["explains"]
    assert refusal(asyncio.run(asked(guard, "POST", VIDEO, clip))) == (501, "no_videos")


PRIORS = ("natural", "balanced")


def test_a_request_names_its_operating_point(
    tmp_path: Path, clip: tuple[str, bytes], made: Callable[..., Guard]
) -> None:
    """Answers are those of a server at that point; None is the server's own."""
    file = ("a.png", drawn_face(tmp_path / "a.png"))
    stored = write_model(tmp_path / "stored", operating_points=POINTS)
    answers: dict[tuple[str, str], Any] = {}
    for own in PRIORS:
        model = Predictor(stored, faces="precropped", threads=1, prior=own)
        guard = application(model, Access(frozenset(), "", True), Limits())
        described = asyncio.run(asked(guard, "GET", "/v1/model")).json
        assert (described["prior"], list(described["priors"])) == (own, list(PRIORS))
        assert described["priors"]["balanced"] == {"accuracy": 0.9, "mean_class_accuracy": 0.9}
        for query in ("", *(f"?prior={prior}" for prior in PRIORS)):
            (rows,) = asyncio.run(asked(guard, "POST", PREDICT + query, file)).json["results"]
            lines = asyncio.run(asked(guard, "POST", VIDEO + query, clip)).body.splitlines()
            answers[own, query.removeprefix("?prior=")] = rows, [json.loads(line) for line in lines]
        asyncio.run(ended(guard._app))
    for own in PRIORS:
        assert answers[own, ""] == answers[own, own]
        for prior in PRIORS:
            assert answers[own, prior] == answers[prior, ""]
            names = {row["model"] for rows in answers[own, prior] for row in rows}
            assert names == {"tiny" if prior == "natural" else "tiny (balanced)"}
    assert answers["natural", ""][0][0]["prob"] != answers["balanced", ""][0][0]["prob"]
    plain = made()
    assert asyncio.run(asked(plain, "GET", "/v1/model")).json["priors"] == {}
    for path in (PREDICT, VIDEO):
        asked_for = asyncio.run(asked(plain, "POST", f"{path}?prior=balanced", file))
        assert refusal(asked_for) == (422, "invalid_parameter")
        strange = asyncio.run(asked(plain, "POST", f"{path}?prior=even", file))
        assert refusal(strange) == (422, "invalid_parameter")


@pytest.mark.parametrize(
    "path", [f"{VIDEO}?every=0", f"{VIDEO}?every=1001", f"{VIDEO}?every=x", f"{EXPLAIN}?face=-1"]
)
def test_numbers_out_of_their_range_are_refused(path: str, made: Callable[..., Guard]) -> None:
    assert refusal(asyncio.run(asked(made(), "POST", path, NOTHING))) == (422, "invalid_parameter")


def test_rows_have_the_fields_of_their_description(
    made: Callable[..., Guard], clip: tuple[str, bytes]
) -> None:
    guard = made()
    (row,) = asyncio.run(asked(guard, "POST", EXPLAIN, NOTHING)).json["faces"]
    assert set(row) == set(schema.explained(LABELS)["required"])
    for query, covered in (("", False), ("?covered=true", True)):
        lines = asyncio.run(asked(guard, "POST", VIDEO + query, clip)).body.splitlines()
        assert all(("covered" in json.loads(line)) is covered for line in lines)


def test_the_server_describes_itself(made: Callable[..., Guard]) -> None:
    guard = made(files=7)
    health = asyncio.run(asked(guard, "GET", "/v1/health")).json
    assert health == {"status": "ok", "version": __version__}
    model = asyncio.run(asked(guard, "GET", "/v1/model")).json
    assert (model["name"], model["labels"], model["licence"]) == (
        "tiny",
        list(LABELS),
        "Apache-2.0",
    )
    assert (model["data_terms"], model["card"]) == ("none", "# tiny\n")
    assert list(model["colours"]) == list(LABELS)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in model["colours"].values())
    assert model["limits"]["files"] == 7
    about_requests = {"request_bytes", "request_pixels", "files", "file_bytes", "pixels", "faces"}
    about_videos = {"video_bytes", "video_seconds", "video_frames"}
    assert set(model["limits"]) == about_requests | about_videos


def test_a_fault_is_answered_in_json(
    made: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Any) -> None:
        raise RuntimeError("".join(("what ", "it holds")))

    monkeypatch.setattr("fervor.server.app.read_header", fails)
    guard = made()
    answer = asyncio.run(asked(guard, "POST", PREDICT, NOTHING))
    assert refusal(answer) == (500, "internal")
    assert "RuntimeError in" in caplog.text and "what it holds" not in caplog.text
    numbers = asyncio.run(asked(guard, "GET", "/metrics")).body.decode()
    assert '\nfervor_requests_total{path="/v1/predict",status="500"} 1\n' in numbers


COUNT = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"]*",?)+)\})? [0-9.]+')
"""A line of Prometheus's text format."""


def test_counts_are_prometheus_s_and_tell_of_nobody(made: Callable[..., Guard]) -> None:
    guard = made()
    for path in (PREDICT, "/secret-path", f"{EXPLAIN}?face=9"):
        asyncio.run(asked(guard, "POST", path, ("secret-name", b"x"), client="192.0.2.77"))
    answer = asyncio.run(asked(guard, "GET", "/metrics"))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values: dict[str, set[str]] = {}
    for line in answer.body.decode().splitlines():
        if not line.startswith(("# HELP ", "# TYPE ")):
            count = COUNT.fullmatch(line)
            assert count is not None, line
            for name, value in re.findall(r'([a-z]+)="([^"]*)"', count[2] or ""):
                values.setdefault(name, set()).add(value)
    values.pop("le")
    assert values == {
        "path": {PREDICT, EXPLAIN, "other"},
        "status": {"200", "404", "error"},
        "code": {"unknown_path"},
    }


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_video_is_a_file_in_memory_on_linux() -> None:
    with video.memory() as file:
        file.write(b"video")
        assert Path(f"/proc/self/fd/{file.fileno()}").readlink().name.startswith("memfd:")
        assert Path(video._path(file)).read_bytes() == b"video"


def test_a_video_is_elsewhere_a_file_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(video.os, "memfd_create", raising=False)
    with video.memory() as file:
        path = Path(file.name)
        assert path.is_file()
    assert not path.exists()
