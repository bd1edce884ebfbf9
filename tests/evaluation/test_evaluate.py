"""What an evaluation measures, and the result file that it writes."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fervor.artifacts.model_info import ModelInfo
from fervor.config import Data, Encoder
from fervor.data.datasets import Sample, load
from fervor.data.image_set import read_images
from fervor.errors import DataError, UsageError
from fervor.evaluation.evaluate import evaluate, logits_of, torch_logits
from fervor.evaluation.metrics import softmax, summary
from fervor.evaluation.robustness import robustness
from fervor.evaluation.training_split import own_training_samples
from fervor.io import provenance
from fervor.methods.build import load_model, save_model
from fervor.methods.classifier import Classifier
from fervor.methods.ke import KE
from fervor.models.image import build_image_encoder
from tests.support import tiny
from tests.support.drawn import DrawnText, batch, description, write_folder
from tests.support.models import LABELS as COLOURS
from tests.support.models import write_model


LABELS = ("neutral", "happiness", "sadness", "anger")


# A whole evaluation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a tiny network."""
    root = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Encoder(name="resnet18", weights=tiny.save_resnet(root / "net"), size=32)
    built = KE(build_image_encoder(config), DrawnText(12), LABELS, KE.Options())
    with torch.no_grad():
        built.train()(batch(LABELS, 4, size=32).image)
    info = description("ke", config, built, mode="paper", name="ke/drawn", config={"seed": 29})
    info = replace(info, data=replace(info.data, name="folder", protocol="folders"))
    save_model(root / "run", built.state_dict(), info, "")
    return root / "run"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    write_folder(root / "train", LABELS, 1)
    write_folder(root / "valid", LABELS[:2], 2)
    return write_folder(root / "test", LABELS, 3, seed=1).parent


def test_the_result_file_says_where_its_numbers_come_from(
    model: Path, faces: Path, tmp_path: Path
) -> None:
    data = Data(name="folder", root=str(faces), cache=str(tmp_path / "cache"))
    path, result = evaluate(str(model), data, output=str(tmp_path / "results"))
    assert path.is_relative_to(tmp_path / "results")
    assert "seed29" in path.name and path.name.endswith(".json")
    stored = json.loads(path.read_text())
    assert stored == json.loads(json.dumps(result))
    info = json.loads((model / "model.json").read_text())
    assert stored["model"] == "ke/drawn"
    assert stored["data"] == {
        "name": "folder",
        "protocol": "folders",
        "annotations": "",
        "split": "test",
        "fold": 0,
        "faces": "precropped",
        "margin": 0.0,
        "aligned": None,
        "exclude_duplicates": False,
        "left_out": {"no_face": 0, "duplicates": 0},
    }
    assert stored["cross_data"] is None
    low, high = stored["bootstrap_intervals"]["accuracy"]
    assert low <= stored["accuracy"] <= high
    assert stored["operating_points"]["natural"]["accuracy"] == stored["accuracy"]
    assert 0 <= stored["operating_points"]["balanced"]["coverage"] <= 1
    assert stored["sha256"] == info["sha256"]
    assert stored["versions"] == provenance.versions()
    assert stored["commit"] == provenance.commit()
    assert stored["run"]["seed"] == 29
    assert stored["run"]["config"] == {"seed": 29}
    assert stored["run"]["selection"]["mode"] == "paper"
    assert stored["count"] == 12
    assert [stored["classes"][name]["count"] for name in LABELS] == [3, 3, 3, 3]


