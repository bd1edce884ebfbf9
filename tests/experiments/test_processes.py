"""Processes that end with the command that started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fervor import __version__
from fervor.experiments import processes
from fervor.experiments.processes import Processes, interrupted_by_sigterm
from tests.support.signals import hear_interruptions


pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")

PYTHON = sys.executable

ENDLESS = """#!{python}
import os, pathlib, signal, sys, time

if sys.argv[3] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("begun").mkdir(exist_ok=True)
pathlib.Path("begun", str(os.getpid())).touch()
time.sleep(300)
"""

COMMAND = """
import sys
from fervor.cli.main import main

sys.executable = "./python"
sys.exit(main(sys.argv[1:]))
"""

RECIPE = "ke/ferplus-mobilenet-evidence-ls"
WORDS = {
    "reproduce": "reproduce ke-table2 --data.name ferplus --data.root faces --seeds 1 --jobs 2",
    "sweep": f"sweep --config {RECIPE} --data.root faces --vary optim.learning_rate=0.01,0.02",
}


@pytest.fixture(autouse=True)
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in place of Python that never ends by itself, and notes its number."""
    program = tmp_path / "python"
    program.write_text(ENDLESS.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)


def begun() -> list[int]:
    return [int(path.name) for path in Path("begun").glob("*")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", WORDS)
def test_a_training_ends_with_its_command(command: str, by: signal.Signals) -> None:
    if command == "sweep":
        pytest.importorskip("optuna", reason="needs fervor[sweep]")
    process = subprocess.Popen(
        [PYTHON, "-c", COMMAND, *WORDS[command].split()],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=hear_interruptions,
    )
    count = 2 if command == "reproduce" else 1
    try:
        wait_until(lambda: len(begun()) == count or process.poll() is not None)
        process.send_signal(by)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130, error
        assert len(begun()) == count and not any(is_alive(number) for number in begun())
        assert b"failed" not in error
    finally:
        process.kill()
        for number in filter(is_alive, begun()):
            os.kill(number, signal.SIGKILL)


STARTS = """
import os, pathlib
from fervor.experiments.processes import Processes

Processes().run("serve --port 0".split(), pathlib.Path("log"), os.environ)
"""


def test_a_command_that_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", PYTHON)
    log, environment = (
        tmp_path / "log",
        {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert Processes().run(["--version"], log, environment) == 0
    assert log.read_text() == f"fervor {__version__}\n"


def test_nothing_outlives_a_command_that_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="needs fervor[serve]")
    process = subprocess.Popen(
        [PYTHON, "-c", STARTS],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    log = tmp_path / "log"

    def is_over() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    try:
        wait_until(lambda: log.is_file() and "http://" in log.read_text())
        process.kill()
        process.wait()
        wait_until(is_over)
    finally:
        if not is_over():
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in log.read_text()


def test_what_does_not_end_is_killed_and_nothing_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    running, codes = Processes(), []
    log = tmp_path / "log"
    thread = threading.Thread(
        target=lambda: codes.append(running.run(["stubborn"], log, dict(os.environ)))
    )
    thread.start()
    wait_until(lambda: bool(begun()))
    running.stop()
    thread.join(60)
    assert codes == [-signal.SIGKILL]
    assert running.run(["more"], log, dict(os.environ)) is None and len(begun()) == 1


def test_sigterm_interrupts_and_its_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_sigterm_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupted_by_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
