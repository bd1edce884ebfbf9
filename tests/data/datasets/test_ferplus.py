"""FERPlus: the rules against a slow restatement, the three label sources, and damaged trees."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.data.datasets import Sample, ferplus, labels_of, load
from fervor.data.datasets.ferplus import COUNTS, FOLDERS, PROTOCOLS, decide
from fervor.errors import DataError
from fervor.labels import BASIC, EXPRESSIONS, FER2013, FERPLUS_COLUMNS
from tests.support.drawn import Row, ballot, rows, shown, write_pictures, write_pixels, write_votes
from tests.support.trees import Damages, check_refusals, loop, undecodable


RULES = PROTOCOLS[:-1]
"""All but raw, which reads no votes."""

TRAIN = [
    Row("fer0000009.png", ballot(happiness=8, neutral=2), FER2013.index("happiness")),
    Row("fer0000004.png", ballot(neutral=5, sadness=5), FER2013.index("sadness")),
    Row("", ballot(NF=10), FER2013.index("anger")),
    Row("fer0000002.png", ballot(contempt=6, neutral=4), FER2013.index("neutral")),
    Row("fer0000007.png", ballot(unknown=9, fear=1), FER2013.index("fear")),
    Row("fer0000001.png", ballot(NF=10), FER2013.index("disgust")),
    Row("fer0000005.png", ballot(anger=5, disgust=4), FER2013.index("anger")),
    Row("fer0000003.png", ballot(surprise=4, fear=1, anger=1, NF=1, unknown=1, disgust=1)),
    Row("fer0000006.png", ballot(sadness=4, neutral=3, unknown=3)),
]
"""Names in no order; a row without a picture, as in fer2013new.csv."""

SPLITS = {
    "train": TRAIN,
    "valid": rows(10, ["neutral", "fear"]),
    "test": rows(20, ["disgust", "neutral", "happiness"]),
}

EXPECTED = {
    "majority": {9: "happiness", 2: "contempt", 5: "anger", 3: "surprise"},
    "majority7": {9: "happiness", 5: "anger", 3: "surprise"},
    "argmax10": {
        9: "happiness",
        4: "neutral",
        2: "contempt",
        5: "anger",
        3: "surprise",
        6: "sadness",
    },
    "argmax8": {
        9: "happiness",
        4: "neutral",
        2: "contempt",
        7: "fear",
        5: "anger",
        3: "surprise",
        6: "sadness",
    },
}
"""The labels of TRAIN by the number in the name, decided by hand."""


def restated(votes: Sequence[int], protocol: str) -> str | None:
    """The rule of a protocol, slowly: ballots are counted one by one."""
    ballots = {name: count for name, count in zip(FERPLUS_COLUMNS, votes, strict=True) if count}
    winner = None
    if protocol.startswith("majority"):
        ballots = {name: count for name, count in ballots.items() if count != 1}
        for name, count in ballots.items():
            if count > sum(others for other, others in ballots.items() if other != name):
                winner = name
    else:
        for name in EXPRESSIONS if protocol == "argmax8" else FERPLUS_COLUMNS:
            if ballots.get(name, 0) > ballots.get(winner or "", 0):
                winner = name
    return winner if winner in (BASIC if protocol == "majority7" else EXPRESSIONS) else None


@pytest.mark.parametrize("protocol", RULES)
@given(votes=st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 10]), min_size=10, max_size=10))
def test_the_rule_equals_its_restatement(protocol: str, votes: list[int]) -> None:
    decision = decide(votes, protocol)
    assert (decision and decision[0]) == restated(votes, protocol)
    if decision is not None:
        label, probabilities = decision
        assert tuple(probabilities) == (BASIC if protocol == "majority7" else EXPRESSIONS)
        assert probabilities[label] == max(probabilities.values()) > 0


HALF = ballot(neutral=5, anger=5)
SINGLES = (1,) * 10


@pytest.mark.parametrize(
    ("votes", "majority", "argmax10", "argmax8"),
    [
        (HALF, None, "neutral", "neutral"),  # exactly half is no majority; the first of two peaks
        (SINGLES, None, "neutral", "neutral"),
        (ballot(), None, None, None),
        (ballot(fear=1), None, "fear", "fear"),
        (ballot(fear=2, happiness=1, neutral=1, anger=1), "fear", "fear", "fear"),
        (ballot(unknown=6, anger=4), None, None, "anger"),
        (ballot(NF=5, anger=5), None, "anger", "anger"),
        (ballot(unknown=10), None, None, None),
        (ballot(anger=5, disgust=4), "anger", "anger", "anger"),  # nine raters
    ],
)
def test_edges_of_the_rules(
    votes: tuple[int, ...], majority: str | None, argmax10: str | None, argmax8: str | None
) -> None:
    for protocol, expected in {
        "majority": majority,
        "majority7": majority,
        "argmax10": argmax10,
        "argmax8": argmax8,
    }.items():
        decision = decide(votes, protocol)
        assert (decision and decision[0]) == expected, protocol


def test_majority_forgets_single_votes_and_argmax_keeps_them() -> None:
    votes = ballot(fear=7, happiness=1, sadness=2)
    for protocol, kept in {"majority": 0.0, "argmax10": 1.0}.items():
        decision = decide(votes, protocol)
        assert decision is not None
        assert (decision[1]["fear"], decision[1]["sadness"]) == (7.0, 2.0)
        assert decision[1]["happiness"] == kept


def test_seven_classes_leave_contempt_and_its_votes_out() -> None:
    decision = decide(ballot(neutral=7, contempt=3), "majority7")
    assert decision is not None
    assert decision[0] == "neutral"
    assert "contempt" not in decision[1]
    # the votes for contempt still count against the majority
    assert decide(ballot(neutral=5, contempt=5), "majority7") is None


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of SPLITS instead of the official ones."""

    def counted(protocol: str, train: Iterable[str]) -> dict[str, tuple[int, ...]]:
        given = {
            "train": list(train),
            "valid": ["neutral", "fear"],
            "test": ["disgust", "neutral", "happiness"],
        }
        names = labels_of("ferplus", (), protocol)
        return {split: tuple(map(labels.count, names)) for split, labels in given.items()}

    counts = {name: counted(name, expected.values()) for name, expected in EXPECTED.items()}
    raw = {"raw": counted("raw", [FER2013[row.emotion] for row in TRAIN])}
    monkeypatch.setattr(
        ferplus, "COUNTS", {"label.csv": counts, "fer2013new.csv": counts, "fer2013.csv": raw}
    )


