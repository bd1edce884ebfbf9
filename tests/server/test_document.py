"""docs/serving.md: its tables, numbers and examples are those of the code."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest


pytest.importorskip("fastapi", reason="needs fervor[serve]")

from fervor.artifacts.model_info import ModelInfo
from fervor.artifacts.packaged import WEIGHTS
from fervor.cli.main import main
from fervor.cli.using.serve import serve
from fervor.io.image_header.header import MAX_SCANS, MAX_SIDE
from fervor.server import batching, bind, decoding, limits, schema
from fervor.server.app import OPEN
from fervor.server.limits import Limits, Refused
from tests.server.test_uploads import received
from tests.support.models import write_model
from tests.support.serving import PHOTOGRAPH, PREDICT, Running, form, serving


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from attacks import GOOD, attacks


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
WORDS = "none one two three four five six seven eight nine ten eleven".split()
LIMITS = Limits()


def table(heading: str, text: str = PAGE) -> list[list[str]]:
    """The cells of the first table below a heading, without its own heads."""
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|---"))
    rows: list[list[str]] = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving("--model", write_model(tmp_path_factory.mktemp("model"))) as running:
        yield running


def test_endpoints_are_those_of_the_server(server: Running) -> None:
    stated = dict(table("# The server and its page"))
    paths = {path for cell in stated for path in re.findall(r"/[\w./]*", cell)}
    pages = {"/responsible-use", "/favicon.ico"}
    assert paths == {*server.get("/openapi.json").json["paths"], *OPEN} - pages
    assert set(re.findall(r"`(\w+)`", stated["`POST /v1/explain`"])) >= set(schema.EXPLAINED)


def test_limits_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(table("## Limits"))
    stated = dict(re.findall(r"`--(\w+)` (\d[\d,]*\b)", " ".join(rows.values())))
    parameters = inspect.signature(serve).parameters
    bounds = {name for name in parameters if re.match("max_|client_|smallest_", name)}
    assert stated == {name: f"{parameters[name].default:,.0f}" for name in bounds}
    together = f"{LIMITS.request_bytes:,} bytes and {LIMITS.request_pixels:,} pixels"
    assert f"together may have {together}" in rows["a request"]

    taken: list[tuple[Any, Limits]] = []
    monkeypatch.setattr(
        bind, "serve", lambda place, options, *, limits, announce: taken.append((options, limits))
    )
    assert main(["serve"]) == 0
    assert taken[0][1] == LIMITS and taken[0][0]["smallest_face"] == 0
    values = {name: number for number, name in enumerate(sorted(bounds), 41)}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    assert main(["serve", *words]) == 0
    options, changed = taken[1]
    assert options["smallest_face"] == values.pop("smallest_face")
    names = {"max_bytes": "file_bytes"}
    for name, value in values.items():
        field = names.get(name, name.removeprefix("max_"))
        assert getattr(changed, field) == value, name
    own = {names.get(name, name.removeprefix("max_")) for name in values}
    for field in fields(Limits):  # the others stay
        if field.name not in own:
            assert getattr(changed, field.name) == field.default, field.name


def test_shares_are_those_of_the_code() -> None:
    def millions(number: int) -> str:
        return f"{number // 1_000_000} MB"

    assert table("## Fair shares") == [
        ["open connections", str(LIMITS.connections), str(LIMITS.client_connections)],
        ["bytes of uploads", millions(LIMITS.held_bytes), millions(LIMITS.client_bytes)],
        ["pixels that wait", "", f"{LIMITS.client_pixels:,}, or one request"],
        ["videos that are read", str(LIMITS.videos), "1"],
        ["images that are decoded at once", str(batching.DECODERS), "1"],
    ]


def test_statuses_are_those_of_the_code() -> None:
    stated = {int(word) for status, _ in table("## Refusals") for word in status.split(", ")}
    assert stated == {*schema.ERRORS, 404, 405}
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "fervor/server").glob("*.py")]
    refused = {int(status) for text in sources for status in re.findall(r"Refused\(\s*(\d+)", text)}
    assert stated == refused | {404, 405}


def test_the_refusal_that_is_shown_is_the_server_s() -> None:
    (shown,) = re.findall(r'^`(\{"error".+\})`\.$', PAGE, re.MULTILINE)
    with pytest.raises(Refused) as refused:
        received(form([("a.jpg", bytes(LIMITS.file_bytes + 1))]))
    assert refused.value.answer()[0].decode() == shown
    assert refused.value.status == 413


def rate() -> int:
    camera = (ROOT / "fervor/server/static/camera.js").read_text(encoding="utf-8")
    return int(re.findall(r"const RATE = (\d+);", camera)[0])


def passes() -> int:
    rows, columns = ModelInfo.read(WEIGHTS / "embedded").grid
    return rows * columns


MILLION = 1_000_000


@pytest.mark.parametrize(
    "sentence",
    [
        f"takes {passes()} passes of the model for a face",
        f"looked at {WORDS[rate()]} times a second at most",
        f"Headers have {bind.HEADER_SECONDS:g} seconds to come, "
        f"and a client {bind.SENDING_SECONDS:g} to take a piece of its answer",
        f"{WORDS[batching.DECODERS]} for images and one for each video",
        f"An image has {decoding.SECONDS:g} seconds of processor time "
        f"and a process {decoding.MEMORY // MILLION} MB of memory",
        f"sides of at most {MAX_SIDE:,} and the scans of a JPEG, at most {MAX_SCANS},",
        f"of IPv6, a network of {limits.HOUSE} bits",
        f"run together, {batching.BATCH} at most",
        f"more than {WORDS[batching.LARGE // MILLION]} megapixels, and explanations, "
        f"which count as {batching.EXPLANATION_COST // MILLION} more, "
        f"have one of the {WORDS[batching.RUNNERS]} model threads",
        f"what is under way has {WORDS[bind.STOPPING]} seconds",
        f"Under {WORDS[len(attacks(Path())) - 1]} attacks from one address "  # but for "nothing"
        f"{WORDS[len(GOOD)]} other clients were all answered with 200",
    ],
)
def test_numbers_are_those_of_the_code(sentence: str) -> None:
    assert sentence in " ".join(PAGE.split())


def test_the_attacks_of_the_report_left_others_in_peace() -> None:
    report = (ROOT / "benchmarks" / "REPORT.md").read_text(encoding="utf-8")
    rows = table("## A server under attack", report)
    assert len(rows) == len(attacks(Path()))
    assert all(float(row[3].split(",")[0]) < 1 for row in rows)
    assert re.search(r"All of the others' [\d,]+ requests\s+were answered with 200\.", report)


# Its examples


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("photo.jpg", "other.png"):
        shutil.copy(PHOTOGRAPH, tmp_path / name)
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(start: str) -> str:
    """The command of the page that begins so."""
    (command,) = re.findall(rf"^\$ ({re.escape(start)}.+)$", PAGE, re.MULTILINE)
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    return str(command)


def test_it_says_what_the_page_says(server: Running) -> None:
    (shown,) = re.findall(r"^fervor serves .+$", PAGE, re.MULTILINE)
    assert server.notice.startswith(f"fervor serves {server.address} ")
    said = shown.replace("http://127.0.0.1:8000", server.address)
    parameters = inspect.signature(serve).parameters
    assert (parameters["host"].default, parameters["port"].default) == ("127.0.0.1", 8000)
    assert re.sub("model [^;]+", "model embedded", server.notice).strip() == said


def test_python_s_example(server: Running, photographs: Path) -> None:
    pytest.importorskip("requests", reason="needs requests, which the example does")
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    text = text.replace("http://127.0.0.1:8000", server.address)
    (line,) = run([sys.executable, "-c", text], photographs).splitlines()
    status, label, prob = line.split()
    assert status == "ok" and label in server.get("/v1/model").json["labels"] and float(prob) > 0


def test_curl_s_example(server: Running, photographs: Path) -> None:
    command = curl("curl -F").replace("http://127.0.0.1:8000", server.address)
    answer = json.loads(run(["bash", "-c", command], photographs))
    assert [row["source"] for (row,) in answer["results"]] == ["photo.jpg", "other.png"]


@pytest.mark.parametrize("given", ["environment", "command"])
def test_the_example_with_a_token(given: str, tmp_path: Path, photographs: Path) -> None:
    (make,) = re.findall(r"^\$ export FERVOR_TOKEN=\$\((python .+)\)$", PAGE, re.MULTILINE)
    token = run(["bash", "-c", make.replace("python", sys.executable, 1)], photographs).strip()
    words = ["--model", write_model(tmp_path / "model"), "--host", "0.0.0.0"]
    words += [f"--token={token}"] if given == "command" else []  # it may begin with a hyphen
    environment = {"FERVOR_TOKEN": "" if given == "command" else token}
    command = curl("curl -H")
    with serving(*words, **environment) as running:
        command = command.replace("HOST:8000", f"127.0.0.1:{running.port}")
        answer = json.loads(run(["bash", "-c", command], photographs, FERVOR_TOKEN=token))
        assert [row["source"] for (row,) in answer["results"]] == ["photo.jpg"]
        assert running.post(PREDICT, [("a.jpg", b"")]).status == 401
        if sys.platform == "linux":  # which shows a command to everybody
            shown = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
            assert (token.encode() in shown) is (given == "command")


def test_every_endpoint_documents_refusals_of_one_shape(server: Running) -> None:
    paths = server.get("/openapi.json").json["paths"]
    shapes = {
        (path, status): answer["content"]["application/json"]["schema"]
        for path, methods in paths.items()
        for status, answer in methods[min(methods)]["responses"].items()
        if int(status) >= 400
    }
    assert all(shape == schema.ERROR for shape in shapes.values())
    assert {path for path, status in shapes if status == "422"} == {
        *("/v1/predict", "/v1/explain", "/v1/video")
    }
