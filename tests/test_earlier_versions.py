"""Folders that version 0.1 wrote (commit eeee50c) are read, and answer as they did.

`tests/data/version-0.1` holds a run of two epochs on drawn faces with a tiny ResNet, the graph that
was exported from it, and the logits of six drawn faces.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fervor import Predictor
from fervor.artifacts.model_info import ModelInfo
from fervor.config import Run, with_new_names
from fervor.methods.build import load_model
from fervor.recipes import read_settings
from tests.support.drawn import batch, pictures


FOLDER = Path(__file__).parent / "data" / "version-0.1"
LABELS = ("neutral", "happiness", "anger")


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.array(json.loads((FOLDER / "logits.json").read_text()))


def test_a_run_folder_gives_the_same_logits(logits: np.ndarray) -> None:
    method = load_model(FOLDER / "run")
    with torch.no_grad():
        found = method(batch(LABELS, 2, size=32).image)
    np.testing.assert_allclose(found.numpy(), logits, atol=2e-4)


def test_a_model_folder_gives_the_same_probabilities(logits: np.ndarray) -> None:
    info = ModelInfo.read(FOLDER / "model")
    assert (info.labels, info.input.size, info.input.crop) == (LABELS, 32, 32)
    faces = pictures(LABELS, 2).images[:, 0].numpy()
    found = Predictor(FOLDER / "model", faces="precropped", threads=1).classify(
        [np.repeat(face[:, :, None], 3, axis=2) for face in faces]
    )
    expected = torch.from_numpy(logits / info.temperature).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_configuration_is_a_run_of_today() -> None:
    """What 0.1 did not know is off, so that a run means what it meant."""
    values = with_new_names(read_settings(FOLDER / "run" / "config.yaml"))
    run = Run.from_values(values)
    assert run.data.root == "faces" and run.augment.rotation == 5
    for section in ("data", "augment", "encoder", "optim"):
        for name in vars(getattr(run, section)).keys() - values[section].keys():
            default = getattr(getattr(Run(), section), name)
            assert getattr(getattr(run, section), name) == default
    off = {name for name in vars(run.augment).keys() - values["augment"].keys()}
    assert off
    assert all(not getattr(run.augment, name) for name in off if name not in BOUNDS)


BOUNDS = {"low_resolution_side", "partial_area"}
"""Of changes that are off."""
