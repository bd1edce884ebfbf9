"""The classifier by itself, and how short the way from a picture to it is."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import fervor
from fervor import Predictor
from tests.support.drawn import face


PACKAGE = Path(fervor.__file__).parent
ASTRONAUT = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(threads=1, batch_size=2)


def test_passes_of_few_faces_give_what_one_gives(predictor: Predictor) -> None:
    crops = [np.repeat(face("anger", seed)[:, :, None], 3, axis=2) for seed in range(5)]
    classifier = predictor.classifier
    apart = np.concatenate([classifier.logits([crop]) for crop in crops])
    np.testing.assert_allclose(classifier.logits(crops), apart, atol=1e-5)
    assert classifier.logits([]).shape == (0, 8) and classifier.probabilities([]).shape == (0, 8)
    np.testing.assert_allclose(classifier.probabilities(crops).sum(1), 1)
    logits, local = classifier.logits_and_local(crops)
    np.testing.assert_allclose(logits, apart, atol=1e-5)
    assert len(local) == len(classifier.embeddings(crops)) == 5


def own(frame: FrameType | None) -> list[FrameType]:
    """Fervor's own frames, the innermost first."""
    frames = []
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            frames.append(frame)
        frame = frame.f_back
    return frames


def room(frame: FrameType) -> str:
    """The module of a frame; a package inside a package is one."""
    path = Path(frame.f_code.co_filename).relative_to(PACKAGE).with_suffix("")
    return ".".join(path.parts[:2])


def test_few_frames_and_moves_lie_between_a_picture_and_its_answer(predictor: Predictor) -> None:
    """At most four frames down to the classifier's session, and 20 moves between modules."""
    predictor(ASTRONAUT)  # warm
    moves: list[str] = []
    ways: list[list[str]] = []

    def follow(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        frames = own(frame)
        rooms = [room(one) for one in frames[:2]]
        if len(set(rooms)) == 2:
            moves.append(f"{rooms[1]} to {rooms[0]}.{frame.f_code.co_name}")
        if rooms[0] == "io.onnx_session":
            ways.append([one.f_code.co_name for one in frames])

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        answer = predictor(ASTRONAUT)
    finally:
        sys.setprofile(before)
    assert len(answer) == 1
    assert len(ways) == 2, "one pass of the detector, one of the classifier"
    assert ways[-1] == ["run", "__call__", "_still", "__call__"]
    assert 10 < len(moves) <= 20, moves
