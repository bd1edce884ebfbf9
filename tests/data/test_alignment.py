"""Aligning a data set: what is cut out and written down, kills, and that training reads it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from fervor.data import datasets
from fervor.data.alignment import PART, align
from fervor.data.cropping import box_crop
from fervor.data.datasets import Box, Sample, folder
from fervor.data.manifest import MANIFEST, SETTINGS, substitute
from fervor.errors import DataError, UsageError
from fervor.faces.alignment import TEMPLATE, crop
from fervor.faces.detector import FaceDetector, select
from fervor.faces.types import Face
from fervor.io.image import to_input


ROOT = Path(__file__).parents[2]
PHOTO = np.asarray(Image.open(ROOT / "examples" / "astronaut.jpg").convert("RGB"))
NOBODY = np.full((90, 120, 3), 90, np.uint8)
NOBODY[:, :40] = 140  # so that a middle is told from the whole


def photo(side: int, *, mirrored: bool = False) -> Image.Image:
    """The portrait's head and shoulders at about `side` pixels."""
    part = PHOTO[0:300, 80:380]
    return Image.fromarray(part[:, ::-1] if mirrored else part).resize((side, side))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set: seven portraits, one picture without a face, in two splits."""
    root = tmp_path_factory.mktemp("faces")
    for number in range(6):
        place = root / "train" / ("happiness" if number % 2 else "neutral")
        place.mkdir(parents=True, exist_ok=True)
        photo(200 + 10 * number, mirrored=number > 2).save(place / f"{number}.png")
    (root / "test" / "happiness").mkdir(parents=True)
    photo(220).save(root / "test" / "happiness" / "0.png")
    Image.fromarray(NOBODY).save(root / "test" / "happiness" / "1.png")
    return root


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / MANIFEST).read_text().splitlines()]


def tree(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def by_hand(path: Path, size: int, margin: float = 0.0) -> tuple[Face, np.ndarray]:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    found = select(FaceDetector().detect([pixels])[0], "largest")[0]
    return found, crop(pixels, found, size, margin=margin)


def test_crops_are_those_of_predict_and_the_manifest_says_so(faces: Path, tmp_path: Path) -> None:
    counts = align("folder", str(faces), str(tmp_path / "out"), size=64)
    assert counts == {"ok": 7, "kept": 1, "centred": 0, "skipped": 0, "error": 0}
    rows = rows_of(tmp_path / "out")
    wanted = [
        (split, str(Path(sample.path).relative_to(faces)), sample.label)
        for split in ("train", "valid", "test")
        for sample in datasets.load("folder", faces, split)
    ]
    assert [(row["split"], row["source"], row["label"]) for row in rows] == wanted
    for row in rows[:-1]:
        found, expected = by_hand(faces / row["source"], 64)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / row["file"])), expected)
        assert row["status"] == "ok" and row["error"] is None
        np.testing.assert_allclose(row["box"], found.box, atol=0.006)
        np.testing.assert_allclose(row["points"], found.points, atol=0.006)
        assert row["score"] == pytest.approx(found.score, abs=6e-5)
    assert rows[-1]["status"] == "kept"
    assert [rows[-1][name] for name in ("box", "points", "score")] == [None] * 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("pictures", MANIFEST, SETTINGS, ".lock")
    }


@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_a_margin_shows_more_around_the_same_crop(
    faces: Path, tmp_path: Path, margin: float
) -> None:
    align("folder", str(faces), str(tmp_path / "out"), size=96, margin=margin)
    row = rows_of(tmp_path / "out")[0]
    stored = np.asarray(Image.open(tmp_path / "out" / row["file"]).convert("RGB"))
    assert stored.shape == (96, 96, 3)
    assert np.array_equal(stored, by_hand(faces / row["source"], 96, margin)[1])
    inner = round(96 * margin / (1 + 2 * margin))
    middle = Image.fromarray(stored[inner : 96 - inner, inner : 96 - inner]).resize((48, 48))
    plain = Image.fromarray(by_hand(faces / row["source"], 96)[1]).resize((48, 48))
    gap = np.abs(np.asarray(middle, float) - np.asarray(plain, float)).mean()
    assert gap < 4
    points = (np.array(TEMPLATE) + margin) / (1 + 2 * margin)
    assert (points > 0).all() and (points < 1).all()


def test_faces_that_are_not_found(faces: Path, tmp_path: Path) -> None:
    kept = np.rint(to_input(NOBODY, 64) * 255).astype(np.uint8).transpose(1, 2, 0)
    centred = np.rint(to_input(NOBODY[:, 15:105], 64) * 255).astype(np.uint8).transpose(1, 2, 0)
    for missing, status, expected in [
        ("keep", "kept", kept),
        ("centre", "centred", centred),
        ("skip", "skipped", None),
    ]:
        output = tmp_path / missing
        align("folder", str(faces), str(output), size=64, missing=missing)  # type: ignore[arg-type]
        row = rows_of(output)[-1]
        assert (row["source"], row["status"]) == ("test/happiness/1.png", status)
        if expected is None:
            assert row["file"] is None
            assert not (output / "pictures" / "test" / "happiness" / "1.png.png").exists()
        else:
            stored = Image.open(output / row["file"])
            assert stored.mode == "L"  # no colour, none stored
            assert np.array_equal(np.asarray(stored.convert("RGB")), expected)


def samples_with_boxes(root: Path) -> list[Sample]:
    """Two portraits in one picture, annotated one by one, and a box where nobody is."""
    part = np.asarray(photo(220))
    Image.fromarray(np.concatenate([part, part[:, ::-1]], axis=1)).save(root / "two.png")
    picture = np.asarray(Image.open(root / "two.png"))
    found = FaceDetector().detect([picture])[0]
    assert len(found) == 2
    boxes: list[Box] = [(0.0, 150.0, 40.0, 30.0), *(face.box for face in found)]
    return [Sample(str(root / "two.png"), "anger", box=box) for box in boxes]


def test_an_annotated_box_says_which_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    samples = samples_with_boxes(tmp_path / "set")

    def read(root: Path, split: str, **given: str) -> list[Sample]:
        return samples if split == "train" else []

    monkeypatch.setattr(folder, "read", read)
    output = tmp_path / "out"
    counts = align("folder", str(tmp_path / "set"), str(output), size=48)
    assert (counts["ok"], counts["kept"]) == (2, 1)
    rows = rows_of(output)
    assert len({row["file"] for row in rows}) == 3
    picture = np.asarray(Image.open(tmp_path / "set" / "two.png"))
    for row, sample in zip(rows, samples, strict=True):
        assert row["annotated"] == list(sample.box or ())
        stored = np.asarray(Image.open(output / row["file"]).convert("RGB"))
        if row["status"] == "kept":
            assert np.array_equal(stored, box_crop(picture, sample.box or (0, 0, 1, 1), 48))
        else:
            assert row["box"] == pytest.approx(list(sample.box or ()), abs=0.006)
    map_ordered = substitute(samples, "folder", str(tmp_path / "set"), str(output))
    assert [Path(s.path) for s in map_ordered] == [output / row["file"] for row in rows]
    assert all(s.box is None for s in map_ordered)


# Going on


def test_a_second_run_changes_nothing_and_detects_nothing(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    first = align("folder", str(faces), str(output), size=64)
    before = tree(output)
    monkeypatch.setattr(FaceDetector, "detect", lambda *given: pytest.fail("it looked again"))
    assert align("folder", str(faces), str(output), size=64) == first
    assert tree(output) == before


KILLED = """
import sys, time
from fervor.data.alignment import align
from fervor.faces.detector import FaceDetector

