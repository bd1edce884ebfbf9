"""Protocols where a prior should show: exact counts, and the same pictures for every method."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.config import Data, Encoder, Pipeline, Run
from fervor.data.datasets import Sample, subsets
from fervor.data.datasets.ferplus import COUNTS
from fervor.data.datasets.rafdb import COUNTS as RAFDB
from fervor.data.splits import read_splits
from fervor.errors import DataError, UsageError
from fervor.labels import EXPRESSIONS
from tests.support.drawn import write_folder


SIZES = dict(zip(EXPRESSIONS, (60, 50, 40, 30, 20, 10, 5, 2), strict=True))


def samples(sizes: dict[str, int]) -> list[Sample]:
    labels = [name for name, size in sizes.items() for _ in range(size)]
    return [Sample(f"{row}.png", name, {name: 8.0}) for row, name in enumerate(labels)]


def count(found: list[Sample]) -> dict[str, int]:
    return dict(Counter(sample.label for sample in found))


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_few_shots_are_as_many_of_each_class(shots: int) -> None:
    whole = samples(SIZES)
    found = subsets.few(whole, shots, seed=3)
    assert count(found) == {name: min(shots, size) for name, size in SIZES.items()}
    assert subsets.few(whole, shots, seed=3) == found != subsets.few(whole, shots, seed=4)
    assert set(row.path for row in found) <= {row.path for row in subsets.few(whole, 32, 3)}
    others = [sample for sample in whole if sample.label != "neutral"]
    same = [sample for sample in found if sample.label != "neutral"]
    assert subsets.few(others, shots, seed=3) == same  # a class's draw is its own


@pytest.mark.parametrize(("fraction", "anger"), [(0.1, 2), (0.2, 4), (0.3, 6)])
def test_noise_replaces_a_share_of_each_class_evenly(fraction: float, anger: int) -> None:
    whole = samples(SIZES)
    found = subsets.noisy(whole, fraction, EXPRESSIONS, seed=1)
    assert SIZES["anger"] == 20
    for name, size in SIZES.items():
        new = [a for b, a in zip(whole, found, strict=True) if b.label == name != a.label]
        assert len(new) == round(fraction * size), name
        assert not any(sample.votes for sample in new)
        per_class = Counter(sample.label for sample in new)
        spread = [per_class[other] for other in EXPRESSIONS if other != name]
        assert max(spread) - min(spread) <= 1
    changed = sum(a != b for a, b in zip(whole, found, strict=True) if b.label == "anger")
    assert changed >= 0 and round(fraction * 20) == anger
    assert subsets.noisy(whole, 0.0, EXPRESSIONS, seed=1) == whole
    with pytest.raises(UsageError, match=r"--data.label_noise 1.0: expected a share"):
        subsets.noisy(whole, 1.0, EXPRESSIONS, seed=1)


def test_rafdbs_proportions_of_ferplus() -> None:
    """FERPlus's 191 pictures of disgust are the few: every class has RAF-DB's share of them."""
    train = dict(zip(EXPRESSIONS, COUNTS["label.csv"]["majority"]["train"], strict=True))
    found = count(subsets.in_proportion(samples(train), "rafdb", seed=0))
    assert "contempt" not in found
    scale = min(train[name] / many for name, many in RAFDB["train"].items())
    assert found == {name: int(scale * many) for name, many in RAFDB["train"].items()}
    tightest = min(RAFDB["train"], key=lambda name: train[name] / RAFDB["train"][name])
    assert found[tightest] == train[tightest]
    with pytest.raises(UsageError, match=r"--data\.priors fer: expected one of rafdb"):
        subsets.in_proportion(samples(train), "fer", seed=0)
    with pytest.raises(DataError, match="there are no pictures of disgust"):
        subsets.in_proportion(samples({**train, "disgust": 0}), "rafdb", seed=0)


@given(st.sampled_from(list(RAFDB["train"])), st.integers(1, 60), st.integers(0, 3))
def test_the_scarcest_class_keeps_all_of_its_pictures(name: str, many: int, seed: int) -> None:
    """The others have enough for it; a quotient of floats lost one of 3 pictures of disgust."""
    sizes = {other: -(-many * n // RAFDB["train"][name]) for other, n in RAFDB["train"].items()}
    found = count(subsets.in_proportion(samples(sizes), "rafdb", seed))
    assert found[name] == sizes[name] == many
    scale = Fraction(many, RAFDB["train"][name])
    assert found == {other: max(1, int(scale * n)) for other, n in RAFDB["train"].items()}


def test_new_classes_hold_the_test_pictures_that_decide() -> None:
    test = dict(zip(EXPRESSIONS, COUNTS["label.csv"]["majority"]["test"], strict=True))
    new = subsets.class_names("surprise, sadness,anger")
    found = count(subsets.of_classes(samples(test), new))
    assert found == {"surprise": 394, "sadness": 382, "anger": 269}
    assert sum(found.values()) == 1045
    assert sum(test[name] for name in ("fear", "disgust", "contempt")) == 117
    assert subsets.class_names("") == ()
    with pytest.raises(UsageError, match=r"--data\.classes smile: "):
        subsets.class_names("smile")
    with pytest.raises(UsageError, match=r"--data\.classes happy: expected two or more"):
        subsets.class_names("happy")
    mixed = [Sample("x", "anger", {"anger": 6, "fear": 4})]
    assert subsets.of_classes(mixed, ("anger",))[0].votes == {"anger": 6}


@given(st.text(max_size=12))
def test_only_few_shots_are_a_subset(word: str) -> None:
    if word.startswith("few-shot:") or not word:
        return
    with pytest.raises(UsageError, match="expected few-shot:K"):
        subsets.shots(word)


def test_shots() -> None:
    assert [subsets.shots(word) for word in ("", "few-shot:4")] == [0, 4]
    for wrong in ("few-shot:0", "few-shot:-1", "few-shot:"):
        with pytest.raises(UsageError, match="expected few-shot:K"):
            subsets.shots(wrong)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_folder(folder / "train", EXPRESSIONS[:4], 10)
    write_folder(folder / "valid", EXPRESSIONS[:4], 6, seed=1)
    write_folder(folder / "test", EXPRESSIONS[:4], 3, seed=2)
    return folder


def splits_of(root: Path, **data: object) -> tuple[dict[str, int], dict[str, int]]:
    given = replace(Data(name="folder", root=str(root), cache=""), **data)  # type: ignore[arg-type]
    found = read_splits(Pipeline(given, encoder=Encoder(size=48)))
    train, selection = (
        dict(zip(found.labels, part.counts(), strict=True))
        for part in (found.train, found.selection)
    )
    return train, selection


def test_a_run_reads_the_part_that_it_is_asked_for(root: Path) -> None:
    names = EXPRESSIONS[:4]
    assert splits_of(root, subset="few-shot:2") == (
        dict.fromkeys(names, 2),
        dict.fromkeys(names, 4),
    )
    train, selection = splits_of(root, classes="neutral,surprise")
    assert train == {"neutral": 10, "surprise": 10} and selection == {"neutral": 6, "surprise": 6}
    train, selection = splits_of(root, label_noise=0.3)
    assert sum(train.values()) == 40 and selection == dict.fromkeys(names, 6)
    run = Run(data=Data(name="folder", root=str(root), subset="few-shot:2", cache=""))
    one, two = (read_splits(replace(run, seed=seed).pipeline).train.sources for seed in (0, 1))
    assert one != two and one == read_splits(replace(run, method="mpa").pipeline).train.sources


def test_what_is_held_out_is_as_it_was(tmp_path: Path) -> None:
    """Noise, shots and priors fall on the pictures that are trained on, after the choice's part."""
    write_folder(tmp_path, EXPRESSIONS[:4], 10)
    data = {"validation": 0.2}
    train, selection = splits_of(tmp_path, **data)
    assert (set(train.values()), set(selection.values())) == ({8}, {2})
    train, selection = splits_of(tmp_path, **data, label_noise=0.25, subset="few-shot:8")
    assert sum(train.values()) == 32 and set(selection.values()) == {2}
