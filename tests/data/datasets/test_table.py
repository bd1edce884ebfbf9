"""A table of one's own pictures: labels, votes, splits, groups, and what is refused."""

import os
from pathlib import Path

import pytest

from fervor.data.datasets import labels_of, load, with_attributes
from fervor.errors import DataError, UsageError
from tests.support.drawn import write_folder
from tests.support.trees import Damages, check_refusals, edit, line_of_refusal, loop, undecodable


PICTURES = [f"{name}/{number:03d}.png" for name in ("fear", "anger") for number in range(3)]
LABELS = ("afraid", "Fear", "fear", "Angry", "anger", " anger ")


def write(root: Path) -> Path:
    """pictures.csv: path and label."""
    write_folder(root, ["fear", "anger"], 3)
    lines = ["path,label", *map(",".join, zip(PICTURES, LABELS, strict=True))]
    (root / "pictures.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_table(root: Path, *lines: str) -> Path:
    write_folder(root, ["fear", "anger"], 3)
    (root / "pictures.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_labels_are_words(tmp_path: Path) -> None:
    samples = load("csv", write(tmp_path), "train")
    assert [sample.label for sample in samples] == ["fear"] * 3 + ["anger"] * 3
    assert [sample.path for sample in samples] == [str(tmp_path / path) for path in PICTURES]
    assert labels_of("csv", samples) == ("anger", "fear")
    assert load("csv", tmp_path, "valid") == load("csv", tmp_path, "test") == []


@pytest.mark.parametrize("header", ["path,Angry,fear,happy", "\ufeffPath, anger ,afraid,joy"])
def test_votes_by_column(header: str, tmp_path: Path) -> None:
    lines = ["fear/000.png,1,4,0", "fear/001.png,2.5,2.5,", "anger/000.png,0,0,3"]
    samples = load("csv", write_table(tmp_path, header, *lines), "train")
    # of equally many the first in the project's order
    assert [sample.label for sample in samples] == ["fear", "anger", "happiness"]
    assert samples[0].votes == {"happiness": 0.0, "anger": 1.0, "fear": 4.0}
    assert samples[1].votes == {"happiness": 0.0, "anger": 2.5, "fear": 2.5}


def test_a_class_without_a_winner_is_a_class(tmp_path: Path) -> None:
    root = write_table(tmp_path, "path,fear,contempt", "fear/000.png,3,1")
    assert labels_of("csv", load("csv", root, "train")) == ("fear", "contempt")


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    lines = ["label,group,path,split", "fear,ann,fear/000.png,test", "joy,bob,anger/000.png,VAL"]
    root = write_table(tmp_path, *lines)
    (tested,), (chosen,) = load("csv", root, "test"), load("csv", root, "valid")
    assert (tested.label, tested.group, Path(tested.path).name) == ("fear", "ann", "000.png")
    assert (chosen.label, chosen.group) == ("happiness", "bob")
    assert load("csv", root, "train") == []


def test_other_columns_beside_a_label_are_attributes(tmp_path: Path) -> None:
    lines = ["path,label,Age , light", "fear/000.png,fear,20-39, day ", "anger/000.png,joy,,night"]
    samples = load("csv", write_table(tmp_path, *lines), "train")
    assert [s.attributes for s in samples] == [
        {"age": "20-39", "light": "day"},
        {"age": "", "light": "night"},
    ]
    assert with_attributes("csv", tmp_path, samples) == samples
    votes = write_table(tmp_path / "votes", "path,fear,hapiness", "fear/000.png,1,2")
    assert "has a column 'hapiness': expected path, label" in line_of_refusal("csv", votes)


def test_paths_are_relative_to_the_table(tmp_path: Path) -> None:
    root = write_table(tmp_path / "pictures", "path,label", "x.png,fear")
    tables = tmp_path / "tables"
    tables.mkdir()
    absolute = root / "anger" / "000.png"
    lines = ["path,label", "../pictures/fear/000.png,fear", f"{absolute},anger"]
    (tables / "one.csv").write_text("\n".join(lines))
    (tables / "two.csv").write_text("path,label\n")
    paths = [s.path for s in load("csv", tables, "train", annotations="one.csv")]
    assert paths == [str(root / "fear" / "000.png"), str(absolute)]
    message = line_of_refusal("csv", tables)
    assert (
        "holds 2 .csv files (one.csv, two.csv): name the table with --data.annotations" in message
    )
    assert "two.csv lists no pictures" in line_of_refusal("csv", tables, annotations="two.csv")


def test_folds_by_group(tmp_path: Path) -> None:
    lines = [f"{path},fear,{group}" for path, group in zip(PICTURES, "aabbcc", strict=True)]
    root = write_table(tmp_path, "path,label,group", *lines)
    assert {s.group for s in load("csv", root, "test", fold=2)} == {"b"}
    assert {s.group for s in load("csv", root, "train", fold=2)} == {"a", "c"}
    write(tmp_path)
    with pytest.raises(UsageError, match="fold 2 of csv: its pictures have no groups"):
        load("csv", tmp_path, "test", fold=2)


TABLE = "pictures.csv"

DAMAGES: Damages = {
    "no table": (lambda root: (root / TABLE).unlink(), r"holds no \.csv file"),
    "an empty table": (lambda root: (root / TABLE).write_text(""), "lists no pictures"),
    "no header": (
        lambda root: edit(root / TABLE, "path,label\n", ""),
        "has a column 'fear/000.png': expected path, label, split, group or an expression",
    ),
    "swapped columns": (
        lambda root: edit(root / TABLE, "path,label", "label,path"),
        r"pictures\.csv:2: unknown expression 'fear/000\.png'",
    ),
    "labels and votes": (
        lambda root: edit(root / TABLE, "path,label\n", "path,label,fear\n"),
        "has the columns path, label, fear: expected path, and either label or one column",
    ),
    "two columns of one expression": (
        lambda root: edit(root / TABLE, "path,label\n", "joy,happy\n"),
        "has two columns for happiness",
    ),
    "a short row": (lambda root: edit(root / TABLE, ",Angry", ""), "csv:5 has 1 column, expected"),
    "numbers": (
        lambda root: edit(root / TABLE, ",Angry", ",3"),
        r"pictures\.csv:5 has the number 3 as its label: expected a word; .*alphabetical",
    ),
    "an unknown class": (
        lambda root: edit(root / TABLE, ",Angry", ",bored"),
        r"pictures\.csv:5: unknown expression 'bored': expected one of neutral, ",
    ),
    "a picture named twice": (
        lambda root: edit(root / TABLE, "fear/001.png", "fear/../fear/000.png"),
        r"pictures\.csv:3 names fear/\.\./fear/000\.png for the second time",
    ),
    "no picture": (
        lambda root: (root / "fear" / "001.png").unlink(),
        r"pictures\.csv:3: .*001\.png is missing or cannot be read",
    ),
    "a folder": (
        lambda root: edit(root / TABLE, "fear/001.png", "fear"),
        r"pictures\.csv:3: .*fear is no file",
    ),
    "a link to itself": (
        lambda root: loop(root / "fear" / "001.png"),
        r"pictures\.csv:3: .*001\.png is a symbolic link to itself",
    ),
    "a name that is no UTF-8": (undecodable, r"face\\xe9\.jpg has a name that is no UTF-8"),
    "a table that is no UTF-8": (
        lambda root: (root / TABLE).write_bytes(b"path,label\nface\xe9.jpg,fear\n"),
        "is no readable CSV file: .*utf-8",
    ),
    "votes below 0": (
        lambda root: (root / TABLE).write_text("path,fear,joy\nfear/000.png,-1,2\n"),
        r"pictures\.csv:2 has votes \['2', '-1'\], out of range",
    ),
    "votes in words": (
        lambda root: (root / TABLE).write_text("path,fear,joy\nfear/000.png,two,2\n"),
        r"pictures\.csv:2 has votes \['2', 'two'\], expected numbers",
    ),
    "an unknown split": (
        lambda root: (root / TABLE).write_text("path,label,split\nfear/000.png,fear,dev\n"),
        r"pictures\.csv:2 has split 'dev': expected train, valid or test",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes and symbolic links")
def test_damaged_tables_are_one_line_each(tmp_path: Path) -> None:
    check_refusals("csv", tmp_path, write, DAMAGES)


@pytest.mark.parametrize("votes", ["0,0", ",", "nan,1", "inf,1", "1e308,1e308"])
def test_votes_that_choose_nobody(votes: str, tmp_path: Path) -> None:
    root = write_table(tmp_path, "path,fear,joy", f"fear/000.png,{votes}")
    with pytest.raises(DataError, match="out of range: expected none below 0, and one above"):
        load("csv", root, "train")
