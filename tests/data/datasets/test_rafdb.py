"""RAF-DB: its list and pictures, the official numbers at full size, and damaged trees."""

import os
from collections import Counter
from pathlib import Path

import pytest

from fervor.data.datasets import labels_of, load, rafdb, with_attributes
from fervor.errors import DataError
from fervor.labels import BASIC, RAFDB
from tests.support.trees import (
    SIZES,
    Damages,
    check_refusals,
    edit,
    line_of_refusal,
    link,
    loop,
    undecodable,
    write_rafdb,
)


OFFICIAL = {
    "train": {
        "surprise": 1290,
        "fear": 281,
        "disgust": 717,
        "happiness": 4772,
        "sadness": 1982,
        "anger": 705,
        "neutral": 2524,
    },
    "test": {
        "surprise": 329,
        "fear": 74,
        "disgust": 160,
        "happiness": 1185,
        "sadness": 478,
        "anger": 162,
        "neutral": 680,
    },
}
LIST = Path("basic", "EmoLabel", "list_patition_label.txt")
ALIGNED = Path("basic", "Image", "aligned")


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of SIZES instead of the official ones."""
    small = {split: {name: sizes[name] for name in RAFDB} for split, sizes in SIZES.items()}
    monkeypatch.setattr(rafdb, "COUNTS", small)


def write(root: Path) -> Path:
    return write_rafdb(root, SIZES)


def test_a_tree_of_the_official_size(tmp_path: Path) -> None:
    """15,339 links, read with the product's own counts."""
    write_rafdb(tmp_path, OFFICIAL)
    for split, size in {"train": 12_271, "test": 3_068}.items():
        samples = load("rafdb", tmp_path, split)
        assert len(samples) == size
        assert Counter(sample.label for sample in samples) == OFFICIAL[split]
        assert all(Path(sample.path).is_file() for sample in samples[::1000])
    assert load("rafdb", tmp_path, "valid") == []
    assert labels_of("rafdb", ()) == BASIC


@pytest.mark.usefixtures("small_counts")
def test_labels_come_from_the_list(tmp_path: Path) -> None:
    write(tmp_path)
    by_number = dict(enumerate(RAFDB, start=1))
    listed = dict(line.split() for line in (tmp_path / LIST).read_text().splitlines())
    for split in ("train", "test"):
        samples = load("rafdb", tmp_path, split)
        names = [name for name in listed if name.startswith(split)]
        assert [Path(sample.path).name for sample in samples] == [
            name.replace(".jpg", "_aligned.jpg") for name in names
        ]
        assert [sample.label for sample in samples] == [by_number[int(listed[n])] for n in names]


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("base", ["basic", "raf-basic", "."])
def test_names_of_the_root(base: str, tmp_path: Path) -> None:
    write_rafdb(tmp_path, SIZES, base=base)
    assert len(load("rafdb", tmp_path, "test")) == sum(SIZES["test"][name] for name in RAFDB)


@pytest.mark.usefixtures("small_counts")
def test_original_pictures(tmp_path: Path) -> None:
    write(tmp_path)
    assert "original is missing" in line_of_refusal("rafdb", tmp_path, annotations="original")
    originals = tmp_path / "basic" / "Image" / "original"
    for aligned in (tmp_path / ALIGNED).iterdir():
        link(aligned, originals / aligned.name.replace("_aligned", ""))
    first = load("rafdb", tmp_path, "train", annotations="original")[0]
    assert first.path == str(originals / "train_00001.jpg")
    assert "no pictures 'cropped'" in line_of_refusal("rafdb", tmp_path, annotations="cropped")


@pytest.mark.usefixtures("small_counts")
def test_a_list_whose_spelling_was_mended(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / LIST).rename(tmp_path / LIST.with_name("list_partition_label.txt"))
    assert len(load("rafdb", tmp_path, "train")) == sum(SIZES["train"][name] for name in RAFDB)


def renumbered(root: Path, order: list[str]) -> None:
    """The list with its numbers in another order."""
    lines = [line.split() for line in (root / LIST).read_text().splitlines()]
    turned = [f"{name} {order.index(RAFDB[int(label) - 1]) + 1}" for name, label in lines]
    (root / LIST).write_text("\n".join(turned))


