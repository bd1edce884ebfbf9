"""The shipped models answer as they did, however the code around them is cut.

Stored by tests/support/answers.py. The last bits depend on the processor's instructions and on
libraries: with those that the stored answers were made with they must be the same, with others
nearly the same.
"""

import json
from typing import Any

import numpy as np
import pytest

from tests.support.answers import FACES, MODELS, ROWS, machine, real_faces, rows


STORED: dict[str, Any] = json.loads(ROWS.read_text(encoding="utf-8"))
SAME = STORED["machine"] == machine()


def assert_alike(found: Any, expected: Any) -> None:
    if isinstance(expected, float) and not SAME:
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    else:
        assert found == expected


@pytest.mark.parametrize("model", MODELS)
def test_real_faces_have_the_same_probabilities(model: str, ferplus: Any) -> None:
    expected, found = np.load(FACES)[model], real_faces(ferplus, model)
    assert found.shape == expected.shape == (200, found.shape[1])
    if SAME:
        assert found.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["drawn", "scenes", "video"])
def test_a_folder_and_a_video_have_the_same_rows(model: str, kind: str) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    expected, found = STORED[model][kind], rows(model)[kind]
    assert len(found) == len(expected)
    for row, stored in zip(found, expected, strict=True):
        assert row.keys() == stored.keys()
        for name, value in row.items():
            assert_alike(value, stored[name])
