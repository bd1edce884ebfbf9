"""A user's own folder: names by their words, splits by theirs, and what is refused."""

import os
from pathlib import Path

import pytest

from fervor.data.datasets import labels_of, load
from fervor.errors import DataError
from tests.support.drawn import write_folder
from tests.support.trees import Damages, check_refusals, loop, undecodable


def place(*paths: Path) -> None:
    """Empty files: listing opens none of them."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_classes_in_the_projects_order(tmp_path: Path) -> None:
    write_folder(tmp_path, ["surprise", "anger", "neutral"], 2)
    samples = load("folder", tmp_path, "train")
    shown = [(sample.label, Path(sample.path).name) for sample in samples]
    names = ("000.png", "001.png")
    assert shown == [(label, name) for label in ("anger", "neutral", "surprise") for name in names]
    assert labels_of("folder", samples) == ("neutral", "surprise", "anger")
    assert not any(sample.votes for sample in samples)


@pytest.mark.parametrize(
    ("name", "label"),
    [("Happy", "happiness"), ("SAD", "sadness"), ("joy", "happiness"), ("scared", "fear")],
)
def test_synonyms_and_case(name: str, label: str, tmp_path: Path) -> None:
    place(tmp_path / name / "one.jpg")
    assert [sample.label for sample in load("folder", tmp_path, "train")] == [label]


def test_only_pictures_are_listed_sorted(tmp_path: Path) -> None:
    names = ["b.JPG", "a.png", "c.webp", "notes.txt", ".DS_Store", "d.jpeg", "e.bmp", "f.TIFF"]
    place(*(tmp_path / "fear" / name for name in names), tmp_path / "README.md")
    listed = [Path(sample.path).name for sample in load("folder", tmp_path, "train")]
    assert listed == ["a.png", "b.JPG", "c.webp", "d.jpeg", "e.bmp", "f.TIFF"]


@pytest.mark.parametrize("valid", ["valid", "val", "Val"])
def test_split_folders(valid: str, tmp_path: Path) -> None:
    for split, names in {"train": ["fear", "anger"], valid: ["fear"], "test": ["anger"]}.items():
        write_folder(tmp_path / split, names, 1)
    found = {split: load("folder", tmp_path, split) for split in ("train", "valid", "test")}
    assert {split: [sample.label for sample in samples] for split, samples in found.items()} == {
        "train": ["anger", "fear"],
        "valid": ["fear"],
        "test": ["anger"],
    }
    assert Path(found["valid"][0].path).parent.parent == tmp_path / valid


def test_without_split_folders_everything_is_for_training(tmp_path: Path) -> None:
    write_folder(tmp_path, ["fear"], 1)
    assert load("folder", tmp_path, "valid") == load("folder", tmp_path, "test") == []


def test_a_file_is_no_split(tmp_path: Path) -> None:
    write_folder(tmp_path, ["fear"], 1)
    place(tmp_path / "train")
    assert len(load("folder", tmp_path, "train")) == 1


def test_a_split_that_is_not_there_is_empty(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ["fear"], 1)
    assert load("folder", tmp_path, "valid") == []


def test_class_folders_beside_a_split_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, ["fear", "anger"], 1)
    (tmp_path / "sadness").mkdir()  # without images nothing is left out
    place(tmp_path / "notes" / "1.jpg")
    write_folder(tmp_path / "test", ["fear"], 1)
    line = f"{tmp_path}: anger, fear beside test would not be read: move them into "
    for split in ("train", "valid", "test"):
        with pytest.raises(DataError) as info:
            load("folder", tmp_path, split)
        assert str(info.value) == f"{line}{tmp_path / 'train'} or another split"
    (tmp_path / "train").mkdir()
    (tmp_path / "fear").rename(tmp_path / "train" / "fear")
    with pytest.raises(DataError, match="anger beside test, train would not be read: move it into"):
        load("folder", tmp_path, "train")
    (tmp_path / "anger").rename(tmp_path / "train" / "anger")
    found = [sample.label for sample in load("folder", tmp_path, "train")]
    assert found == ["anger", "fear"]


def one_line(error: pytest.ExceptionInfo[DataError]) -> bool:
    return "\n" not in str(error.value)


def test_two_folders_of_one_expression_collide(tmp_path: Path) -> None:
    place(tmp_path / "happy" / "1.jpg", tmp_path / "joy" / "1.jpg")
    with pytest.raises(DataError, match=r"joy and .*happy both mean happiness: merge them") as info:
        load("folder", tmp_path, "train")
    assert one_line(info)


def test_two_folders_of_one_split_collide(tmp_path: Path) -> None:
    place(tmp_path / "val" / "fear" / "1.jpg", tmp_path / "valid" / "anger" / "1.jpg")
    with pytest.raises(DataError, match="names a split twice: val, valid; merge them") as info:
        load("folder", tmp_path, "valid")
    assert one_line(info)


def test_an_unknown_class_names_the_known_ones(tmp_path: Path) -> None:
    place(tmp_path / "bored" / "1.jpg")
    with pytest.raises(DataError, match=r"bored: unknown expression 'bored': .*neutral, .*joy"):
        load("folder", tmp_path, "train")


@pytest.mark.parametrize("case", ["nothing", "no pictures", "pictures beside"])
def test_a_folder_without_pictures(case: str, tmp_path: Path) -> None:
    if case == "no pictures":
        (tmp_path / "fear").mkdir()
    elif case == "pictures beside":
        place(tmp_path / "1.jpg")
    with pytest.raises(DataError, match="holds no pictures: expected one sub-folder") as info:
        load("folder", tmp_path, "train")
    assert one_line(info)


FEAR = Path("train", "fear")

DAMAGES: Damages = {
    "no training folder": (
        lambda root: (root / "train").rename(root / "elsewhere"),
        "elsewhere: unknown expression 'elsewhere'",
    ),
    "no pictures": (
        lambda root: [path.unlink() for path in root.rglob("*.png")],
        "train holds no pictures: expected one sub-folder of them per expression",
    ),
    "an unknown class": (
        lambda root: (root / FEAR).rename(root / "train" / "bored"),
        "bored: unknown expression 'bored': expected one of neutral, ",
    ),
    "a class folder that is a number": (
        lambda root: (root / FEAR).rename(root / "train" / "6"),
        "train/6: a number says nothing about an expression",
    ),
    "class folders that are numbers": (
        lambda root: (
            [(root / FEAR).rename(root / "train" / n) for n in ("6",)]
            + [(root / "train" / "anger").rename(root / "train" / "0")]
        ),
        "train/0: .*train/0 and 1 more class folders are numbers, as in third-party copies",
    ),
    "a YOLO copy": (
        lambda root: [place(root / "train" / "images" / "1.jpg", root / "data.yaml")],
        r"train/images: .*data\.yaml marks a YOLO copy, .*alphabetical",
    ),
    "two folders of one class": (
        lambda root: (root / "train" / "scared").mkdir(),
        "scared and .*fear both mean fear: merge them",
    ),
    "two folders of one split": (
        lambda root: [(root / name).mkdir() for name in ("val", "valid")],
        "names a split twice: train, val, valid",
    ),
    "a link to itself": (lambda root: loop(root / FEAR), "a symbolic link that leads back"),
    "a link to what holds it": (
        lambda root: (root / FEAR / "up").symlink_to(root),
        "up is a symbolic link to a folder that holds it",
    ),
    "a picture that is no UTF-8": (
        lambda root: undecodable(root / FEAR),
        r"face\\xe9\.jpg has a name that is no UTF-8",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
def test_damaged_trees_are_one_line_each(tmp_path: Path) -> None:
    def write(root: Path) -> Path:
        return write_folder(root / "train", ["fear", "anger"], 2)

    check_refusals("folder", tmp_path, write, DAMAGES)


# Persons


def groups(root: Path, text: str, name: str = "groups.csv") -> Path:
    (root / name).write_text(text)
    return root


@pytest.mark.parametrize("name", ["groups.csv", "persons.csv"])
def test_a_table_says_who_is_on_the_pictures(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "test", ["fear", "anger"], 2)
    text = "group,path\nanna,test/fear/000.png\nanna,./test/anger/001.png\nbo,test/fear/001.png\n"
    groups(tmp_path, text, name)
    annotations = "" if name == "groups.csv" else name
    found = load("folder", tmp_path, "test", annotations=annotations)
    persons = {str(Path(sample.path).relative_to(tmp_path)): sample.group for sample in found}
    assert persons == {
        "test/anger/000.png": "",
        "test/anger/001.png": "anna",
        "test/fear/000.png": "anna",
        "test/fear/001.png": "bo",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,person\n", "has the columns path, person: expected path, group"),
        ("path,group\nfear/000.png\n", r"groups\.csv:2 has 1 column, expected 2"),
        (
            "path,group\nfear/7.png,anna\n",
            r"groups\.csv:2: .*7\.png is no file; paths are relative",
        ),
        (
            "path,group\nfear/000.png,a\nfear/../fear/000.png,b\n",
            r"groups\.csv:3 names .* second time",
        ),
    ],
)
def test_a_table_of_persons_that_does_not_fit(text: str, message: str, tmp_path: Path) -> None:
    write_folder(tmp_path, ["fear"], 1)
    with pytest.raises(DataError, match=message):
        load("folder", groups(tmp_path, text), "train")
