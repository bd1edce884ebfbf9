"""The card: metadata that YAML reads, the counts, and how the epoch was chosen."""

from typing import Any

import pytest
import yaml

from fervor.artifacts.model_card import card
from fervor.artifacts.model_info import ModelInfo
from tests.support.models import content


DATA: dict[str, Any] = {
    "name": "ferplus",
    "protocol": "majority",
    "train": {"neutral": 8740, "happiness": 7287},
    "selection": {"neutral": 1182, "happiness": 862},
}


def info(mode: str = "honest", **changes: Any) -> ModelInfo:
    figures = {"accuracy": 0.91234, "mean_class_accuracy": 0.8, "macro_f1": 0.81}
    split = "test" if mode == "paper" else "valid"
    entries = {
        "name": "ke/ferplus-mobilenet",
        "labels": ["neutral", "happiness"],
        "encoder": {"name": "face-mobilenet"},
        "input": {"size": 112, "crop": 48},
        "parameters": {"all": 3_456_789, "trainable": 3_400_000},
        "seed": 29,
        "commit": "abc123",
        "data": DATA,
        "selection": {"mode": mode, "split": split, "epoch": 7, **figures},
        "temperature": 1.25,
        "licence": "Apache-2.0 (this training)",
        "data_terms": "trained on ferplus",
    }
    return ModelInfo.parse(content(**{**entries, **changes}))


def metadata(text: str) -> dict[str, Any]:
    """What stands between the first two lines of dashes."""
    assert text.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_metadata_is_what_the_hub_reads() -> None:
    found = metadata(card(info()))
    assert found["license"] == "other"
    assert found["library_name"] == "fervor"
    assert found["pipeline_tag"] == "image-classification"
    assert found["datasets"] == ["ferplus"]
    assert "facial-expression-recognition" in found["tags"]


def test_the_card_holds_counts_and_figures() -> None:
    text = card(info(licence="Apache-2.0", data_terms="FER2013: research only."))
    assert "| neutral | 8,740 | 1,182 |" in text
    assert "| happiness | 7,287 | 862 |" in text
    for fact in ("0.9123", "0.8000", "0.8100", "epoch 8", "1.2500", "3,456,789", "seed\n29"):
        assert fact in text
    assert "FER2013: research only." in text
    assert "expression shown" in text
    assert "None" not in text


def test_a_choice_on_test_is_said_aloud() -> None:
    honest, paper = card(info("honest")), card(info("paper"))
    assert "chosen on the test split" in paper
    assert "no estimate for new pictures" in paper
    assert "`test` (paper)" in paper
    assert "test split" not in honest
    assert "`valid` (honest)" in honest


@pytest.mark.parametrize("commit", ["", "abc123"])
def test_an_unknown_commit_is_called_unknown(commit: str) -> None:
    assert f"commit {commit or 'unknown'}." in card(info(commit=commit))


def test_a_training_protocol_of_its_own_is_named() -> None:
    assert "training pictures" not in card(info(data=DATA | {"train_protocol": "majority"}))
    text = card(info(data=DATA | {"train_protocol": "argmax8"}))
    assert "protocol `majority` (training pictures: `argmax8`)" in text


def test_averaged_runs_are_named() -> None:
    assert "mean of those" not in card(info())
    runs = [{"name": "first", "seed": 0}, {"name": "second", "seed": 3}]
    text = card(info(average_of=runs))
    assert "the mean of those of `first` (seed 0) and `second` (seed 3)" in text


def test_teachers_are_named() -> None:
    assert "mixed with" not in card(info())
    text = card(info(teachers=[{"name": "first"}, {"name": "second"}]))
    assert "mixed with the answers of `first` and `second`" in text
