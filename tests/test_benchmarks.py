"""The benchmark counts operations rightly, pairs its rounds, and shows its figures as they are."""

import json
import random
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervor.faces.detector import FaceDetector
from tests.support.scenes import background, scene


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

detection = pytest.importorskip("detection")
measures = pytest.importorskip("measures")
table = pytest.importorskip("table")


@pytest.mark.parametrize(
    "script",
    [
        "benchmarks/draw_corruptions.py",
        "tools/release/write_responsible_use.py",
        "tools/release/write_results.py",
        "tools/weights/make_cues.py",
        "tools/weights/make_minilm_vectors.py",
        "tools/weights/make_words.py",
    ],
)
def test_help_writes_nothing(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of what writes tracked files without being told which."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    for name in ("write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, lambda *_, **__: pytest.fail("it writes"))
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: pytest.fail("it writes"))
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert capsys.readouterr().out.startswith("usage: ")


def test_the_drawn_corruptions_are_those_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what other versions of Pillow round."""
    path = tmp_path / "drawn.png"
    monkeypatch.setattr(sys, "argv", ["draw_corruptions.py", "--output", str(path)])
    runpy.run_path(str(ROOT / "benchmarks" / "draw_corruptions.py"), run_name="__main__")
    stored, drawn = (
        np.asarray(Image.open(file).convert("RGB"), int)
        for file in (ROOT / "docs" / "images" / "corruptions.png", path)
    )
    assert stored.shape == drawn.shape
    assert np.abs(stored - drawn).mean() < 0.2


def test_layers_are_counted_as_by_hand() -> None:
    pytest.importorskip("onnx")
    import roofline
    from onnx import TensorProto, helper, numpy_helper

    kernel = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "kernel")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["logits"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["image", "kernel"], ["not_asked_for"]),
        ],
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, 8, 8])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4, None, None])
            for name in ("logits", "not_asked_for")
        ],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (layer,) = roofline.layers(model)
    assert layer.operations == 2 * 27 * 4 * 8 * 8
    assert layer.moved == 4 * (3 * 8 * 8 + 4 * 8 * 8)
    assert layer.weights == 4 * 4 * 27
    assert layer.floor(2, 1e6, 1e12) == 2 * layer.operations / 1e6
    assert layer.floor(2, 1e12, 1e3) == (2 * layer.moved + layer.weights) / 1e3


def test_ratios_are_taken_within_a_round() -> None:
    speeds = iter([1.0, 2.0, 12.0, 4.0, 5.0, 20.0])  # the machine slows; tools take turns
    measure = measures.Measure("work", 1)
    measures.rounds([(measure, lambda _: (next(speeds), 0.0))], ["fervor", "slow"], 3)
    assert measure.seconds == {"fervor": [1.0, 4.0, 5.0], "slow": [2.0, 12.0, 20.0]}
    assert measure.described()["ratios"]["slow"] == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_a_tool_that_fails_is_not_measured_and_not_asked_again() -> None:
    asked = []

    def work(name: str) -> tuple[float, float]:
        asked.append(name)
        if name == "broken":
            raise measures.Failed("it has no decoder")
        return 0.5, 100.0

    measure = measures.Measure("work", 2)
    measures.rounds([(measure, work)], ["fervor", "broken"], 3)
    assert asked.count("broken") == 1
    described = measure.described()
    assert described["not_measured"] == {"broken": "it has no decoder"}
    result = {"versions": {"fervor": {}, "broken": {}}, "measures": [described]}
    assert table.speed(result)[2] == "| work | 2 | 500 ms (500 ms to 500 ms) | not measured |"


def test_photographs_of_one_s_own_have_rows() -> None:
    path = ROOT / "benchmarks" / "results" / "two-cores.json"
    result = json.loads(path.read_text())
    names = list(result["versions"])
    what = "3 photographs of 350 x 350"
    result["own"] = {"what": what, "with_a_face": {name: 3 for name in names} | {"fer": None}}
    seconds = {name: {"median": 0.5, "low": 0.5, "high": 0.5} for name in names}
    result["measures"] = [one for one in result["measures"] if "350" not in one["what"]] + [
        {"what": f"{what}, warm", "threads": threads, "seconds": seconds, "ratios": {}}
        | {"peak_mb": {}, "not_measured": {}}
        for threads in (1, 2)
    ]
    assert f"| {what}: with a face | 3 | 3 | not measured | 3 |" in table.accuracy(result)
    short = table.defaults(result, path)
    assert f"| {what}, warm, 2 threads | 500 ms | 500 ms | 500 ms |" in short


def test_tables_of_speed_are_those_of_the_result() -> None:
    path = ROOT / "benchmarks" / "results" / "two-cores.json"
    for page, (name, tables) in table.pages(json.loads(path.read_text()), path).items():
        text = page.read_text(encoding="utf-8")
        assert table.filled(text, name, tables) == text, f"stale: {page}; benchmarks/table.py"
    with pytest.raises(ValueError, match="expected the lines"):
        table.filled("# Speed", "speed", "")


def test_the_plan_for_many_pictures_has_the_costs_that_were_measured() -> None:
    pages = [ROOT / "benchmarks" / "REPORT.md", ROOT / "docs" / "cluster.md"]
    page, plan = (path.read_text(encoding="utf-8") for path in pages)
    for file, name in (
        ("two-cores-fp32.json", "fervor"),
        ("two-cores.json", "fervor"),
        ("two-cores.json", "fervor_fast"),
    ):
        result = json.loads((ROOT / "benchmarks" / "results" / file).read_text())
        alone = {one["what"]: one for one in result["measures"] if one["threads"] == 1}
        folder = alone["1000 photos, new process"]
        many, one, faces = (
            alone[what]["seconds"][name]["median"]
            for what in (
                "1000 photos, new process",
                "one photo, new process",
                "classifier alone, batch 64",
            )
        )
        for cost in ((many - one) / 999, faces / 64):
            hours = 1e7 * round(1000 * cost, 1) / 3.6e6  # of one worker
            assert f"| {1000 * cost:.1f} ms |" in page
            assert f"| {hours:.3g} |" in page
            assert f"| {1000 * cost:.1f} ms | {hours:.3g} h |" in plan
        assert f"{folder['peak_mb'][name]:.0f} MB" in page


def test_tables_of_detection_are_those_of_its_reports() -> None:
    reports = sorted((ROOT / "benchmarks" / "results").glob("detection-*.json"))
    assert reports
    page = (ROOT / "benchmarks" / "REPORT.md").read_text(encoding="utf-8")
    assert detection.tables([json.loads(path.read_text()) for path in reports]).strip() in page


def test_pieces_are_put_where_their_faces_are_said_to_be(tmp_path: Path) -> None:
    photo, ground = tmp_path / "photo.png", tmp_path / "ground.png"
    scene(900, 700, [(200, 300, 200)])[0].save(photo)
    background(700, 500).save(ground)
    (piece,) = detection.pieces([photo])
    scaled = piece.of_size(60)
    assert max(scaled.box[2:]) == pytest.approx(60)
    size, chance = (640, 480), random.Random(0)
    ((picture, boxes),) = detection.pictures([scaled] * 3, [ground], size, chance)
    assert picture.size == size and len(boxes) == 3
    assert detection.hits(FaceDetector(1).detect([picture])[0], boxes) == 3
    assert detection.hits([], boxes) == 0
