"""What the shipped model says to pictures that show no face, as the documentation states it."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fervor import Predictor
from fervor.cli.main import main


SIDE = 192


def blank(level: int) -> NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


PICTURES = {"black": blank(0), "grey": blank(128), "white": blank(255), "noise": noise()}


def test_no_face_is_found_and_the_row_says_so(tmp_path: Path) -> None:
    for name, pixels in PICTURES.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    output = tmp_path / "rows.csv"
    assert main(["predict", str(tmp_path), "--output", str(output), "--strict"]) == 1
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["source"]).stem for row in rows] == sorted(PICTURES)
    assert {(row["status"], row["label"], row["prob"]) for row in rows} == {("no_face", "", "")}


@pytest.fixture(scope="module")
def forced() -> Predictor:
    return Predictor(faces="precropped", abstain=0.7)


@pytest.mark.parametrize("name", PICTURES)
def test_a_forced_answer_is_unsure(forced: Predictor, name: str) -> None:
    (answer,) = forced(PICTURES[name])
    probabilities = list(answer.probabilities.values())
    assert answer.status == "ok" and answer.det_score is None
    assert np.isfinite(probabilities).all() and min(probabilities) >= 0
    assert sum(probabilities) == pytest.approx(1)
    assert answer.prob == max(probabilities) < 0.7
    assert answer.label == "uncertain"
