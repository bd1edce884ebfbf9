"""The package of CONTRIBUTING.md: trained, evaluated, exported, loaded, and refused."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path

import pytest
import yaml

from fervor import plugins
from fervor.cli.main import main
from fervor.config import Data, Encoder, Run, Teacher, Text
from fervor.errors import ModelError, UsageError
from fervor.experiments.jobs import Job
from tests.support import example_package
from tests.support.drawn import face


LABELS = ("neutral", "happiness", "surprise", "anger")

TEXT = "fervor_example.parts:Lengths"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The example package is imported by no other test."""
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has installed it."""
    pytest.importorskip("setuptools", minversion="77", reason="builds the example package")
    folder = tmp_path_factory.mktemp("example")
    return example_package.install(folder / "source", folder / "site")


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("fervor_example")]:
        del sys.modules[name]
    invalidate_caches()


def faces(root: Path) -> Path:
    from PIL import Image

    for split, count in {"train": 6, "valid": 2, "test": 2}.items():
        (root / split).mkdir(parents=True)
        for label in LABELS:
            for number in range(count):
                drawn = face(label, number + 10 * len(split))
                Image.fromarray(drawn).save(root / split / f"{label}-{number}.png")
    return root


WORDS = "--encoder.size=32 --optim.epochs=1 --optim.batch_size=8 --threads=1 --data.cache="


@pytest.mark.slow  # for torch
def test_the_example_is_trained_evaluated_exported_and_loaded(
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pytorch_lightning", reason="needs fervor[train]")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    pictures = faces(tmp_path / "faces")
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump(
            {
                "method": "arc",
                "data": {"name": "named", "root": str(pictures)},
                "encoder": {"name": "small"},
                "text": {"name": "lengths"},
                "options": {"margin": 0.2},
            }
        )
    )
    assert main(["train", "--config", "own.yaml", "--output", "run", *WORDS.split()]) == 0
    info = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (info["name"], info["method"]) == ("own", "fervor_example.arc:Arc")
    assert info["encoder"]["name"] == "fervor_example.parts:Small"
    assert info["text"] == {"name": "fervor_example.parts:Lengths", "width": 26}
    assert info["data"]["name"] == "fervor_example.parts:Named"
    assert info["options"] == {"margin": 0.2}
    assert "the user's own" in info["data_terms"]

    results = []
    for number, name in enumerate(("named", "fervor_example.parts:Named")):
        words = [f"--data.name={name}", f"--data.root={pictures}", "--exclude_duplicates"]
        assert main(["evaluate", "--model", "run", *words, "--output", f"results{number}"]) == 0
        (path,) = (tmp_path / f"results{number}").glob("*.json")
        results.append((path.name, json.loads(path.read_text())))
    assert results[0] == results[1]
    assert results[0][1]["cross_data"] is None

    assert main(["export", "--model", "run", "--output", "exported"]) == 0

    # Prediction needs neither the package nor torch; loading to train or evaluate names it
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(site)])
    forget()
    capsys.readouterr()
    image = str(next(pictures.glob("test/*")))
    assert main(["predict", image, "--model", "exported", "--faces", "precropped"]) == 0
    capsys.readouterr()
    assert main(["export", "--model", "run", "--output", "again"]) == 2
    said = capsys.readouterr().err
    assert "fervor_example" in said and said.count("\n") == 1


def test_names_are_those_of_tables_and_entry_points(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    assert plugins.reference("methods", "arc") == example_package.METHOD
    assert plugins.stored("methods", "arc") == example_package.METHOD
    assert plugins.stored("methods", "ke") == "ke"
    assert plugins.stored("text_encoders", "openai/clip") == "openai/clip"
    assert plugins.stored("methods", "fervor.methods.ke:KE") == "ke"
    assert plugins.stored("text_encoders", "shuffled:lengths") == "shuffled:" + TEXT
    assert plugins.stored("text_encoders", "shuffled:minilm") == "shuffled:minilm"
    assert plugins.title(example_package.METHOD) == "Arc"
    listed = r"unknown method 'arcc': expected one of classifier, ke, .*, arc, or package\.module"
    with pytest.raises(UsageError, match=listed):
        plugins.load("methods", "arcc")
    assert "fervor_example" not in sys.modules


def test_settings_hold_the_one_name_of_a_part(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    parts = ("named", "small", "small", "lengths")
    data, encoder, teacher, text = parts
    by_name = Run("arc", Data(data), encoder=Encoder(encoder), teacher=Teacher(teacher))
    by_name = replace(by_name, text=Text(text))
    data, encoder, teacher, text = (
        f"fervor_example.parts:{name}" for name in ("Named", "Small", "Small", "Lengths")
    )
    by_place = Run("fervor_example.arc:Arc", Data(data), encoder=Encoder(encoder))
    by_place = replace(by_place, teacher=Teacher(teacher), text=Text(text))
    assert by_name == by_place
    assert by_name.parts() == ("fervor_example.arc:Arc", data, encoder, teacher, text)
    assert "fervor_example" not in sys.modules


def test_a_name_that_two_packages_declare_is_refused(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[fervor.methods]\narc = other:Arc\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"expected one of fervor_example\.arc:Arc, other:Arc"):
        Run(method="arc")


def test_what_a_user_names_may_stand_in_a_jobs_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERVOR_PLUGINS", "mine")
    job = Job("row", 0, {"method": "theirs.arc:Arc", "text": {"name": TEXT}}, Data(), None)
    assert job._environment()["FERVOR_PLUGINS"] == "fervor_example,mine,theirs"


def test_a_missing_package_is_one_line(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^method nobodys\.own:It: package nobodys is not inst"):
        plugins.load("methods", "nobodys.own:It")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(UsageError, match=r"module fervor_example\.parts has no Other; expected"):
        plugins.load("datasets", "fervor_example.parts:Other")


FILES = {
    "method": {"method": "stranger.code:It"},
    "data set": {"data": {"name": "stranger.code:It"}},
    "encoder": {"encoder": {"name": "stranger.code:It"}},
    "dotted": {"text.name": "stranger.code:It"},
    "teacher": {"teacher": {"name": "stranger.code:It"}},
    "shuffled": {"text": {"name": "shuffled:stranger.code:It"}},
}


@pytest.mark.parametrize("case", FILES)
def test_a_recipe_imports_what_is_installed_or_allowed_alone(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fervor.recipes import check_file

    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "code.py").write_text("raise SystemExit('was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(FILES[case]))
    with pytest.raises(UsageError, match=r"stranger\.code:It, which no installed package declares"):
        check_file(recipe)
    monkeypatch.setenv("FERVOR_PLUGINS", "other, stranger")
    check_file(recipe)
    assert "stranger" not in sys.modules


def test_a_name_that_an_installed_package_declares_is_taken_from_a_file(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(example_package.write(tmp_path))
    with pytest.raises(UsageError, match="allow it with FERVOR_PLUGINS=fervor_example"):
        plugins.check_stranger("methods", example_package.METHOD, "model.json")
    monkeypatch.syspath_prepend(site)
    plugins.check_stranger("methods", example_package.METHOD, "model.json")
    with pytest.raises(UsageError, match="no installed package declares"):
        plugins.check_stranger("datasets", example_package.METHOD, "model.json")


@pytest.mark.slow  # for torch
@pytest.mark.parametrize("entry", ["method", "encoder", "teacher"])
def test_a_strangers_model_imports_nothing(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs fervor[train]")
    from fervor.methods.build import load_model, save_model
    from fervor.methods.classifier import Classifier
    from tests.support.drawn import DrawnText, TinyEncoder, description

    (tmp_path / "stranger.py").write_text("raise SystemExit('was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    method = Classifier(TinyEncoder(size=32), DrawnText(), LABELS, Classifier.Options())
    info = description("classifier", Encoder(size=32), method)
    name = "stranger:It"
    if entry == "method":
        info = replace(info, method=name)
    elif entry == "encoder":
        info = replace(info, encoder=replace(info.encoder, name=name))
    else:
        info = replace(info, companions=replace(info.companions, teacher=Teacher(name=name)))
    save_model(tmp_path / "m", method.state_dict(), info, "")
    with pytest.raises(ModelError, match="stranger:It, which no installed package declares"):
        load_model(tmp_path / "m")
    assert "stranger" not in sys.modules
