"""Result files: nothing without its origin, nothing that was changed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from fervor.errors import DataError, UsageError
from fervor.evaluation import results


ROOT = Path(__file__).parents[2]

COMPLETE: dict[str, Any] = {
    "model": "ke/drawn",
    "run": {"config": {"seed": 0}, "seed": 0, "commit": "abc", "selection": {"mode": "honest"}},
    "sha256": {"weights.safetensors": "f00"},
    "data": {"name": "folder", "protocol": "folders", "split": "test"},
    "commit": "def",
    "versions": {"fervor": "0.1.0"},
    "count": 12,
    "accuracy": 0.1 + 0.2,
}


def without(key: str) -> dict[str, Any]:
    found = json.loads(json.dumps(COMPLETE))
    place = found
    *parents, last = key.split(".")
    for parent in parents:
        place = place[parent]
    del place[last]
    return found


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.json"
    results.write(path, COMPLETE)
    found = results.read(path)
    assert {key: value for key, value in found.items() if key != results.CONTENT} == COMPLETE
    results.write(path, found)  # again, with its own checksum inside
    assert results.read(path) == found


def test_another_answer_never_takes_a_results_place(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    results.write(path, COMPLETE)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"r\.json holds another result already, .*: move it away"):
        results.write(path, {**COMPLETE, "accuracy": 0.5})
    assert path.read_bytes() == before
    results.write(path, {**COMPLETE, "commit": "later", "versions": {"fervor": "9"}})
    results.write(path, {**COMPLETE, "accuracy": 0.5}, replace=True)
    assert results.read(path)["accuracy"] == 0.5
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a result file"):
        results.write(path, COMPLETE)
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "ke/other"},
        {"run": {**COMPLETE["run"], "seed": 1}},
        {"run": {**COMPLETE["run"], "selection": {"mode": "paper"}}},
        {"sha256": {"weights.safetensors": "f01"}},
        *({"data": {**COMPLETE["data"], key: "x"}} for key in ("name", "protocol", "split")),
        {"data": {**COMPLETE["data"], "exclude_duplicates": True}},
    ],
)
def test_every_question_has_a_file_of_its_own(change: dict[str, Any], tmp_path: Path) -> None:
    asked = results.asked_of(COMPLETE)
    path, result = results.store(tmp_path, "ke/r", COMPLETE, asked)
    assert path.name == f"r-{result['fingerprint']}.json"
    assert results.store(tmp_path, "ke/r", COMPLETE, asked)[0] == path
    other = {**COMPLETE, **change, "accuracy": 0.9}
    second, _ = results.store(tmp_path, "ke/r", other, results.asked_of(other))
    assert second != path and results.read(path)["accuracy"] == COMPLETE["accuracy"]
    assert results.asked_of(COMPLETE, compare="f02") != asked
    left = {**COMPLETE, "data": {**COMPLETE["data"], "left_out": {"no_face": 3}}}
    assert results.fingerprint(results.asked_of(left)) == results.fingerprint(asked)


@pytest.mark.parametrize("key", [*results.REQUIRED, "count"])
def test_nothing_is_written_without_its_origin(key: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"without {key} cannot be written"):
        results.write(tmp_path / "r.json", without(key))
    assert not (tmp_path / "r.json").exists()


def test_outside_a_checkout_the_commit_is_empty(tmp_path: Path) -> None:
    result = {**COMPLETE, "commit": "", "run": {**COMPLETE["run"], "commit": ""}}
    results.write(tmp_path / "r.json", result)
    for empty in ({"versions": {}}, {"model": ""}, {"count": 0}):
        with pytest.raises(DataError, match="cannot be written"):
            results.write(tmp_path / "r.json", {**result, **empty})


def test_a_changed_number_is_found(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    results.write(path, COMPLETE)
    text = path.read_text()
    path.write_text(text.replace("0.30000000000000004", "0.4"))
    with pytest.raises(DataError, match=r"r\.json was changed since it was written: evaluate"):
        results.read(path)
    path.write_text(json.dumps(json.loads(text), sort_keys=True))  # another layout, same content
    assert results.read(path)["accuracy"] == COMPLETE["accuracy"]
    path.write_text(json.dumps(COMPLETE))
    with pytest.raises(DataError, match="has no content_sha256"):
        results.read(path)
    path.write_text("{")
    with pytest.raises(DataError, match="no readable JSON"):
        results.read(path)


def test_the_committed_results_are_as_they_were_written() -> None:
    found = sorted((ROOT / "results").rglob("*.json"))
    for path in found:
        assert results.read(path)["data"]["protocol"], path
    assert found
