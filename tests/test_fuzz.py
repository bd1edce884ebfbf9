"""Files as they are, and damaged in hundreds of ways: one line, or an answer; the long run is
tests/fuzz/run.py."""

import random
import time
from pathlib import Path

import pytest

from tests.fuzz.mutations import mutated
from tests.fuzz.targets import CORPUS, LABEL_FILES, TARGETS, check_line, one_input


COUNT = 40
"""Damaged files for each target; the campaign has more."""

SECONDS = 5.0
"""Of processor time, for one input."""


def seeds(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@pytest.fixture(autouse=True)
def extras(request: pytest.FixtureRequest) -> None:
    if "form" in request.node.name:
        pytest.importorskip("fastapi", reason="needs fervor[serve]")
    if any(name in request.node.name for name in ("notes", "checkpoint", "teachers")):
        pytest.importorskip("torch", reason="needs fervor[train]")


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_answered_or_refused_in_one_line(name: str) -> None:
    whole, draw = seeds(name), random.Random(f"0-{name}")
    inputs = [*whole, b"", *(mutated(whole, draw) for _ in range(COUNT))]
    for data in inputs:
        begin = time.process_time()
        one_input(name, data)
        assert time.process_time() - begin < SECONDS, data[:200]


@pytest.mark.parametrize(
    "name", sorted(set(TARGETS) - set(LABEL_FILES) - {"aligned", "cues", "notes"})
)
def test_what_is_whole_is_taken(name: str) -> None:
    assert one_input(name, seeds(name)[0]) or name == "model"  # its vectors are not there


def test_every_target_has_seeds() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert max(sizes) < 10_000


@pytest.mark.parametrize("text", ["", "two\nlines", "a\rb", "x" * 4000, "\ud800"])
def test_what_is_no_line(text: str) -> None:
    with pytest.raises((AssertionError, UnicodeEncodeError)):
        check_line(text)


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "fuzz" / "found").glob("*")))
def test_what_a_campaign_has_found_stays_mended(path: Path) -> None:
    """NAME-of-target.anything: inputs that once ended in a traceback."""
    one_input(path.name.partition(".")[0], path.read_bytes())
