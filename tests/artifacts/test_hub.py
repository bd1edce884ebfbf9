"""The Hugging Face Hub's interface, spoken by a local server: fetching, publishing, refusing."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from fervor.artifacts import hub
from fervor.artifacts.model_info import EMBEDDED, FILES, ModelInfo
from fervor.errors import ModelError, UsageError


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """One model repository in memory, as far as huggingface_hub asks for it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.token = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(path)
        if path.startswith("/api/models/user/face"):
            if not self.server.files:
                self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                return
            if "/tree/" in path:
                self._answer(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                        for name, content in self.server.files.items()
                    ]
                )
                return
            siblings = [{"rfilename": name} for name in self.server.files]
            self._answer({"id": "user/face", "sha": COMMIT, "siblings": siblings})
            return
        name = path.rpartition(f"/resolve/{COMMIT}/")[2]
        if name not in self.server.files:
            self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        content = self.server.files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(content, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != "Bearer secret":
            self._answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self._answer({"url": f"{self.server.address}/user/face", "name": "user/face"})
        elif "/preupload/" in self.path:
            wanted = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": wanted})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            commit = f"{self.server.address}/user/face/commit/{COMMIT}"
            self._answer({"success": True, "commitUrl": commit, "commitOid": COMMIT})
        else:
            self._answer({}, 200)


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as started:
        thread = threading.Thread(target=started.serve_forever, daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def environment(server: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}
    return {**kept, **own, "HF_HUB_DISABLE_XET": "1", **more}


def fervor(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: huggingface_hub reads the environment when imported."""
    command = [sys.executable, "-m", "fervor", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def test_a_model_is_published_and_predicts_under_its_name(server: Hub, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(EMBEDDED, run)
    (run / "config.yaml").write_text("data: {root: /home/someone/faces}\n")
    (run / "word_vectors.safetensors").write_bytes(b"of an earlier export, without a checksum")
    env = environment(server, tmp_path)
    done = fervor("push", str(run), "user/face", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/user/face")
    kept = {path.name for path in EMBEDDED.iterdir()}
    assert set(server.files) == kept & {*hub.NEEDED, *FILES}  # nothing of the run's settings
    for name, content in server.files.items():
        assert content == (EMBEDDED / name).read_bytes()

    picture = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
    rows = [tmp_path / name for name in ("hub.csv", "own.csv", "again.csv")]
    words = ("predict", str(picture), "--output")
    done = fervor(*words, str(rows[0]), "--model", "hub:user/face", env=env)
    assert done.returncode == 0, done.stderr
    assert fervor(*words, str(rows[1]), env=env).returncode == 0
    assert rows[0].read_text() == rows[1].read_text()

    asked = len(server.asked)  # what was fetched serves without the network
    offline = {**env, "HF_HUB_OFFLINE": "1"}
    done = fervor(*words, str(rows[2]), "--model", "hub:user/face", env=offline)
    assert done.returncode == 0, done.stderr
    assert rows[2].read_text() == rows[0].read_text()
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("none", "Repository"),
        ("damaged", "the file is damaged or was changed"),
        ("no model.json", "holds no model.json"),
        ("offline", "hub:user/face"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(
    change: str, expected: str, server: Hub, tmp_path: Path
) -> None:
    env = environment(server, tmp_path)
    if change != "none":
        server.files = {path.name: path.read_bytes() for path in EMBEDDED.iterdir()}
    if change == "damaged":
        server.files["model.onnx"] = server.files["model.onnx"][:-1] + b"!"
    if change == "no model.json":
        del server.files["model.json"]
    if change == "offline":
        env |= {"HF_HUB_OFFLINE": "1"}
    done = fervor("predict", "examples/astronaut.jpg", "--model", "hub:user/face", env=env)
    assert done.returncode == 2
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert bool(server.asked) == (change != "offline")


def test_a_refused_login_is_one_line(server: Hub, tmp_path: Path) -> None:
    env = environment(server, tmp_path, HF_TOKEN="wrong")
    done = fervor("push", str(EMBEDDED), "user/face", env=env)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "401" in done.stderr and not server.files


def test_only_whole_model_folders_are_published(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.json"):
        hub.push(tmp_path, "user/face")
    shutil.copytree(EMBEDDED, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"the file is damaged or was changed"):
        hub.push(tmp_path / "run", "user/face")


@pytest.mark.parametrize("name", ["embedded", "vlm"])
def test_shipped_models_are_whole(name: str) -> None:
    ModelInfo.read(name).verify()


@pytest.mark.parametrize("name", ["face", "user/", "/face", "a/b/c", ""])
def test_names_are_checked_before_anything_is_asked(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected user/name"):
        hub.fetched(f"hub:{name}")
    with pytest.raises(UsageError, match="expected user/name"):
        hub.push(EMBEDDED, name)
