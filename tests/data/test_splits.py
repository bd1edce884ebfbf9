"""Which pictures a run trains on, and on which its epoch is chosen."""

from dataclasses import replace
from pathlib import Path

import pytest

from fervor.config import Data, Encoder, Pipeline, Run
from fervor.data.datasets import Sample, ckplus, ferplus
from fervor.data.splits import fingerprint, read_splits
from fervor.errors import DataError, UsageError
from fervor.labels import EXPRESSIONS
from tests.support.drawn import Row, face, rows, write_folder, write_pictures
from tests.support.trees import write_ckplus


TIED = Row("fer0000090.png", (4, 4, 0, 0, 0, 0, 0, 0, 2, 0), 6)
"""No majority: dropped under `majority`, neutral, the first of the two, under `argmax8`."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on drawn faces: eight with a majority and one without in train and in valid."""
    splits = ("train", "valid", "test")
    counts = {
        "majority": dict.fromkeys(splits, (1,) * 8),
        "majority7": dict.fromkeys(splits, (1,) * 7),
        "argmax8": dict.fromkeys(splits, (2, *(1,) * 7)),
    }
    monkeypatch.setattr(ferplus, "COUNTS", {"label.csv": counts})
    root = write_pictures(
        tmp_path,
        {
            split: [*rows(100 * number, EXPRESSIONS), TIED]
            for number, split in enumerate(("train", "valid", "test"))
        },
    )
    return Run(data=Data(root=str(root), cache=""), encoder=Encoder(size=48))


def test_one_protocol_holds_for_both(run: Run) -> None:
    splits = read_splits(run.pipeline)
    assert (len(splits.train), len(splits.selection), splits.selected_on) == (8, 8, "valid")


def test_the_training_split_may_have_a_protocol_of_its_own(run: Run) -> None:
    wider = replace(run, data=replace(run.data, train_protocol="argmax8"))
    splits = read_splits(wider.pipeline)
    assert (len(splits.train), len(splits.selection)) == (9, 8)
    assert splits.labels == EXPRESSIONS
    added = splits.train.votes[-1]  # its ten votes, unknown left out
    assert added.tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0]


def test_the_choice_on_test_keeps_the_protocol_of_the_evaluation(run: Run) -> None:
    wider = replace(run, data=replace(run.data, train_protocol="argmax8"))
    splits = read_splits(wider.pipeline, selection="paper")
    assert (len(splits.train), len(splits.selection), splits.selected_on) == (9, 8, "test")


def test_what_is_held_out_of_train_has_the_protocol_of_train(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("happiness", "anger"):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.fromarray(face(label, number)).save(tmp_path / label / f"{number}.png")
    data = Data(
        name="folder", root=str(tmp_path), train_protocol="folders", validation=0.25, cache=""
    )
    with pytest.raises(UsageError, match="train and selection share one protocol"):
        read_splits(Pipeline(data, encoder=Encoder(size=48)))


def test_a_class_that_is_asked_for_needs_training_pictures(run: Run) -> None:
    """Contempt has none under the seven classes of `majority7`."""
    data = replace(run.data, protocol="majority7", classes="happiness,contempt")
    with pytest.raises(
        DataError, match=r"happiness,contempt: .* under majority7 has no .*contempt"
    ):
        read_splits(replace(run, data=data).pipeline)
    splits = read_splits(replace(run, data=replace(data, protocol="majority")).pipeline)
    assert splits.labels == ("happiness", "contempt")
    assert splits.train.counts() == [1, 1]


def test_without_a_training_split_the_reason_is_one_line(tmp_path: Path) -> None:
    write_ckplus(tmp_path / "ck", {name: count for name, count in ckplus.COUNTS.items() if count})
    subjects = Data(name="ckplus", root=str(tmp_path / "ck"), cache="")
    with pytest.raises(DataError, match=r"has no training split: .* with --data\.fold 1 to 10"):
        read_splits(Pipeline(subjects))
    write_folder(tmp_path / "faces" / "test", ["happiness", "anger"], 2)
    faces = Data(name="folder", root=str(tmp_path / "faces"), cache="")
    for selection in ("honest", "paper"):
        with pytest.raises(DataError, match=r"faces has no training pictures: expected the tree"):
            read_splits(Pipeline(faces), selection=selection)  # type: ignore[arg-type]


def test_a_fingerprint_is_of_names_labels_and_votes(tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    sample = Sample(f"{here}/a/1.png", "anger")
    first = fingerprint([sample, Sample("/outside/2.png", "fear")], here)
    assert first.images == 2
    moved = [Sample(f"{there}/a/1.png", "anger"), Sample("/moved/2.png", "fear")]
    assert fingerprint(moved, there) == first
    others = [
        replace(sample, label="fear"),
        replace(sample, path=f"{here}/b/1.png"),
        replace(sample, votes={"anger": 0.5, "fear": 0.5}),
        Sample("", "anger", pixels=b"12", side=1),
        Sample("", "anger", pixels=b"13", side=1),
    ]
    assert len({fingerprint([one], here).sha256 for one in [sample, *others]}) == 6
