"""A function's parameters are its options; a mistake is one line that lists the right names."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jsonargparse import ArgumentParser

from fervor.cli.arguments import arguments_of
from fervor.config import RENAMED, Data, Encoder, Run
from fervor.data.augmentation import Augmentation
from fervor.errors import UsageError
from fervor.labels import BASIC, EXPRESSIONS
from fervor.methods import method_class
from fervor.methods.options import method_options
from fervor.models.image import build_image_encoder
from fervor.models.text.encoders import build_text_encoder
from fervor.recipes import RECIPES, nearest, recipe_path, recipes
from tests.support import tiny
from tests.support.drawn import batch


def look(
    inputs: list[str],
    *,
    model: str,
    faces: Literal["all", "largest"] = "all",
    threads: int = 0,
    fraction: float = 0.5,
    strict: bool = False,
) -> int:
    """Look at pictures.

    Args:
        inputs: pictures.
        model: a folder.
        faces: which faces.
        threads: how many.
        fraction: of the faces.
        strict: stop early.
    """
    return 0


def measure(*, data: Data, split: str = "test") -> int:
    """Measure.

    Args:
        data: which pictures.
        split: which part.
    """
    return 0


def repeat(*, data: Data, given: frozenset[str] = frozenset(), rounds: int = 1) -> int:
    """Repeat.

    Args:
        data: which pictures.
        given: what was given.
        rounds: how often.
    """
    return 0


def learn(run: Run, *, resume: str = "") -> int:
    """Learn.

    Args:
        run: a recipe.
        resume: a run folder.
    """
    return 0


def compare(name: str, root: str, *, rule: str = "") -> int:
    """Compare.

    Args:
        name: what.
        root: where.
        rule: how.
    """
    return 0


def looked(*given: str) -> dict[str, Any]:
    return arguments_of("look", look, given)


def run_of(*given: str) -> Run:
    run = arguments_of("learn", learn, given)["run"]
    assert isinstance(run, Run)
    return run


def test_values_and_defaults() -> None:
    assert looked("a", "b", "--model", "12", "--strict", "--fraction=0.25") == {
        **{"inputs": ["a", "b"], "model": "12", "faces": "all", "threads": 0},
        **{"fraction": 0.25, "strict": True},
    }


def test_the_names_of_what_was_given_go_to_who_asks_for_them() -> None:
    words = ["--data.views", "0", "--data.root=here"]
    values = arguments_of("repeat", repeat, words)
    assert values["given"] == {"data.views", "data.root"} and values["rounds"] == 1
    assert values["data"] == Data(root="here")
    with pytest.raises(UsageError, match="unknown option --given"):
        arguments_of("repeat", repeat, ["--given", "a"])


def test_words_after_two_dashes_are_inputs() -> None:
    assert looked("--model", "m", "--", "-a.jpg")["inputs"] == ["-a.jpg"]


def test_words_by_position() -> None:
    for given in (["a", "12", "--rule", "r"], ["a", "--rule", "r", "12"]):
        values = arguments_of("compare", compare, given)
        assert values == {"name": "a", "root": "12", "rule": "r"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "missing NAME, ROOT: see fervor compare --help"),
        (["a", "--rule", "r"], "missing ROOT: see fervor compare --help"),
        (["a", "b", "c"], "unexpected argument c: see fervor compare --help"),
        (["a", "b", "--root", "c"], "unknown option --root: expected one of --rule, --help"),
    ],
)
def test_mistakes_with_words_by_position(given: list[str], line: str) -> None:
    with pytest.raises(UsageError) as refused:
        arguments_of("compare", compare, given)
    assert str(refused.value) == line


def test_dataclass_by_dots() -> None:
    values = arguments_of("measure", measure, ["--data.root", "here", "--data.protocol", "votes"])
    assert values == {"data": Data(root="here", protocol="votes"), "split": "test"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ["a", "--model", "m", "--thread", "2"],
            "unknown option --thread: expected one of --threads, ",
        ),
        (
            ["a", "--model", "m", "--treads=2"],
            "unknown option --treads: expected one of --threads, ",
        ),
        (["a", "--model", "m", "-threads", "2"], "unknown option --threads"),
        (["a", "--model", "m", "--threads", "two"], "--threads two: expected a whole number"),
        (["a", "--model", "m", "--threads", "1.5"], "--threads 1.5: expected a whole number"),
        (["a", "--model", "m", "--threads"], "--threads: expected a value"),
        (
            ["a", "--model", "-5,0,300", "--threads", "1"],
            "--model: expected a value; one that begins with - is written --model=-5,0,300",
        ),
        (["a", "--model", "m", "--fraction", "x\ny"], "--fraction x y: expected a number"),
        (["a", "--model", "m", "--faces", "some"], "--faces some: expected one of all, largest"),
        (["a"], "missing --model: see fervor look --help"),
        (["--model", "m"], "missing INPUT: see fervor look --help"),
        (["a", "--model", "m", "--strict", "b"], "unexpected argument b"),
    ],
)
def test_mistakes_are_one_line(given: list[str], line: str) -> None:
    with pytest.raises(UsageError) as refused:
        looked(*given)
    message = " ".join(str(refused.value).split())
    assert message.startswith(line)


def test_a_value_that_begins_with_a_dash() -> None:
    assert looked("a", "--model=-5,0,300")["model"] == "-5,0,300"
    with pytest.raises(UsageError, match=r"^--model: expected a value$"):
        looked("a", "--model", "--threads", "1")


def test_an_unknown_option_writes_the_help_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each known option took a second."""
    plain, texts = ArgumentParser.format_help, []
    monkeypatch.setattr(
        ArgumentParser, "format_help", lambda parser: texts.append(plain(parser)) or texts[-1]
    )
    with pytest.raises(UsageError, match=r"unknown option --optim\.epoch: expected"):
        run_of("--optim.epoch", "3")
    assert len(texts) == 1


