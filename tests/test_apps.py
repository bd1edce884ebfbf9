"""The examples for other libraries answer a photograph; what is not installed is skipped."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[1]
APPS, PHOTOGRAPH = ROOT / "examples" / "apps", ROOT / "examples" / "astronaut.jpg"


def posted(address: str, content: bytes) -> tuple[int, Any]:
    mark = "a-mark-of-the-tests"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    request = urllib.request.Request(address, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def test_fastapi() -> None:
    pytest.importorskip("fastapi", reason="needs fervor[serve]")
    pytest.importorskip("uvicorn", reason="needs fervor[serve]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "uvicorn", "fastapi_app:app", "--port", str(port), "--log-level", "error"]
    with subprocess.Popen([sys.executable, *words], cwd=APPS) as server:
        try:
            address = f"http://127.0.0.1:{port}/expressions"
            for _ in range(300):
                try:
                    status, rows = posted(address, PHOTOGRAPH.read_bytes())
                    break
                except OSError:
                    time.sleep(0.2)
            assert status == 200 and [row["label"] for row in rows] == ["happiness"]
            status, refused = posted(address, b"no picture")
            assert status == 415 and "not a picture" in refused["detail"]
        finally:
            server.terminate()


@pytest.mark.filterwarnings("ignore")
def test_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.syspath_prepend(str(APPS))
    import gradio_app
    import numpy as np
    from PIL import Image

    image = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))
    drawn, probabilities = gradio_app.expressions(image)
    assert drawn.size == (512, 512) and max(probabilities, key=probabilities.get) == "happiness"
    assert gradio_app.expressions(None) == (None, {})
    assert gradio_app.expressions(np.zeros_like(image))[1] == {}
    assert gradio_app.demo.fn.__name__ == "expressions"


@pytest.mark.filterwarnings("ignore")
def test_streamlit() -> None:
    pytest.importorskip("streamlit", reason="streamlit is not installed")
    from streamlit.testing.v1 import AppTest

    page = AppTest.from_file(str(APPS / "streamlit_app.py"), default_timeout=60).run()
    assert not page.exception and page.title[0].value == "Which expression is shown?"
    page.file_uploader[0].upload("a.jpg", PHOTOGRAPH.read_bytes(), "image/jpeg").run()
    assert not page.exception and not page.warning
    assert len(page.dataframe[0].value) == 1
    page.file_uploader[0].upload("b.jpg", b"no picture", "image/jpeg").run()
    assert not page.exception and "No face" in page.warning[0].value
