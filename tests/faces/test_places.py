"""A region and given boxes: faces are there and nowhere else; what does not fit is one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fervor.errors import InputError, UsageError
from fervor.faces.alignment import square
from fervor.faces.places import GivenBoxes, outside, parse_region, upright_face
from fervor.inference.predictor import Predictor
from fervor.io.frame import Frame
from fervor.outputs.tables import open_table
from tests.inference.test_predictor import BLUE, GREEN, RED, SquareDetector, drawn
from tests.support.models import write_model
from tests.support.videos import moving, portrait, write_video


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def box(source: Path | str, x: float, y: float, side: float, **more: Any) -> dict[str, Any]:
    return {"source": str(source), "x": x, "y": y, "width": side, "height": side, **more}


class TestRegion:
    def test_faces_outside_are_not_found(self, model: Path) -> None:
        ask = Predictor(model, detector=SquareDetector(), threads=1, region=(60, 0, 60, 60))
        (face,) = ask(drawn(RED, GREEN, BLUE))
        assert face.label == "happiness"
        assert face.box == (70.0, 10.0, 39.0, 39.0)  # in the whole picture
        everywhere = Predictor(model, detector=SquareDetector(), threads=1)
        assert face.probabilities == everywhere(drawn(RED, GREEN, BLUE))[1].probabilities

    @pytest.mark.parametrize("kind", ["array", "PIL"])
    def test_with_the_real_detector(self, model: Path, kind: str) -> None:
        picture = np.concatenate([portrait(100, 100), portrait(200, 150)], axis=1)
        given: Any = picture if kind == "array" else Image.fromarray(picture)
        whole = Predictor(model, threads=1)(given)
        assert len(whole) == 2
        right = max(whole, key=lambda face: face.box[0] if face.box else 0)
        (face,) = Predictor(model, threads=1, region=(640, 0, 640, 480))(given)
        assert face.box == pytest.approx(right.box, abs=6)

    def test_of_a_video(self, model: Path, tmp_path: Path) -> None:
        pytest.importorskip("av", reason="needs fervor[video]")
        clip = write_video(tmp_path / "a.mp4", moving(6, lambda n: (60 + 4 * n, 100)))
        rows = Predictor(model, threads=1, region=(40, 80, 400, 300)).rows(clip)
        plain = Predictor(model, threads=1).rows(clip)
        assert [row["status"] for row in rows] == ["ok"] * 6
        for one, other in zip(rows, plain, strict=True):
            assert one["x"] == pytest.approx(other["x"], abs=8) and one["track"] == 0
        away = Predictor(model, threads=1, region=(400, 300, 200, 150)).rows(clip)
        assert {row["status"] for row in away} == {"no_face"}

    def test_outside_a_picture_is_its_row(self, model: Path) -> None:
        ask = Predictor(model, detector=SquareDetector(), threads=1, region=(60, 0, 60, 60))
        rows = ask.rows([drawn(RED), drawn(RED, GREEN, BLUE)])
        assert [row["status"] for row in rows] == ["error", "ok"]
        assert rows[0]["error"] == (
            "the region 60,0,60,60 lies outside the picture of 60 x 60 pixels"
        )

    def test_outside_a_picture_is_no_embedding_and_no_explanation(
        self, model: Path, tmp_path: Path
    ) -> None:
        Image.fromarray(drawn(RED)).save(tmp_path / "a.png")
        file = lines(tmp_path / "boxes.jsonl", box(tmp_path / "a.png", 500, 10, 39))
        region = Predictor(model, detector=SquareDetector(), threads=1, region=(60, 0, 60, 60))
        given = Predictor(model, threads=1, boxes=file)
        for ask, what in ((region, "the region 60,0,60,60"), (given, "a given box 500,10,39,39")):
            for call in (ask.embed, ask.explain):
                with pytest.raises(InputError, match=f"a.png cannot be read: {what} lies outside"):
                    call(tmp_path / "a.png")

    @pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,0,4", "1,2,3,-4", "nan,1,1,1"])
    def test_what_is_no_region(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"region=.*expected x,y,width,height"):
            parse_region(text)

    @pytest.mark.parametrize(
        "region", [5, "1,2,3,4", (1, 2, "3", 4), np.ones((4, 2)), (1, 2, 10**400, 4), ()]
    )
    def test_what_is_no_region_from_python(self, model: Path, region: Any) -> None:
        with pytest.raises(UsageError, match=r"region=.*expected x,y,width,height") as refused:
            Predictor(model, threads=1, region=region)
        assert "\n" not in str(refused.value)

    def test_an_array_is_a_region(self, model: Path) -> None:
        region: Any = np.array([60, 0, 60, 60])
        ask = Predictor(model, detector=SquareDetector(), threads=1, region=region)
        assert [face.box[0] for face in ask(drawn(RED, GREEN)) if face.box] == [70.0]
        with pytest.raises(UsageError, match="looks for no face: leave region out"):
            Predictor(model, faces="precropped", region=region)

    def test_texts(self) -> None:
        assert parse_region(" ") is None
        assert parse_region("1, 2,3.5,4") == (1, 2, 3.5, 4)
        assert outside((10, 0, 5, 5), (10, 10)) and not outside((9, 0, 5, 5), (10, 10))


class TestBoxes:
    def test_faces_are_where_they_are_said_to_be(self, model: Path, tmp_path: Path) -> None:
        for name, colours in (("a", (RED, GREEN)), ("b", (BLUE,))):
            Image.fromarray(drawn(*colours)).save(tmp_path / f"{name}.png")
        first = tmp_path / "a.png"
        file = lines(tmp_path / "boxes.jsonl", box(first, 70, 10, 39), box(first, 12, 12, 30))
        ask = Predictor(model, threads=1, boxes=file)
        rows = ask.rows([first, tmp_path / "b.png"])
        assert [row["status"] for row in rows] == ["ok", "ok", "no_face"]
        assert [row["label"] for row in rows[:2]] == ["happiness", "neutral"]  # largest first
        assert [row["x"] for row in rows[:2]] == [70, 12]
        assert rows[0]["det_score"] is None

    def test_the_rows_of_a_run_are_such_a_file(self, model: Path, tmp_path: Path) -> None:
        pytest.importorskip("av", reason="needs fervor[video]")
        pictures = [*moving(5, lambda n: (60 + 4 * n, 100)), np.zeros((480, 640, 3), np.uint8)]
        clip = write_video(tmp_path / "a.mp4", pictures)
        ask = Predictor(model, threads=1)
        answers = list(ask.video(clip))
        for ending in (".csv", ".jsonl"):
            with open_table(tmp_path / f"rows{ending}", ask.labels) as table:
                for answer in answers:
                    table.write(answer)
            again = Predictor(model, threads=1, boxes=tmp_path / f"rows{ending}").rows(clip)
            before = ask.rows(clip)
            for name in ("frame", "track", "status", "x", "height"):
                assert [row[name] for row in again] == [row[name] for row in before]

    def test_boxes_of_a_video_without_a_track_are_followed(
        self, model: Path, tmp_path: Path
    ) -> None:
        """Two faces that pass, one of them out of sight for a frame; numbers of the file stay."""
        places = [[(40 + 6 * n, 30.0), (200 - 6 * n, 26.0)] for n in range(12)]
        places[4].pop()
        rows = [
            box("a.mp4", x, 40, side, frame=n)
            for n, faces in enumerate(places)
            for x, side in faces
        ]
        picture = np.full((120, 300, 3), 128, np.uint8)
        frames = [Frame("a.mp4", n, n / 25, picture, None) for n in range(12)]
        for first, known in ((0, []), (8, [box("a.mp4", 250, 90, 20, frame=3, track=7)])):
            file = lines(tmp_path / "boxes.jsonl", *rows, *known)
            answers = list(Predictor(model, threads=1, boxes=file).stream(frames))
            for n, answer in enumerate(answers):
                tracks = {face.box: face.track for face in answer if face.track != 7}
                expected = {
                    (x, 40.0, side, side): first + number
                    for number, (x, side) in enumerate(places[n])
                }
                assert tracks == expected
                assert [face.det_score for face in answer] == [None] * len(answer)
            assert [face.track for face in answers[3]][2:] == ([7] if known else [])
        (still,) = Predictor(model, threads=1, boxes=file)._stills(
            [Frame("a.mp4", 0, None, picture, None)]
        )
        assert [face.track for face in still] == [None, None]
        again = Predictor(model, threads=1, boxes=file).stream([*frames, *frames[:1]])
        assert [face.track for face in list(again)[-1]] == [8, 9]

    def test_a_crop_lies_as_for_a_face_that_was_found(self) -> None:
        """The same square, up to the few pixels by which faces differ from the usual one."""
        picture = portrait(200, 100)
        (face,) = Predictor(threads=1)._detector.detect([picture])[0]  # type: ignore[union-attr]
        found = square(face, *picture.shape[:2], rotate=False)
        said = square(upright_face(face.box), *picture.shape[:2], rotate=False)
        side = float(found[0, 0])
        assert np.abs(found @ [0.5, 0.5, 1] - said @ [0.5, 0.5, 1]).max() < 0.08 * side
        assert said[0, 0] == pytest.approx(side, rel=0.1)

    def test_a_box_outside_its_picture_is_a_row(self, model: Path, tmp_path: Path) -> None:
        Image.fromarray(drawn(RED)).save(tmp_path / "a.png")
        file = lines(tmp_path / "boxes.jsonl", box(tmp_path / "a.png", 500, 10, 39))
        (row,) = Predictor(model, threads=1, boxes=file).rows(tmp_path / "a.png")
        assert row["error"] == (
            "a given box 500,10,39,39 lies outside the picture of 60 x 60 pixels"
        )
        huge = {"source": str(tmp_path / "a.png"), "x": -990000, "y": 0}
        file.write_text(json.dumps({**huge, "width": 999999, "height": 9}) + "\n")
        (row,) = Predictor(model, threads=1, boxes=file).rows(tmp_path / "a.png")
        assert row["error"] == (
            "a given box -990000,0,999999,9 is more than twice as large as the picture of 60 x 60 "
            "pixels"
        )

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("a.csv", "source,x,y,width\na.png,1,2,3\n", r"line 2: height is missing; expected"),
            ("a.csv", "source,x,y,width,height\na.png,1,2,3,four\n", "line 2: .* is no box"),
            ("a.csv", "source,x,y,width,height\na.png,1,2,0,4\n", "above 0"),
            ("a.csv", "source,x,y,width,height\na.png,1,2,3\n", "is no box"),
            ("a.jsonl", '{"source": "a.png"\n', "line 1: expected a JSON object"),
            ("a.jsonl", "[1]\n", "line 1: expected a JSON object"),
            ("a.jsonl", "[" * 100_000, "line 1: expected a JSON object"),
            (
                "a.jsonl",
                f'{{"source": "a.png", "x": 1{"0" * 400}, "y": 1, "width": 1, "height": 1}}',
                r"line 1: 10+, 1, 1, 1 is no box",
            ),
            (
                "a.jsonl",
                '{"source": "a.png", "x": 1, "y": 1, "width": 1, "height": 1, "frame": Infinity}',
                "line 1: frame is inf; expected a whole number from 0 on, or nothing",
            ),
            (
                "a.csv",
                "source,x,y,width,height,frame,track\na.mp4,1,2,3,4,0,first\n",
                "line 2: track is first; expected a whole number from 0 on, or nothing",
            ),
            (
                "a.jsonl",
                '{"source": "a.png", "x": 1, "y": 1, "width": 1, "height": 1, "frame": 0.5}',
                r"line 1: frame is 0\.5; expected a whole number",
            ),
            ("a.csv", "source,x,y,width,height\na.png,1,2,3,nan\n", "1, 2, 3, nan is no box"),
            ("a.csv", "source,x,y,width,height\na.png,-1e7,2,3,4\n", "is no box"),
            (
                "a.csv",
                "source,x,y,width,height,track\na.mp4,1,2,3,4,1e300\n",
                "line 2: track is 1e300; expected a whole number from 0 on",
            ),
            ("a.csv", f"source,x\n{'a' * 200_000},1", "cannot be read: field larger than"),
            ("a.txt", "", r"ends in \.csv or \.jsonl"),
            ("a.jsonl", "\xff", "cannot be read: not a text in UTF-8"),
        ],
    )
    def test_what_is_no_box(self, tmp_path: Path, name: str, content: str, reason: str) -> None:
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=reason) as refused:
            GivenBoxes(tmp_path / name)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 500

    def test_a_byte_order_mark_and_whole_numbers_with_a_point(self, tmp_path: Path) -> None:
        """As spreadsheets write them, and pandas where some are missing."""
        text = "source,frame,track,x,y,width,height\na.mp4,2.0,3.0,1,2,30,40\na.mp4,2.0,,9,2,3,4\n"
        (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")
        row = {"source": "a.mp4", "frame": 2.0, "x": 1, "y": 2, "width": 30, "height": 40}
        rows = [{**row, "track": 3.0}, {**row, "x": 9, "width": 3, "height": 4, "track": None}]
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (tmp_path / "a.jsonl").write_text(text, encoding="utf-8-sig")
        for name in ("a.csv", "a.jsonl"):
            faces = GivenBoxes(tmp_path / name).of("a.mp4", 2)
            assert faces == [((1, 2, 30, 40), 3), ((9, 2, 3, 4), None)]
            assert isinstance(faces[0].track, int)

    @pytest.mark.parametrize("ending", [".csv", ".jsonl"])
    def test_the_rows_of_a_run_that_was_killed(self, tmp_path: Path, ending: str) -> None:
        """Its last row may be cut anywhere, within a sign too; a file that says it is whole is."""
        row = {"source": "größe \x1b.png", "x": 1, "y": 2, "width": 30, "height": 40}
        path = tmp_path / f"rows{ending}"
        if ending == ".csv":
            cells = ["größe \\x1b.png", "1", "2", "30", "40"]
            text = ",".join(row) + "\n" + 2 * (",".join(cells) + "\n")
        else:
            text = 2 * (json.dumps(row, ensure_ascii=False) + "\n")
        content, partial = text.encode(), path.with_suffix(f"{ending}.partial")
        last = content.rindex(b"\n", 0, -1) + 1
        for end in range(last, len(content)):
            partial.write_bytes(content[:end])
            assert len(GivenBoxes(partial).of("größe \x1b.png", 0)) == 1
        partial.write_bytes(content)
        assert len(GivenBoxes(partial).of("größe \x1b.png", 0)) == 2
        path.write_bytes(content[:-3])
        with pytest.raises(InputError, match="line"):
            GivenBoxes(path)

    def test_a_file_that_is_not_there_and_a_source_that_is_no_input(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read: No such file"):
            GivenBoxes(tmp_path / "a.csv")
        with pytest.raises(InputError, match="cannot be read: embedded null byte"):
            GivenBoxes("a\0b.csv")
        boxes = GivenBoxes(lines(tmp_path / "a.jsonl", box("./a.png", 1, 2, 3)))
        boxes.check_sources(["a.png", "b.png"])
        with pytest.raises(UsageError, match=r"boxes .* name a\.png, which is no input"):
            boxes.check_sources(["b.png"])

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"region": (1, 1, 2, 2)}, "region"),
            ({"smallest_face": 80}, "smallest_face"),
            ({"region": (1, 1, 2, 2), "smallest_face": 80}, "region and smallest_face"),
        ],
    )
    def test_a_search_beside_given_faces_is_refused(
        self, model: Path, tmp_path: Path, options: dict[str, Any], named: str
    ) -> None:
        boxes = lines(tmp_path / "a.jsonl", box("a.png", 1, 2, 3))
        with pytest.raises(UsageError, match=f"none is looked for: leave {named} out"):
            Predictor(model, boxes=boxes, **options)
        with pytest.raises(UsageError, match=f"looks for no face: leave {named} out"):
            Predictor(model, faces="precropped", **options)
        with pytest.raises(UsageError, match=f"leave {named} and boxes out"):
            Predictor(model, faces="precropped", boxes=boxes, **options)