def test_the_figures_are_those_of_the_models_answers(
    model: Path, faces: Path, tmp_path: Path
) -> None:
    data = Data(name="folder", root=str(faces), cache=str(tmp_path / "cache"))
    _, result = evaluate(str(model), data, split="valid", output=str(tmp_path))
    split = read_images(load("folder", faces, "valid"), LABELS, size=32)
    logits = logits_of(ModelInfo.read(model), split)
    expected = summary(softmax(logits, 1.5), split.label.numpy(), LABELS)
    assert {name: result[name] for name in expected} == expected
    assert result["count"] == 4
    assert result["data"]["split"] == "valid"
    assert result["classes"]["anger"] == {"count": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_splits_write_files_of_their_own(model: Path, faces: Path, tmp_path: Path) -> None:
    data = Data(name="folder", root=str(faces), cache=str(tmp_path / "cache"))
    paths = {
        evaluate(str(model), data, split=s, output=str(tmp_path))[0] for s in ("valid", "test")
    }
    assert len(paths) == 2


def test_a_class_that_the_model_lacks(model: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "test", ["neutral", "fear"], 1)
    with pytest.raises(
        UsageError, match=r"has neutral, fear, the model knows neutral, .*: expected at least two"
    ) as info:
        evaluate(str(model), Data(name="folder", root=str(tmp_path), cache=""))
    assert "\n" not in str(info.value)


def test_an_empty_split(model: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, ["neutral"], 1)
    with pytest.raises(DataError, match="has no images of the split test: expected some"):
        evaluate(str(model), Data(name="folder", root=str(tmp_path), cache=""))


def test_logits_are_those_of_eval_mode_and_leave_the_mode(model: Path) -> None:
    method = load_model(model)
    batches = [batch(LABELS, 2, size=32, seed=seed) for seed in range(2)]
    with torch.no_grad():
        expected = torch.cat([method(part.image) for part in batches])
    found = torch_logits(method.train(), batches)
    assert method.training
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_every_answer_is_kept(model: Path, faces: Path, tmp_path: Path) -> None:
    data = Data(name="folder", root=str(faces), cache="")
    _, result = evaluate(str(model), data, output=str(tmp_path))
    label, answer = (
        [int(word) for word in result["answers"][key].split()] for key in ("label", "answer")
    )
    assert sum(a == b for a, b in zip(label, answer, strict=True)) == result["correct"]
    assert sorted(label) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and len(label) == result["count"]
    assert result["persons"] is None and result["answers"]["person"] == ""


def test_pictures_of_one_person_are_one_observation(model: Path, tmp_path: Path) -> None:
    """The same pictures with a column of persons: the same figures, wider intervals."""
    root = table_of(tmp_path / "faces", list(LABELS), 5)
    data = Data(name="csv", root=str(root), cache="")
    _, alone = evaluate(str(model), data, output=str(tmp_path))
    lines = (root / "table.csv").read_text().splitlines()
    grouped = [f"{line},{'group' if not row else row % 2}" for row, line in enumerate(lines)]
    (root / "table.csv").write_text("\n".join(grouped) + "\n")
    _, persons = evaluate(str(model), data, output=str(tmp_path / "other"), compare=str(model))
    assert (persons["persons"], persons["accuracy"]) == (2, alone["accuracy"])
    assert persons["bootstrap_intervals"] != alone["bootstrap_intervals"]
    assert persons["accuracy_interval"] == persons["bootstrap_intervals"]["accuracy"]
    assert set(persons["answers"]["person"].split()) == {"0", "1"}
    assert persons["comparison"]["test"] == "sign flips of persons"
    assert persons["comparison"]["p_value"] == 1.0
    path, _ = evaluate(str(model), data, output=str(tmp_path))
    assert len(list(path.parent.glob("drawn-*.json"))) == 2  # the table changed, its name did not


# Another data set than the model's own


def table_of(root: Path, names: list[str], count: int, *, seed: int = 0) -> Path:
    """A data set of another name: a table of drawn faces, all of them in its test split."""
    write_folder(root, names, count, seed=seed)
    lines = ["path,label,split"]
    lines += [
        f"{path.relative_to(root)},{path.parent.name},test" for path in sorted(root.rglob("*.png"))
    ]
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root


def test_classes_are_matched_by_name(model: Path, tmp_path: Path) -> None:
    """The table knows fear, the model sadness; both are reported, neither is counted."""
    root = table_of(tmp_path / "faces", ["anger", "fear", "happiness", "neutral"], 3, seed=2)
    data = Data(name="csv", root=str(root), cache="")
    path, result = evaluate(str(model), data, output=str(tmp_path))
    assert path.name == f"drawn-seed29-csv-table-test-{result['fingerprint']}.json"
    cross = result["cross_data"]
    assert cross["trained_on"] == "folder"
    assert cross["shared"] == ["neutral", "happiness", "anger"]
    assert (cross["model_only"], cross["data_only"]) == (["sadness"], {"fear": 3})
    samples = [s for s in load("csv", root, "test") if s.label != "fear"]
    split = read_images(samples, LABELS, size=32)
    logits = logits_of(ModelInfo.read(model), split)
    right, everything = 0, 0
    for row, sample in zip(logits, samples, strict=True):
        probabilities = {name: math.exp(x / 1.5) for name, x in zip(LABELS, row, strict=True)}
        everything += max(probabilities, key=probabilities.__getitem__) == sample.label
        del probabilities["sadness"]
        right += max(probabilities, key=probabilities.__getitem__) == sample.label
    assert (result["correct"], result["count"]) == (right, 9)
    assert cross["accuracy_over_all_classes"] == everything / 9
    assert set(result["classes"]) == {"neutral", "happiness", "anger"}
    probabilities = softmax(logits, 1.5)[:, [0, 1, 3]]
    probabilities /= probabilities.sum(1, keepdims=True)
    numbers = np.array([["neutral", "happiness", "anger"].index(s.label) for s in samples])
    expected = -np.log(probabilities[np.arange(9), numbers]).mean()
    assert result["negative_log_likelihood"] == pytest.approx(expected)


def test_the_same_classes_in_another_order_change_nothing(model: Path, tmp_path: Path) -> None:
    """A table that lists its classes backwards is counted as the folder is."""
    root = table_of(tmp_path / "faces", list(LABELS), 3)
    lines = (root / "table.csv").read_text().splitlines()
    forwards = evaluate(
        str(model), Data(name="csv", root=str(root), cache=""), output=str(tmp_path)
    )
    (root / "table.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    backwards = evaluate(
        str(model), Data(name="csv", root=str(root), cache=""), output=str(tmp_path)
    )
    assert forwards[1]["cross_data"] == backwards[1]["cross_data"]
    assert forwards[1]["cross_data"]["model_only"] == []
    assert forwards[1]["confusion"] == backwards[1]["confusion"]
    assert forwards[1]["accuracy"] == forwards[1]["cross_data"]["accuracy_over_all_classes"]


def test_pictures_that_stand_in_train_are_left_out_when_asked(model: Path, tmp_path: Path) -> None:
    root = tmp_path / "faces"
    write_folder(root / "train", LABELS, 3)
    write_folder(root / "test", LABELS, 3, seed=1)
    repeated = root / "test" / "anger" / "000.png"
    Image.open(root / "train" / "anger" / "001.png").convert("RGB").save(repeated, compress_level=0)
    data = Data(name="folder", root=str(root), cache="")
    path, plain = evaluate(str(model), data, output=str(tmp_path))
    other_path, without = evaluate(str(model), data, output=str(tmp_path), exclude_duplicates=True)
    assert other_path != path and json.loads(path.read_text())["count"] == 12
    assert (plain["count"], without["count"]) == (12, 11)
    assert without["data"]["left_out"] == {"no_face": 0, "duplicates": 1}
    assert without["classes"]["anger"]["count"] == 2
    with pytest.raises(UsageError, match=r"--exclude_duplicates with split train of folder"):
        evaluate(str(model), data, split="train", exclude_duplicates=True)
    other = Data(name="csv", root=str(table_of(tmp_path / "table", list(LABELS), 1)), cache="")
    with pytest.raises(UsageError, match=r"the model's own data set, folder"):
        evaluate(str(model), other, exclude_duplicates=True)


def test_duplicates_are_those_of_the_models_own_train(model: Path, tmp_path: Path) -> None:
    """A folder is not the training's because it is a folder."""
    write_folder(tmp_path / "bare" / "test", LABELS, 1)
    write_folder(tmp_path / "other" / "train", LABELS[:2], 3)
    write_folder(tmp_path / "other" / "test", LABELS, 1)
    for name, found in (("bare", "0 pictures"), ("other", "6 pictures")):
        data = Data(name="folder", root=str(tmp_path / name), cache="")
        with pytest.raises(UsageError, match=rf"{name} \({found}\) is not what ke/drawn") as no:
            evaluate(str(model), data, output=str(tmp_path), exclude_duplicates=True)
        assert "\n" not in str(no.value)


@pytest.mark.parametrize(
    ("settings", "train", "split", "agrees"),
    [
        ({}, 3, "valid", True),
        ({}, 2, "valid", False),
        ({}, 2, "30% of train, held out", True),
        ({"subset": "few-shot:2"}, 2, "valid", True),
        ({"subset": "few-shot:2"}, 4, "valid", False),
        ({"faces": "largest"}, 2, "valid", True),
    ],
)
def test_a_train_is_told_by_its_counts(
    settings: dict[str, str], train: int, split: str, agrees: bool, tmp_path: Path
) -> None:
    root = write_folder(tmp_path / "train", COLOURS, 3).parent
    config = {"data": {"name": "folder", "faces": "precropped", **settings}}
    content = {"data": {"name": "folder", "protocol": "folders"}}
    content["data"] |= {"train": dict.fromkeys(COLOURS, train)}
    content["data"] |= {"selection": dict.fromkeys(COLOURS, 1)}
    selection = {"mode": "honest", "split": split, "epoch": 0, "accuracy": 0.9}
    selection |= {"mean_class_accuracy": 0.9, "macro_f1": 0.9}
    own = write_model(tmp_path / "own", config=config, selection=selection, **content)
    info, data = ModelInfo.read(own), Data(name="folder", root=str(root))
    if agrees:
        assert len(own_training_samples(info, data)) == 9
    else:
        with pytest.raises(UsageError, match="expected the training's folder"):
            own_training_samples(info, data)


def test_some_classes_are_named_in_the_result(model: Path, faces: Path, tmp_path: Path) -> None:
    data = Data(name="folder", root=str(faces), cache="")
    whole, result = evaluate(str(model), data, output=str(tmp_path))
    assert "classes" not in result["data"]
    some = replace(data, classes="sad,happy,neutral,angry")
    path, result = evaluate(str(model), some, output=str(tmp_path))
    assert set(result["data"]["classes"]) == set(LABELS) and path != whole
    path, result = evaluate(str(model), replace(data, classes="sad,happy"), output=str(tmp_path))
    assert result["data"]["classes"] == ["happiness", "sadness"] and path != whole


# Folds of persons


@pytest.fixture
def persons(tmp_path: Path) -> Data:
    """A table of twenty persons, a picture of each class of each."""
    root = tmp_path / "persons"
    write_folder(root, COLOURS, 20)
    lines = [
        f"{label}/{number:03}.png,{label},s{number:02}" for label in COLOURS for number in range(20)
    ]
    (root / "t.csv").write_text("\n".join(["path,label,group", *lines]))
    return Data(name="csv", root=str(root), cache="")


def trained_in(folder: Path, fold: int, count: int, **more: Any) -> str:
    """A model of the table of persons, or of another with other counts."""
    data = {"name": "csv", "protocol": "table", "train": dict.fromkeys(COLOURS, count)}
    config = {"data": {"name": "csv", "fold": fold, "faces": "precropped"}}
    return str(write_model(folder / f"fold{fold}-{count}", config=config, **{"data": data, **more}))


def test_another_fold_than_the_trainings_is_refused(persons: Data, tmp_path: Path) -> None:
    own = trained_in(tmp_path, 3, 18)
    for fold in (3, 0):
        path, result = evaluate(own, replace(persons, fold=fold), output=str(tmp_path))
        assert (result["data"]["fold"], result["count"], result["persons"]) == (3, 6, 2)
        assert "-fold3-" in path.name
    with pytest.raises(UsageError, match=r"--data\.fold 4: tiny was trained in fold 3, .* 3") as no:
        evaluate(own, replace(persons, fold=4), output=str(tmp_path))
    assert "\n" not in str(no.value)
    with pytest.raises(UsageError, match=r"--data\.fold 4: tiny was trained in fold 3"):
        robustness(own, replace(persons, fold=4), output=str(tmp_path))
    whole = trained_in(tmp_path, 0, 20)
    with pytest.raises(UsageError, match=r"--data\.fold 4: tiny was trained in no fold"):
        evaluate(whole, replace(persons, fold=4), output=str(tmp_path))
    with pytest.raises(UsageError, match=r"trained in no fold, .* expected --data\.fold 0"):
        evaluate(own, persons, compare=whole, output=str(tmp_path))


def test_a_model_of_other_data_takes_any_fold(persons: Data, tmp_path: Path) -> None:
    others = trained_in(tmp_path, 3, 7)
    ferplus = trained_in(tmp_path, 0, 9, data={"name": "ferplus", "protocol": "majority"})
    for model in (others, ferplus):
        _, result = evaluate(model, replace(persons, fold=4), output=str(tmp_path / "r"))
        assert (result["data"]["fold"], result["count"]) == (4, 6)
        with pytest.raises(DataError, match="no images of the split test"):
            evaluate(model, persons, output=str(tmp_path / "r"))


def test_a_fold_under_another_protocol_tests_other_persons(
    persons: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the first person every other one moves on by one fold."""
    from fervor.data.datasets import table

    def fewer(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
        samples = read(root, split, protocol="table", annotations=annotations)
        return samples if protocol == "table" else [s for s in samples if s.group != "s00"]

    read = table.read
    monkeypatch.setattr(table, "PROTOCOLS", ("table", "fewer"))
    monkeypatch.setattr(table, "read", fewer)
    own = trained_in(tmp_path, 3, 18)
    with pytest.raises(UsageError, match=r"--data\.protocol fewer: .* 1 person|2 persons") as no:
        evaluate(own, replace(persons, protocol="fewer"), output=str(tmp_path))
    assert "\n" not in str(no.value)


# Words in place of the model's classes


@pytest.fixture
def drawn_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fervor.methods.build.build_text_encoder", lambda _: DrawnText(12))


@pytest.mark.usefixtures("drawn_text")
def test_its_own_classes_as_words_in_another_order_change_no_answer(
    model: Path, faces: Path, tmp_path: Path
) -> None:
    split = read_images(load("folder", faces, "test"), LABELS, size=32)
    own = logits_of(ModelInfo.read(model), split)
    turned = logits_of(ModelInfo.read(model), split, LABELS[::-1])
    np.testing.assert_allclose(turned[:, ::-1], own, rtol=1e-5)
    data = Data(name="folder", root=str(faces), cache=str(tmp_path / "cache"))
    plain_path, plain = evaluate(str(model), data, output=str(tmp_path))
    path, found = evaluate(str(model), data, labels=LABELS[::-1], output=str(tmp_path))
    assert path != plain_path
    assert found["accuracy"] == plain["accuracy"]
    assert list(found["classes"]) == list(LABELS[::-1])
    assert "operating_points" not in found


def test_a_split_without_images_is_named(model: Path, tmp_path: Path) -> None:
    faces = write_folder(tmp_path / "faces", LABELS, 2)
    data = Data(name="folder", root=str(faces), cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"has no images of the split valid: expected some"):
        evaluate(str(model), data, split="valid", output=str(tmp_path))


@pytest.mark.usefixtures("drawn_text")
def test_words_that_a_model_was_not_trained_on(model: Path, tmp_path: Path) -> None:
    faces = write_folder(tmp_path / "test", ["neutral", "fear", "surprise"], 2).parent
    data = Data(name="folder", root=str(faces), cache=str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="expected at least two in common"):
        evaluate(str(model), data, output=str(tmp_path))
    _, found = evaluate(str(model), data, labels=["surprise", "afraid"], output=str(tmp_path))
    assert found["count"] == 4
    assert list(found["classes"]) == ["surprise", "fear"]
    assert found["cross_data"]["words"] == ["surprise", "afraid"]
    assert found["cross_data"]["data_only"] == {"neutral": 2}


def test_a_model_whose_classes_are_no_words(tmp_path: Path) -> None:
    config = Encoder(name="resnet18", weights=tiny.save_resnet(tmp_path / "net"), size=32)
    built = Classifier(
        build_image_encoder(config), DrawnText(12), LABELS, Classifier.Options()
    ).eval()
    info = description("classifier", config, built, mode="paper", name="classifier/drawn")
    save_model(tmp_path / "run", built.state_dict(), info, "")
    data = Data(name="folder", root=str(write_folder(tmp_path / "test", LABELS, 1).parent))
    message = "labels anger, fear: model .* of method classifier has learned its classes, .*; leave"
    with pytest.raises(UsageError, match=message):
        evaluate(str(tmp_path / "run"), data, labels=["anger", "fear"], output=str(tmp_path))
