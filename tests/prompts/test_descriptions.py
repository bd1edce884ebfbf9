"""Asking for descriptions, of a real server of the interface on this machine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fervor.cli.main import main
from fervor.errors import EndpointError, UsageError
from fervor.prompts import descriptions as module
from fervor.prompts.descriptions import KEY, QUESTION, Endpoint, describe
from fervor.prompts.templates import hard_prompts, read_descriptions


Answer = tuple[int, bytes] | Callable[[BaseHTTPRequestHandler], None]


def said(text: Any) -> Answer:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class Server:
    """Gives its answers one after the other, the last one for ever; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [said("raised brows, wide eyes")]
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                asked = {"path": self.path, "body": body, "headers": dict(self.headers)}
                outer.asked.append(asked)
                place = min(len(outer.asked), len(outer.answers)) - 1
                answer = outer.answers[place]
                if callable(answer):
                    answer(self)
                    return
                self.send_response(answer[0])
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

            def log_message(self, *given: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(KEY, raising=False)
    found = Server()
    yield found
    found.close()


def ask(server: Server, tmp_path: Path, *labels: str, **options: Any) -> dict[str, str]:
    settings = {"pause": 0.01, "timeout": 5.0, "tries": 3, **options}
    endpoint = Endpoint(server.url, "tiny", **settings)
    output, cache = tmp_path / "out" / "texts.json", tmp_path / "cache"
    return describe(labels or ("surprise",), endpoint, output=output, cache=cache)


def test_the_question_is_the_papers_and_the_answer_is_kept(server: Server, tmp_path: Path) -> None:
    server.answers = [said("raised brows,\n wide eyes."), said("With a pressed mouth")]
    found = ask(server, tmp_path, "surprise", "anger", seed=7)
    assert found == {"surprise": "raised brows, wide eyes", "anger": "a pressed mouth"}
    (first, second) = server.asked
    assert first["path"] == "/v1/chat/completions"
    assert first["body"]["model"] == "tiny"
    assert (first["body"]["seed"], first["body"]["temperature"]) == (7, 0)
    question = first["body"]["messages"][0]["content"]
    assert question.startswith(QUESTION.format(label="surprise"))
    assert "expression of anger?" in second["body"]["messages"][0]["content"]
    file = tmp_path / "out" / "texts.json"
    content = json.loads(file.read_text())
    assert (content["model"], content["seed"]) == ("tiny", 7)
    assert content["endpoint"] == server.url
    assert read_descriptions(file) == found
    assert hard_prompts("description", ("anger",), file)[0].endswith("anger, with a pressed mouth")


def test_the_same_question_is_asked_once(server: Server, tmp_path: Path) -> None:
    ask(server, tmp_path, "surprise")
    ask(server, tmp_path, "surprise", "fear")
    assert len(server.asked) == 2
    ask(server, tmp_path, "surprise", seed=1)
    assert len(server.asked) == 3


def test_the_key_is_sent_and_never_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(server, tmp_path)
    assert "Authorization" not in server.asked[0]["headers"]
    monkeypatch.setenv(KEY, "secret-key")
    ask(server, tmp_path, "fear")
    assert server.asked[1]["headers"]["Authorization"] == "Bearer secret-key"
    for path in tmp_path.rglob("*.json"):
        assert "secret-key" not in path.read_text()


def test_secrets_of_an_address_are_not_written() -> None:
    endpoint = Endpoint("https://me:word@host:8/v1/chat/completions?key=abc", "tiny")
    assert endpoint.shown == "https://host:8/v1"


TEMPORARY: dict[str, tuple[Answer, str]] = {
    "500": ((500, b"broken"), "answered 500"),
    "429": ((429, b"{}"), "answered 429"),
    "no JSON": ((200, b"<html>"), r"no choices\[0\]"),
    "no object": ((200, b"[]"), r"no choices\[0\]"),
    "empty choices": ((200, b'{"choices": []}'), r"no choices\[0\]"),
    "no text": (said(None), "holds no text"),
    "an empty text": (said(" \n "), "the answer is empty"),
    "thoughts alone": (said("<think>brows and eyes</think> ..."), "the answer is empty"),
    "a lecture": (said("word " * 61), "61 words, at most 60"),
    "too many bytes": ((200, b" " * 1_000_001), "more than 1,000,000 bytes"),
    "a closed connection": (lambda handler: handler.connection.close(), "not reached"),
}


@pytest.mark.parametrize("case", TEMPORARY)
def test_trouble_is_tried_again_and_then_one_line(
    case: str, server: Server, tmp_path: Path
) -> None:
    answer, reason = TEMPORARY[case]
    server.answers = [answer, answer, said("wide eyes")]
    assert ask(server, tmp_path) == {"surprise": "wide eyes"}
    assert len(server.asked) == 3
    server.asked, server.answers = [], [said("a smile"), answer]
    with pytest.raises(EndpointError, match=f"asked about 'fear' 3 times: .*{reason}") as refused:
        ask(server, tmp_path, "happiness", "fear")
    assert "\n" not in str(refused.value)
    assert len(server.asked) == 4
    assert not (tmp_path / "out" / "texts.json").read_text().count("fear")
    server.asked, server.answers = [], [said("wide eyes")]
    ask(server, tmp_path, "happiness", "fear")  # goes on where it stopped
    assert len(server.asked) == 1


def test_an_endpoint_that_times_out_is_one_line(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda handler: time.sleep(0.5)]
    with pytest.raises(EndpointError, match=r"no answer within 0\.05 s"):
        ask(server, tmp_path, timeout=0.05, tries=2)
    assert not (tmp_path / "out").exists()


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(EndpointError, match="not reached") as refused:
        ask(server, tmp_path, tries=2)
    assert "\n" not in str(refused.value)


def test_pauses_double_and_heed_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    server.answers = [(503, b"")]
    with pytest.raises(EndpointError):
        ask(server, tmp_path, tries=4, pause=1.0)
    assert pauses == [1, 2, 4]
    pauses.clear()
    server.headers = {"Retry-After": "9"}
    with pytest.raises(EndpointError):
        ask(server, tmp_path, tries=3, pause=1.0)
    assert pauses == [9, 9]


@pytest.mark.parametrize(("status", "hint"), [(401, f"set {KEY}"), (404, "knows the model tiny")])
def test_a_refusal_is_final(status: int, hint: str, server: Server, tmp_path: Path) -> None:
    server.answers = [(status, b"{}")]
    with pytest.raises(EndpointError, match=f"answered {status}.*{hint}"):
        ask(server, tmp_path)
    assert len(server.asked) == 1


def test_the_key_follows_no_redirection(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret-key")
    server.answers = [(302, b"")]
    server.headers = {"Location": f"{server.url}/elsewhere"}
    with pytest.raises(EndpointError, match="answered 302"):
        ask(server, tmp_path)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [([""], "labels are empty"), (["a", "a"], "labels are a, a"), (["a", " "], "different names")],
)
def test_labels_are_different_names(labels: list[str], message: str, tmp_path: Path) -> None:
    endpoint = Endpoint("http://localhost:1/v1", "tiny")
    with pytest.raises(UsageError, match=message):
        describe(labels, endpoint, output=tmp_path / "a.json", cache=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:80", "ftp://host/v1", "http://", "file:///etc/passwd"),
        *("http://localhost:99999/v1", "http://localhost:x/v1", "http://[::1/v1"),
    ],
)
def test_an_endpoint_is_an_address(url: str) -> None:
    with pytest.raises(UsageError, match="expected one like http://localhost"):
        Endpoint(url, "tiny")


def test_the_command(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["describe", "--labels", "bored, confused", "--endpoint", server.url, "--model", "m"]
    assert main(words) == 0
    assert "bored: raised brows, wide eyes" in capsys.readouterr().out
    assert list(read_descriptions(tmp_path / "descriptions.json")) == ["bored", "confused"]
    server.answers = [(404, b"")]
    assert main([*words, "--seed", "1"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("fervor describe: endpoint http://127.0.0.1") and line.count("\n") == 1
