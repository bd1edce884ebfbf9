"""Accuracy under corruptions: counted as a loop counts it, on the same pictures for both models."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fervor.config import Data
from fervor.data.datasets import load
from fervor.data.image_set import read_images
from fervor.data.loading import evaluation_batches
from fervor.errors import DataError, UsageError
from fervor.evaluation import results
from fervor.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from fervor.evaluation.robustness import compared, corrupted_batches, drawn_rows, robustness
from fervor.io.image import to_input
from tests.support.models import LABELS, SIZE, weights, write_model


SIDE = 24
TINTS = {"neutral": (150, 110, 90), "happiness": (100, 150, 90), "sadness": (90, 110, 150)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Noisy squares of nearly the colour that the tiny model names, two of each class."""
    root = tmp_path_factory.mktemp("tints")
    random = np.random.default_rng(0)
    for name, tint in TINTS.items():
        folder = root / "test" / name
        folder.mkdir(parents=True)
        for number in range(2):
            pixels = np.clip(tint + random.normal(0, 40, (SIDE, SIDE, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return Data(name="folder", root=str(root), cache="")


def described(**changes: Any) -> dict[str, Any]:
    """What makes the tiny model's description that of a trained one."""
    return {
        "data": {"name": "folder", "protocol": "folders"},
        "parameters": {"all": 9, "trainable": 9},
        "config": {"method": "ke"},
        **changes,
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "tiny", **described()))


def tiny_answer(image: NDArray[np.uint8]) -> str:
    """What the tiny model says: the class of the strongest mean colour."""
    probabilities = to_input(image, SIZE).mean(axis=(1, 2)) @ weights(LABELS)
    return LABELS[int(probabilities.argmax())]


def test_every_condition_is_counted_as_a_loop_counts_it(
    model: str, data: Data, tmp_path: Path
) -> None:
    path, result = robustness(model, data, output=str(tmp_path), seed=3)
    samples = load("folder", data.root, "test")
    images = [np.asarray(Image.open(sample.path)) for sample in samples]
    for name, row in result["corruptions"].items():
        for severity in SEVERITIES:
            hits = sum(
                tiny_answer(corrupt(image, name, severity, seed=3, number=number)) == sample.label
                for number, (image, sample) in enumerate(zip(images, samples, strict=True))
            )
            assert row["correct"][severity - 1] == hits, (name, severity)
            assert row["accuracy"][severity - 1] == hits / 6
    clean = [tiny_answer(image) == s.label for image, s in zip(images, samples, strict=True)]
    assert result["clean"] == {"correct": sum(clean), "accuracy": sum(clean) / 6}
    means = [np.mean(row["accuracy"]) for row in result["corruptions"].values()]
    assert result["mean_accuracy"] == pytest.approx(np.mean(means))
    assert list(result["corruptions"]) == list(CORRUPTIONS)
    assert path == tmp_path / f"tiny-seed0-test-{result['fingerprint']}.json"
    assert results.read(path) == json.loads(path.read_text())
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + len(CORRUPTIONS) * len(SEVERITIES)
    assert {row["count"] for row in rows} == {"6"}
    by_place = {(row["corruption"], row["severity"]): row["correct"] for row in rows}
    assert by_place["noise", "5"] == str(result["corruptions"]["noise"]["correct"][4])


def test_a_subset_sees_what_the_whole_split_sees(data: Data) -> None:
    """The same corruption falls on a picture, whichever others are chosen."""
    pictures = read_images(load("folder", data.root, "test"), LABELS, size=SIZE)
    rows = drawn_rows(len(pictures), 3, 7)
    assert len(rows) == 3 and (np.diff(rows) > 0).all()
    assert drawn_rows(len(pictures), 0, 7).tolist() == list(range(6))
    assert drawn_rows(6, 3, 7).tolist() == rows.tolist()
    few = pictures.subset(torch.from_numpy(rows))
    for name in ("block", "noise"):
        whole = next(corrupted_batches(pictures, np.arange(6), name, 4, size=SIZE, seed=1))
        part = next(corrupted_batches(few, rows, name, 4, size=SIZE, seed=1))
        assert part.image.equal(whole.image[rows])
        assert part.label.equal(whole.label[rows])
    clean = next(corrupted_batches(few, rows, "", 0, size=SIZE, seed=1))
    assert clean.image.equal(next(evaluation_batches(pictures, size=SIZE)).image[rows])


def test_pictures_that_are_not_chosen_are_not_read(model: str, data: Data, tmp_path: Path) -> None:
    """The others may be damaged: nobody opens them."""
    root = tmp_path / "faces"
    shutil.copytree(data.root, root)
    samples = load("folder", root, "test")
    numbers = set(drawn_rows(len(samples), 2, 0).tolist())
    for number, sample in enumerate(samples):
        if number not in numbers:
            Path(sample.path).write_bytes(b"no picture")
    few = replace(data, root=str(root), cache="")
    _, result = robustness(model, few, output=str(tmp_path / "few"), pictures=2)
    assert (result["count"], result["pictures"]["of"]) == (2, len(samples))
    _, whole = robustness(model, data, output=str(tmp_path / "whole"), pictures=2)
    assert result["corruptions"] == whole["corruptions"]


def test_points_place_the_occlusions(data: Data) -> None:
    pictures = read_images(load("folder", data.root, "test"), LABELS, size=SIDE)
    rows = np.array([0, 4])
    points = np.random.default_rng(0).uniform(0.2, 0.8, (6, 5, 2))
    few = pictures.subset(torch.from_numpy(rows))
    found = next(corrupted_batches(few, rows, "mouth", 3, size=SIDE, seed=1, points=points))
    for place, row in enumerate(rows):
        image = pictures.take(np.array([row]))[0].permute(1, 2, 0).numpy()
        expected = corrupt(image, "mouth", 3, seed=1, number=int(row), points=points[row] * SIDE)
        np.testing.assert_array_equal(found.image[place], to_input(expected, SIDE))


def test_errors_beside_a_baselines(model: str, data: Data, tmp_path: Path) -> None:
    """By hand, and the same whether the baseline is measured or read."""
    named = described(name="other")
    other = str(write_model(tmp_path / "other", labels=LABELS[::-1], **named))
    path, ours = robustness(
        model, data, output=str(tmp_path / "r"), baseline=other, pictures=5, report=True
    )
    (written,) = (tmp_path / "r").glob("other-seed0-test-*.json")
    theirs = results.read(written)
    errors = []
    for name, row in ours["corruptions"].items():
        below = 5 - sum(theirs["corruptions"][name]["accuracy"])
        error = (5 - sum(row["accuracy"])) / below if below else None
        assert ours["baseline"]["corruption_errors"][name] == pytest.approx(error)
        errors += [] if error is None else [error]
    assert ours["baseline"]["mean_corruption_error"] == pytest.approx(np.mean(errors))
    assert ours["count"] == 5
    assert {file.suffix for file in path.parent.glob("tiny-*")} >= {".json", ".csv", ".svg", ".png"}
    read = str(written)
    _, again = robustness(model, data, output=str(tmp_path / "r"), baseline=read, pictures=5)
    assert again["baseline"] == ours["baseline"]
    for wrong in ({"pictures": 4}, {"pictures": 5, "seed": 1}):
        with pytest.raises(UsageError, match="expected a result of robustness on the same"):
            robustness(model, data, output=str(tmp_path / "w"), baseline=read, **wrong)
    with pytest.raises(UsageError, match="expected a result of robustness"):
        compared(ours, {key: value for key, value in theirs.items() if key != "corruptions"}, "x")


def test_a_baseline_is_of_the_same_images_and_classes(
    model: str, data: Data, tmp_path: Path
) -> None:
    _, ours = robustness(model, data, output=str(tmp_path), pictures=2)
    old = {key: value for key, value in ours["data"].items() if key != "annotations"}
    assert compared(ours, {**ours, "data": old}, "x")["model"] == "tiny"
    left_out = {"cross_data": {"data_only": {"anger": 3}}}
    assert compared({**ours, **left_out}, {**ours, **left_out}, "x")["model"] == "tiny"
    for change in (
        {"data": {**ours["data"], "annotations": "2021"}},
        {"data": {**ours["data"], "classes": ["happiness", "sadness"]}},
        {"data": {**ours["data"], "aligned": {"size": 112}}},
        left_out,
    ):
        with pytest.raises(UsageError, match="expected a result of robustness on the same"):
            compared(ours, {**ours, **change}, "x")


@pytest.mark.parametrize("name", ["seed", "pictures"])
def test_a_number_below_0_is_one_line(name: str, model: str, data: Data) -> None:
    with pytest.raises(UsageError, match=f"--{name} -1: expected at least 0"):
        robustness(model, data, **{name: -1})


def test_stored_results_are_each_others_baselines() -> None:
    """Those of the earliest versions too, which name no annotations."""
    files = sorted((Path(__file__).parents[2] / "results/robustness").rglob("*.json"))
    stored = [results.read(file) for file in files]
    assert len({"annotations" in result["data"] for result in stored}) == 2
    for ours in stored:
        for theirs in stored:
            same = (ours["count"], ours["pictures"]) == (theirs["count"], theirs["pictures"])
            if same:
                assert compared(ours, theirs, "x")["sha256"] == theirs["sha256"]


def test_another_data_sets_result_tells_the_classes_left_out(data: Data, tmp_path: Path) -> None:
    own = described(data={"name": "ferplus", "protocol": "majority"})
    other = str(write_model(tmp_path / "other", labels=LABELS[:2], **own))
    _, result = robustness(other, data, output=str(tmp_path), pictures=2)
    assert result["cross_data"]["data_only"] == {LABELS[2]: 2}
    whole = str(write_model(tmp_path / "whole", labels=LABELS, **own))
    _, theirs = robustness(whole, data, output=str(tmp_path), pictures=2)
    theirs["pictures"] = result["pictures"]  # as many, of other classes
    with pytest.raises(UsageError, match="expected a result of robustness on the same"):
        compared(result, theirs, "x")


def test_a_model_against_itself_has_an_error_of_one(model: str, data: Data, tmp_path: Path) -> None:
    path, _ = robustness(model, data, output=str(tmp_path), pictures=4)
    _, result = robustness(model, data, output=str(tmp_path), pictures=4, baseline=str(path))
    assert result["baseline"]["mean_corruption_error"] == pytest.approx(1)
    text = path.read_text().replace('"count": 4', '"count": 5')
    path.write_text(text)
    with pytest.raises(DataError, match="was changed since it was written"):
        robustness(model, data, output=str(tmp_path), pictures=4, baseline=str(path))
