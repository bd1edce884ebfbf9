"""`fervor explain` as a user runs it: drawings, rows, and one line for what cannot be."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervor.cli.main import main
from tests.support.models import LABELS, write_model


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(folder / "red.png")
    Image.fromarray(red).save(folder / "sub" / "red.jpg")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def test_rows_and_drawings(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = write_model(tmp_path / "model"), tmp_path / "out"
    arguments = ["explain", str(pictures), "--model", str(model), "--faces", "precropped"]
    assert main([*arguments, "--output", str(output), "--strict"]) == 1
    assert "2 faces drawn" in capsys.readouterr().out
    rows = [json.loads(line) for line in (output / "explanations.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["error", "ok", "ok"]
    assert [row["drawing"] for row in rows] == [None, "red-face0.png", "sub/red-face0.png"]
    for row in rows[1:]:
        assert row["label"] == "neutral" and list(row["heat"]) == list(LABELS)
        assert np.shape(row["heat"]["neutral"]) == (7, 7)
        with Image.open(output / row["drawing"]) as drawing:
            assert drawing.width > 500
    assert not list(output.rglob("*partial*"))


@pytest.mark.parametrize("size", [(130, 100), (100, 130)])
def test_a_picture_that_is_no_square(size: tuple[int, int], tmp_path: Path) -> None:
    picture, output = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", size, (90, 120, 40)).save(picture)
    words = ["explain", str(picture), "--model", str(write_model(tmp_path / "model"))]
    assert main([*words, "--faces", "precropped", "--output", str(output)]) == 0
    assert (output / "a-face0.png").is_file()


def test_what_a_folder_holds_besides_is_counted(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("L", (30, 20), shade) for shade in (0, 200)]
    frames[0].save(pictures / "moving.gif", save_all=True, append_images=frames[1:])
    (pictures / "notes.txt").touch()
    words = ["explain", str(pictures), "--model", str(write_model(tmp_path / "model"))]
    assert main([*words, "--faces", "precropped", "--output", str(tmp_path / "out")]) == 0
    assert "2 files skipped (1 .gif, 1 .txt)" in capsys.readouterr().err


def test_pictures_of_one_stem_have_their_own_drawings(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "red.webp").write_bytes((pictures / "red.png").read_bytes())
    strange = os.fsencode(pictures / "sub") + b"/clip\xe9.png"
    Path(os.fsdecode(strange)).write_bytes((pictures / "red.png").read_bytes())
    model, output = write_model(tmp_path / "model"), tmp_path / "out"
    arguments = ["explain", str(pictures), "--model", str(model), "--faces", "precropped"]
    assert main([*arguments, "--output", str(output)]) == 0
    capsys.readouterr()
    lines = (output / "explanations.jsonl").read_text(encoding="utf-8").splitlines()
    drawings = [row["drawing"] for row in map(json.loads, lines) if row["drawing"]]
    assert len(set(drawings)) == 4
    assert {"red-face0.png", "red-2-face0.png", "sub/red-face0.png"} < set(drawings)
    assert len(list(output.rglob("*-face0.png"))) == 4


def test_a_picture_is_never_overwritten_by_another_s_drawing(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = pictures / "red-face0.png"
    victim.write_bytes((pictures / "red.png").read_bytes())
    model = write_model(tmp_path / "model")
    arguments = ["explain", str(pictures), "--model", str(model), "--faces", "precropped"]
    assert main([*arguments, "--output", str(pictures)]) == 2
    error = capsys.readouterr().err
    assert "red-face0.png would be overwritten; name another folder" in error
    assert victim.read_bytes() == (pictures / "red.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--top", "0"], "top=0: expected 1 or more"),
        (["--output", "{pictures}/red.png"], "red.png is a file: expected a folder"),
        (["--labels", "bored,"], "one is empty"),
        (["--labels", "bored,tired"], "knows its own classes alone"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    reason: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(pictures=pictures) for word in arguments]
    model = write_model(tmp_path / "model")
    common = ["explain", str(pictures), "--faces", "precropped", "--model", str(model)]
    assert main([*common, "--output", str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
