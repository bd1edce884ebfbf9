"""`fervor data check`: what it finds in whole and damaged trees, and its exit codes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fervor.cli.main import main
from fervor.data import check
from fervor.data.datasets import rafdb
from fervor.labels import RAFDB
from tests.support.drawn import face, write_folder
from tests.support.trees import SIZES, loop, write_rafdb


ALIGNED = Path("basic", "Image", "aligned")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole RAF-DB of 84 pictures, all different."""
    small = {split: {name: sizes[name] for name in RAFDB} for split, sizes in SIZES.items()}
    monkeypatch.setattr(rafdb, "COUNTS", small)
    write_rafdb(tmp_path, SIZES)
    for number, path in enumerate(sorted((tmp_path / ALIGNED).iterdir())):
        path.unlink()
        Image.fromarray(face("neutral", number)).resize((100, 100)).save(path, quality=95)
    return tmp_path


def section(report: check.Report, title: str) -> list[str]:
    """The lines below a title."""
    start = report.lines.index(title) + 1
    return [line.strip() for line in report.lines[start : report.lines.index("", start)]]


IDENTICAL = "identical pictures (a warning)"


def test_a_whole_tree_agrees(root: Path) -> None:
    report = check.check("rafdb", str(root))
    assert report.problems == ()
    assert report.lines[0] == f"rafdb, protocol basic, {root}"
    assert report.lines[-1] == "agrees with the official release"
    rows = [line.split() for line in section(report, "pictures")]
    assert rows[0] == ["split", "expression", "found", "expected"]
    assert ["train", "happiness", "8", "8"] in rows
    assert ["train", "all", "42", "42"] in rows
    assert ["test", "all", "35", "35"] in rows
    assert not any(row[0] == "valid" for row in rows)
    assert section(report, IDENTICAL) == section(report, "unreadable pictures") == ["none"]
    assert "EmoLabel/list_patition_label.txt" in section(report, "expected tree")[1]
    assert "test_0001_aligned.jpg, test_0002_aligned.jpg ... 77 (.jpg)" in (
        section(report, "found tree")
    )


def damage_list(root: Path) -> None:
    path = root / "basic" / "EmoLabel" / "list_patition_label.txt"
    path.write_text(path.read_text().replace("train_00001.jpg 1\n", ""))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "count": (damage_list, "gives 41 train pictures under basic, expected 42"),
    "picture": (
        lambda root: (root / ALIGNED / "test_0007_aligned.jpg").unlink(),
        r"test_0007_aligned\.jpg is missing but the official list names it",
    ),
    "unreadable": (
        lambda root: (root / ALIGNED / "test_0007_aligned.jpg").write_bytes(b"\xff\xd8"),
        r"1 picture cannot be read; the first: .*test_0007_aligned\.jpg: ",
    ),
    "loop": (lambda root: loop(root / ALIGNED), "aligned is a symbolic link that leads back"),
    "tree": (
        lambda root: (root / "basic").rename(root / "rafdb"),
        "holds no EmoLabel folder of RAF-DB",
    ),
}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_difference_is_found(damage: str, quick: bool, root: Path) -> None:
    spoil, pattern = DAMAGES[damage]
    spoil(root)
    report = check.check("rafdb", str(root), quick=quick)
    assert len(report.problems) == 1  # once, though it shows in several splits
    assert re.search(pattern, report.problems[0])
    assert report.lines[-1] == f"DIFFERS: {report.problems[0]}"


def test_the_table_marks_what_differs(root: Path) -> None:
    damage_list(root)
    rows = section(check.check("rafdb", str(root)), "pictures")
    assert [row.split() for row in rows if "differs" in row] == [
        ["train", "surprise", "6", "7", "differs"]
    ]


def test_identical_pictures_are_counted_within_and_between(root: Path) -> None:
    def copy(source: str, *places: str) -> None:
        content = (root / ALIGNED / f"{source}_aligned.jpg").read_bytes()
        for place in places:
            (root / ALIGNED / f"{place}_aligned.jpg").write_bytes(content)

    copy("train_00001", "train_00008", "train_00002", "test_0001")
    copy("test_0005", "test_0012")
    report = check.check("rafdb", str(root))
    assert report.problems == ()
    lines = section(report, IDENTICAL)
    assert [line.split(",")[0] for line in lines] == [
        "2 within train",
        "1 within test",
        "1 of test also in train",
        "with different labels: 1 of 2",
    ]
    first, second = (root / ALIGNED / f"train_{n}_aligned.jpg" for n in ("00001", "00002"))
    assert lines[0].endswith(f"such as {first} = {second}")


def test_own_folders_have_nothing_to_agree_with(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ["fear", "anger"], 2)
    report = check.check("folder", str(tmp_path))
    assert report.problems == ()
    assert report.lines[-1] == "no problem found"
    assert "train  fear" in "\n".join(section(report, "pictures"))
    (tmp_path / "train" / "7").mkdir()
    assert "7: a number says nothing" in check.check("folder", str(tmp_path)).problems[0]


def test_class_folders_that_a_split_hides_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, ["fear", "anger"], 2)
    write_folder(tmp_path / "test", ["fear"], 2)
    assert main(["data", "check", "folder", str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "DIFFERS" in line]
    assert line.startswith(f"DIFFERS: {tmp_path}: anger, fear beside test would not be read: ")


def test_an_empty_data_set_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "test" / "fear").mkdir(parents=True)
    assert "holds no pictures" in check.check("folder", str(tmp_path)).problems[0]


def test_links_are_not_followed(root: Path) -> None:
    (root / "basic" / "again").symlink_to(root)
    tree = section(check.check("rafdb", str(root)), "found tree")
    assert "again" in tree
    assert len(tree) < 12


def test_exit_codes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "rafdb", str(root)]) == 0
    assert capsys.readouterr().out.endswith("agrees with the official release\n")
    damage_list(root)
    assert main(["data", "check", "rafdb", str(root), "--quick"]) == 1
    assert "\nDIFFERS: " in capsys.readouterr().out
    for words, line in (
        (["rafdb", str(root / "nowhere")], "no folder"),
        (["raf", str(root)], "unknown data set 'raf': expected one of ferplus, rafdb"),
        (["rafdb", str(root), "--protocol", "best"], "rafdb has no protocol 'best'"),
        (["rafdb"], "missing ROOT"),
    ):
        assert main(["data", "check", *words]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert line in shown.err
        assert shown.err.startswith("fervor data check: ")
