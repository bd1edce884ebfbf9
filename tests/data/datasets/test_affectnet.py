"""AffectNet in both releases: official sizes, boxes, what is dropped, and damaged trees."""

import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fervor.data.datasets import affectnet, labels_of, load
from fervor.errors import DataError
from fervor.labels import AFFECTNET, BASIC, EXPRESSIONS
from tests.support.trees import (
    FREE,
    Damages,
    check_refusals,
    edit,
    line_of_refusal,
    loop,
    save_label,
    undecodable,
    write_affectnet,
    write_affectnet_2021,
)


TRAIN = sum(FREE["train"].values())
IMAGES = Path("Manually_Annotated_Images")
LABELS = Path("train_set", "annotations")

WRITERS: dict[str, Callable[[Path], Path]] = {
    "original": lambda root: write_affectnet(root, FREE),
    "2021": lambda root: write_affectnet_2021(root, FREE),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of FREE instead of the official ones."""
    small = {split: {name: sizes[name] for name in AFFECTNET} for split, sizes in FREE.items()}
    monkeypatch.setattr(affectnet, "COUNTS", small)


def test_official_counts() -> None:
    totals = {}
    for protocol in affectnet.PROTOCOLS:
        for split in ("train", "test"):
            official = affectnet._official(split, protocol, 0.0)
            assert set(official.counts) == set(labels_of("affectnet", (), protocol))
            totals[protocol, split] = sum(official.counts.values())
    assert totals == {
        ("affectnet8", "train"): 287_651,
        ("affectnet8", "test"): 4_000,
        ("affectnet7", "train"): 283_901,
        ("affectnet7", "test"): 3_500,
    }
    assert affectnet.COUNTS["train"]["neutral"] == 74_874
    assert affectnet.COUNTS["train"]["contempt"] == 3_750


def test_slack_is_too_small_to_hide_a_permutation() -> None:
    sizes = sorted(affectnet.COUNTS["train"].values())
    assert all(large - small > affectnet.SLACK * large for small, large in pairwise(sizes))


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("release", WRITERS)
def test_seven_and_eight_classes(release: str, tmp_path: Path) -> None:
    root = WRITERS[release](tmp_path / "data")
    for protocol, names in {"affectnet8": EXPRESSIONS, "affectnet7": BASIC}.items():
        for split in ("train", "test"):
            samples = load("affectnet", root, split, protocol=protocol)
            expected = {name: FREE[split][name] for name in names}
            assert Counter(sample.label for sample in samples) == expected
            assert all(Path(sample.path).is_file() for sample in samples)
        assert load("affectnet", root, "valid", protocol=protocol) == []
        assert labels_of("affectnet", (), protocol) == names


@pytest.mark.usefixtures("small_counts")
def test_the_original_release_has_boxes(tmp_path: Path) -> None:
    samples = load("affectnet", write_affectnet(tmp_path, FREE), "train")
    assert [sample.label for sample in samples[:8]] == list(EXPRESSIONS)
    assert samples[0].box == (3.0, 2.0, 30.0, 40.0)  # the fourth row: three are no expressions
    assert Path(samples[0].path).parent == tmp_path / IMAGES / "1"
    assert all(sample.path == f"{tmp_path / IMAGES}/{sample.photograph}" for sample in samples)


@pytest.mark.usefixtures("small_counts")
def test_the_original_release_as_its_archives_unpack(tmp_path: Path) -> None:
    write_affectnet(tmp_path, FREE)
    lists, images = tmp_path / "Manually_Annotated_file_lists", tmp_path / "Manually_Annotated"
    lists.mkdir()
    images.mkdir()
    for name in ("training.csv", "validation.csv"):
        (tmp_path / name).rename(lists / name)
    (tmp_path / IMAGES).rename(images / IMAGES)
    samples = load("affectnet", tmp_path, "train")
    assert len(samples) == TRAIN
    assert Path(samples[0].path).is_file()


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize(
    "label", [np.array(3), np.array([3.0]), np.array("3"), np.array(b"3"), np.int64(3)]
)
def test_the_release_of_2021_reads_numbers_and_words(label: object, tmp_path: Path) -> None:
    root = write_affectnet_2021(tmp_path, FREE)
    place = next(n for n, s in enumerate(load("affectnet", root, "train")) if s.label == "surprise")
    np.save(root / LABELS / f"{place}_exp.npy", np.asarray(label))
    assert load("affectnet", root, "train")[place].label == "surprise"


@pytest.mark.usefixtures("small_counts")
def test_numbers_order_the_pictures_of_2021(tmp_path: Path) -> None:
    samples = load("affectnet", write_affectnet_2021(tmp_path, FREE), "train")
    assert [Path(sample.path).stem for sample in samples] == [str(n) for n in range(TRAIN)]
    assert not any(sample.box for sample in samples)


@pytest.mark.usefixtures("small_counts")
def test_both_releases_have_to_be_told_apart(tmp_path: Path) -> None:
    write_affectnet_2021(write_affectnet(tmp_path, FREE), FREE)
    message = line_of_refusal("affectnet", tmp_path)
    assert "holds both releases: choose with --data.annotations original|2021" in message
    for release in ("original", "2021"):
        assert len(load("affectnet", tmp_path, "train", annotations=release)) == TRAIN
    assert "no release 'new'" in line_of_refusal("affectnet", tmp_path, annotations="new")


def relabelled(root: Path, order: list[str]) -> None:
    """All labels of the release of 2021 in another order."""
    for path in root.glob("*_set/annotations/*_exp.npy"):
        save_label(path, order.index(AFFECTNET[int(np.load(path))]))


def renumbered(root: Path, order: list[str]) -> None:
    """All labels of the original release in another order."""
    for name in ("training.csv", "validation.csv"):
        rows = [line.split(",") for line in (root / name).read_text().splitlines()]
        for row in rows[4:]:  # the header, and three that are no expressions
            row[6] = str(order.index(AFFECTNET[int(row[6])]))
        (root / name).write_text("\n".join(map(",".join, rows)) + "\n")


SWAPPED = [*AFFECTNET[:-2], "contempt", "anger"]

PERMUTED = {"alphabetically": sorted(AFFECTNET), "in another order": SWAPPED}


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("kind", PERMUTED)
@pytest.mark.parametrize("release", WRITERS)
@pytest.mark.parametrize("protocol", affectnet.PROTOCOLS)
def test_a_permuted_order_is_noticed_in_either_split(
    release: str, kind: str, protocol: str, tmp_path: Path
) -> None:
    """The validation set alone could not show it: its classes are equally large."""
    root = WRITERS[release](tmp_path / "data")
    (relabelled if release == "2021" else renumbered)(root, PERMUTED[kind])
    for split in ("train", "test"):
        with pytest.raises(DataError) as caught:
            load("affectnet", root, split, protocol=protocol)
        said = str(caught.value)
        if protocol == "affectnet8":
            assert f"numbers its labels {kind}" in said
        assert str(root) in said


def pick(root: Path, label: str) -> str:
    """The line of the first training picture of an expression in the original release."""
    number = AFFECTNET.index(label)
    lines = (root / "training.csv").read_text().splitlines()[4:]
    return next(line for line in lines if line.split(",")[6] == str(number))


def change(root: Path, column: int, value: str) -> None:
    """One cell of the first training picture of contempt."""
    line = pick(root, "contempt")
    cells = line.split(",")
    edit(root / "training.csv", line, ",".join([*cells[:column], value, *cells[column + 1 :]]))


def repeat(root: Path) -> None:
    """The first picture of contempt becomes the first neutral one, with its box."""
    for column, value in enumerate(pick(root, "neutral").split(",")[:5]):
        change(root, column, value)


ORIGINAL: Damages = {
    "no list": (lambda root: (root / "training.csv").unlink(), r"training\.csv is missing"),
    "no lists": (
        lambda root: [(root / name).unlink() for name in ("training.csv", "validation.csv")],
        "holds no AffectNet: expected training.csv and validation.csv, or train_set",
    ),
    "a line less": (
        lambda root: edit(root / "training.csv", pick(root, "contempt") + "\n", ""),
        "gives 43 train pictures under affectnet8, expected 44: it holds 1 of contempt, not 2",
    ),
    "swapped columns": (
        lambda root: edit(root / "training.csv", "face_x,face_y", "face_y,face_x"),
        r"training\.csv begins .*, expected the header",
    ),
    "alphabetical labels": (
        lambda root: renumbered(root, sorted(AFFECTNET)),
        "numbers its labels alphabetically",
    ),
    "a class in words": (
        lambda root: change(root, 6, "Contempt"),
        r"training\.csv:12 has the expression 'Contempt', expected a number, 0 to 10",
    ),
    "a picture named twice": (
        lambda root: repeat(root),
        r"training\.csv:12 names 1/train0+3\.jpg for the second time",
    ),
    "a cell less": (lambda root: edit(root / "training.csv", ",-0.25,0.5", ",-0.25"), "8 columns"),
    "no picture": (
        lambda root: (root / IMAGES / pick(root, "fear").split(",")[0]).unlink(),
        r"\.jpg is missing but .*training\.csv:11 names it",
    ),
    "no pictures": (
        lambda root: (root / IMAGES).rename(root / "elsewhere"),
        "is missing: expected a folder",
    ),
    "a link to itself": (lambda root: loop(root / IMAGES / "2"), "a symbolic link that leads back"),
    "a picture that is no UTF-8": (
        lambda root: undecodable(root / IMAGES / "1"),
        r"face\\xe9\.jpg has a name that is no UTF-8",
    ),
    "a list that is no UTF-8": (
        lambda root: (root / "training.csv").write_bytes(b"\xff\xfe"),
        "is no readable CSV file",
    ),
    "label 11": (
        lambda root: change(root, 6, "11"),
        r"training\.csv:12 has expression 11, out of range: expected 0 to 10",
    ),
    "a box of words": (
        lambda root: change(root, 1, "left"),
        r"training\.csv:12 has the box \['left', .*expected four numbers",
    ),
    "an endless box": (
        lambda root: change(root, 4, "inf"),
        r"training\.csv:12 has the box .*, which ends nowhere",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
@pytest.mark.usefixtures("small_counts")
def test_damage_to_the_original_release(tmp_path: Path) -> None:
    check_refusals("affectnet", tmp_path, WRITERS["original"], ORIGINAL)


@pytest.mark.usefixtures("small_counts")
def test_a_box_without_area_leaves_the_picture_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_affectnet(tmp_path, FREE)
    change(root, 3, "-1")
    boxes = [sample.box for sample in load("affectnet", root, "train")]
    assert boxes.count(None) == 1
    assert "training.csv: 1 box without area" in caplog.text


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("label", ["08", "9" * 5000, "²", "-1", ""])
def test_odd_numbers_are_refused_or_left_out(label: str, tmp_path: Path) -> None:
    root = write_affectnet(tmp_path, FREE)
    change(root, 6, label)
    said = line_of_refusal("affectnet", root)
    expected = "gives 43 train pictures" if label == "08" else r"csv:12 has the expression"
    assert expected in said


@pytest.mark.usefixtures("small_counts")
def test_two_faces_of_one_picture(tmp_path: Path) -> None:
    root = write_affectnet(tmp_path, FREE)
    change(root, 0, pick(root, "neutral").split(",")[0])
    assert len(load("affectnet", root, "train")) == TRAIN


NEW: Damages = {
    "no labels": (
        lambda root: (root / LABELS).rename(root / "labels"),
        r"train_set/annotations is missing: expected a folder",
    ),
    "no sets": (
        lambda root: [(root / n).rename(root / n[:3]) for n in ("train_set", "val_set")],
        "holds no AffectNet: expected training.csv",
    ),
    "fewer pictures": (
        lambda root: [
            (root / "train_set" / "images" / "7.jpg").unlink(),
            (root / LABELS / "7_exp.npy").unlink(),
        ],
        "gives 43 train pictures under affectnet8, expected 44",
    ),
    "another kind of label": (
        lambda root: save_label(root / LABELS / "0_exp.npy", -0.25),
        r"0_exp\.npy holds '-0\.25', expected one whole number",
    ),
    "alphabetical labels": (
        lambda root: relabelled(root, sorted(AFFECTNET)),
        "numbers its labels alphabetically",
    ),
    "a class in words": (
        lambda root: save_label(root / LABELS / "0_exp.npy", "happy"),
        r"0_exp\.npy is no file of numpy with a number",
    ),
    "a name that is no number": (
        lambda root: (root / LABELS / "7_exp.npy").rename(root / LABELS / "007_exp.npy"),
        r"007_exp\.npy has an unexpected name: expected <number>_exp\.npy",
    ),
    "no picture": (
        lambda root: (root / "train_set" / "images" / "7.jpg").unlink(),
        r"images/7\.jpg is missing but a label names it",
    ),
    "no label": (
        lambda root: (root / LABELS / "7_exp.npy").unlink(),
        r"annotations/7_exp\.npy is missing: a picture has no label",
    ),
    "a link to itself": (
        lambda root: loop(root / "train_set" / "images"),
        "a symbolic link that leads back to itself",
    ),
    "a picture that is no UTF-8": (
        lambda root: undecodable(root / "train_set" / "images"),
        r"face\\xe9\.jpg has a name that is no UTF-8",
    ),
    "label 11": (
        lambda root: save_label(root / LABELS / "0_exp.npy", 11),
        r"0_exp\.npy has label 11, out of range: expected 0 to 10",
    ),
    "no pictures": (
        lambda root: [path.unlink() for path in (root / "train_set").glob("*/*")],
        "images holds no pictures: expected <number>.jpg",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
@pytest.mark.usefixtures("small_counts")
def test_damage_to_the_release_of_2021(tmp_path: Path) -> None:
    check_refusals("affectnet", tmp_path, WRITERS["2021"], NEW)


@pytest.mark.usefixtures("small_counts")
def test_a_picture_of_2021_may_be_lacking_but_not_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_affectnet_2021(tmp_path, FREE)
    (root / "val_set" / "images" / "0.jpg").unlink()
    (root / "val_set" / "annotations" / "0_exp.npy").unlink()
    assert "gives 23 test pictures" in line_of_refusal("affectnet", root, "test")
    monkeypatch.setattr(affectnet, "SLACK", 0.4)
    assert len(load("affectnet", root, "test")) == 23


@pytest.mark.parametrize(
    "marks",
    [["data.yaml", "train/images/1.jpg"], ["YOLO_format/data.yaml"], ["train/0/1.jpg", "train/1/"]],
)
def test_numbered_copies_are_refused(marks: list[str], tmp_path: Path) -> None:
    for mark in marks:
        place = tmp_path / mark
        (place if mark.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not mark.endswith("/"):
            place.touch()
    message = line_of_refusal("affectnet", tmp_path)
    assert "alphabetical" in message
    assert str(tmp_path / marks[0].removesuffix("/1.jpg")) in message


def test_a_copy_with_a_table_of_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(",pth,label,relFCs\n0,anger/image0000006.jpg,surprise,1\n")
    assert "labels.csv marks a third-party copy" in line_of_refusal("affectnet", tmp_path)
