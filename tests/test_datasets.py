"""The data sets by name: what every one answers, and what is refused before a file is read."""

from pathlib import Path

import pytest

from fervor.datasets import DATASETS, SPLITS, dataset, labels_of, load, protocol_of
from fervor.errors import DataError, UsageError
from fervor.labels import EXPRESSIONS


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_the_same_members(name: str) -> None:
    module = dataset(name)
    assert module.PROTOCOLS
    assert module.TREE
    assert module.TERMS
    assert callable(module.read)
    assert callable(module.expected)
    assert all(set(labels_of(name, (), rule)) <= set(EXPRESSIONS) for rule in module.PROTOCOLS)


@pytest.mark.parametrize("name", DATASETS)
def test_the_first_protocol_is_the_default(name: str) -> None:
    assert protocol_of(name, "") == dataset(name).PROTOCOLS[0]
    for protocol in dataset(name).PROTOCOLS:
        assert protocol_of(name, protocol) == protocol


def test_ferplus_reads_the_official_majority_by_default() -> None:
    assert protocol_of("ferplus", "") == "majority"


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    known = "ferplus, rafdb, affectnet, ckplus, folder, csv"
    with pytest.raises(UsageError, match=f"unknown data set 'fer': expected one of {known}"):
        load("fer", tmp_path, "train")
    with pytest.raises(UsageError, match=r"ferplus has no protocol 'best': .* majority, majority7"):
        load("ferplus", tmp_path, "train", protocol="best")
    with pytest.raises(UsageError, match=f"unknown split 'dev': .*{', '.join(SPLITS)}"):
        load("ferplus", tmp_path, "dev")


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("root", ["", "missing", "file"])
def test_a_root_that_is_no_folder(name: str, root: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = str(tmp_path / root) if root else ""
    with pytest.raises(DataError, match=f"no folder '{given}' for data set {name}.*--data.root"):
        load(name, given, "train")
