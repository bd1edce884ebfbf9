"""The data sets by name: what every one answers, and what is refused before a file is read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.data.datasets import (
    FOLDS,
    SPLITS,
    Expected,
    Sample,
    affectnet,
    check_counts,
    ckplus,
    dataset,
    ferplus,
    folds,
    labels_of,
    load,
    protocol_of,
    rafdb,
)
from fervor.errors import DataError, UsageError
from fervor.labels import EXPRESSIONS
from fervor.plugins import DATASETS


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


OFFICIAL = {
    "rafdb train": (rafdb.COUNTS["train"], 0.0),
    "rafdb test": (rafdb.COUNTS["test"], 0.0),
    "affectnet train": (affectnet.COUNTS["train"], 0.0),
    "affectnet 2021 train": (affectnet.COUNTS["train"], affectnet.SLACK),
    "ckplus": ({name: count for name, count in ckplus.COUNTS.items() if count}, 0.0),
    "ferplus test": (
        dict(zip(EXPRESSIONS, ferplus.COUNTS["label.csv"]["majority"]["test"], strict=True)),
        0.0,
    ),
}


def samples_of(counts: dict[str, int]) -> list[Sample]:
    """One sample object many times: only labels are counted."""
    return [sample for name in counts for sample in [Sample("", name)] * counts[name]]


@pytest.mark.parametrize("name", OFFICIAL)
@given(data=st.data())
def test_a_permuted_label_order_cannot_pass(name: str, data: st.DataObject) -> None:
    """A data set whose numbers mean other expressions than officially, whichever they are."""
    counts, slack = OFFICIAL[name]
    scale = 1 if sum(counts.values()) < 20_000 else 10  # fewer samples, the same shares
    counts = {label: count // scale for label, count in counts.items()}
    official = Expected(counts, slack)
    order = data.draw(st.permutations(list(counts)))
    permuted = {new: counts[old] for new, old in zip(order, counts, strict=True)}
    if order == list(counts):
        check_counts(samples_of(permuted), official, where="x", what="y")
        return
    with pytest.raises(DataError, match=r"^x numbers its labels (in another order|alphabetically)"):
        check_counts(samples_of(permuted), official, where="x", what="y")


def test_slack_is_a_share_of_each_class() -> None:
    official = Expected({"fear": 100, "anger": 1000}, slack=0.01)
    check_counts(samples_of({"fear": 101, "anger": 990}), official, where="x", what="y")
    for found in ({"fear": 102, "anger": 1000}, {"fear": 100, "anger": 989}, {"fear": 100}):
        with pytest.raises(DataError, match=r"x gives .* y, expected 1,100: it holds"):
            check_counts(samples_of(found), official, where="x", what="y")


def test_a_class_that_should_not_be_there() -> None:
    official = Expected({"fear": 2})
    with pytest.raises(DataError, match="it holds 1 of contempt, not 0"):
        check_counts(samples_of({"fear": 2, "contempt": 1}), official, where="x", what="y")


@given(st.lists(st.text(min_size=1), min_size=1))
def test_folds_are_alike_in_size_and_do_not_depend_on_order(groups: list[str]) -> None:
    numbers = folds(groups)
    assert numbers == folds(sorted(groups, reverse=True) * 2)
    assert numbers.keys() == set(groups)
    sizes = [list(numbers.values()).count(fold) for fold in range(1, FOLDS + 1)]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == len(numbers)


def test_a_fold_needs_groups(tmp_path: Path) -> None:
    (tmp_path / "fear").mkdir()
    (tmp_path / "fear" / "1.jpg").touch()
    with pytest.raises(UsageError, match="fold 1 of folder: its pictures have no groups"):
        load("folder", tmp_path, "test", fold=1)