detect = FaceDetector.detect
def slow(self, images):
    time.sleep(0.1)
    return detect(self, images)
FaceDetector.detect = slow
align("folder", sys.argv[1], sys.argv[2], size=64, threads=1)
"""


@pytest.mark.parametrize("torn", [False, True])
def test_killed_and_begun_again_is_as_never_killed(faces: Path, tmp_path: Path, torn: bool) -> None:
    align("folder", str(faces), str(tmp_path / "whole"), size=64)
    output = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(faces), str(output)])
    part = output / PART
    while process.poll() is None and not (part.is_file() and part.read_bytes().count(b"\n") > 2):
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / MANIFEST).exists()
    done = part.read_bytes().count(b"\n")
    assert 2 < done < 8
    if torn:  # as a kill within a write leaves it
        os.truncate(part, part.stat().st_size - 5)
    with pytest.raises(DataError, match=r"out is not finished: run fervor data align again"):
        substitute([], "folder", str(faces), str(output))
    counts = align("folder", str(faces), str(output), size=64)
    assert sum(counts.values()) == 8
    assert tree(output) == tree(tmp_path / "whole")


def test_changed_and_lost_pictures_are_done_again(faces: Path, tmp_path: Path) -> None:
    root, output = tmp_path / "set", tmp_path / "out"
    for name in ("a", "b", "c"):
        (root / "train" / "anger").mkdir(parents=True, exist_ok=True)
        photo(200).save(root / "train" / "anger" / f"{name}.png")
    align("folder", str(root), str(output), size=64)
    before = tree(output)
    photo(240, mirrored=True).save(root / "train" / "anger" / "a.png")
    (output / "pictures/train/anger/b.png.png").unlink()
    changed = datasets.load("folder", root, "train")
    with pytest.raises(DataError, match=r"a\.png has changed: run fervor data align again"):
        substitute(changed, "folder", str(root), str(output))
    align("folder", str(root), str(output), size=64)
    after = tree(output)
    same = {name for name in before if before[name] == after[name]}
    assert same == {SETTINGS, "pictures/train/anger/b.png.png", "pictures/train/anger/c.png.png"}


def test_another_protocols_pictures_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    found = []
    for number in range(3):
        photo(200 + number).save(root / f"{number}.png")
        found.append(Sample(str(root / f"{number}.png"), "anger"))

    def reading(chosen: Sequence[Sample]) -> None:
        monkeypatch.setattr(folder, "read", lambda r, split, **g: chosen if split == "test" else [])

    reading(found[:2])
    align("folder", str(root), str(output), size=32)
    with pytest.raises(DataError, match=r"has no crop of .*2\.png: run .* it adds what is missing"):
        substitute(found, "folder", str(root), str(output))
    reading(found[1:])
    align("folder", str(root), str(output), size=32)
    assert {row["source"] for row in rows_of(output)} == {"0.png", "1.png", "2.png"}
    assert len(substitute(found, "folder", str(root), str(output))) == 3


def two_faces(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """One picture with two faces: under `few` the data set has the second alone."""
    samples = samples_with_boxes(root)[1:]
    monkeypatch.setattr(folder, "PROTOCOLS", ("all", "few"))

    def read(root: Path, split: str, *, protocol: str, **given: str) -> list[Sample]:
        return (samples[1:] if protocol == "few" else samples) if split == "train" else []

    monkeypatch.setattr(folder, "read", read)
    return samples


def check_crops(samples: Sequence[Sample], root: Path, output: Path) -> None:
    """Each sample's crop is of the face in its own box."""
    picture = np.asarray(Image.open(root / "two.png"))
    faces = FaceDetector().detect([picture])[0]
    for sample, crop_sample in zip(
        samples, substitute(samples, "folder", str(root), str(output)), strict=True
    ):
        (face,) = [face for face in faces if face.box == sample.box]
        stored = np.asarray(Image.open(crop_sample.path).convert("RGB"))
        assert np.array_equal(stored, crop(picture, face, 32))


