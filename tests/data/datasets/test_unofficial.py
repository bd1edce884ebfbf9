"""Third-party copies: each known mark has its reason, and official trees have none."""

from pathlib import Path

import pytest

from fervor.data.datasets.unofficial import is_number, refused
from tests.support.drawn import rows, write_pictures
from tests.support.trees import (
    FREE,
    SIZES,
    write_affectnet,
    write_affectnet_2021,
    write_ckplus,
    write_rafdb,
)


def place(root: Path, *names: str) -> None:
    """Files, and folders where a name ends in a slash."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["data.yaml", "train/images/"], "data.yaml marks a YOLO copy"),
        (["YOLO_format/data.yml"], "YOLO_format/data.yml marks a YOLO copy"),
        (["0/", "1/", "2/"], "0 and 2 more class folders are numbers"),
        (["train/0/", "train/1/"], "train/0 and 1 more class folders are numbers"),
        (["DATASET/train/1/", "DATASET/train/2/"], "DATASET/train/1 and 1 more class folders"),
        (["Train/Anger/", "Train/happy/"], "Train/Anger and 1 more are class folders"),
        (["train_labels.csv"], "train_labels.csv marks a third-party copy"),
        (["labels.csv", "anger/", "fear/"], "anger and 1 more are class folders"),
    ],
)
def test_marks_of_copies(names: list[str], reason: str, tmp_path: Path) -> None:
    place(tmp_path, *names)
    assert f"{tmp_path}/{reason}" in refused(tmp_path)
    assert "\n" not in refused(tmp_path)


@pytest.mark.parametrize("names", [[], ["S005/", "S010/"], ["1/"], ["photos/0/", "photos/1/"]])
def test_anything_else_is_no_known_copy(names: list[str], tmp_path: Path) -> None:
    place(tmp_path, *names)
    assert refused(tmp_path) == ""


def test_official_trees_are_no_copies(tmp_path: Path) -> None:
    written = [
        write_rafdb(tmp_path / "rafdb", SIZES),
        write_affectnet(tmp_path / "original", FREE),
        write_affectnet_2021(tmp_path / "2021", FREE),
        write_ckplus(tmp_path / "ckplus", {"anger": 2, "fear": 3}),
        write_pictures(tmp_path / "ferplus", {"train": rows(0, ["fear"])}),
    ]
    assert [refused(root) for root in written] == [""] * 5


def test_words_are_fine_for_own_pictures(tmp_path: Path) -> None:
    place(tmp_path, "anger/", "fear/")
    assert refused(tmp_path, words=False) == ""
    place(tmp_path, "data.yaml")
    assert "YOLO" in refused(tmp_path, words=False)


def test_numbers() -> None:
    assert all(map(is_number, ["0", "07", " 3 ", "3.0", "3."]))
    assert not any(map(is_number, ["", "3.5", "-1", "three", "s3", "1e1"]))
