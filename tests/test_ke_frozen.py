"""The comparison of KE-FER's losses on cached features: its draws, its figures, its rows."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fervor.evaluation.metrics import per_class
from fervor.labels import EXPRESSIONS


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

ke_frozen = pytest.importorskip("ke_frozen")


@pytest.fixture(scope="module")
def features() -> Any:
    """Features that tell the classes apart, 40 pictures of each."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(8).repeat_interleave(40)
    middle = torch.rand(8, 1024, generator=generator)
    values = middle[label] + 0.1 * torch.rand(320, 1024, generator=generator)
    view = values.half().numpy()
    faces = ke_frozen._batch(values[::5], label[::5], 8)
    return ke_frozen.Features([view, view], label, values[::3], label[::3], faces, EXPRESSIONS)


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(ke_frozen.SIZES, "few", 0)
    monkeypatch.setitem(ke_frozen.EPOCHS, "few", 2)
    return ke_frozen.Setting("few", 0.1, 0.1, 0.1)


def test_pictures_are_drawn_in_the_classes_own_proportions() -> None:
    label = torch.repeat_interleave(torch.arange(3), torch.tensor([700, 250, 50]))
    places = ke_frozen.in_proportion(label, 101, 3)
    assert len(places.unique()) == 101
    assert torch.bincount(label[places]).tolist() == [71, 25, 5]  # of 70.7, 25.25 and 5.05
    assert torch.equal(places, ke_frozen.in_proportion(label, 101, 3))
    assert not torch.equal(places, ke_frozen.in_proportion(label, 101, 4))
    assert len(ke_frozen.in_proportion(label, 0, 3)) == 1000


def test_a_row_is_the_same_again_and_learns(features: Any, setting: Any) -> None:
    first, second = (ke_frozen.trained(features, setting, 5) for _ in range(2))
    assert first == second
    assert first["accuracy"] > 0.5
    assert first["count"] == len(features.plain) == len(first["answer"].split())
    assert first["activity"]["end"]["moved"].keys() == {"joint", "to_neutral"}


def test_a_weight_of_nothing_leaves_one_loss(features: Any, setting: Any) -> None:
    method, told = ke_frozen.fit(features, replace(setting, weight=0.0), 5)
    assert told["pull"]["L_t"] == told["pull"]["L_c"] == 0 < told["pull"]["L_s"]
    assert told["gradient"]["to_neutral"] == 0
    weighted = ke_frozen.fit(features, setting, 5)[1]
    assert min(weighted["pull"].values()) > 0
    assert weighted["start"] == told["start"]  # both rows of a pair begin alike
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    ke_frozen.pulls(method, features.faces)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_a_gain_in_mean_class_accuracy_is_that_of_the_means() -> None:
    label = np.repeat([0, 1, 2], [30, 12, 6])
    random = np.random.default_rng(0)
    rows = [
        {
            "setting": {"size": "4,000", "weight": weight},
            "seed": seed,
            "answer": " ".join(map(str, np.where(random.random(48) < rate, label, 1))),
        }
        for weight, rate in ((0.0, 0.5), (0.1, 0.8))
        for seed in (0, 1)
    ]

    def mean(weight: float) -> float:
        answers = [
            np.array(r["answer"].split(), int) for r in rows if r["setting"]["weight"] == weight
        ]  # type: ignore[index,attr-defined]
        return float(np.mean([per_class(label, one, 3).mean_class_accuracy() for one in answers]))

    found = ke_frozen.comparison(rows, label, "4,000", "mean_class_accuracy")
    assert found["gain"] == pytest.approx(mean(0.1) - mean(0.0))
    assert found["first"] == pytest.approx(mean(0.1))
    assert found["interval"][0] < found["gain"] < found["interval"][1]
    recall = ke_frozen.comparison(rows, label, "4,000", "neutral_recall")
    assert 0 <= recall["second"] <= recall["first"] <= 1


def test_the_best_on_valid_is_chosen_at_the_chosen_rate() -> None:
    def row(weight: float, rate: float, accuracy: float, *inactive: str) -> dict[str, Any]:
        one = ke_frozen.Setting("4,000", rate, 0.1, weight)
        return {
            "setting": ke_frozen.asdict(one),
            "accuracy": accuracy,
            "inactive": list(inactive),
        }

    rows = [row(0.0, 0.5, 0.9), row(0.01, 0.1, 0.9, "L_t"), row(0.0, 0.1, 0.7)]
    rows += [row(0.3, 0.1, 0.6), row(1.0, 0.1, 0.65)]
    assert ke_frozen.choice(rows, "4,000", complete=True).weight == 1.0
    assert ke_frozen.choice(rows, "4,000", complete=False).rate == 0.1
    assert ke_frozen.choice(rows, "all", complete=True).weight == 1.0


def test_a_class_without_training_images_counts_as_one() -> None:
    logits, label = np.zeros((8, 8), np.float32), np.arange(8)
    found = ke_frozen.figures(logits, label, [50, 40, 30, 20, 10, 5, 5, 0])
    assert found["accuracy_even_prior"] == 1 / 8  # all answers are the class without images
    assert all(np.isfinite(value) for value in found.values())
