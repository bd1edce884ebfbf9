"""The package of CONTRIBUTING.md: trained, evaluated, exported, loaded, and refused."""

import json
import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest
import yaml

from fervor import plugins
from fervor.cli.main import main
from fervor.errors import ModelError, UsageError
from tests.support import example_package
from tests.support.drawn import face


LABELS = ("neutral", "happiness", "surprise", "anger")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The example package is imported by no other test."""
    forget()
    yield
    forget()


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pytorch_lightning", reason="needs fervor[train]")
    monkeypatch.syspath_prepend(example_package.install(tmp_path / "site"))
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

    data = ["--data.name=named", f"--data.root={pictures}"]
    assert main(["evaluate", "--model", "run", *data]) == 0
    assert main(["export", "--model", "run", "--output", "exported"]) == 0

    # Prediction needs neither the package nor torch; loading to train or evaluate names it
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path / "site")])
    forget()
    capsys.readouterr()
    image = str(next(pictures.glob("test/*")))
    assert main(["predict", image, "--model", "exported", "--faces", "precropped"]) == 0
    capsys.readouterr()
    assert main(["export", "--model", "run", "--output", "again"]) == 2
    said = capsys.readouterr().err
    assert "fervor_example" in said and said.count("\n") == 1


def test_names_are_those_of_tables_and_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(example_package.install(tmp_path))
    assert plugins.reference("methods", "arc") == example_package.METHOD
    assert plugins.stored("methods", "arc") == example_package.METHOD
    assert plugins.stored("methods", "ke") == "ke"
    assert plugins.stored("text_encoders", "openai/clip") == "openai/clip"
    assert plugins.title(example_package.METHOD) == "Arc"
    listed = r"unknown method 'arcc': expected one of classifier, ke, .*, arc, or package\.module"
    with pytest.raises(UsageError, match=listed):
        plugins.load("methods", "arcc")
    assert "fervor_example" not in sys.modules


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^method nobodys\.own:It: package nobodys is not inst"):
        plugins.load("methods", "nobodys.own:It")
    monkeypatch.syspath_prepend(example_package.install(tmp_path))
    with pytest.raises(UsageError, match=r"module fervor_example\.parts has no Other; expected"):
        plugins.load("datasets", "fervor_example.parts:Other")


FILES = {
    "method": {"method": "stranger.code:It"},
    "data set": {"data": {"name": "stranger.code:It"}},
    "encoder": {"encoder": {"name": "stranger.code:It"}},
    "dotted": {"text.name": "stranger.code:It"},
    "teacher": {"teacher": {"name": "stranger.code:It"}},
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(example_package.install(tmp_path / "a", declared=False))
    with pytest.raises(UsageError, match="allow it with FERVOR_PLUGINS=fervor_example"):
        plugins.check_stranger("methods", example_package.METHOD, "model.json")
    monkeypatch.syspath_prepend(example_package.install(tmp_path / "b"))
    plugins.check_stranger("methods", example_package.METHOD, "model.json")
    with pytest.raises(UsageError, match="no installed package declares"):
        plugins.check_stranger("datasets", example_package.METHOD, "model.json")


@pytest.mark.slow  # for torch
@pytest.mark.parametrize("entry", ["method", "encoder", "teacher"])
def test_a_strangers_model_imports_nothing(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs fervor[train]")
    from dataclasses import replace

    from fervor.config import Encoder, Teacher
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