DAMAGES: Damages = {
    "no list": (lambda root: (root / LIST).unlink(), r"list_patition_label\.txt is missing"),
    "no list's folder": (
        lambda root: (root / LIST).parent.rename(root / "labels"),
        "holds no EmoLabel folder of RAF-DB: give the folder that holds basic",
    ),
    "two roots": (
        lambda root: (root / "EmoLabel").mkdir(),
        "both hold EmoLabel: give one as the root",
    ),
    "a line less": (
        lambda root: edit(root / LIST, "train_00003.jpg 3\n", ""),
        r"gives 41 train pictures under basic, expected 42: it holds 3 of disgust, not 4",
    ),
    "swapped columns": (
        lambda root: edit(root / LIST, "train_00002.jpg 2", "2 train_00002.jpg"),
        r"label\.txt:2 has its columns swapped",
    ),
    "alphabetical labels": (
        lambda root: renumbered(root, sorted(RAFDB)),
        "numbers its labels alphabetically",
    ),
    "permuted labels": (
        lambda root: renumbered(root, [*RAFDB[:-2], "neutral", "anger"]),
        "numbers its labels in another order: .*anger has that of neutral",
    ),
    "a class in words": (
        lambda root: edit(root / LIST, "train_00001.jpg 1", "train_00001.jpg joy"),
        r"label\.txt:1 has the class 'joy', expected a number, 1 to 7",
    ),
    "a picture named twice": (
        lambda root: edit(root / LIST, "train_00002", "train_00001"),
        r"label\.txt:2 names train_00001\.jpg for the second time",
    ),
    "no picture": (
        lambda root: (root / ALIGNED / "train_00001_aligned.jpg").unlink(),
        r"train_00001_aligned\.jpg is missing but the official list names it",
    ),
    "no pictures": (
        lambda root: (root / ALIGNED).rename(root / "elsewhere"),
        "aligned is missing: expected a folder",
    ),
    "a link to itself": (lambda root: loop(root / ALIGNED), "a symbolic link that leads back"),
    "a picture that is no UTF-8": (
        lambda root: undecodable(root / ALIGNED),
        r"face\\xe9\.jpg has a name that is no UTF-8",
    ),
    "a list that is no UTF-8": (
        lambda root: (root / LIST).write_bytes(b"train_00001\xe9.jpg 1\n"),
        r"label\.txt is no UTF-8 text",
    ),
    "label 0": (
        lambda root: edit(root / LIST, "train_00001.jpg 1", "train_00001.jpg 0"),
        r"label\.txt:1 has label 0, out of range: expected 1 to 7",
    ),
    "another line": (
        lambda root: edit(root / LIST, "train_00001.jpg 1", "name,label"),
        r"label\.txt:1 reads 'name,label': expected a line as",
    ),
}


def annotate(root: Path, name: str, *last: str) -> Path:
    """A picture's manual annotation: five points, then gender, race and age."""
    path = root / "basic" / "Annotation" / "manual" / f"{name}_manu_attri.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*["30.5\t40.25"] * 5, *last]) + "\n")
    return path


@pytest.mark.usefixtures("small_counts")
def test_attributes_stand_in_files_of_their_own(tmp_path: Path) -> None:
    root = write(tmp_path)
    samples = load("rafdb", root, "test")
    assert samples[0].attributes == {}
    with pytest.raises(DataError, match=r"test_0001_manu_attri\.txt is missing"):
        with_attributes("rafdb", root, samples)
    for number in range(1, len(samples) + 1):
        name = f"test_{number:04d}"
        annotate(root, name, str(number % 3), str((number + 1) % 3), str(number % 5))
    found = with_attributes("rafdb", root, samples)
    assert found[0].attributes == {"gender": "female", "race": "Asian", "age": "4-19"}
    assert found[4].attributes == {"gender": "unsure", "race": "Caucasian", "age": "0-3"}
    assert [sample.path for sample in found] == [sample.path for sample in samples]
    for last, words in ((("0", "3", "1"), "race '3': expected 0 to 2"), (("0",), "five points")):
        annotate(root, "test_0001", *last)
        with pytest.raises(DataError, match=words):
            with_attributes("rafdb", root, samples[:1])


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
@pytest.mark.usefixtures("small_counts")
def test_damaged_trees_are_one_line_each(tmp_path: Path) -> None:
    check_refusals("rafdb", tmp_path, write, DAMAGES)


def test_a_copy_with_numbered_folders(tmp_path: Path) -> None:
    (tmp_path / "train_labels.csv").write_text("image,label\ntrain_00001_aligned.jpg,5\n")
    for number in range(1, 8):
        (tmp_path / "DATASET" / "train" / str(number)).mkdir(parents=True)
    with pytest.raises(DataError, match="marks a third-party copy"):
        load("rafdb", tmp_path, "train")
    (tmp_path / "train_labels.csv").unlink()
    with pytest.raises(DataError, match=r"DATASET/train/1 and 6 more class folders are numbers"):
        load("rafdb", tmp_path, "train")
