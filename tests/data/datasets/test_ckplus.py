"""CK+: its four protocols at full size, frames in time, folds of subjects, and damaged trees."""

import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from fervor.data.datasets import SPLITS, Sample, ckplus, labels_of, load
from fervor.errors import DataError, UsageError
from fervor.labels import BASIC, CKPLUS, EXPRESSIONS
from tests.support.trees import (
    Damages,
    check_refusals,
    edit,
    line_of_refusal,
    loop,
    undecodable,
    write_ckplus,
)


OFFICIAL = {
    "anger": 45,
    "contempt": 18,
    "disgust": 59,
    "fear": 25,
    "happiness": 69,
    "sadness": 28,
    "surprise": 83,
}
SMALL = dict(zip(OFFICIAL, range(2, 9), strict=True))
IMAGES, LABELS = Path("cohn-kanade-images"), Path("Emotion")
FIRST = LABELS / "S005" / "001" / "S005_001_00000010_emotion.txt"
FRAMES = IMAGES / "S005" / "001"


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of SMALL instead of the official ones."""
    monkeypatch.setattr(ckplus, "COUNTS", {name: SMALL.get(name, 0) for name in CKPLUS})


def write(root: Path) -> Path:
    return write_ckplus(root, SMALL)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with as many labelled sequences as CK+ has."""
    return write_ckplus(tmp_path_factory.mktemp("ckplus"), OFFICIAL)


@pytest.mark.parametrize(
    ("protocol", "size", "neutral", "contempt"),
    [
        ("first-last", 636, 327, 0),
        ("first-last-basic", 618, 309, 0),
        ("last", 327, 0, 18),
        ("last-three", 981, 0, 54),
    ],
)
def test_the_sizes_of_the_protocols(
    protocol: str, size: int, neutral: int, contempt: int, official: Path
) -> None:
    samples = load("ckplus", official, "test", protocol=protocol)
    found = Counter(sample.label for sample in samples)
    assert len(samples) == len({sample.path for sample in samples}) == size
    assert (found["neutral"], found["contempt"]) == (neutral, contempt)
    assert found["happiness"] == (207 if protocol == "last-three" else 69)
    assert set(labels_of("ckplus", samples, protocol)) == set(found)
    for split in ("train", "valid"):
        assert load("ckplus", official, split, protocol=protocol) == []


def test_classes_of_the_protocols() -> None:
    assert labels_of("ckplus", ()) == BASIC
    assert labels_of("ckplus", (), "last") == EXPRESSIONS[1:]


def frames(samples: list[Sample], sequence: str) -> list[tuple[str, str]]:
    """The numbers of a sequence's frames, with their labels."""
    paths = [(Path(sample.path), sample.label) for sample in samples]
    return [(path.stem[-2:], label) for path, label in paths if path.stem.startswith(sequence)]


@pytest.mark.usefixtures("small_counts")
def test_frames_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    """The first is neutral; contempt keeps its neutral frame in the reading with 636 pictures."""
    write(tmp_path)
    found = {rule: load("ckplus", tmp_path, "test", protocol=rule) for rule in ckplus.PROTOCOLS}
    anger, contempt = "S005_001", "S005_002"
    assert frames(found["first-last"], anger) == [("01", "neutral"), ("10", "anger")]
    assert frames(found["first-last-basic"], anger) == [("01", "neutral"), ("10", "anger")]
    assert frames(found["last"], anger) == [("10", "anger")]
    assert frames(found["last-three"], anger) == [
        (number, "anger") for number in ("02", "09", "10")
    ]
    assert frames(found["first-last"], contempt) == [("01", "neutral")]
    assert frames(found["first-last-basic"], contempt) == []
    assert frames(found["last"], contempt) == [("10", "contempt")]
    for samples in found.values():
        assert all(sample.group == Path(sample.path).name[:4] for sample in samples)


@pytest.mark.usefixtures("small_counts")
def test_small_copies_are_not_the_official_release(tmp_path: Path) -> None:
    write(tmp_path)
    frame = Path(load("ckplus", tmp_path, "test")[0].path)
    with Image.open(frame) as whole:
        small = whole.resize((48, 48))
    frame.unlink()
    small.save(frame)
    with pytest.raises(DataError, match=r"has 48 x 48 pixels, expected a side of 480 or more"):
        load("ckplus", tmp_path, "test")


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("images", ckplus.IMAGES)
@pytest.mark.parametrize("labels", ["Emotion", "Emotion_labels/Emotion", "Emotion_labels"])
def test_names_of_the_folders(images: str, labels: str, tmp_path: Path) -> None:
    write(tmp_path)
    for old, new in ((IMAGES, images), (LABELS, labels)):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        (tmp_path / old).rename(tmp_path / new)
    assert len(load("ckplus", tmp_path, "test", protocol="last")) == sum(SMALL.values())


