"""Points of faces in prediction: where they land, their column, their drawing, what is missing."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fervor.errors import ModelError
from fervor.faces import landmarks
from fervor.faces.alignment import BOX_TEMPLATE
from fervor.faces.landmarks import PointFinder
from fervor.inference.prediction import Prediction
from fervor.io.frame import Frame
from fervor.outputs.drawing import annotated
from fervor.outputs.tables import columns, open_table


CORNERS = np.array([[0, 0], [1, 0], [0, 1], [1, 1], *[[0.5, 0.5]] * 64], np.float32)
"""What the stand-in for the network finds in every face, as shares of what it sees."""


class Session:
    """Remembers what it saw and finds `CORNERS`."""

    def __init__(self) -> None:
        self.seen: list[NDArray[np.float32]] = []

    def run(self, names: list[str], inputs: dict[str, NDArray[np.float32]]) -> list[Any]:
        assert names == ["points"]
        assert inputs["image"].dtype == np.float32
        self.seen.append(inputs["image"])
        return [np.stack([CORNERS] * len(inputs["image"]))]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    found = Session()
    monkeypatch.setattr(landmarks, "open_packaged", lambda *_, **__: found)
    return found


def prediction(box: tuple[float, float, float, float] | None) -> Prediction:
    status: Any = "no_face" if box is None else "ok"
    answer = (None, None, {}) if box is None else ("anger", 0.7, {"anger": 0.7, "fear": 0.3})
    return Prediction("a.png", 0, None, None, None, status, box, None, *answer, "model", None)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_face_is_seen_where_models_see_it(session: Session) -> None:
    image = picture(300, 400)
    low, high = BOX_TEMPLATE[0], BOX_TEMPLATE[3]
    side = np.array([200, 260]) / (high - low)
    box = (120.0, 40.0, float(side[0] * (high - low)[0]), float(side[1] * (high - low)[1]))
    frame = Frame("a.png", 0, None, image, None)
    found = PointFinder()(frame, [box, None])
    assert found[1] is None
    assert found[0] is not None
    first, last = np.array(found[0][0]), np.array(found[0][3])
    square = last - first
    assert square[0] == pytest.approx(square[1], abs=0.02)
    centre = np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])
    middle = (low + high) / 2
    np.testing.assert_allclose(first + square * middle, centre, atol=0.02)


def test_a_precropped_face_is_seen_whole(session: Session) -> None:
    image = picture(112, 112)
    frame = Frame("a.png", 0, None, image, None)
    found = PointFinder(whole=True)(frame, [(0.0, 0.0, 112.0, 112.0)])
    np.testing.assert_array_equal(session.seen[0][0], image.transpose(2, 0, 1) / np.float32(255))
    assert found[0] is not None
    np.testing.assert_allclose(found[0], CORNERS * 112)


def test_many_faces_go_a_few_at_a_time(session: Session) -> None:
    boxes = [(float(x), 5.0, 30.0, 40.0) for x in range(70)]
    assert len(PointFinder().of_boxes(picture(60, 120), boxes)) == 70
    assert [len(batch) for batch in session.seen] == [64, 6]


def test_the_column_holds_json_and_comes_last(tmp_path: Path) -> None:
    labels = ("anger", "fear")
    assert columns(labels, smooth=True, landmarks=True)[-1] == "landmarks"
    places = ((1.5, 2.25), (3.0, 4.0))
    answer = [prediction((0.0, 0.0, 9.0, 9.0)), prediction(None)]
    for name in ("rows.csv", "rows.jsonl"):
        with open_table(tmp_path / name, labels, landmarks=True) as table:
            table.write(answer, [places, None])
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert json.loads(rows[0]["landmarks"]) == [[1.5, 2.25], [3.0, 4.0]]
    assert rows[1]["landmarks"] == ""
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert lines[0]["landmarks"] == [[1.5, 2.25], [3.0, 4.0]]
    assert lines[1]["landmarks"] is None


def test_points_are_drawn() -> None:
    image = np.zeros((600, 600, 3), np.uint8)
    face = prediction((100.0, 100.0, 300.0, 300.0))
    plain = annotated(image, [face], [face.probabilities])
    drawn = annotated(image, [face], [face.probabilities], [((250.0, 180.0),)])
    assert isinstance(drawn, Image.Image)
    assert plain.getpixel((250, 180)) == (0, 0, 0)
    assert drawn.getpixel((250, 180)) == (255, 255, 255)


def test_a_missing_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmarks, "GRAPH", tmp_path / "landmarks.onnx")
    with pytest.raises(ModelError, match=r"landmarks\.onnx cannot be loaded: .*; reinstall"):
        PointFinder()