def numbers(samples: Sequence[Sample]) -> dict[int, str]:
    """The labels by the number in the picture's name."""
    return {int(Path(sample.path).name[3:10]): sample.label for sample in samples}


WRITERS: dict[str, Callable[[Path], Path]] = {
    "label.csv": lambda root: write_pictures(root, SPLITS),
    "fer2013new.csv": lambda root: write_votes(write_pictures(root, SPLITS, labels=False), SPLITS),
}


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("source", WRITERS)
@pytest.mark.parametrize("protocol", RULES)
def test_written_pictures_join_either_label_file(
    source: str, protocol: str, tmp_path: Path
) -> None:
    root = WRITERS[source](tmp_path)
    samples = load("ferplus", root, "train", protocol=protocol)
    assert list(numbers(samples).items()) == list(EXPECTED[protocol].items())  # in the file's order
    assert all(Path(sample.path).is_file() for sample in samples)
    assert [s.label for s in load("ferplus", root, "valid", protocol=protocol)] == [
        "neutral",
        "fear",
    ]
    assert len(load("ferplus", root, "test", protocol=protocol, annotations=source)) == 3
    happy = samples[0].votes
    assert (happy["happiness"], happy["neutral"], sum(happy.values())) == (8.0, 2.0, 10.0)


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("protocol", RULES)
def test_tables_join_by_row_order(protocol: str, tmp_path: Path) -> None:
    root = write_pixels(write_votes(tmp_path, SPLITS), SPLITS)
    samples = load("ferplus", root, "train", protocol=protocol)
    by_number = {int(row.name[3:10]): row for row in TRAIN if row.name}
    for sample, (number, label) in zip(samples, EXPECTED[protocol].items(), strict=True):
        assert sample.label == label
        picture = np.frombuffer(sample.pixels, np.uint8).reshape(sample.side, sample.side)
        assert np.array_equal(picture, shown(by_number[number]))


