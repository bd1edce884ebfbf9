"""Accuracy by attribute: counted by hand, compared by one test each, corrected for their number."""

import numpy as np
import pytest

from fervor.data.datasets import Sample
from fervor.errors import UsageError
from fervor.evaluation.significance import accuracy_interval, equal_proportions, interval_of_alike
from fervor.evaluation.subgroups import by_attributes


def samples(*attributes: dict[str, str]) -> list[Sample]:
    return [Sample(f"{number}.png", "anger", attributes=a) for number, a in enumerate(attributes)]


def test_groups_are_counted_and_compared() -> None:
    people = [{"age": "young"}] * 40 + [{"age": "old"}] * 30 + [{}] * 2 + [{"age": ""}]
    correct = np.array([True] * 38 + [False] * 2 + [True] * 20 + [False] * 10 + [True] * 3)
    found = by_attributes(samples(*people), correct, ["age"])["age"]
    assert list(found["groups"]) == ["old", "young"]
    assert found["without"] == 3
    assert found["groups"]["young"] == {
        "count": 40,
        "correct": 38,
        "accuracy": 0.95,
        "accuracy_interval": list(accuracy_interval(38, 40)),
    }
    assert (found["test"], found["p_value"]) == equal_proportions([20, 38], [30, 40])
    assert found["p_value_holm"] == found["p_value"] < 0.01


def test_several_attributes_are_corrected_for() -> None:
    people = [{"a": str(n % 2), "b": str(n // 20)} for n in range(40)]
    correct = np.array([n >= 12 for n in range(40)])
    found = by_attributes(samples(*people), correct, ["a", "b"])
    assert found["b"]["p_value_holm"] == pytest.approx(2 * found["b"]["p_value"])
    assert found["a"]["p_value_holm"] == pytest.approx(found["a"]["p_value"])


def test_an_attribute_that_no_picture_has() -> None:
    with pytest.raises(UsageError, match=r"--slices height: no picture has it, .* age, gender"):
        by_attributes(samples({"gender": "f", "age": "1"}), np.array([True]), ["height"])
    with pytest.raises(UsageError, match="expected one of none"):
        by_attributes(samples({}), np.array([True]), ["age"])


def test_groups_of_persons_are_compared_by_person() -> None:
    people = [
        Sample(f"{n}.png", "anger", group=str(n // 2), attributes={"age": str(n // 10)})
        for n in range(20)
    ]
    correct = np.array([n < 10 for n in range(20)])
    result = by_attributes(people, correct, ["age"])["age"]
    assert result["test"] == "permutation of persons" and result["p_value"] < 0.02
    assert result["groups"]["0"]["accuracy_interval"] == list(interval_of_alike(1, 5))
    assert result["groups"]["1"]["accuracy_interval"] == list(interval_of_alike(0, 5))
