"""Every method with every encoder: it learns, predicts, and comes back from its folder the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fervor.config import Augment, Data, Encoder, Optim, Run
from fervor.data.batch import Batch
from fervor.data.loading import TrainingBatches
from fervor.data.samplers import EpochSampler
from fervor.labels import EXPRESSIONS
from fervor.methods import method_class
from fervor.methods.base import Method
from fervor.methods.build import load_model, save_model
from fervor.models.image import FaceEncoder, ImageEncoder, build_image_encoder
from fervor.plugins import METHODS
from tests.support import example_package, tiny
from tests.support.drawn import (
    DrawnScales,
    DrawnSoftText,
    DrawnText,
    DrawnTransformer,
    TinyEncoder,
    batch,
    description,
    pictures,
)


LABELS = ("neutral", "happiness", "surprise", "anger")


ENCODERS = ("face-mobilenet", "face-resnet", "vlm", "ir50", *tiny.SAVED)

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The method of another package can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(example_package.write(tmp_path_factory.mktemp("source")))
        yield


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    """The configuration of each encoder."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    found = {name: Encoder(name=name, size=96) for name in ENCODERS if name not in tiny.SAVED}
    found["ir50"] = Encoder(name="ir50", size=48)
    found["vlm"] = Encoder(name="vlm", weights="embedded", size=64)
    for name, save in tiny.SAVED.items():
        found[name] = Encoder(name=name, weights=save(root / name), size=32)
    return found


TRANSFORMERS = ("vit-b16", "clip", "blip")
"""Encoders that prompts can join."""

FITTING = {"mpa": TRANSFORMERS, "lacovl": ("face-mobilenet", "ir50")}
"""Encoders that a method takes, where it does not take them all."""

ALL = (*METHODS, example_package.METHOD)
"""Our own methods, and one of another package."""

PAIRS = [(method, encoder) for method in ALL for encoder in FITTING.get(method, ENCODERS)]

SMALL: dict[str, dict[str, Any]] = {"lacovl": {"resolution": 48, "width": 24, "heads": 3}}
"""Options that make a method fast enough."""


def build(method: str, encoder: Encoder, *, width: int = 12) -> Method:
    torch.manual_seed(0)
    chosen = method_class(method)
    options: Any = chosen.Options(**SMALL.get(method, {}))
    image = build_image_encoder(encoder)
    text: Any = DrawnSoftText(image.width) if method == "mpa" else DrawnText(width)
    built = chosen(image, text, LABELS, options)
    built.prepare([batch(LABELS, 2, size=encoder.size)])
    return built


def loss(method: Method, faces: Batch) -> Tensor:
    """The objective, with whatever a method draws drawn alike."""
    torch.manual_seed(0)
    return method.losses(faces)["loss"]


@pytest.mark.parametrize(("method", "encoder"), PAIRS)
def test_one_step_lowers_the_loss(method: str, encoder: str, encoders: dict[str, Encoder]) -> None:
    built = build(method, encoders[encoder]).train()
    faces = batch(LABELS, 2, size=encoders[encoder].size)
    if isinstance(built.image, FaceEncoder):
        built.image.restore_batchnorm(faces.image)  # as training does
    before = loss(built, faces)
    before.backward()
    trainable = [parameter for parameter in built.parameters() if parameter.requires_grad]
    grouped = [parameter for group in built.parameter_groups(0.1) for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in trainable}
    for name, parameter in built.named_parameters():
        if name.startswith(tuple(f"{tower}." for tower in built.frozen())):
            assert not parameter.requires_grad and parameter.grad is None, name
            continue
        assert parameter.requires_grad, name
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    length = torch.stack([p.grad.norm() for p in trainable if p.grad is not None]).norm()
    learning_rate = (
        1e-3 * float(before.detach()) / float(length) ** 2
    )  # a thousandth less is expected
    torch.optim.SGD(built.parameter_groups(learning_rate), learning_rate).step()
    with torch.no_grad():
        assert loss(built, faces) < before


@pytest.mark.parametrize(("method", "encoder"), PAIRS)
def test_predictions_and_features(method: str, encoder: str, encoders: dict[str, Encoder]) -> None:
    built = build(method, encoders[encoder]).eval()
    faces = batch(LABELS, 2, size=encoders[encoder].size)
    with torch.no_grad():
        logits, features = built(faces.image), built.features(faces.image)
        assert logits.shape == (8, len(LABELS))
        torch.testing.assert_close(built.logits(features), logits)
        one = built(faces.image[:1])
    torch.testing.assert_close(one, logits[:1], rtol=1e-3, atol=1e-3)
    assert logits.isfinite().all()
    assert (logits[0] - logits[1]).abs().max() > 1e-4  # faces can be told apart
    vectors, (rows, columns) = built.class_vectors(), features.grid
    assert vectors.shape == (len(LABELS), features.pooled.shape[1])
    assert features.tokens.shape == (8, rows * columns, features.pooled.shape[1])


