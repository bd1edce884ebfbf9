"""A server under attack: every attack is refused or answered soon, and others notice little."""

import sys
from pathlib import Path

import pytest


pytest.importorskip("fastapi", reason="needs fervor[serve]")
pytest.importorskip("av", reason="needs fervor[video]")
if sys.platform != "linux":
    pytest.skip("needs all of 127.0.0.0/8 and /proc", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from attacks import attacks, measured


SECONDS = 5.0
"""Of each attack."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "statuses", "reason"),
    [
        ("scans", {"200", "429"}, "8000 x 8000 pixels in more than 25 scans"),
        ("scans-in-tiff", {"200", "429"}, "8000 x 8000 pixels in more than 25 scans"),
        ("pixels", {"413"}, "1,024,000,000 pixels in a request"),
        ("leaving", set(), ""),
        ("headers", set(), ""),
        ("bodies", set(), ""),
        ("large-frames", {"413", "429"}, "16000 x 16000 pixels"),
        ("many-frames", {"413", "429"}, "a video of "),
    ],
)
def test_an_attack_from_one_address_is_little_to_others(
    name: str, statuses: set[str], reason: str, tmp_path: Path
) -> None:
    found = measured(attacks(tmp_path)[name](), SECONDS)
    attacker, good = found["attacker"], found["good"]
    assert set(attacker["statuses"]) - {"0"} == statuses, found
    assert not reason or any(reason in line for line in attacker["reasons"]), found
    assert attacker["longest_seconds"] < 5, found
    assert set(good["statuses"]) == {"200"}, found
    assert good["median_seconds"] < 3, found
    assert found["most_memory_mb"] < 1000, found
    assert found["seconds_to_stop"] < 10 and found["exit_code"] == 0, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["allowed-scans", "allowed-pixels", "transparent"])
def test_the_most_that_is_allowed_leaves_others_their_share(name: str, tmp_path: Path) -> None:
    found = measured(attacks(tmp_path)[name](), SECONDS)
    assert set(found["attacker"]["statuses"]) - {"0"} <= {"200", "429", "503"}, found
    assert set(found["good"]["statuses"]) == {"200"}, found
    assert found["good"]["median_seconds"] < 3, found
    assert found["seconds_to_stop"] < 10 and found["exit_code"] == 0, found