@pytest.mark.usefixtures("small_counts")
def test_raw_reads_every_row_with_its_own_label(tmp_path: Path) -> None:
    root = write_pixels(tmp_path, SPLITS)
    samples = load("ferplus", root, "train", protocol="raw")
    assert [sample.label for sample in samples] == [FER2013[row.emotion] for row in TRAIN]
    assert not any(sample.votes for sample in samples)
    assert labels_of("ferplus", samples, "raw") == BASIC
    assert len(load("ferplus", root, "test", protocol="raw")) == 3


def test_a_name_that_occurs_twice_counts_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [Row("fer0000001.png", ballot(anger=9)), Row("fer0000001.png", ballot(fear=9))]
    root = write_votes(write_pictures(tmp_path, {"train": twice}, labels=False), {"train": twice})
    counts = {"train": (0, 0, 0, 0, 1, 0, 1, 0)}
    monkeypatch.setattr(ferplus, "COUNTS", {"fer2013new.csv": {"majority": counts}})
    assert [sample.label for sample in load("ferplus", root, "train")] == ["anger", "fear"]


def test_classes_of_the_protocols() -> None:
    for protocol in PROTOCOLS:
        expected = BASIC if protocol in ("majority7", "raw") else EXPRESSIONS
        assert labels_of("ferplus", (), protocol) == expected
    assert labels_of("ferplus", ()) == EXPRESSIONS


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


LABELS = Path("FER2013Train") / "label.csv"

Damage = Callable[[Path], object]

DAMAGED_PICTURES: dict[str, tuple[Damage, str]] = {
    "split folder": (
        lambda root: (root / "FER2013Train").rename(root / "elsewhere"),
        "has no folder FER2013Train: expected the official FERPlus tree",
    ),
    "label file": (lambda root: (root / LABELS).unlink(), r"label\.csv is missing"),
    "count": (
        lambda root: edit(root / LABELS, ",2,8,", ",5,5,"),
        r"gives 3 train pictures under majority \(label.csv\), expected 4",
    ),
    "empty label file": (lambda root: (root / LABELS).write_text(""), "gives 0 train pictures"),
    "picture": (
        lambda root: (root / "FER2013Train" / "fer0000005.png").unlink(),
        r"fer0000005\.png is missing but label\.csv names it",
    ),
    "short row": (
        lambda root: edit(root / LABELS, ",0,0\n", "\n"),
        r"label\.csv:1 has 10 columns, expected 12",
    ),
    "long row": (
        lambda root: edit(root / LABELS, ",0,0\n", ",0,0,0\n"),
        r"label\.csv:1 has 13 columns, expected 12",
    ),
    "no number": (
        lambda root: edit(root / LABELS, ",8,", ",eight,"),
        r"label\.csv:1 has votes .*'eight'.*, expected integers",
    ),
    "fraction": (lambda root: edit(root / LABELS, ",8,", ",8.0,"), "expected integers"),
    "negative": (
        lambda root: edit(root / LABELS, ",8,", ",-8,"),
        r"label\.csv:1 has a negative vote",
    ),
    "encoding": (
        lambda root: (root / LABELS).write_bytes(b"fer\xff\xfe.png,,\n"),
        r"label\.csv is no readable CSV file: .*utf-8",
    ),
    "all labels": (
        lambda root: [(root / folder / "label.csv").unlink() for folder in FOLDERS.values()],
        "holds no FERPlus labels: expected .* see docs/data.md",
    ),
    "archives": (
        lambda root: [
            [(root / folder / "label.csv").unlink() for folder in FOLDERS.values()],
            (root / "FER2013Test.zip").write_bytes(b""),
        ],
        "unzip the three archives there first",
    ),
}


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("damage", DAMAGED_PICTURES)
def test_a_damaged_tree_is_one_line(damage: str, tmp_path: Path) -> None:
    root = write_pictures(tmp_path, SPLITS)
    spoil, message = DAMAGED_PICTURES[damage]
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        load("ferplus", root, "train")
    assert "\n" not in str(caught.value)