def test_right_names_come_nearest_first() -> None:
    assert nearest("thread", ["model", "fraction", "threads"])[0] == "threads"
    with pytest.raises(
        UsageError, match=r"^unknown option --optim.learning: expected one of --optim.learning_rate"
    ):
        run_of("--optim.learning", "1")


def test_options_override_a_recipe_wherever_it_stands(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("optim: {learning_rate: 0.5, epochs: 7}\noptions: {margin: 1, scale: 2}\n")
    for given in (
        ["--config", str(recipe), "--optim.epochs", "3", "--options.scale", "4"],
        ["--optim.epochs", "3", "--options.scale", "4", f"--config={recipe}"],
    ):
        run = run_of(*given)
        assert (run.optim.learning_rate, run.optim.epochs) == (0.5, 3)
        assert run.options == {"margin": 1, "scale": 4}
        assert run.name == "mine"
    assert run_of("--config", str(recipe), "--name", "other").name == "other"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("methd: ke\n", "unknown option --methd: expected one of --method, "),
        (
            "optim: {learning: 1}\n",
            "unknown option --optim.learning: expected one of --optim.learning_rate, ",
        ),
        ("seed: many\n", "--seed many: expected a whole number"),
        ("optim: [\n", "RECIPE is no readable YAML: "),
        ("- ke\n", "RECIPE holds no settings: expected lines as `method: ke`"),
    ],
)
def test_mistakes_in_a_recipe_are_one_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        run_of("--config", str(path))
    assert str(refused.value).startswith(line.replace("RECIPE", str(path)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("recipe", recipes())
def test_recipe_of_the_package_parses(recipe: str) -> None:
    assert run_of("--config", recipe).name == recipe
    assert recipe_path(recipe) == RECIPES / f"{recipe}.yaml"


def test_unknown_recipe_lists_the_known() -> None:
    first = recipes()[0]
    with pytest.raises(UsageError, match=f"expected a YAML file or one of .*{first}"):
        run_of("--config", f"{first}x")
    with pytest.raises(UsageError, match=r"^--config .*: expected"):
        run_of("--config")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--optim.epochs=0", "--optim.epochs 0: expected at least 1"),
        ("--optim.batch_size=0", "--optim.batch_size 0: expected at least 1"),
        ("--optim.learning_rate=0", "--optim.learning_rate 0.0: expected a number above 0"),
        ("--optim.learning_rate=nan", "--optim.learning_rate nan: expected a number"),
        ("--seed=-1", "--seed -1: expected at least 0"),
        ("--seed=5000000000", "--seed 5000000000: expected at most 4,294,967,295"),
        ("--data.validation=1.5", "--data.validation 1.5: expected a share, 0 to 1"),
        ("--encoder.size=0", "--encoder.size 0: expected at least 1"),
        ("--processes=0", "--processes 0: expected at least 1"),
        ("--optim.learning_rate=inf", "--optim.learning_rate inf: expected a number"),
        ("--encoder.crop=-5", "--encoder.crop -5: expected at least 0"),
        ("--encoder.crop=7", "--encoder.crop 7: expected 0 or at least 8"),
        ("--encoder.crop=5000", "--encoder.crop 5000: expected at most 2,048"),
        ("--data.margin=1e9", "--data.margin 1000000000.0: expected at most 100"),
        ("--augment.brightness=1.5", "--augment.brightness 1.5: expected 0 to 1"),
        ("--augment.contrast=1.5", "--augment.contrast 1.5: expected 0 to 1"),
        ("--augment.rotation=270", "--augment.rotation 270.0: expected 0 to 180"),
        ("--augment.gamma=-0.5", "--augment.gamma -0.5: expected 0 to 10"),
        ("--augment.mixup=-1", "--augment.mixup -1.0: expected 0 to 1000"),
        ("--augment.jitter=-1", "--augment.jitter -1.0: expected 0 to 1"),
        (
            "--augment.low_resolution_side=0",
            "--augment.low_resolution_side 0: expected 1 to 2048",
        ),
        (
            "--augment.erase_area=0.01",
            "--augment.erase_area 0.01: expected 0, or above 0.02 up to 1",
        ),
    ],
)
def test_impossible_numbers_are_one_line(given: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_of(given)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("adamw 1", "--optim.momentum 1.0: expected less than 1 for adamw's first beta"),
        ("sgd 0", "--optim.nesterov true: expected --optim.momentum above 0 with it"),
    ],
)
def test_momentum_that_the_optimiser_cannot_have(given: str, line: str) -> None:
    name, momentum = given.split()
    words = (f"--optim.name={name}", f"--optim.momentum={momentum}")
    with pytest.raises(UsageError) as caught:
        run_of(*words, "--optim.nesterov=true")
    assert str(caught.value) == line


