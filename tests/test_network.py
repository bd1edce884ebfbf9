"""Nothing reaches for the network, and nothing is left behind: no temporary file, nothing at home,
nothing where the command was started.

Code in C is watched by what it leaves: onnxruntime keeps a number for the machine, and a file of
what it has not sent yet, before it sends anything.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.faults import ROOT, write_recipe
from tests.support.models import write_model


AUDITED = """
import json, sys

REACHING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
REACHING += ("socket.bind", "socket.sendmsg", "urllib.Request", "http.client.connect")
found = []

def watch(event, details):
    # a socket of this machine's own processes has a path for its address
    if event in REACHING and not (event == "socket.connect" and isinstance(details[1], str)):
        found.append(f"{event} {details[1:]!r:.200}")

sys.addaudithook(watch)
from fervor.cli.main import main

codes = [main(words) for words in json.loads(sys.argv[1])]
print(json.dumps({"codes": codes, "found": found}))
"""


def run(tmp_path: Path, *commands: list[str | Path], code: str = AUDITED) -> dict[str, list[str]]:
    """What commands reached for, in a process with a home and temporaries of its own."""
    for name in ("home", "temporary", "here"):
        (tmp_path / name).mkdir()
    env = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}
    env |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = json.dumps([[*map(str, command)] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", code, words],
        cwd=tmp_path / "here",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [*(tmp_path / "here").rglob("*")] == []
    for name in ("home", "temporary"):  # torch leaves an empty folder, matplotlib its list of fonts
        left = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert [path for path in left if not path.match("matplotlib/fontlist-*.json")] == []
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_prediction_and_explanation_stay_here(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.jpg", "c.webp", "d.tif"):
        Image.new("RGB", (48, 48), "red").save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "damaged.png").write_bytes(b"\x89PNG")
    given = [tmp_path / "pictures", "--model", model, "--faces", "precropped"]
    found = run(
        tmp_path,
        ["predict", *given, "--output", tmp_path / "rows.csv"],
        ["predict", *given, "--annotate", tmp_path / "drawings"],
        ["explain", *given, "--output", tmp_path / "explanations"],
    )
    assert found == {"codes": [0, 0, 0], "found": []}


def test_the_package_keeps_onnxruntime_quiet() -> None:
    code = "import sys, fervor, os; assert 'onnxruntime' not in sys.modules; "
    code += "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.slow
def test_training_evaluation_and_export_stay_here(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs fervor[train]")
    recipe = write_recipe(tmp_path / "set", epochs=1)
    data = ["--data.name", "folder", "--data.root", tmp_path / "set" / "faces", "--data.cache", ""]
    found = run(
        tmp_path,
        ["train", "--config", recipe, "--output", tmp_path / "run"],
        ["evaluate", "--model", tmp_path / "run", *data, "--output", tmp_path / "results"],
        ["export", "--model", tmp_path / "run", "--output", tmp_path / "exported"],
    )
    assert found == {"codes": [0, 0, 0], "found": []}


def test_the_watch_sees_a_connection(tmp_path: Path) -> None:
    code = AUDITED.replace(
        "codes = [main(words) for words in json.loads(sys.argv[1])]",
        "import socket\ncodes = [socket.socket().connect_ex(('127.0.0.1', 9))]\n"
        "open(__import__('tempfile').mkstemp()[1])",
    )
    with pytest.raises(AssertionError, match="temporary"):
        run(tmp_path, code=code)
    (tmp_path / "again").mkdir()
    code = code.replace("open(__import__('tempfile').mkstemp()[1])", "")
    assert "socket.connect" in run(tmp_path / "again", code=code)["found"][0]
