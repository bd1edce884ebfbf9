"""Accuracy by an attribute of the images, such as the age of those who are shown.

Groups are compared by one test per attribute; where several attributes are asked for, their p
values are corrected for that (Holm).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervor.data.datasets import Sample
from fervor.errors import UsageError
from fervor.evaluation.significance import (
    accuracy_interval,
    accuracy_interval_of_persons,
    equal_proportions,
    equal_proportions_of_persons,
    holm,
    units,
)


def by_attributes(
    samples: Sequence[Sample], correct: NDArray[np.bool_], columns: Sequence[str]
) -> dict[str, Any]:
    """Accuracy in each group of each attribute, and whether groups differ.

    Args:
        samples: the images [n].
        correct: whether each was answered rightly [n].
        columns: names of attributes. Images without a value are left out and counted.

    Raises:
        UsageError: no image has such an attribute.
    """
    groups = {column: _by_attribute(samples, correct, column) for column in columns}
    adjusted = holm([figures["p_value"] for figures in groups.values()])
    for figures, p_value in zip(groups.values(), adjusted, strict=True):
        figures["p_value_holm"] = p_value
    return groups


def _by_attribute(
    samples: Sequence[Sample], correct: NDArray[np.bool_], column: str
) -> dict[str, Any]:
    values = [sample.attributes.get(column, "") for sample in samples]
    persons = [sample.group for sample in samples]
    unit = units(persons, len(samples))
    names = sorted(set(values) - {""})
    if not names:
        columns = sorted({name for sample in samples for name in sample.attributes})
        raise UsageError(
            f"--slices {column}: no picture has it, expected one of {', '.join(columns) or 'none'}"
        )
    groups: dict[str, dict[str, Any]] = {}
    for name in names:
        rows = np.array([value == name for value in values])
        hits, count = int(correct[rows].sum()), int(rows.sum())
        interval = accuracy_interval(hits, count)
        if any(persons):
            own = np.unique(unit[rows], return_inverse=True)[1]
            interval = accuracy_interval_of_persons(correct[rows], own)
        groups[name] = {
            "count": count,
            "correct": hits,
            "accuracy": hits / count,
            "accuracy_interval": list(interval),
        }
    test, p_value = equal_proportions(
        [group["correct"] for group in groups.values()],
        [group["count"] for group in groups.values()],
    )
    if any(persons):
        present = np.array([bool(value) for value in values])
        number = np.array([names.index(value) for value in values if value])
        test, p_value = equal_proportions_of_persons(correct[present], number, unit[present])
    return {"groups": groups, "without": values.count(""), "test": test, "p_value": p_value}
