"""Stored logits: whole and checked, found by name, mixed into the targets of a run."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fervor.config import Data, Encoder, Optim, Run
from fervor.data.distillation import (
    StoredLogits,
    name_of,
    read_logits,
    teachers_targets,
    view_placements,
    write_logits,
)
from fervor.data.image_set import ImageSet
from fervor.data.loading import TrainingBatches, teachers_of
from fervor.data.samplers import Key
from fervor.errors import DataError, UsageError
from tests.support.drawn import pictures


LABELS = ("neutral", "happiness", "anger")
KEY = Key(1, 2, (5, 0, 9))


@pytest.fixture
def faces() -> ImageSet:
    split = dataclasses.replace(pictures(LABELS, 4), labels=LABELS)
    return dataclasses.replace(split, sources=tuple(f"/data/train/{s}" for s in split.sources))


@pytest.fixture
def stored(faces: ImageSet) -> StoredLogits:
    """In another order of images and classes, with a class and an image more."""
    torch.manual_seed(0)
    names = [name_of(source, "/data") for source in faces.sources][::-1]
    labels = ("fear", "anger", "neutral", "happiness")
    logits = 3 * torch.randn(len(names) + 1, 8, 4)
    teachers = ({"name": "ke/one", "seed": 0, "sha256": {}},)
    return StoredLogits((*names, "train/other.png"), labels, logits.half(), teachers)


def test_a_file_comes_back(stored: StoredLogits, tmp_path: Path) -> None:
    write_logits(tmp_path / "teachers.safetensors", stored)
    found = read_logits(tmp_path / "teachers.safetensors")
    assert torch.equal(found.logits, stored.logits)
    assert dataclasses.replace(found, logits=stored.logits) == stored
    assert list(tmp_path.iterdir()) == [tmp_path / "teachers.safetensors"]


def test_a_file_that_was_changed_is_refused(stored: StoredLogits, tmp_path: Path) -> None:
    path = tmp_path / "teachers.safetensors"
    write_logits(path, stored)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    logits = load_file(path)["logits"]
    save_file({"logits": logits + 1}, path, facts)
    with pytest.raises(DataError, match="differs from its own checksum"):
        read_logits(path)
    save_file(
        {"logits": logits}, path, {**facts, "names": facts["names"].replace("anger3", "anger9")}
    )
    with pytest.raises(DataError, match="differs from its own checksum"):
        read_logits(path)


FACTS = {"names": "[]", "labels": "[]", "teachers": "[]", "sha256": ""}
WRONG = {
    "deep": ({"names": "[" * 100_000}, 0.0),
    "a number for names": ({"names": "5"}, 0.0),
    "a number for a teacher": ({"teachers": "[5]"}, 0.0),
    "no number": ({}, float("nan")),
}


@pytest.mark.parametrize("case", ["missing", "text", "another", *WRONG])
def test_no_such_file_is_one_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / "teachers.safetensors"
    if case in WRONG:
        facts, value = WRONG[case]
        save_file({"logits": torch.full((1, 1, 1), value)}, path, FACTS | facts)
    if case == "text":
        path.write_text("x" * 100)
    elif case == "another":
        save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=r"cannot be read .*expected a file of") as caught:
        read_logits(path)
    assert "\n" not in str(caught.value)


def test_targets_are_softened_means_found_by_name(faces: ImageSet, stored: StoredLogits) -> None:
    names = [name_of(source, "/data") for source in faces.sources]
    found = teachers_targets(stored, names, LABELS, temperature=2.0)
    for row, name in enumerate(names):
        mean = stored.logits[stored.names.index(name)].float().mean(0)
        scores = torch.tensor([float(mean[stored.labels.index(label)]) / 2 for label in LABELS])
        torch.testing.assert_close(found[row], scores.exp() / scores.exp().sum())
    with pytest.raises(DataError, match="hold no class contempt"):
        teachers_targets(stored, names, (*LABELS, "contempt"), temperature=1)
    with pytest.raises(DataError, match=r"lack 1 of 13 training images, the first is train/new"):
        teachers_targets(stored, [*names, "train/new.png"], LABELS, temperature=1)


def settings(path: Path, **changes: object) -> Run:
    data = Data(root="/data", target="cross_entropy", cache="", teachers=str(path), **changes)  # type: ignore[arg-type]
    return Run(data=data, encoder=Encoder(size=56), optim=Optim(batch_size=4))


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_a_run_mixes_them_with_the_votes(
    fraction: float, faces: ImageSet, stored: StoredLogits, tmp_path: Path
) -> None:
    path = tmp_path / "teachers.safetensors"
    write_logits(path, stored)
    run = settings(path, teachers_weight=fraction, teachers_temperature=1.5)
    names = [name_of(source, "/data") for source in faces.sources]
    teachers = teachers_targets(stored, names, LABELS, temperature=1.5)
    found = TrainingBatches(faces, run.pipeline)[KEY].target
    rows = list(KEY.indices)
    expected = (1 - fraction) * faces.votes[rows] + fraction * teachers[rows]
    torch.testing.assert_close(found, expected)
    without = TrainingBatches(
        faces, dataclasses.replace(run, data=Data(target="cross_entropy")).pipeline
    )
    assert torch.equal(without[KEY].target, faces.votes[rows])
    assert torch.equal(without[KEY].image, TrainingBatches(faces, run.pipeline)[KEY].image)
    subset = faces.subset(torch.tensor([3, 1]))
    torch.testing.assert_close(teachers_of(subset, run.data), teachers[[3, 1]])


def test_settings_out_of_range(faces: ImageSet, stored: StoredLogits, tmp_path: Path) -> None:
    path = tmp_path / "teachers.safetensors"
    write_logits(path, stored)
    with pytest.raises(UsageError, match="teachers_weight 0: expected above 0 up to 1"):
        TrainingBatches(faces, settings(path, teachers_weight=0).pipeline)
    with pytest.raises(UsageError, match="teachers_temperature 0: expected above 0"):
        TrainingBatches(faces, settings(path, teachers_temperature=0).pipeline)


def test_views_are_eight_and_the_first_is_the_image_itself() -> None:
    views = torch.cat(list(view_placements()))
    assert views.shape == (8, 2, 3)
    assert torch.equal(views[0], torch.eye(3)[:2])
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    mirror = torch.diag(torch.tensor([-1.0, 1.0]))
    for plain, mirrored in zip(views[::2], views[1::2], strict=True):
        torch.testing.assert_close(plain[:, :2] @ mirror, mirrored[:, :2])
        assert torch.equal(plain[:, 2], mirrored[:, 2])
