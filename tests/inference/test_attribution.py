"""Heat and cues against loops; the heat of a mean divides the answer; one pass answers all."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from fervor.artifacts.joint_space import Covers, Cues, JointSpace, read_cues, unit
from fervor.artifacts.model_info import COVER_VECTORS, EMBEDDED, SHIPPED, ModelInfo
from fervor.errors import InputError, ModelError, UsageError
from fervor.inference.attribution import (
    PLACES,
    Explainer,
    extent,
    heat_of,
    matched,
    occluded,
    occlusion_heat,
    smoothed,
)
from fervor.inference.classifier import softmax
from fervor.inference.prediction import Prediction, to_rows
from fervor.inference.predictor import Predictor
from fervor.io.sources import frame_of
from tests.inference.test_predictor import BLUE, RED, SquareDetector, drawn
from tests.support.models import LABELS, sha256, write_model


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def answer(**probabilities: float) -> Prediction:
    best = max(probabilities, key=lambda label: probabilities[label])
    box = (0.0, 0.0, 10.0, 10.0)
    return Prediction(
        *("", 0, None, 0, None, "ok", box, 1.0),
        best,
        probabilities[best],
        probabilities,
        "drawn",
        None,
    )


@pytest.mark.parametrize("contrast", ["plain", "others", "runner_up"])
def test_heat_equals_a_loop(contrast: Any) -> None:
    similar = random(6, 4)
    best, second = (int(place) for place in similar.mean(0).argsort()[[-1, -2]])
    for place in range(6):
        for label in range(4):
            others = [similar[place, k] for k in range(4) if k != label]
            less = {
                "plain": 0.0,
                "others": sum(others) / 3,
                "runner_up": similar[place, second if label == best else best],
            }[contrast]
            found = heat_of(similar, contrast=contrast)[place, label]
            assert found == pytest.approx(similar[place, label] - less, abs=1e-6)


def test_heat_divides_the_answer_among_the_places() -> None:
    """Where the embedding is the mean of the places, so is the contrast of the cosines."""
    vectors, local = unit(random(3, 5)), random(4, 5, seed=1)
    explainer = Explainer(JointSpace(vectors, (2, 2)), None, smooth=False)
    found = explainer(answer(a=0.5, b=0.3, c=0.2), local, np.eye(2, 3))
    cosines = vectors @ local.mean(0)
    for number, label in enumerate("abc"):
        others = np.delete(cosines, number).mean()
        assert found.heat[label].shape == (2, 2)
        assert found.heat[label].mean() == pytest.approx(cosines[number] - others, abs=1e-6)
    assert found.cues_for == found.cues_against == []


def test_smoothing_equals_a_loop_over_neighbours() -> None:
    maps = random(2, 3, 4)
    found = smoothed(maps)
    for row in range(3):
        for column in range(4):
            near = [
                maps[:, min(max(row + i, 0), 2), min(max(column + j, 0), 3)]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
            np.testing.assert_allclose(found[:, row, column], np.mean(near, axis=0), atol=1e-6)


def test_extent_lies_where_the_part_is() -> None:
    for name, places in PLACES.items():
        weights = extent(name, (7, 7)).reshape(7, 7)
        assert weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(weights, weights[:, ::-1], rtol=1e-5)  # faces are symmetric
        row, column = np.unravel_index(weights.argmax(), (7, 7))
        near = [abs((row + 0.5) / 7 - y) + abs((column + 0.5) / 7 - x) for x, y in places]
        assert min(near) < 0.15
    assert extent("mouth", (3, 5)).shape == (15,)


def test_cues_for_and_against() -> None:
    """Two parts, three classes: `a` matches the first part best, `b` the second."""
    vectors = np.zeros((3, 2, 3), np.float32)
    for label in range(3):
        vectors[label, :, label] = 1
    cues = Cues(
        ("a", "b", "c"), ("eyes", "mouth"), (("ae", "am"), ("be", "bm"), ("ce", "cm")), vectors
    )
    parts = np.array([[0.9, 0.3, 0.0], [0.5, 0.7, 0.0]], np.float32)
    found_for, against = matched(cues, parts, "a")
    assert [cue[:2] for cue in found_for] == [("eyes", "ae"), ("mouth", "am")]
    assert found_for[0].score == pytest.approx(0.9 - 0.4, abs=1e-5)
    assert [(cue.text, cue.label) for cue in against] == [("bm", "b")]
    assert against[0].score == pytest.approx(0.7 - 0.4, abs=1e-5)
    assert matched(cues, parts, "c")[0] == []


def test_a_covered_part_is_named_and_has_no_cues() -> None:
    """Places of a 2 x 2 grid: the mouth is near the lower ones, which lie where `weights` point."""
    vectors = unit(random(2, 2, 3))
    names = ("eyes", "mouth")
    cues = Cues(("a", "b"), names, (("ae", "am"), ("be", "bm")), vectors)
    local = np.array([[1, 0, 0], [1, 0, 0], [0, 5, 0], [0, 5, 0]], np.float32)
    weights = np.array([[0, 1, 0], [0, 1, 0]], np.float32)
    space = JointSpace(unit(random(2, 3)), (2, 2))
    for bias, covered in ((-0.9, ["mouth"]), (-2.0, []), (2.0, ["eyes", "mouth"])):
        covers = Covers(names, weights, np.full(2, bias, np.float32))
        found = Explainer(space, cues, covers)(answer(a=0.6, b=0.4), local, np.eye(2, 3))
        assert found.covered == found.row()["covered"] == covered
        shown = {cue.dimension for cue in (*found.cues_for, *found.cues_against)}
        assert shown == set(names) - set(covered)


@pytest.mark.parametrize("part", ["eyes", "mouth"])
def test_covers_on_a_photograph_are_seen(part: str) -> None:
    picture = Image.open(PHOTOGRAPH).convert("RGB")
    predictor = Predictor(EMBEDDED, threads=1)
    (clear,) = predictor.explain(picture, heat="similarity")
    assert clear.covered == []
    draw = ImageDraw.Draw(picture)
    if part == "mouth":
        draw.ellipse((190, 128, 258, 176), fill=(170, 190, 210))
    else:
        for x in (205, 246):
            draw.ellipse((x - 24, 77, x + 24, 117), fill=(200, 160, 140))
    (found,) = predictor.explain(picture, heat="similarity")
    assert found.covered == [part]
    assert found.prediction.covered == (part,)
    (face,), (same,) = predictor(picture), predictor([picture])[0]
    assert face.covered == same.covered == (part,)
    assert f"{part} covered?" in repr(face)
    assert [row["covered"] for row in predictor.rows([picture], covered=True)] == [[part]]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_tell_covers(name: str) -> None:
    predictor = Predictor(name, threads=1)
    predictor.check_tells_covers()
    assert predictor(PHOTOGRAPH)[0].covered == ()


def test_models_that_tell_covers_and_others(tmp_path: Path) -> None:
    """Blue faces of the tiny model have covered eyes."""
    model = write_model(tmp_path / "model")
    (face,) = Predictor(model, faces="precropped", threads=1)(drawn(BLUE))
    assert face.covered is None
    with pytest.raises(ModelError, match="does not tell covered parts"):
        Predictor(model, threads=1).check_tells_covers()
    path = model / COVER_VECTORS
    tensors = {"weights": np.eye(3, dtype=np.float32)[[2]], "bias": np.full(1, -0.5, np.float32)}
    save_file(tensors, path, {"dimensions": '["eyes"]'})
    told = json.loads((model / "model.json").read_text())
    told["sha256"][COVER_VECTORS] = sha256(path)
    (model / "model.json").write_text(json.dumps(told))
    predictor = Predictor(model, detector=SquareDetector(), threads=1, batch_size=2)
    empty = len(pickle.dumps(predictor))
    answer = predictor(drawn(RED, BLUE, RED, BLUE))
    assert [face.covered for face in answer] == [(), ("eyes",), (), ("eyes",)]
    assert [face.covered for face in predictor([drawn(BLUE)])[0]] == [("eyes",)]
    rows = to_rows([answer, predictor.stream([frame_of(drawn())])], covered=True)
    assert [row["covered"] for row in rows] == [[], ["eyes"], [], ["eyes"], None]
    assert "covered" not in to_rows(answer)[0]
    assert len(pickle.dumps(predictor)) < empty + 50  # nothing that was read is sent along


def test_predictor_explains_what_it_predicts(tmp_path: Path) -> None:
    """In the tiny model the places see the colour: red speaks for neutral where it is red."""
    model = write_model(tmp_path / "model")
    predictor = Predictor(model, threads=1, faces="precropped")
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40, 0], picture[:, 40:, 1] = 255, 200
    (found,) = predictor.explain(picture, heat="similarity")
    assert found.heat_by == "similarity"
    assert found.prediction == predictor(picture)[0]
    assert found.answer == found.prediction.label == "neutral"
    assert list(found.heat) == list(LABELS)
    heat = found.heat["neutral"]
    assert heat.shape == (7, 7) and heat.dtype == np.float32
    assert heat[:, :2].min() > 0 > heat[:, 5:].max()
    np.testing.assert_array_equal(found.square, [[80, 0, 0], [0, 40, 0]])
    assert json.loads(json.dumps(found.row()))["square"] == [[80, 0, 0], [0, 40, 0]]


def test_a_place_is_blurred_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    size, grid = 40, (3, 4)
    clear = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    shown = occluded(pixels, grid, size)
    changed = [(picture != clear).any(axis=2) for picture in shown]
    assert len(shown) == 12
    assert (np.sum(changed, axis=0) <= 1).all()
    rows, columns = np.nonzero(changed[5])  # the second of the second row
    assert (rows.min(), rows.max()) == (13, 26)
    assert (columns.min(), columns.max()) == (10, 19)


def log_odds(fraction: float) -> float:
    return float(np.log(fraction / (1 - fraction)))


def test_heat_by_occlusion_is_a_fall_of_log_odds() -> None:
    numbers = np.random.default_rng(0)
    whole, logits = numbers.normal(size=3) * 4, numbers.normal(size=(6, 3)) * 4
    heat = occlusion_heat(whole, logits, (2, 3))
    for label in range(3):
        for place in range(6):
            before, after = (softmax(row[None])[0, label] for row in (whole, logits[place]))
            fall = log_odds(before) - log_odds(after)
            assert heat[label, place // 3, place % 3] == pytest.approx(fall, rel=1e-5)
    certain = occlusion_heat(np.array([60.0, 0, 0]), np.array([[50.0, 0, 0]]), (1, 1))
    assert certain[0, 0, 0] == pytest.approx(10)


def test_the_predictor_blurs_each_place_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(write_model(tmp_path / "model"), threads=1, faces="precropped")
    picture = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    seen, real = [], predictor.classifier.logits

    def logits(crops: list[np.ndarray]) -> np.ndarray:
        seen.extend(crops)
        return real(crops)

    monkeypatch.setattr(predictor.classifier, "logits", logits)
    (found,) = predictor.explain(picture)
    assert found.heat_by == "occlusion" and len(seen) == 49
    assert found.row()["heat_by"] == "occlusion"
    before = predictor.classify([picture])[0]
    after = predictor.classify([occluded(picture, (7, 7), predictor.info.input.size)[24]])[0]
    for label, own, other in zip(LABELS, before, after, strict=True):
        assert own == pytest.approx(found.prediction.probabilities[label])
        assert found.heat[label][3, 3] == pytest.approx(log_odds(own) - log_odds(other), abs=1e-4)
    with pytest.raises(UsageError, match="heat='gradient': expected one of occlusion, similarity"):
        predictor.explain(picture, heat="gradient")  # type: ignore[arg-type]


def test_unreadable_and_unexplainable_are_one_line(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        Predictor(model, faces="precropped").explain(broken)
    (model / "class_vectors.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no class_vectors\.safetensors"):
        Predictor(model, faces="precropped").explain(np.zeros((8, 8, 3), np.uint8))


def test_a_damaged_file_of_vectors_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    description = json.loads((model / "model.json").read_text())
    description["sha256"]["class_vectors.safetensors"] = "0" * 64
    (model / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match=r"the file is damaged or was changed"):
        Predictor(model, faces="precropped").explain(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cues_speak_of_the_bank(name: str) -> None:
    from fervor.prompts.templates import description

    cues = read_cues(ModelInfo.read(name))
    assert cues is not None and cues.vectors.shape[:2] == (8, 6)
    np.testing.assert_allclose(np.linalg.norm(cues.vectors, axis=-1), 1, rtol=1e-5)
    for label, texts in zip(cues.labels, cues.texts, strict=True):
        for dimension, text in zip(cues.dimensions, texts, strict=True):
            assert text == description(label, dimension=dimension, granularity="phrase")


def test_the_photograph_smiles() -> None:
    (found,) = Predictor(EMBEDDED, threads=1).explain(PHOTOGRAPH)
    assert found.answer == "happiness"
    heat = found.heat["happiness"]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert row / heat.shape[0] > 0.55 and 0.2 < column / heat.shape[1] < 0.8  # the mouth
    assert ("mouth", "lip corners pulled up in a smile") in [cue[:2] for cue in found.cues_for]
    assert found.heat["happiness"].mean() > found.heat["sadness"].mean()
    x, y, width, height = found.prediction.box or (0, 0, 0, 0)
    middle = found.square @ [0.5, 0.5, 1]
    assert x < middle[0] < x + width and y < middle[1] < y + height
