"""Which classes and pictures are counted on another data set than the model's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.artifacts.model_info import ModelInfo
from fervor.data.datasets import Sample
from fervor.errors import UsageError
from fervor.evaluation.label_mapping import scope, scope_of_words
from fervor.labels import EXPRESSIONS, RAFDB, ordered
from tests.support.models import content


def info(name: str, labels: tuple[str, ...]) -> ModelInfo:
    data = {"name": name, "protocol": "", "train": {}, "selection": {}}
    return ModelInfo.parse(content(labels=list(labels), data=data))


def samples(*labels: str) -> list[Sample]:
    return [Sample(f"{number}.png", label) for number, label in enumerate(labels)]


def test_on_its_own_data_set_a_model_keeps_its_classes() -> None:
    found = scope(info("ferplus", EXPRESSIONS), "ferplus", "majority7", samples("fear"))
    assert (found.labels, found.columns) == (EXPRESSIONS, tuple(range(8)))
    assert found.report is None
    with pytest.raises(UsageError, match=r"majority holds contempt, the model knows .*: choose"):
        scope(info("ferplus", EXPRESSIONS[:7]), "ferplus", "majority", samples("contempt"))


def test_the_papers_protocol_drops_nothing() -> None:
    """RAF-DB and CK+ without contempt have the same seven classes, in orders of their own."""
    asked = samples("neutral", "anger", "fear")
    found = scope(info("rafdb", RAFDB), "ckplus", "first-last", asked)
    assert found.labels == RAFDB and found.columns == tuple(range(7))
    assert found.samples == tuple(asked)
    assert found.report == {
        "trained_on": "rafdb",
        "shared": list(RAFDB),
        "model_only": [],
        "data_only": {},
    }


@pytest.mark.parametrize("name", ["folder", "csv"])
def test_another_folder_than_the_models_is_matched_by_class_names(name: str) -> None:
    own = info(name, ("neutral", "happiness", "anger"))
    assert scope(own, name, "", samples("anger", "neutral")).report is None
    found = scope(own, name, "", samples("anger", "fear", "neutral"))
    assert (found.labels, found.columns) == (("neutral", "anger"), (0, 2))
    assert [sample.label for sample in found.samples] == ["anger", "neutral"]
    assert found.report is not None and found.report["data_only"] == {"fear": 1}


NAMES = st.lists(st.sampled_from(EXPRESSIONS), min_size=2, max_size=8, unique=True)


@given(NAMES, st.lists(st.sampled_from(EXPRESSIONS), max_size=30))
def test_classes_are_intersected_by_name(known: list[str], shown: list[str]) -> None:
    """The table's classes are those that occur; every order of the model's is kept."""
    given_info, asked = info("folder", tuple(known)), samples(*shown)
    if len(set(known) & set(shown)) < 2:
        with pytest.raises(UsageError, match="expected at least two in common"):
            scope(given_info, "csv", "table", asked)
        return
    found = scope(given_info, "csv", "table", asked)
    assert list(found.labels) == [name for name in known if name in shown]
    assert [known[column] for column in found.columns] == list(found.labels)
    assert [s.label for s in found.samples] == [label for label in shown if label in known]
    assert found.report is not None
    assert found.report["model_only"] == [name for name in known if name not in shown]
    dropped = [name for name in ordered(shown) if name not in known]
    assert found.report["data_only"] == {name: shown.count(name) for name in dropped}
    assert len(found.samples) + sum(found.report["data_only"].values()) == len(shown)


# Words in place of the model's classes

FIVE = info("ferplus", EXPRESSIONS[:5])


def test_words_name_classes_by_spelling_and_by_synonym() -> None:
    shown = samples("happiness", "anger", "fear")
    found = scope_of_words(FIVE, ["happy", "bored", "anger"], "ferplus", "majority", shown)
    assert found.labels == ("happiness", "bored", "anger")
    assert found.columns == (0, 1, 2)
    assert [sample.label for sample in found.samples] == ["happiness", "anger"]
    assert found.report is not None
    assert found.report["words"] == ["happy", "bored", "anger"]
    assert found.report["shared"] == ["happiness", "anger"]
    assert found.report["model_only"] == ["bored"]
    assert found.report["data_only"]["fear"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["happy", "joy"], "happy and joy both stand for happiness"),
        (["bored", "proud"], r"ferplus under majority has .*happiness.*; name at least one"),
    ],
)
def test_words_that_name_no_class_or_one_twice(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scope_of_words(FIVE, words, "ferplus", "majority", samples("happiness"))
