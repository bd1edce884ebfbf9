"""Identical pictures: told by pixels, whatever holds them, and never by a guess."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervor.data.datasets import Sample, load
from fervor.data.duplicates import fingerprints, repeated
from tests.support.drawn import face


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first, second = face("fear"), face("anger")
    Image.fromarray(first).save(tmp_path / "fear.png")
    Image.fromarray(first).save(tmp_path / "again.bmp")
    Image.fromarray(np.stack([first] * 3, 2)).save(tmp_path / "colour.png", optimize=True)
    Image.fromarray(second).save(tmp_path / "anger.png")
    nearly = first.copy()
    nearly[3, 4] ^= 1
    Image.fromarray(nearly).save(tmp_path / "nearly.png")
    Image.fromarray(first.reshape(24, 96)).save(tmp_path / "shape.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "fear.png").read_bytes()[:300])
    (tmp_path / "empty.png").touch()
    return tmp_path


def samples(folder: Path, *names: str) -> list[Sample]:
    return [Sample(str(folder / name), "fear") for name in names]


def same(one: Sample, two: Sample, *, quick: bool = False) -> bool:
    first, second = fingerprints([one, two], quick=quick)
    assert not first.error
    assert not second.error
    return first.digest == second.digest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fear.png", True),
        ("again.bmp", True),
        ("colour.png", True),
        ("anger.png", False),
        ("nearly.png", False),
        ("shape.png", False),
    ],
)
def test_pixels_decide_not_files(name: str, expected: bool, folder: Path) -> None:
    assert same(*samples(folder, "fear.png", name)) is expected


def test_pixels_of_a_table_equal_those_of_a_file(folder: Path) -> None:
    pixels = face("fear").tobytes()
    inside = Sample("", "anger", pixels=pixels, side=48)
    assert same(inside, *samples(folder, "fear.png"))
    assert same(inside, Sample("", "fear", pixels=pixels, side=48), quick=True)


def test_two_faces_of_one_picture_differ(folder: Path) -> None:
    path = str(folder / "fear.png")
    one, two = Sample(path, "fear", box=(0, 0, 9, 9)), Sample(path, "fear", box=(9, 0, 9, 9))
    for quick in (False, True):
        assert not same(one, two, quick=quick)
        assert same(one, one, quick=quick)


def test_quick_compares_files(folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "fear.png").read_bytes())
    assert same(*samples(folder, "fear.png", "copy.png"), quick=True)
    assert not same(*samples(folder, "fear.png", "again.bmp"), quick=True)


@pytest.mark.parametrize("quick", [False, True])
def test_what_cannot_be_read_says_why(quick: bool, folder: Path) -> None:
    names = ["damaged.png", "empty.png", "nowhere.png", "fear.png"]
    *broken, whole = fingerprints(samples(folder, *names), quick=quick)
    assert all(found.error and "\n" not in found.error for found in broken)
    assert not any(found.digest for found in broken)
    assert whole.digest and not whole.error


def test_order_is_kept_by_any_number_of_threads(folder: Path) -> None:
    asked = samples(folder, *["fear.png", "anger.png", "nearly.png"] * 50)
    one = list(fingerprints(asked, threads=1))
    assert list(fingerprints(asked, threads=4)) == one
    assert len(set(one)) == 3


def test_repeated_gives_the_places(folder: Path) -> None:
    tested = samples(folder, "anger.png", "again.bmp", "damaged.png", "nearly.png", "colour.png")
    trained = samples(folder, "fear.png", "damaged.png", "empty.png")
    assert repeated(tested, trained) == [1, 4]
    assert repeated(tested, []) == repeated([], trained) == []


@pytest.mark.slow
def test_ferplus_repeats_pictures(ferplus: Path) -> None:
    """The number that docs/data.md states."""
    splits = {split: load("ferplus", ferplus, split) for split in ("train", "test")}
    assert len(repeated(splits["test"], splits["train"])) == 232
