"""What the package ships is described, licensed and unchanged; a changed file is noticed."""

import json
import tomllib
from pathlib import Path

import pytest

from fervor.artifacts.packaged import WEIGHTS, shipped
from tests.support.models import write_model


def test_every_shipped_file_is_described_and_intact() -> None:
    weights = shipped()
    described = {weight.name for weight in weights}
    files = {
        path.relative_to(WEIGHTS).as_posix()
        for path in WEIGHTS.rglob("*")
        if path.suffix in (".onnx", ".safetensors")
    }
    assert described == files
    for weight in weights:
        assert weight.intact, weight
        assert weight.licence != "not stated", weight
        assert weight.data_terms != "not stated", weight


def test_each_file_names_data_that_was_given_for_research() -> None:
    """What `fervor models` and docs/licences.md say of all of them."""
    assert [weight.name for weight in shipped() if "research" not in weight.data_terms] == []


@pytest.mark.parametrize("damage", ["change", "delete"])
def test_changed_or_missing_file_is_noticed(tmp_path: Path, damage: str) -> None:
    folder = write_model(tmp_path / "tiny")
    _, intact = shipped(tmp_path)  # after class_vectors.safetensors
    assert (intact.name, intact.intact, intact.licence) == ("tiny/model.onnx", True, "Apache-2.0")
    assert intact.needs == "encoder mean-colour, text none"
    if damage == "change":
        (folder / "model.onnx").write_bytes(b"other")
    else:
        (folder / "model.onnx").unlink()
    assert [weight.intact for weight in shipped(tmp_path)] == [True, False]


def test_description_beside_one_file(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    (tmp_path / "net.json").write_text(json.dumps({"sha256": "0" * 64, "training_data": "faces"}))
    (weight,) = shipped(tmp_path)
    assert (weight.name, weight.data_terms) == ("net.safetensors", "faces")
    assert (weight.licence, weight.intact) == ("not stated", False)


@pytest.mark.parametrize("licence", ["MIT", "CC0-1.0"])
def test_texts_of_licences_lie_beside_the_weights(licence: str) -> None:
    """As MIT asks for; and the package's expression names them."""
    text = (WEIGHTS / "licences" / f"{licence}.txt").read_text(encoding="utf-8")
    named = [weight.name for weight in shipped() if weight.licence.startswith(licence)]
    assert named and all(name in text for name in named)
    settings = tomllib.loads((WEIGHTS.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert licence in settings["project"]["license"].split(" AND ")
    assert any("weights/licences" in pattern for pattern in settings["project"]["license-files"])
