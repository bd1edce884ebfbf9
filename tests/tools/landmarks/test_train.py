"""The landmark network's training: points move with their picture, a run learns and goes on."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from fervor.config import Augment, Data, Optim, Pipeline, Run
from fervor.data.augmentation import Augmentation, warped
from fervor.data.image_set import ImageSet
from fervor.data.samplers import Key
from fervor.data.splits import Splits
from fervor.errors import UsageError
from fervor.models.mobilefacenet import MobileFaceNet
from tools.landmarks import train as landmarks
from tools.landmarks.facemesh import MIRRORED, Taught
from tools.landmarks.train import (
    Faces,
    Options,
    TrainingFaces,
    found_points,
    moved,
    student,
    train,
    wing_loss,
)


AUGMENT = Augment(flip=0.5, rotation=30, scale=0.25, shift=0.08, crop_padding=0, erase=0)


def spot(place: Tensor, side: int) -> Tensor:
    """A bright spot at x and y, shares of a picture of that side."""
    axis = (torch.arange(side) + 0.5) / side
    x, y = axis[None] - place[0], axis[:, None] - place[1]
    return torch.exp(-(x**2 + y**2) / (2 * 0.03**2))[None]


def test_points_move_with_the_picture() -> None:
    torch.manual_seed(3)
    placements = Augmentation(AUGMENT, 96).placements(8)
    mirrored = torch.linalg.det(placements[:, :, :2]) < 0
    assert mirrored.any()
    assert not mirrored.all()
    points = 0.35 + 0.3 * torch.rand(8, 68, 2)
    number = 36
    drawn = warped(torch.stack([spot(places[number], 96) for places in points]), placements, 96)
    axis = (torch.arange(96) + 0.5) / 96
    x, y = (
        (drawn[:, 0] * way).sum((1, 2)) / drawn[:, 0].sum((1, 2)) for way in (axis, axis[:, None])
    )
    found = moved(points, placements)
    names = [MIRRORED.index(number) if turned else number for turned in mirrored.tolist()]
    expected = found[torch.arange(8), names]
    torch.testing.assert_close(torch.stack([x, y], 1), expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_student_is_the_network() -> None:
    torch.manual_seed(0)
    pupil, plain = student(), MobileFaceNet()
    plain.load_state_dict(pupil.state_dict())
    image = torch.rand(2, 3, 112, 112)
    for mode in (True, False):
        pupil.train(mode), plain.train(mode)
        torch.testing.assert_close(found_points(pupil, image), plain.points(image))
    assert found_points(pupil, torch.rand(2, 3, 64, 64)).shape == (2, 68, 2)


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 0.0), (4.0, 10 * math.log(3)), (30.0, None)])
def test_wing_loss(gap: float, expected: float | None) -> None:
    wanted = torch.full((2, 68, 2), 0.5)
    loss = float(wing_loss(wanted + gap / 112, wanted))
    if expected is None:  # beyond its width each pixel counts as one
        more = float(wing_loss(wanted + (gap + 1) / 112, wanted))
        assert more - loss == pytest.approx(1, abs=1e-3)
    else:
        assert loss == pytest.approx(expected, abs=1e-3)


def pictures(count: int, side: int = 48) -> ImageSet:
    torch.manual_seed(count)
    images = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8)
    names = tuple(map(str, range(count)))
    return ImageSet(images, torch.zeros(count, dtype=torch.long), torch.ones(count, 1), names)


def test_a_batch_is_a_function_of_seed_and_key() -> None:
    faces = Faces(pictures(8), torch.rand(8, 68, 2), 0)
    batches = TrainingFaces(faces, AUGMENT, Options(), seed=5)
    key = Key(1, 2, (4, 0, 7))
    image, points = batches.batch(key, 64)
    assert image.shape == (3, 3, 64, 64)
    assert 0 <= image.min() <= image.max() <= 1
    torch.rand(3)
    for one, other in zip((image, points), batches.batch(key, 64), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(points, batches.batch(key._replace(step=3), 64)[1])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run over drawn faces, one of which the teacher does not see and one it is unsure of."""

    def splits(pipeline: Pipeline, *, selection: str) -> Splits:
        return Splits(("face",), pictures(12, 16), pictures(6, 16), "valid")

    def told(faces: NDArray[np.uint8], folder: str) -> Taught:
        points = np.linspace(0.2, 0.8, 136, dtype=np.float32).reshape(68, 2)
        presence, spread = np.ones(len(faces), np.float32), np.zeros(len(faces), np.float32)
        presence[0], spread[1] = 0.2, 0.3
        return Taught(np.stack([points] * len(faces)), presence, spread)

    monkeypatch.setattr(landmarks, "read_splits", splits)
    monkeypatch.setattr(landmarks, "taught", told)
    return Run(
        method="landmarks",
        data=Data(cache=""),
        augment=replace(AUGMENT, rotation=5),
        optim=Optim(
            name="adamw",
            epochs=2,
            batch_size=5,
            learning_rate=1e-3,
            schedule="step",
            average=0.5,
            clip=5,
        ),
        options={"small": 32, "small_epochs": 1},
        output=str(tmp_path / "run"),
    )


@pytest.mark.slow
def test_a_run_writes_what_the_package_ships(run: Run) -> None:
    folder = train(run)
    facts = json.loads((folder / "landmarks.json").read_text())
    assert facts["faces"] == {"learned_from": 10, "measured_on": 4}
    assert facts["left_out"] == {"learned_from": 2, "measured_on": 2}
    assert facts["measured"]["error_inter_ocular"] > 0
    assert facts["config"]["data"]["root"] == facts["config"]["output"] == ""
    state = load_file(folder / "landmarks.safetensors")
    network = MobileFaceNet()
    network.load_state_dict(state)
    assert not (folder / "last.ckpt").exists()
    assert [row["epoch"] for row in json.loads((folder / "history.json").read_text())] == [0, 1]
    with pytest.raises(UsageError, match="holds a run already"):
        train(run)


@pytest.mark.slow
def test_a_resumed_run_is_an_uninterrupted_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(replace(run, output=str(tmp_path / "whole")))
    keep = landmarks._Training._keep

    def stopped(training: landmarks._Training) -> None:
        keep(training)
        raise KeyboardInterrupt

    monkeypatch.setattr(landmarks._Training, "_keep", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    monkeypatch.setattr(landmarks._Training, "_keep", keep)
    resumed = train(run, resume=True)
    first, second = (load_file(folder / "landmarks.safetensors") for folder in (whole, resumed))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_an_unknown_option_is_named(run: Run) -> None:
    with pytest.raises(UsageError, match="landmarks has no option 'wing'"):
        train(replace(run, options={"wing": 1}))