def swap(root: Path, one: int, two: int) -> None:
    """Two columns of label.csv exchanged, counted from the end."""
    lines = []
    for line in (root / LABELS).read_text().splitlines():
        cells = line.split(",")
        cells[one], cells[two] = cells[two], cells[one]
        lines.append(",".join(cells))
    (root / LABELS).write_text("\n".join(lines))


TEN_KINDS: Damages = {
    **{
        name: DAMAGED_PICTURES[name]
        for name in ("split folder", "label file", "count", "picture", "short row", "no number")
    },
    **{name: DAMAGED_PICTURES[name] for name in ("negative", "encoding", "all labels")},
    "swapped columns": (
        lambda root: swap(root, -6, -5),  # anger and disgust
        "numbers its labels in another order: .*anger has that of disgust",
    ),
    "a picture named twice": (
        lambda root: edit(root / LABELS, "fer0000004", "fer0000009"),
        r"label\.csv:2 names fer0000009\.png for the second time",
    ),
    "a link to itself": (
        lambda root: loop(root / "FER2013Train" / "fer0000009.png"),
        r"fer0000009\.png is a symbolic link that leads back to itself",
    ),
    "a picture that is no UTF-8": (
        lambda root: undecodable(root / "FER2013Train"),
        r"face\\xe9\.jpg has a name that is no UTF-8",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
@pytest.mark.usefixtures("small_counts")
def test_each_kind_of_damage_has_its_own_line(tmp_path: Path) -> None:
    check_refusals("ferplus", tmp_path, lambda root: write_pictures(root, SPLITS), TEN_KINDS)


@pytest.mark.parametrize("names", [["angry", "happy"], ["0", "3"]])
def test_copies_with_class_folders_are_refused(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no FERPlus labels: .*as in third-party copies"):
        load("ferplus", tmp_path, "train")


NEW, PIXELS = "fer2013new.csv", "fer2013.csv"

DAMAGED_TABLES: dict[str, tuple[str, Damage, str]] = {
    "votes' header": (
        "majority",
        lambda root: edit(root / NEW, "Image name,", ""),
        r"fer2013new\.csv begins .*, expected the header \['Usage', 'Image name', 'neutral'\]",
    ),
    "votes' row": (
        "majority",
        lambda root: edit(root / NEW, "Training,fer0000009.png,", "Training,"),
        r"fer2013new\.csv:2 has 11 columns, expected 12",
    ),
    "votes missing": (
        "majority",
        lambda root: (root / NEW).unlink(),
        r"fer2013new\.csv is missing",
    ),
    "fewer votes": (
        "majority",
        lambda root: edit(root / NEW, "Training,fer0000006", "PublicTest,fer0000006"),
        r"fer2013\.csv:10 has no partner: fer2013new\.csv has fewer Training rows",
    ),
    "more votes": (
        "majority",
        lambda root: edit(root / NEW, "PublicTest,fer0000010", "Training,fer0000010"),
        r"fer2013new\.csv has more Training rows than .*fer2013\.csv",
    ),
    "pixels' header": (
        "raw",
        lambda root: edit(root / PIXELS, "emotion,", "label,"),
        r"fer2013\.csv begins .*, expected emotion,pixels,Usage",
    ),
    "pixels' row": (
        "raw",
        lambda root: edit(root / PIXELS, ",Training", ""),
        r"fer2013\.csv:2 has 2 columns, expected 3",
    ),
    "few pixels": (
        "raw",
        lambda root: edit(root / PIXELS, "\n3,", "\n3,7 "),
        r"fer2013\.csv:2 has 2305 pixels, expected 2304",
    ),
    "bright pixel": (
        "raw",
        lambda root: edit(root / PIXELS, "\n3,", "\n3,256 "),
        r"fer2013\.csv:2 has pixels that are no numbers in 0\.\.255",
    ),
    "emotion": (
        "raw",
        lambda root: edit(root / PIXELS, "\n3,", "\n7,"),
        r"fer2013\.csv:2 has emotion '7', expected 0 to 6",
    ),
    "count": (
        "raw",
        lambda root: edit(root / PIXELS, ",Training", ",PublicTest"),
        r"gives 8 train pictures under raw \(fer2013\.csv\), expected 9",
    ),
    "raw without pixels": (
        "raw",
        lambda root: (root / PIXELS).unlink(),
        r"fer2013\.csv is missing",
    ),
}


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("damage", DAMAGED_TABLES)
def test_damaged_tables_are_one_line(damage: str, tmp_path: Path) -> None:
    root = write_pixels(write_votes(tmp_path, SPLITS), SPLITS)
    protocol, spoil, message = DAMAGED_TABLES[damage]
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        load("ferplus", root, "train", protocol=protocol)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["label.csv", "fer2013new.csv"])
def test_raw_reads_no_other_source(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"raw reads fer2013\.csv alone, not {source}"):
        load("ferplus", write_pixels(tmp_path, SPLITS), "train", protocol="raw", annotations=source)


def test_an_unknown_label_source_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("label.csv, fer2013new.csv, fer2013.csv")):
        load("ferplus", tmp_path, "train", annotations="labels.txt")


OFFICIAL = {
    "label.csv": {
        "majority": (25_045, 3_191, 3_137),
        "majority7": (24_925, 3_175, 3_122),
        "argmax10": (28_385, 3_555, 3_545),
        "argmax8": (28_556, 3_579, 3_573),
    },
    "fer2013new.csv": {
        "majority": (25_060, 3_199, 3_153),
        "majority7": (24_941, 3_186, 3_137),
        "argmax10": (28_389, 3_553, 3_546),
        "argmax8": (28_559, 3_579, 3_573),
    },
    "fer2013.csv": {"raw": (28_709, 3_589, 3_589)},
}
"""Pictures in train, valid and test."""


def test_counts_by_class_sum_to_those_of_the_splits() -> None:
    found = {
        source: {rule: tuple(map(sum, splits.values())) for rule, splits in rules.items()}
        for source, rules in COUNTS.items()
    }
    assert found == OFFICIAL


def test_counts_tell_one_order_of_columns_from_another() -> None:
    """Without a header, label.csv is safe only as far as no two classes are equally large."""
    for source in ("label.csv", "fer2013.csv"):
        for splits in COUNTS[source].values():
            assert all(len(set(counts)) == len(counts) for counts in splits.values())


@pytest.mark.parametrize("source", ["label.csv", "fer2013new.csv"])
@pytest.mark.parametrize("protocol", RULES)
def test_the_official_counts(source: str, protocol: str, ferplus: Path) -> None:
    for split, expected in zip(FOLDERS, OFFICIAL[source][protocol], strict=True):
        samples = load("ferplus", ferplus, split, protocol=protocol, annotations=source)
        assert len(samples) == expected
        assert all(Path(sample.path).is_file() for sample in samples[:100])


def test_swapped_vote_columns_are_noticed(ferplus: Path, tmp_path: Path) -> None:
    """The real label.csv with two of its headless columns exchanged."""
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
        for picture in (ferplus / folder).glob("*.png"):
            (tmp_path / folder / picture.name).symlink_to(picture)
        swapped = []
        for line in (ferplus / folder / "label.csv").read_text().splitlines():
            cells = line.split(",")
            cells[-10], cells[-9] = cells[-9], cells[-10]  # neutral and happiness
            swapped.append(",".join(cells))
        (tmp_path / folder / "label.csv").write_text("\n".join(swapped))
    for split in FOLDERS:
        with pytest.raises(DataError, match="numbers its labels in another order"):
            load("ferplus", tmp_path, split)


def test_the_official_test_split_by_class(ferplus: Path) -> None:
    samples = load("ferplus", ferplus, "test")
    found = [sum(sample.label == name for sample in samples) for name in EXPRESSIONS]
    assert found == [1083, 892, 394, 382, 269, 16, 86, 15]
