"""Model folders: written whole, read strictly, and what is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fervor.artifacts.model_info import DESCRIPTION, WEIGHTS, ModelInfo
from fervor.config import Encoder
from fervor.errors import ModelError
from fervor.io.provenance import sha256
from fervor.methods.base import Method
from fervor.methods.build import fill, load_model, save_model, save_weights
from fervor.methods.classifier import Classifier
from fervor.methods.ke import KE
from fervor.models.image import build_image_encoder
from tests.support import tiny
from tests.support.drawn import DrawnText, batch, description


LABELS = ("neutral", "happiness", "anger")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.manual_seed(0)
    weights = tiny.save_resnet(tmp_path_factory.mktemp("encoder") / "resnet")
    return Encoder(name="resnet18", weights=weights, size=32)


def build(config: Encoder, *, centre: bool = True) -> KE:
    torch.manual_seed(1)
    options = KE.Options(centre=centre, temperature=0.07, bottleneck=2)
    return KE(build_image_encoder(config), DrawnText(), LABELS, options)


@pytest.fixture
def folder(config: Encoder, tmp_path: Path) -> Path:
    method = build(config)
    save_model(tmp_path / "model", method.state_dict(), description("ke", config, method), "# card")
    return tmp_path / "model"


def test_a_saved_model_comes_back(folder: Path, config: Encoder) -> None:
    method, original = load_model(str(folder)), build(config).eval()
    faces = batch(LABELS, 2, size=32).image
    with torch.no_grad():
        torch.testing.assert_close(method(faces), original(faces), rtol=1e-5, atol=1e-4)
    assert method.options == original.options
    assert method.labels == LABELS
    assert not method.training
    torch.testing.assert_close(method.text_centre(), original.text_centre())


def test_a_folder_holds_three_files_that_vouch_for_each_other(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", DESCRIPTION, WEIGHTS]
    info = json.loads((folder / DESCRIPTION).read_text())
    assert info["schema"] == 1
    assert info["sha256"] == {WEIGHTS: sha256(folder / WEIGHTS)}
    assert (folder / "README.md").read_text() == "# card"


def test_any_layout_in_memory_is_saved(tmp_path: Path) -> None:
    image = torch.arange(120.0).view(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {"image": image, "part": torch.arange(10.0)[::2], "count": torch.tensor(3)}
    path = tmp_path / WEIGHTS
    save_weights(path, tensors)
    save_weights(path, tensors)  # replaces
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert list(tmp_path.iterdir()) == [path]


def test_halves_fill_a_method_in_its_own_precision(config: Encoder) -> None:
    method = build(config)
    halves = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in method.state_dict().items()
    }
    fill(method, halves, Path("weights"))
    for key, tensor in method.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert torch.equal(tensor, halves[key].to(tensor.dtype))


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda state: state.pop("centre"), r"missing \['centre'\], left over none"),
    "left over": (
        lambda state: state.update(more=torch.zeros(1)),
        r"missing none, left over \['more'\]",
    ),
    "shape": (
        lambda state: state.update(texts=torch.zeros(4, 6)),
        r"of another shape \['texts'\]",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_filling_is_strict(case: str, config: Encoder) -> None:
    method = build(config)
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    state = {key: tensor + 1 for key, tensor in before.items()}
    spoil, message = SPOILT[case]
    spoil(state)
    with pytest.raises(ModelError, match=f"weights does not fit KE: .*{message}"):
        fill(method, state, Path("weights"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in method.state_dict().items())


def change(folder: Path, **entries: Any) -> None:
    info = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**info, **entries}))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no description": (lambda folder: (folder / DESCRIPTION).unlink(), "holds no model.json"),
    "no JSON": (
        lambda folder: (folder / DESCRIPTION).write_text("{"),
        r"model\.json: .*expected what fervor train",
    ),
    "no text": (
        lambda folder: (folder / DESCRIPTION).write_bytes(b"\xff\xfe"),
        r"model\.json: .*expected what fervor train",
    ),
    "no object": (lambda folder: (folder / DESCRIPTION).write_text("[]"), "holds no object"),
    "schema": (lambda folder: change(folder, schema=2), "schema is 2 instead of 1"),
    "method": (
        lambda folder: change(folder, method="clip-er"),
        "unknown method 'clip-er': expected one of classifier, ke",
    ),
    "another method": (
        lambda folder: change(folder, method="classifier", options={}),
        r"does not fit Classifier: missing \['head\.bias', 'head\.weight'\]",
    ),
    "other labels": (
        lambda folder: change(folder, labels=["neutral", "anger"], operating_points=None),
        r"does not fit KE: .*of another shape \['texts'\]",
    ),
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        r"holds no weights\.safetensors: give a run folder",
    ),
    "changed weights": (
        lambda folder: (folder / WEIGHTS).write_bytes(b"x"),
        r"weights\.safetensors has the sha256 .* the file is damaged or was changed",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_one_line(case: str, folder: Path) -> None:
    spoil, message = DAMAGE[case]
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_a_classifier_comes_back(config: Encoder, tmp_path: Path) -> None:
    method: Method = Classifier(
        build_image_encoder(config), DrawnText(), LABELS, Classifier.Options()
    )
    save_model(tmp_path, method.state_dict(), description("classifier", config, method), "")
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Classifier)
    assert torch.equal(loaded.class_vectors(), method.class_vectors())


@pytest.mark.parametrize("name", ["embedded", "vlm"])
def test_shipped_models_are_built_by_their_names(name: str) -> None:
    assert load_model(name).labels == ModelInfo.read(name).labels
