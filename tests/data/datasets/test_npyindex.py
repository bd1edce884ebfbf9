"""The index of labels: what is kept, when it is built again, and that nothing is executed."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fervor.data.datasets import npyindex
from fervor.data.datasets.npyindex import index
from fervor.errors import DataError
from tests.support.trees import save_label


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fervor"


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """Pictures 0 to 29 with labels by turns."""
    folder = tmp_path / "train_set"
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    for number in range(30):
        (folder / "images" / f"{number}.jpg").touch()
        save_label(folder / "annotations" / f"{number}_exp.npy", number % 8)
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many labels each building read."""
    sizes: list[int] = []
    built = npyindex._built

    def counted(folder: Path, numbers: Any) -> Any:
        sizes.append(len(numbers))
        return built(folder, numbers)

    monkeypatch.setattr(npyindex, "_built", counted)
    return sizes


def test_labels_by_number(folder: Path) -> None:
    assert list(index(folder)) == [(number, number % 8) for number in range(30)]


def test_the_index_is_kept_outside_the_data_set(
    folder: Path, cache: Path, builds: list[int]
) -> None:
    before = sorted(folder.rglob("*"))
    first = list(index(folder))
    assert list(index(folder)) == first
    assert builds == [30]
    assert sorted(folder.rglob("*")) == before
    assert [path.suffix for path in cache.iterdir()] == [".npz"]


def change_in_place(path: Path) -> None:
    """Another label of the same length and time."""
    state = path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace("0".encode("utf-32-le"), "5".encode("utf-32-le")))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == len(content)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: save_label(folder / "annotations" / "0_exp.npy", 5), (30, 5)),
        (lambda folder: change_in_place(folder / "annotations" / "0_exp.npy"), (30, 5)),
        (
            lambda folder: [
                (folder / "images" / "30.jpg").touch(),
                save_label(folder / "annotations" / "30_exp.npy", 1),
            ],
            (31, 0),
        ),
        (
            lambda folder: [
                (folder / "images" / "29.jpg").unlink(),
                (folder / "annotations" / "29_exp.npy").unlink(),
            ],
            (29, 0),
        ),
    ],
    ids=["replaced", "in place", "added", "removed"],
)
def test_a_change_builds_it_again(
    change: Any, expected: tuple[int, int], folder: Path, builds: list[int]
) -> None:
    list(index(folder))
    change(folder)
    found = list(index(folder))
    assert (len(found), found[0][1]) == expected
    assert builds == [30, expected[0]]
    list(index(folder))
    assert len(builds) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x04."])
def test_a_damaged_index_is_built_again(
    content: bytes, folder: Path, cache: Path, builds: list[int]
) -> None:
    first = list(index(folder))
    next(cache.iterdir()).write_bytes(content)
    assert list(index(folder)) == first
    assert builds == [30, 30]


def test_without_a_place_for_it_the_index_is_not_kept(
    folder: Path, cache: Path, builds: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the cache folder would be")
    with caplog.at_level(logging.WARNING):
        assert list(index(folder)) == list(index(folder))
    assert builds == [30, 30]
    assert "the index of labels is not kept" in caplog.text


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("kind", ["objects", "pickle", "empty", "cut", "huge"])
def test_damaged_labels_are_refused(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = folder / "annotations" / "3_exp.npy"
    whole = path.read_bytes()
    if kind == "objects":
        np.save(path, np.array(Bomb(), dtype=object), allow_pickle=True)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "huge":
        path.write_bytes(whole.replace(b"'shape': ()", b"'shape': (9**9,)"[:11]))
    else:
        path.write_bytes(b"" if kind == "empty" else whole[:-2])
    with pytest.raises(DataError, match=r"3_exp\.npy is no file of numpy with a number"):
        list(index(folder))
    assert not (tmp_path / "exploded").exists()


def test_two_numbers_are_refused(folder: Path) -> None:
    np.save(folder / "annotations" / "3_exp.npy", np.array([1, 2]))
    with pytest.raises(DataError, match=r"3_exp\.npy holds \[1, 2\], expected one whole number"):
        list(index(folder))
