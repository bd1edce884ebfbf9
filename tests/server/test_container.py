"""The server where nothing can be written and it is process 1, as in `docker run --read-only`."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import PHOTOGRAPH, PREDICT, VIDEO, Running, serving
from tests.support.videos import moving, write_video


pytest.importorskip("fastapi", reason="needs fervor[serve]")

WITHIN = (
    *("bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
    *("--unshare-user", "--unshare-pid", "--as-pid-1", "--die-with-parent"),
    *("--uid", "1000", "--gid", "1000", "--setenv", "HOME", "/home/nobody"),
)


def _possible() -> bool:
    if sys.platform != "linux" or not shutil.which("bwrap"):
        return False
    return subprocess.run([*WITHIN, "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not _possible(), reason="needs Linux, bubblewrap and the right to use it"
)


@pytest.fixture
def server() -> Iterator[Running]:
    with serving(
        "--host", "0.0.0.0", within=WITHIN, FERVOR_TOKEN="t" * 43, PYTHONDONTWRITEBYTECODE=""
    ) as running:
        yield running


def first_process(running: Running) -> int:
    """The server's number outside of the container: the only child of what made it."""
    made_by = running.process.pid
    return int(Path(f"/proc/{made_by}/task/{made_by}/children").read_text().split()[0])


def test_images_and_videos_are_answered_where_nothing_can_be_written(
    server: Running, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    inside = first_process(server)
    root = subprocess.run(
        ["nsenter", "-t", str(inside), "-m", "-U", "--preserve-credentials", "touch", "/tmp/x"],
        capture_output=True,
        text=True,
    )
    assert "Read-only file system" in root.stderr
    token = {"authorization": f"Bearer {'t' * 43}"}
    content = PHOTOGRAPH.read_bytes()
    reply = server.post(PREDICT, [("photo.jpg", content), ("no.jpg", b"no image")], token)
    assert reply.status == 200
    (face,), (broken,) = reply.json["results"]
    assert (face["label"], broken["status"]) == ("happiness", "error")
    video = write_video(tmp_path / "moving.mp4", moving(4, lambda number: (60 + number, 40)))
    reply = server.post(VIDEO, [(video.name, video.read_bytes())], token)
    assert reply.status == 200
    assert len(reply.body.splitlines()) == 4
    assert server.post(PREDICT, [("photo.jpg", content)]).status == 401


def test_the_first_process_stops_when_it_is_told_to(server: Running) -> None:
    start = time.monotonic()
    os.kill(first_process(server), signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert time.monotonic() - start < 10