def test_a_group_of_settings_is_no_setting() -> None:
    with pytest.raises(UsageError) as caught:
        run_of("--encoder", "resnet50")
    line = "--encoder resnet50: encoder is a group of settings, expected one as "
    assert str(caught.value) == f"{line}--encoder.name resnet50"
    with pytest.raises(UsageError, match=r"^--optim adam: .* expected one as --optim\.name adam$"):
        run_of("--optim=adam")
    with pytest.raises(UsageError, match=r"^--augment 1: .* expected one as --augment\.flip$"):
        run_of("--augment=1")


def test_a_recipe_on_another_data_set_leaves_its_own_protocols_behind() -> None:
    run = run_of("--config", "ke/ferplus-mobilenet", "--data.name", "rafdb")
    assert (run.data.name, run.data.protocol, run.data.target) == ("rafdb", "", "cross_entropy")
    assert run_of("--config", "ke/ferplus-mobilenet").data.protocol == "majority"
    given = ("--data.name=affectnet", "--data.protocol=affectnet7")
    assert run_of("--config", "ke/rafdb-resnet18", *given).data.protocol == "affectnet7"
    assert run_of("--config", "ke/rafdb-resnet18", *given).data.annotations == ""
    same = run_of("--config", "ke/rafdb-resnet18", "--data.name", "rafdb")
    assert (same.data.protocol, same.data.annotations) == ("basic", "aligned")


def test_resume_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 7\nname: ke/mine\n")
    run = run_of("--resume", str(tmp_path), "--threads", "1")
    assert (run.seed, run.threads, run.name) == (7, 1, "ke/mine")
    assert arguments_of("learn", learn, ["--resume", str(tmp_path)])["resume"] == str(tmp_path)
    with pytest.raises(UsageError, match="it has no"):
        run_of("--resume", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="leave --config out"):
        run_of("--resume", str(tmp_path), "--config", "a.yaml")


@pytest.mark.parametrize("recipe", [name for name in recipes() if name.startswith("mpa/")])
def test_recipe_of_mpa_builds_with_tiny_towers(recipe: str, tmp_path: Path) -> None:
    """With its own options, on a CLIP of two layers that takes long prompts."""
    run = run_of("--config", recipe)
    torch.manual_seed(0)
    folder = tiny.save_clip(tmp_path / "clip", positions=300)
    encoder = build_image_encoder(Encoder(name="clip", weights=folder, size=32))
    text = build_text_encoder(folder)
    labels = BASIC if run.data.protocol.endswith(("basic", "7")) else EXPRESSIONS
    method = method_class("mpa")(encoder, text, labels, method_options("mpa", run.options))
    faces = batch(labels, 1, size=32)
    method.prepare([faces])
    losses = method.losses(faces)
    assert all(value.isfinite() for value in losses.values())
    assert (
        Augmentation(run.augment, 32)(torch.zeros(2, 1, 48, 48, dtype=torch.uint8)).shape[-1] == 32
    )


@pytest.mark.parametrize("name", RENAMED)
def test_an_earlier_name_is_answered_with_todays(name: str, tmp_path: Path) -> None:
    group, setting = name.split(".")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{group}: {{{setting}: 0.5}}\n")
    for given in ([f"--{name}", "0.5"], ["--config", str(path)]):
        with pytest.raises(UsageError) as refused:
            run_of(*given)
        assert str(refused.value) == f"--{name} has a new name: --{RENAMED[name]}"


def test_a_run_of_version_0_1_goes_on_under_todays_names(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("optim: {rate: 0.5, warmup_rate: 0.25, epochs: 7}\n")
    run = run_of("--resume", str(tmp_path))
    assert (run.optim.learning_rate, run.optim.warmup_learning_rate) == (0.5, 0.25)
    assert run.optim.epochs == 7