@pytest.mark.parametrize("protocol", ckplus.PROTOCOLS)
def test_folds_tear_no_subject_apart(protocol: str, official: Path) -> None:
    whole = load("ckplus", official, "test", protocol=protocol)
    tested: list[Sample] = []
    for fold in range(1, 11):
        parts = {
            split: load("ckplus", official, split, protocol=protocol, fold=fold) for split in SPLITS
        }
        subjects = {split: {sample.group for sample in part} for split, part in parts.items()}
        assert not subjects["train"] & subjects["test"]
        assert subjects["train"] | subjects["test"] == {sample.group for sample in whole}
        assert parts["valid"] == []
        assert len(parts["train"]) + len(parts["test"]) == len(whole)
        tested += parts["test"]
    assert sorted(tested, key=whole.index) == whole  # each picture is tested once


def test_the_usual_folds_are_every_tenth_subject(official: Path) -> None:
    subjects = sorted({sample.group for sample in load("ckplus", official, "test")})
    third = {sample.group for sample in load("ckplus", official, "test", fold=3)}
    assert third == set(subjects[2::10])


@pytest.mark.parametrize("fold", [-1, 11])
def test_a_fold_out_of_range(fold: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"fold {fold}: expected 1 to 10, or 0"):
        load("ckplus", tmp_path, "test", fold=fold)


def relabelled(root: Path, order: list[str]) -> None:
    for path in (root / LABELS).glob("*/*/*.txt"):
        label = CKPLUS[int(float(path.read_text()))]
        path.write_text(f"   {order.index(label):.7e}\n")


SWAPPED = [*CKPLUS[:-2], "surprise", "sadness"]

DAMAGES: Damages = {
    "no labels": (
        lambda root: (root / LABELS).rename(root / "labels"),
        r"holds no labels of CK\+: expected one of Emotion, Emotion_labels/Emotion",
    ),
    "no pictures": (
        lambda root: (root / IMAGES).rename(root / "elsewhere"),
        r"holds no pictures of CK\+: expected one of cohn-kanade-images, ",
    ),
    "a label less": (
        lambda root: (root / FIRST).unlink(),
        "gives 65 test pictures under first-last, expected 67",
    ),
    "another file in place of a label": (
        lambda root: (root / FIRST).rename(root / FIRST.parent / "S005_001_00000010_facs.txt"),
        r"S005_001_00000010_facs\.txt: expected a name as S005_001_00000011_emotion\.txt",
    ),
    "permuted labels": (
        lambda root: relabelled(root, SWAPPED),
        "numbers its labels in another order: .*sadness has that of surprise",
    ),
    "a class in words": (
        lambda root: edit(root / FIRST, "1.0000000e+00", "anger"),
        r"emotion\.txt reads 'anger', expected one number, 1 to 7",
    ),
    "two labels": (
        lambda root: (root / FIRST.parent / "S005_001_00000009_emotion.txt").touch(),
        r"S005/001 holds 2 labels, expected one: S005_001_00000010_emotion\.txt",
    ),
    "no last frame": (
        lambda root: (root / FRAMES / "S005_001_00000010.png").unlink(),
        r"S005_001_00000010\.png is missing but a label names it",
    ),
    "few frames": (
        lambda root: [path.unlink() for path in list((root / FRAMES).iterdir())[:2]],
        "S005/001 holds 2 frames, expected three or more",
    ),
    "a frame of another sequence": (
        lambda root: (root / FRAMES / "S005_002_00000003.png").touch(),
        r"S005_002_00000003\.png belongs to another sequence",
    ),
    "no frames": (
        lambda root: (root / FRAMES).rename(root / "frames"),
        r"cohn-kanade-images/S005/001 is missing: expected a folder",
    ),
    "a link to itself": (lambda root: loop(root / FRAMES), "a symbolic link that leads back"),
    "a link to what holds it": (
        lambda root: (root / IMAGES / "S005" / "001" / "up").symlink_to(root / IMAGES),
        "up is a symbolic link to a folder that holds it",
    ),
    "a picture that is no UTF-8": (
        lambda root: undecodable(root / FRAMES),
        r"face\\xe9\.jpg has a name that is no UTF-8",
    ),
    "a label that is no UTF-8": (
        lambda root: (root / FIRST).write_bytes(b"\xff"),
        r"emotion\.txt is no UTF-8 text",
    ),
    "label 0": (
        lambda root: edit(root / FIRST, "1.0", "0.0"),
        r"emotion\.txt has label 0\.0000000e\+00, out of range: expected 1 to 7",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
@pytest.mark.usefixtures("small_counts")
def test_damaged_trees_are_one_line_each(tmp_path: Path) -> None:
    check_refusals("ckplus", tmp_path, write, DAMAGES, "test")


@pytest.mark.usefixtures("small_counts")
def test_there_is_one_label_source(tmp_path: Path) -> None:
    message = line_of_refusal("ckplus", write(tmp_path), "test", annotations="FACS")
    assert message == "CK+ has one label source: leave --data.annotations FACS out"


def test_a_copy_with_folders_of_classes(tmp_path: Path) -> None:
    for name in ("anger", "contempt", "happy"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"anger and 2 more are class folders, as in third-party"):
        load("ckplus", tmp_path, "test")