STAGED = {"mpa": ("vlm",), "lacovl": ("face-mobilenet", "ir50")}
"""Encoders whose maps stand for images, where a method does not take both of the others."""


@pytest.mark.parametrize(
    ("method", "encoder"),
    [(method, name) for method in ALL for name in STAGED.get(method, ("face-mobilenet", "vlm"))],
)
def test_maps_of_the_frozen_stage_stand_for_images(
    method: str, encoder: str, encoders: dict[str, Encoder]
) -> None:
    """Answers are the same to the last bit; losses nearly, where images are run beside partners."""
    built = build(method, encoders[encoder]).eval()
    built.image.freeze(2)
    if method == "lacovl":
        built.image.requires_grad_(False)
    faces = batch(LABELS, 2, size=encoders[encoder].size)
    with torch.no_grad():
        assert built.has_frozen_stage
        maps = built.frozen_stage(faces.image)
        cached = Batch(None, faces.label, faces.target, maps=maps)
        assert torch.equal(built.logits(built.batch_features(cached)), built(faces.image))
        torch.testing.assert_close(loss(built, cached), loss(built, faces), rtol=1e-6, atol=1e-6)
        assert built.activity(cached) == pytest.approx(built.activity(faces), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("method", "encoder"), [pair for pair in PAIRS if pair[0] != "mpa"])
def test_saved_and_loaded_it_is_the_same(  # mpa's towers must be found again: test_mpa.py
    method: str, encoder: str, encoders: dict[str, Encoder], tmp_path: Path
) -> None:
    config = encoders[encoder]
    built = build(method, config)
    faces = batch(LABELS, 2, size=config.size)
    loss(built.train(), faces)  # BatchNorm's statistics have moved
    save_model(tmp_path, built.state_dict(), description(method, config, built), "")
    text = (tmp_path / "model.json").read_text().replace(config.weights or "nowhere", "gone")
    (tmp_path / "model.json").write_text(text)  # the folder of the encoder need not be there
    loaded = load_model(tmp_path)
    for name, tensor in built.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with torch.no_grad():
        expected = built.eval()(faces.image)
        torch.testing.assert_close(loaded(faces.image), expected, rtol=1e-5, atol=1e-4)
    assert not loaded.training


def first_losses(method: str) -> list[float]:
    """Five steps on drawn faces, augmented."""
    torch.manual_seed(0)
    run = Run(
        method=method,
        data=Data(target="probability"),
        augment=Augment(rotation=10, shift=0.05),
        encoder=Encoder(size=56),
        optim=Optim(batch_size=16),
        seed=29,
    )
    split = pictures(EXPRESSIONS, 10)
    batches = TrainingBatches(split, run.pipeline)
    options: Any = method_class(method).Options(**SMALL.get(method, {}))
    prompted = method == "mpa"
    image: ImageEncoder = DrawnTransformer(size=56) if prompted else TinyEncoder(size=56)
    if method == "lacovl":
        image = DrawnScales(size=56)
    text: Any = DrawnSoftText() if prompted else DrawnText()
    built = method_class(method)(image, text, EXPRESSIONS, options)
    built.prepare([batch(EXPRESSIONS, 2, size=56)])
    optimizer = torch.optim.SGD(built.parameter_groups(1e-4), 1e-4, momentum=0.9)
    found = []
    for key in EpochSampler(split.label, run.optim.batch_size, seed=run.seed):
        losses = built.losses(batches[key])
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        found.append(float(losses["loss"].detach()))
    return found


@pytest.mark.parametrize("method", ["classifier", "ke", "mpa", "lacovl", "vlm"])
def test_the_first_losses_are_the_stored_ones(method: str) -> None:
    """To within a thousandth. Where a change is meant: delete the file, run, look, and commit."""
    path, found = GOLDEN / f"{method}.json", first_losses(method)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"losses": found}, indent=1) + "\n")
        pytest.fail(f"{path} was not there and is written now: compare and commit it")
    assert len(found) == 5
    assert found == pytest.approx(json.loads(path.read_text())["losses"], rel=1e-3)