@pytest.mark.parametrize("order", [("all", "few"), ("few", "all"), ("few", "all", "few")])
def test_each_face_keeps_its_crop_under_every_protocol(
    order: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    samples = two_faces(root, monkeypatch)
    for protocol in order:
        align("folder", str(root), str(output), protocol=protocol, size=32)
    check_crops(samples, root, output)
    monkeypatch.setattr(FaceDetector, "detect", lambda *given: pytest.fail("it looked again"))
    align("folder", str(root), str(output), protocol=order[0], size=32)


def test_crops_that_version_0_1_mixed_up_are_cut_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It numbered an image's faces, so that two rows could name one file."""
    root, output = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    samples = two_faces(root, monkeypatch)
    align("folder", str(root), str(output), protocol="all", size=32)
    manifest = output / MANIFEST
    rows = [{**row, "file": "pictures/two.png.png"} for row in rows_of(output)]
    for row in rows[:1]:
        os.rename(output / rows_of(output)[0]["file"], output / row["file"])
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"one crop for several faces of .*two\.png: run fervor"):
        substitute(samples, "folder", str(root), str(output))
    align("folder", str(root), str(output), protocol="all", size=32)
    check_crops(samples, root, output)


def test_a_folder_of_version_0_1_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only face of an image had the image's name."""
    root, output = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    samples = two_faces(root, monkeypatch)
    align("folder", str(root), str(output), protocol="few", size=32)
    (row,) = rows_of(output)
    os.rename(output / row["file"], output / "pictures/two.png.png")
    (output / MANIFEST).write_text(json.dumps({**row, "file": "pictures/two.png.png"}) + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(FaceDetector, "detect", lambda *given: pytest.fail("it looked again"))
        align("folder", str(root), str(output), protocol="few", size=32)
    check_crops(samples[1:], root, output)
    align("folder", str(root), str(output), protocol="all", size=32)
    check_crops(samples, root, output)


def test_an_unreadable_picture_is_listed_and_stops_training(tmp_path: Path) -> None:
    root, output = tmp_path / "set", tmp_path / "out"
    (root / "anger").mkdir(parents=True)
    photo(200).save(root / "anger" / "a.png")
    (root / "anger" / "b.png").write_bytes(b"no picture")
    counts = align("folder", str(root), str(output), size=32)
    assert (counts["ok"], counts["error"]) == (1, 1)
    row = rows_of(output)[1]
    assert (row["status"], row["file"]) == ("error", None)
    assert "cannot be read as a picture" in row["error"]
    samples = datasets.load("folder", root, "train")
    with pytest.raises(DataError, match=r"b\.png cannot be read .*: mend or remove it, then run"):
        substitute(samples, "folder", str(root), str(output))
    photo(210).save(root / "anger" / "b.png")
    assert align("folder", str(root), str(output), size=32)["ok"] == 2


# Wrong use


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 8}, "--size 8: expected 16 to 2048"),
        ({"size": 4000}, "--size 4000: expected"),
        ({"margin": -0.1}, "--margin -0.1: expected 0 to 1"),
        ({"margin": 3.0}, "--margin 3.0: expected"),
        ({"missing": "drop"}, "--missing drop: expected one of keep, centre, skip"),
        ({"protocol": "other"}, "folder has no protocol 'other'"),
    ],
)
def test_settings_out_of_range(
    given: dict[str, Any], message: str, faces: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        align("folder", str(faces), str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


def test_a_folder_begun_otherwise(faces: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    align("folder", str(faces), output, size=64)
    with pytest.raises(UsageError, match=r"was begun with size 64, now 65 is asked for: name"):
        align("folder", str(faces), output, size=65)
    with pytest.raises(UsageError, match=r"was begun with missing keep, now skip"):
        align("folder", str(faces), output, size=64, missing="skip")
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(UsageError, match="another process"):
        align("folder", str(faces), output, size=64)


def test_a_data_set_is_not_overwritten(faces: Path, tmp_path: Path) -> None:
    for name in ("a.png", "pictures/a.png.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo(200).save(tmp_path / name)
    rows = "".join(f"{name},anger\n" for name in ("a.png", "pictures/a.png.png"))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"pictures/a\.png\.png would be overwritten; name ano"):
        align("csv", str(tmp_path), str(tmp_path), size=32)
    (tmp_path / "pictures" / "a.png.png").rename(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,anger\n")
    (tmp_path / "manifest.jsonl").write_text("theirs")
    with pytest.raises(UsageError, match=r"manifest\.jsonl would be overwritten; name another"):
        align("csv", str(tmp_path), str(tmp_path), size=32)
    (tmp_path / "manifest.jsonl").unlink()
    for _ in range(2):  # an earlier run's files are no input
        assert align("csv", str(tmp_path), str(tmp_path), size=32)["error"] == 0
    assert (tmp_path / "a.png").read_bytes() == before["a.png"]


def test_pictures_in_a_table_have_no_files_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [Sample("", "anger", {}, bytes(48 * 48), 48)]
    monkeypatch.setattr(folder, "read", lambda *given, **named: table)
    with pytest.raises(DataError, match="holds its pictures in a table: write them to files"):
        align("folder", str(tmp_path), str(tmp_path / "out"))


def test_a_path_never_leads_out_of_the_output(tmp_path: Path) -> None:
    """A table may name pictures anywhere; their crops stay below the output."""
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    photo(200).save(outside / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "t.csv").write_text("path,label\n../elsewhere/a.png,anger\n")
    align("csv", str(tmp_path / "set"), str(tmp_path / "out"), size=32)
    (row,) = rows_of(tmp_path / "out")
    assert row["source"] == "../elsewhere/a.png"
    assert row["file"].startswith("pictures/outside/") and ".." not in Path(row["file"]).parts
    assert (tmp_path / "out" / row["file"]).is_file()
    samples = datasets.load("csv", tmp_path / "set", "train")
    assert len(substitute(samples, "csv", str(tmp_path / "set"), str(tmp_path / "out"))) == 1
