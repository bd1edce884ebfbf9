"""What `import fervor` gives: its names, their types, what they show, and the page's example."""

import importlib
import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fervor
from fervor.artifacts.model_info import ModelInfo
from fervor.config import Data, Encoder, Optim, Run
from fervor.data.datasets import Sample
from fervor.errors import UsageError
from fervor.io.sources import frame_of
from fervor.recipes import name_of, read_recipe, recipe_path, setting_names
from tests.support.drawn import face


ROOT = Path(__file__).parents[1]
PORTRAIT = str(ROOT / "examples" / "astronaut.jpg")
LABELS = ("neutral", "happiness", "surprise", "anger")


def folder_of_faces(root: Path, count: int) -> Path:
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(face(label, number)).save(root / label / f"{number}.png")
    return root


def test_dir_shows_the_public_names_alone() -> None:
    names = "Prediction Predictor draw evaluate export load_dataset load_model to_rows train"
    assert dir(fervor) == sorted(fervor.__all__) == sorted(["__version__", *names.split()])
    importlib.import_module("fervor.graphs")
    assert dir(fervor) == sorted(fervor.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        getattr(fervor, "Predicter")  # noqa: B009  # mypy would see it


def test_no_package_has_the_name_of_a_function() -> None:
    """Importing it would put the module in the function's place."""
    modules = {path.stem for path in (ROOT / "fervor").iterdir()}
    assert not modules & set(fervor.__all__)


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, fervor; dir(fervor); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not {"numpy", "torch", "onnxruntime", "PIL", "yaml"} & set(loaded.split())


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "load_model"])
def test_without_torch_a_line_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = fervor._PLACES[name].partition(":")[0]
    monkeypatch.delitem(sys.modules, f"fervor.{places}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r'^needs torch, .*: pip install "fervor\[train\]"$'):
        getattr(fervor, name)


@pytest.mark.slow  # mypy reads all of the package; scripts/check has left what it knows
def test_a_type_checker_sees_every_name(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="checks types")
    (tmp_path / "own.py").write_text(
        "import fervor\n"
        "from fervor.config import Run\n"
        "reveal_type(fervor.train(Run()))\n"
        "reveal_type(fervor.load_dataset('folder', 'faces', 'train'))\n"
        "reveal_type(fervor.Predictor()('a.jpg'))\n"
        "fervor.train(Run(), resum=True)\n"
        "fervor.predict\n"
    )
    edited = tmp_path / "command.py"
    source = (ROOT / "fervor/cli/research/evaluate.py").read_text(encoding="utf-8")
    edited.write_text(source.replace("slices=[", "slice=["))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache")]
    files = [str(tmp_path / "own.py"), str(edited)]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    renamed = r'command\.py:\d+: error: Unexpected keyword argument "slice" for "evaluate"'
    assert re.search(renamed, done.stdout), "a command's calls are not typed"
    own = "".join(line for line in done.stdout.splitlines(keepends=True) if "own.py" in line)
    told = re.findall(r'(?:note: Revealed type is|error:) "?(.*?)"?(?:  \[.*)?$', own, re.M)
    assert told[:3] == [
        "pathlib.Path",
        "list[fervor.data.datasets.samples.Sample]",
        "list[fervor.inference.prediction.Prediction]",
    ]
    assert any("resum" in line for line in told) and any("predict" in line for line in told)


def test_commands_import_our_modules_for_real() -> None:
    """A module that is loaded by its name is `Any` for a type checker, which then sees nothing."""
    commands = list((ROOT / "fervor" / "cli").rglob("*.py"))
    assert commands
    by_name = ("import_module", "__import__")
    assert not [
        path for path in commands for call in by_name if call in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", sorted({*fervor.__all__} - {"__version__"}))
def test_every_name_is_typed_and_explained(name: str) -> None:
    if name not in ("Prediction", "Predictor", "draw", "to_rows", "load_dataset"):
        pytest.importorskip("torch", reason="needs fervor[train]")
    part = getattr(fervor, name)
    assert inspect.getdoc(part)
    for parameter in inspect.signature(part).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty


def test_what_is_shown_is_one_line() -> None:
    predictor = fervor.Predictor()
    assert repr(predictor) == (
        f"<Predictor {predictor.info.name}, all faces: neutral, happiness, surprise, sadness, "
        "anger, disgust, fear, contempt>"
    )
    (shown,) = predictor(PORTRAIT)
    assert re.fullmatch(
        r"<Prediction .*astronaut\.jpg, face 0 at \d+, \d+ \(\d+ x \d+\): happiness \(\d+\.\d%\)>",
        repr(shown),
    )
    empty = Image.new("RGB", (64, 64))
    ((answer,),) = predictor.stream([frame_of(empty)])
    assert repr(answer) == "<Prediction picture: no face>"
    pixels = Sample("", "anger", pixels=bytes(48 * 48), side=48)
    assert "\\x00" not in repr(pixels)


def test_a_recipe_is_read_with_changes() -> None:
    run = read_recipe("finetune/folder", {"data.root": "faces", "options.temperature": 0.2})
    assert (run.name, run.start, run.data.root) == ("finetune/folder", "embedded", "faces")
    # adapted as it was trained: at 112 px the model of 144 would begin a point lower
    taken, own = run.encoder, ModelInfo.read(None).input
    assert (taken.size, taken.crop) == (own.size, own.crop)
    assert run.options["temperature"] == 0.2 and run.options["template"] == 9
    other = read_recipe("ke/ferplus-mobilenet", {"data.name": "rafdb"})
    assert (other.data.name, other.data.protocol) == ("rafdb", "")
    assert name_of(recipe_path("ke/ferplus-mobilenet")) == "ke/ferplus-mobilenet"
    assert {"method", "optim.epochs", "data.root"} <= set(setting_names())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.rot": "x"}, r"^no setting data\.rot: expected options\.NAME or one of data\.root,"),
        ({"optim.rate": 0.1}, r"^optim\.rate has a new name: optim\.learning_rate$"),
        ({"data": {"root": "x"}}, "^no setting data: "),
        ({"optim.epochs": "many"}, r"^finetune/folder: .*optim\.epochs.*many$"),
        ({"optim.epochs": 0}, r"^--optim\.epochs 0: expected at least 1$"),
        ({"data.name": 3}, r"^finetune/folder: .*data\.name.* 3$"),
    ],
)
def test_a_wrong_change_is_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_recipe("finetune/folder", changes)


@pytest.mark.slow  # for torch
def test_training_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pytorch_lightning", reason="needs fervor[train]")
    monkeypatch.chdir(tmp_path)
    folder_of_faces(tmp_path / "faces", 4)
    notes = logging.getLogger("pytorch_lightning")
    level = notes.level
    run = Run(
        method="classifier",
        data=Data("folder", "faces", cache="", validation=0.25),
        encoder=Encoder(size=32),
        optim=Optim(epochs=1, batch_size=4),
        output="run",
        threads=1,
    )
    assert fervor.train(run) == Path("run")
    assert capfd.readouterr() == ("", "")
    assert notes.level == level
    with pytest.raises(UsageError, match="epochs 0: expected at least 1"):
        fervor.train(Run(optim=Optim(epochs=0)))


@pytest.mark.slow
def test_the_page_s_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_lightning", reason="needs fervor[train]")
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (example,) = (block for block in blocks if "fervor.train(" in block)
    folder_of_faces(tmp_path / "faces", 8)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    assert (tmp_path / "exported" / "model.onnx").is_file()
