"""A tiny run: what it leaves behind, exact resume after a kill, choice of the epoch, schedule."""

import ast
import csv
import inspect
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from fervor import methods
from fervor.artifacts.model_info import ModelInfo
from fervor.config import Augment, Data, Encoder, Landmarks, Optim, Run, Text
from fervor.data import datasets
from fervor.data.alignment import align
from fervor.data.batch import Batch
from fervor.data.datasets import ferplus
from fervor.data.distillation import StoredLogits, name_of, write_logits
from fervor.data.loading import TrainingBatches
from fervor.data.manifest import settings_of
from fervor.data.samplers import EpochSampler
from fervor.data.splits import read_splits
from fervor.errors import DataError, ModelError, UsageError
from fervor.evaluation.evaluate import torch_logits
from fervor.evaluation.metrics import fitted_temperature, softmax, summary
from fervor.io.atomic import lock_folder
from fervor.io.provenance import sha256, versions
from fervor.labels import EXPRESSIONS
from fervor.methods.build import load_model
from fervor.methods.ke import KE
from fervor.plugins import METHODS
from fervor.prompts.templates import TEMPLATES, fill
from fervor.recipes import read_settings
from fervor.training import finalize, trainer
from fervor.training.activity import gradient_norms
from fervor.training.trainer import Training, train
from tests.support import tiny
from tests.support.drawn import rows, write_folder, write_pictures


pytestmark = [
    # advice on speed, which a run of seconds needs not
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    # frozen layers are meant to stay in eval mode
    pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode"),
]

LABELS = ("neutral", "happiness", "surprise", "anger")
EPOCHS, STEPS = 3, 3
"""Of a run of `settings`."""
OPTIM = {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.03, "warmup_learning_rate": 0.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in three splits, and a tiny network: `faces` and `net`."""
    folder = tmp_path_factory.mktemp("training")
    for seed, (split, count) in enumerate({"train": 6, "valid": 3, "test": 2}.items()):
        write_folder(folder / "faces" / split, LABELS, count, seed=seed)
    torch.manual_seed(0)
    tiny.save_resnet(folder / "net")
    return folder


def settings(
    root: Path, output: Path, *, optim: dict[str, Any] | None = None, **changes: Any
) -> Run:
    """A run of three epochs of three steps."""
    given: dict[str, Any] = {
        "data": Data(name="folder", root=str(root / "faces"), cache=str(root / "cache")),
        "augment": Augment(rotation=10),
        "encoder": Encoder(name="resnet18", weights=str(root / "net"), size=32),
        "optim": Optim(**{**OPTIM, **(optim or {})}),
        "options": {"temperature": 0.1, "centre": True},
        "seed": 29,
        "output": str(output),
        "name": "drawn",
    }
    return Run(**{**given, **changes})


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    return train(settings(root, tmp_path_factory.mktemp("runs") / "run"))


def test_what_is_cached_before_the_first_step_is_computed_where_the_steps_are(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    device, moved, plain = torch.device("cpu", 0), [], KE.to

    def to(self: KE, *where: Any, **kinds: Any) -> KE:
        moved.extend(where)
        return plain(self, *where, **kinds)

    monkeypatch.setattr(trainer.distributed, "own_device", lambda: device)
    monkeypatch.setattr(trainer, "prepare", prepared)
    monkeypatch.setattr(KE, "to", to)
    with pytest.raises(KeyboardInterrupt):
        train(settings(root, tmp_path / "run"))
    assert moved == [device]


def info_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found


def history_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())
    return found


def close(row: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """What equals the row: numbers nearly, words exactly."""
    return {
        name: value if isinstance(value, str) else pytest.approx(value, rel=tolerance)
        for name, value in row.items()
    }


# What a run leaves behind


def test_a_run_folder_is_complete(finished: Path) -> None:
    files = {path.name for path in finished.iterdir()}
    expected = {"weights.safetensors", "model.json", "config.yaml", "README.md", "history.json"}
    expected |= {"starts.json", "activity.json"}
    assert files == {*expected, "logs"}
    logs = {path.name.split(".")[0] for path in (finished / "logs").iterdir()}
    assert {"metrics", "events"} <= logs
    with (finished / "logs" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    losses = [row["train/loss_epoch"] for row in table if row.get("train/loss_epoch")]
    assert len(losses) == EPOCHS
    assert {"train/similarity_epoch", "valid/accuracy"} <= table[0].keys()


def test_the_configuration_is_written_resolved(finished: Path, root: Path) -> None:
    expected = asdict(settings(root, finished))
    assert read_settings(finished / "config.yaml") == expected
    assert yaml.safe_load((finished / "config.yaml").read_text()) == expected
    data = {**expected["data"], "root": "", "cache": Data().cache}
    encoder = {**expected["encoder"], "weights": "net"}
    expected = {**expected, "output": "", "data": data, "encoder": encoder}
    assert info_of(finished)["config"] == expected  # without the machine's folders


def test_the_description_says_what_was_done(finished: Path) -> None:
    info = info_of(finished)
    assert (info["schema"], info["name"], info["method"], info["seed"]) == (1, "drawn", "ke", 29)
    assert info["labels"] == list(LABELS)
    assert info["input"] == {"size": 32, "crop": 32, "grey": False}
    assert info["data"] == {
        "name": "folder",
        "protocol": "folders",
        "train_protocol": "folders",
        "train": dict.fromkeys(LABELS, 6),
        "selection": dict.fromkeys(LABELS, 3),
    }
    assert info["text"] == {"name": "minilm-vectors", "width": 384}
    assert info["options"]["temperature"] == 0.1
    assert info["sha256"] == {"weights.safetensors": sha256(finished / "weights.safetensors")}
    assert info["versions"] == versions()
    method = load_model(finished)
    sizes = [parameter.numel() for parameter in method.parameters()]
    assert info["parameters"]["all"] == info["parameters"]["trainable"] == sum(sizes)


@pytest.mark.parametrize(
    ("metric", "kept"), [("accuracy", 1), ("negative_log_likelihood", 3)], ids=str
)
def test_an_epoch_is_kept_by_accuracy_or_likelihood(metric: Any, kept: int) -> None:
    rows = [
        {"epoch": epoch, "accuracy": accuracy, "negative_log_likelihood": likelihood}
        for epoch, (accuracy, likelihood) in enumerate(
            [(0.5, 0.9), (0.7, 0.8), (0.6, 0.7), (0.7, 0.6), (0.6, 0.6)]
        )
    ]
    assert finalize.best_epoch(rows, metric) == rows[kept]
    diverged = {"epoch": 0, "accuracy": 0.9, "negative_log_likelihood": float("nan")}
    assert finalize.best_epoch([diverged, *rows], metric) == rows[kept]
    with pytest.raises(UsageError, match="the training has diverged"):
        finalize.best_epoch([diverged], metric)


@pytest.mark.parametrize("changes", [{}, {"sam": 0.05}, {"average": 0.9}], ids=str)
def test_a_run_that_diverges_stops_at_its_first_step_without_a_loss(
    changes: dict[str, float], root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    optim = {"learning_rate": 1e30, "warmup_epochs": 0, **changes}
    with pytest.raises(UsageError, match=r"epoch 1, step 2: the loss is not finite: .*1e\+30"):
        train(settings(root, tmp_path / "run", optim=optim))
    assert "loss nan" not in caplog.text
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert not (tmp_path / "run" / "history.json").exists()


def test_weights_that_answer_nothing_are_not_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of the second epoch spoils them, whose loss was fine."""
    folder, plain = tmp_path / "run", Training._selection_logits

    def logits(self: Training) -> Any:
        return plain(self) * (float("nan") if self.current_epoch else 1)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_selection_logits", logits)
        with pytest.raises(UsageError, match=r"epoch 2, after its last step: an answer on valid"):
            train(settings(root, folder))
    assert [row["epoch"] for row in history_of(folder)] == [0]
    train(settings(root, folder), resume=True)
    weights = load_file(folder / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_diverged_run_of_version_0_1_is_not_finished(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finalize, "torch_logits", lambda *given: np.full((12, 4), np.nan))
    with pytest.raises(UsageError, match=r"has diverged, .* lower --optim\.learning_rate"):
        train(settings(root, tmp_path / "run", optim={"epochs": 1}))
    assert not (tmp_path / "run" / "model.json").exists()


def test_the_weights_kept_by_likelihood_are_its_epochs(root: Path, tmp_path: Path) -> None:
    by_likelihood = settings(
        root, tmp_path / "run", selection_metric="negative_log_likelihood", optim={"epochs": 4}
    )
    folder = train(by_likelihood)
    history, chosen = history_of(folder), info_of(folder)["selection"]
    likelihoods = [row["negative_log_likelihood"] for row in history]
    assert chosen["epoch"] == likelihoods.index(min(likelihoods))
    splits = read_splits(by_likelihood.pipeline)
    batches = trainer.evaluation_batches(splits.selection, size=32)
    logits = torch_logits(load_model(folder), batches)
    figures = summary(softmax(logits), splits.selection.label.numpy(), LABELS)
    assert figures["negative_log_likelihood"] == pytest.approx(min(likelihoods), rel=1e-4)


def test_the_kept_weights_are_those_of_the_best_epoch(finished: Path, root: Path) -> None:
    history, chosen = history_of(finished), info_of(finished)["selection"]
    assert [row["epoch"] for row in history] == [0, 1, 2]
    accuracies = [row["accuracy"] for row in history]
    assert chosen["epoch"] == accuracies.index(max(accuracies))
    assert (chosen["mode"], chosen["split"]) == ("honest", "valid")
    splits = read_splits(settings(root, finished).pipeline)
    batches = list(trainer.evaluation_batches(splits.selection, size=32))
    logits = torch_logits(load_model(finished), batches)
    label = splits.selection.label.numpy()
    figures = summary(softmax(logits), label, LABELS)
    for name in ("accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood"):
        assert chosen[name] == pytest.approx(figures[name], rel=1e-4)
        assert history[chosen["epoch"]][name] == chosen[name]
    temperature = info_of(finished)["temperature"]
    assert temperature == pytest.approx(fitted_temperature(logits, label), rel=1e-3)
    calibrated = summary(softmax(logits, temperature), label, LABELS)
    assert chosen["calibration_error"] == pytest.approx(calibrated["calibration_error"], abs=1e-3)
    points = info_of(finished)["operating_points"]
    assert points["natural"]["accuracy"] == pytest.approx(figures["accuracy"])
    assert points["balanced"]["mean_class_accuracy"] >= points["natural"]["mean_class_accuracy"]
    assert len(points["log_prior"]) == len(LABELS)


def test_one_seed_one_result(finished: Path, root: Path, tmp_path: Path) -> None:
    again = train(settings(root, tmp_path / "again"))
    assert history_of(again) == [close(row, 1e-4) for row in history_of(finished)]
    assert same_weights(again, finished)
    other = train(settings(root, tmp_path / "other", seed=1, optim={"epochs": 1}))
    assert not same_weights(other, finished)


def same_weights(first: Path, second: Path) -> bool:
    one, two = (load_file(folder / "weights.safetensors") for folder in (first, second))
    assert one.keys() == two.keys()
    return all(torch.allclose(one[key], two[key], rtol=1e-3, atol=1e-5) for key in one)


def test_ferplus_with_a_face_pretrained_trunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = {
        "train": rows(0, EXPRESSIONS * 2),
        "valid": rows(100, EXPRESSIONS),
        "test": rows(200, EXPRESSIONS),
    }
    counts = {split: (len(part) // 8,) * 8 for split, part in faces.items()}
    monkeypatch.setattr(ferplus, "COUNTS", {"label.csv": {"majority": counts}})
    run = Run(
        method="classifier",
        data=Data(
            root=str(write_pictures(tmp_path / "ferplus", faces)), target="cross_entropy", cache=""
        ),
        encoder=Encoder(size=96, grey=True, frozen_blocks=10),
        optim=Optim(epochs=1, batch_size=8, precision="bf16", decay_all=False, schedule="step"),
        output=str(tmp_path / "run"),
    )
    info = info_of(train(run))
    assert info["labels"] == list(EXPRESSIONS)
    assert info["data"]["protocol"] == "majority"
    assert info["data"]["train"] == dict.fromkeys(EXPRESSIONS, 2)
    assert info["parameters"]["trainable"] < info["parameters"]["all"]
    assert info["grid"] == [6, 6]


# Exact resume


CHILD = """
import os, signal, sys
from pathlib import Path
from fervor.methods.ke import KE
from fervor.training.trainer import train
from tests.training.test_trainer import RESUMED, settings

root, output, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
plain, done = KE.losses, []

def losses(self, batch):
    if len(done) == steps:
        os.kill(os.getpid(), signal.SIGKILL)
    found = plain(self, batch)
    done.append(float(found["loss"].detach()))
    print(done[-1], flush=True)
    return found

KE.losses = losses
train(settings(root, output, optim=RESUMED[sys.argv[4]]))
"""

RESUMED: dict[str, dict[str, Any]] = {
    "sgd": {"average": 0.5, "schedule": "step"},
    "sam": {
        "sam": 0.05,
        "name": "adam",
        "learning_rate": 3e-3,
        "schedule": "exponential",
        "clip": 0.5,
    },
}
"""Everything that has a state: momentum, schedule, moving average; SAM around Adam."""


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list that fills with the loss of every step."""
    plain, found = KE.losses, []

    def losses(self: KE, batch: Any) -> dict[str, Tensor]:
        parts = plain(self, batch)
        found.append(float(parts["loss"].detach()))
        return parts

    monkeypatch.setattr(KE, "losses", losses)
    return found


@pytest.mark.parametrize("kind", RESUMED)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    kind: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optim, passes = RESUMED[kind], 2 if kind == "sam" else 1
    steps = STEPS * passes + 2 + passes // 2  # in the second epoch; with SAM between two passes
    child = subprocess.run(
        [sys.executable, "-c", CHILD, root, tmp_path / "killed", str(steps), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    before = [float(line) for line in child.stdout.split()]
    assert len(before) == steps
    assert not (tmp_path / "killed" / "model.json").exists()

    losses = recorded(monkeypatch)
    whole = train(settings(root, tmp_path / "whole", optim=optim))
    expected = list(losses)
    losses.clear()
    resumed = train(settings(root, tmp_path / "killed", optim=optim), resume=True)
    assert len(expected) == EPOCHS * STEPS * passes
    assert before == pytest.approx(expected[:steps], rel=1e-3)
    # the whole second epoch again
    assert losses == pytest.approx(expected[STEPS * passes :], rel=1e-3)
    assert history_of(resumed) == [close(row, 1e-3) for row in history_of(whole)]
    assert same_weights(resumed, whole)
    for name, value in info_of(whole)["selection"].items():
        found = info_of(resumed)["selection"][name]
        assert found == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3))


@pytest.fixture
def broken_off(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that stopped in its second epoch."""
    run = settings(root, tmp_path / "run", optim={"epochs": 2})
    plain, steps = KE.losses, []

    def losses(self: KE, batch: Any) -> dict[str, Tensor]:
        steps.append(batch)
        if len(steps) > STEPS:
            raise OSError("no electricity")
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(KE, "losses", losses)
        with pytest.raises(OSError, match="no electricity"):
            train(run)
    assert (tmp_path / "run" / "last.ckpt").is_file()
    return run


class Trap:
    """Unpickled carelessly, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_run_folder_runs_no_code(broken_off: Run, tmp_path: Path) -> None:
    last = tmp_path / "run" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    last.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UsageError, match=r"last\.ckpt is damaged") as refused:
        train(broken_off, resume=True)
    assert "\n" not in str(refused.value)
    torch.save(state | {"trap": Trap(tmp_path / "sprung")}, last)
    train(broken_off, resume=True)  # the trap is passed over
    assert not (tmp_path / "sprung").exists()


STATES: dict[str, Any] = {
    "nothing": {},
    "a list": [1, 2],
    "of another network": {"state_dict": {"method.texts": torch.zeros(1)}},
    "without optimisers": {"optimizer_states": []},
    "of another optimiser": {"optimizer_states": [{"state": {}, "param_groups": []}]},
    "a text for a loop": {"loops": "fit_loop"},
    "a history of words": {"history": ["best"]},
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_does_not_fit_is_one_line(case: str, broken_off: Run, tmp_path: Path) -> None:
    last = tmp_path / "run" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    changed = STATES[case]
    torch.save(state | changed if changed and isinstance(changed, dict) else changed, last)
    with pytest.raises(UsageError, match=r"last\.ckpt does not fit the run") as refused:
        train(broken_off, resume=True)
    assert "\n" not in str(refused.value)


def test_two_trainings_in_one_folder(broken_off: Run, root: Path, tmp_path: Path) -> None:
    """The second one is refused, and takes nothing from the first."""
    run = tmp_path / "run"
    (run / ".weights.1.partial.safetensors").write_bytes(b"of the first one, at work")
    before = sorted(path.name for path in run.iterdir())
    with lock_folder(run):
        for resume in (False, True):
            with pytest.raises(UsageError, match=r"run is being written by another process: wait"):
                train(broken_off, resume=resume)
        assert sorted(path.name for path in run.iterdir()) == [".lock", *before]
    new = tmp_path / "new"
    with pytest.raises(UsageError, match="unknown method"):
        train(settings(root, new, method="kE"))
    assert not new.exists()


def test_a_run_stopped_while_finishing_finishes_later(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(info: dict[str, Any]) -> str:
        raise OSError("no space left")

    run = settings(root, tmp_path / "run", optim={"epochs": 2})
    with monkeypatch.context() as patch:
        patch.setattr(finalize, "card", full_disk)
        with pytest.raises(OSError, match="no space left"):
            train(run)
    steps = recorded(monkeypatch)
    train(run, resume=True)
    assert not steps
    assert [row["epoch"] for row in history_of(tmp_path / "run")] == [0, 1]
    assert info_of(tmp_path / "run")["selection"]["epoch"] in (0, 1)
    load_model(tmp_path / "run")


def test_an_existing_run_is_not_overwritten(finished: Path, root: Path) -> None:
    before = (finished / "weights.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"holds a run already: .*another --output") as caught:
        train(settings(root, finished))
    assert "\n" not in str(caught.value)
    assert (finished / "weights.safetensors").read_bytes() == before


def test_a_model_without_its_run_is_not_overwritten(root: Path, tmp_path: Path) -> None:
    """As `fervor export` leaves it, or a download."""
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in ("model.json", "weights.safetensors"):
        (folder / name).write_bytes(b"theirs")
    with pytest.raises(UsageError, match=r"holds a model already: name another --output") as caught:
        train(settings(root, folder))
    assert "\n" not in str(caught.value)
    assert {path.name for path in folder.iterdir()} == {"model.json", "weights.safetensors"}
    assert all(path.read_bytes() == b"theirs" for path in folder.iterdir())


@pytest.mark.parametrize("name", ["weights.safetensors", "best.safetensors"])
def test_the_weights_that_a_run_starts_from_stay(root: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "start"
    folder.mkdir()
    (folder / name).write_bytes(b"theirs")
    run = settings(root, folder)
    for weights in (folder / name, folder):
        encoder = replace(run.encoder, weights=str(weights))
        with pytest.raises(UsageError, match=rf"{name} would be overwritten; name another folder"):
            train(replace(run, encoder=encoder))
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == b"theirs"


def test_a_finished_run_does_not_go_on(finished: Path, root: Path) -> None:
    before = (finished / "weights.safetensors").read_bytes()
    with pytest.raises(UsageError, match="finished"):
        train(settings(root, finished), resume=True)
    assert (finished / "weights.safetensors").read_bytes() == before


def test_nothing_to_resume(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no run that could go on: it has no config\.yaml"):
        train(settings(root, tmp_path / "empty"), resume=True)


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "learning_rate": (
        {"optim": {"learning_rate": 0.01}},
        r"optim\.learning_rate was 0\.03, 0\.01 would make another run of it",
    ),
    "seed": ({"seed": 30}, "seed was 29, 30 would make"),
    "epochs": ({"optim": {"epochs": 4}}, r"optim\.epochs was 3, 4 would"),
    "option": (
        {"options": {"temperature": 0.2, "centre": True}},
        r"options\.temperature was 0\.1, ",
    ),
    "option left out": ({"options": {"centre": True}}, r"options\.temperature was 0\.1, not given"),
    "selection": ({"selection": "paper"}, "selection was honest, paper would"),
}


def half(
    root: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    data: Data | None = None,
    encoder: Encoder | None = None,
    **optim: Any,
) -> None:
    """A run that was stopped in its second epoch."""
    plain, calls = KE.losses, []
    given = {name: part for name, part in (("data", data), ("encoder", encoder)) if part}

    def losses(self: KE, batch: Any) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == STEPS + 2:
            raise KeyboardInterrupt
        return plain(self, batch)

    previous = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(KE, "losses", losses)
        with pytest.raises(KeyboardInterrupt):
            train(settings(root, folder, optim=optim, **given))
    signal.signal(signal.SIGINT, previous)  # Lightning ignores it from then on


def test_a_run_goes_on_as_itself_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rate, seed or option is another run; nothing is written before that is seen."""
    folder = tmp_path / "run"
    half(root, folder, monkeypatch)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for changes, message in CHANGED.values():
        with pytest.raises(UsageError, match=f"--resume .*run: {message}"):
            train(settings(root, folder, **changes), resume=True)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    other = Data(name="folder", root=str(root / "faces"), cache=str(tmp_path / "elsewhere"))
    train(settings(root, folder, data=other, threads=1), resume=True)
    assert read_settings(folder / "config.yaml")["threads"] == 1
    first, second = info_of(folder)["starts"]
    assert (first["epoch"], first["changed"]) == (0, [])
    assert (second["epoch"], second["changed"]) == (1, ["threads"])
    assert second["versions"] == versions()


def test_a_run_goes_on_with_its_own_images_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold-out drawn anew among more images would hold some that were trained on."""
    faces, moved, run = tmp_path / "faces", tmp_path / "moved", tmp_path / "run"
    write_folder(faces, LABELS, 8)
    given = {"data": Data(name="folder", root=str(faces), cache="")}
    half(root, run, monkeypatch, **given)
    last, added = faces / "anger" / "007.png", faces / "anger" / "000a.png"
    assert last.is_file()
    shutil.copy(last, added)
    message = r"--resume .*run: there are 29 pictures to train on, 28 when the run began: put them"
    with pytest.raises(UsageError, match=message) as refused:
        train(settings(root, run, **given), resume=True)
    assert "\n" not in str(refused.value)
    last.unlink()
    with pytest.raises(UsageError, match="to train on have other names or labels than when"):
        train(settings(root, run, **given), resume=True)
    added.rename(last)
    faces.rename(moved)
    elsewhere = Data(name="folder", root=str(moved), cache="")
    train(settings(root, run, data=elsewhere), resume=True)
    assert [sorted(start) for start in info_of(run)["starts"]] == [
        ["changed", "commit", "epoch", "versions"]
    ] * 2


def test_a_run_goes_on_with_its_own_weights_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that it began with, or learns from, and that holds other weights meanwhile."""
    net, run = tmp_path / "net", tmp_path / "run"
    shutil.copytree(root / "net", net)
    given = {"encoder": Encoder(name="resnet18", weights=str(net), size=32)}
    half(root, run, monkeypatch, **given)
    noted = json.loads((run / "starts.json").read_text())["files"]
    assert list(noted) == ["encoder.weights"]
    (net / "note.txt").write_text("it may lie beside the weights")
    (weights,) = net.glob("*.safetensors")
    own = load_file(weights)
    save_file({name: part + 1 for name, part in own.items()}, weights)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    message = r"--resume .*run: encoder\.weights .*net holds something else than when the run began"
    with pytest.raises(UsageError, match=message):
        train(settings(root, run, **given), resume=True)
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    shutil.copy(root / "net" / weights.name, weights)
    train(settings(root, run, **given), resume=True)


def test_a_run_of_version_0_1_goes_on_without_its_fingerprint(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    half(root, folder, monkeypatch)
    notes = json.loads((folder / "starts.json").read_text())
    assert notes.pop("data").keys() == {"train", "selection"}
    (folder / "starts.json").write_text(json.dumps(notes))
    train(settings(root, folder), resume=True)
    assert json.loads((folder / "starts.json").read_text())["data"]["train"]["images"] == 24


def test_epochs_are_added_where_rates_do_not_depend_on_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    half(root, folder, monkeypatch, schedule="exponential")
    (folder / "history.json").write_text(json.dumps([{}] * 3))
    with pytest.raises(UsageError, match=r"epochs 2: .*run has 3 epochs behind it already"):
        shorter = {"schedule": "exponential", "epochs": 2}
        train(settings(root, folder, optim=shorter), resume=True)
    (folder / "history.json").write_text(json.dumps([{}]))
    train(settings(root, folder, optim={"schedule": "exponential", "epochs": 4}), resume=True)
    assert [row["epoch"] for row in history_of(folder)] == [0, 1, 2, 3]


def test_what_failed_before_its_first_step_does_not_stand_in_the_way(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: KE, batch: Any) -> dict[str, Tensor]:
        raise UsageError("no step")

    with monkeypatch.context() as patch:
        patch.setattr(KE, "losses", broken)
        with pytest.raises(UsageError, match="no step"):
            train(settings(root, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.yaml").exists()
    train(settings(root, tmp_path / "run", optim={"epochs": 1}))
    assert len(history_of(tmp_path / "run")) == 1


def test_an_interrupted_run_is_left_to_be_resumed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = KE.losses, []

    def losses(self: KE, batch: Any) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == STEPS + 2:
            raise KeyboardInterrupt
        return plain(self, batch)

    monkeypatch.setattr(KE, "losses", losses)
    previous = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(settings(root, tmp_path / "run"))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "model.json").exists()


# Choice of the epoch


def test_a_choice_on_test_is_labelled(root: Path, tmp_path: Path, finished: Path) -> None:
    run = settings(root, tmp_path / "run", selection="paper", optim={"epochs": 1})
    folder = train(run)
    info = info_of(folder)
    assert (info["selection"]["mode"], info["selection"]["split"]) == ("paper", "test")
    assert info["data"]["selection"] == dict.fromkeys(LABELS, 2)
    assert read_settings(folder / "config.yaml")["selection"] == "paper"
    assert "chosen on the test split" in (folder / "README.md").read_text()
    assert "test split" not in (finished / "README.md").read_text()


def test_choosing_on_test_needs_one(root: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "faces", LABELS, 4)
    data = Data(name="folder", root=str(tmp_path / "faces"), cache="")
    with pytest.raises(UsageError, match="has no test split: use --selection honest"):
        train(settings(root, tmp_path / "run", data=data, selection="paper"))


def test_without_a_validation_split_a_share_is_held_out(root: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "faces", LABELS, 5)
    data = Data(name="folder", root=str(tmp_path / "faces"), validation=0.2, cache="")
    splits = read_splits(settings(root, tmp_path / "run", data=data).pipeline)
    assert splits.train.counts() == [4] * 4
    assert splits.selection.counts() == [1] * 4
    assert not set(splits.train.sources) & set(splits.selection.sources)
    assert splits.selected_on == "20% of train, held out"


# Pairs, and aligned pictures


class Paired(KE):
    """KE that asks for partners and notes what it gets."""

    pairs = True
    seen: list[tuple[Tensor, Tensor]] = []  # noqa: RUF012

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.positive is not None
        assert batch.positive.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((batch.image.clone(), batch.positive.clone()))
        loss = (
            super().losses(batch)["loss"]
            + super().losses(batch._replace(image=batch.positive))["loss"]
        )
        return {"loss": loss / 2}


def test_a_method_that_pairs_gets_partners(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "ke", f"{__name__}:Paired")
    monkeypatch.setattr(Paired, "seen", [])
    train(settings(root, tmp_path / "run", optim={"epochs": 1}))
    assert len(Paired.seen) == STEPS
    plain = TrainingBatches(
        read_splits(settings(root, tmp_path).pipeline).train,
        settings(root, tmp_path).pipeline,
        pairs=True,
    )
    sampler = EpochSampler(plain.images.label, 8, seed=29)
    for key, (image, positive) in zip(sampler, Paired.seen, strict=True):
        expected = plain[key]
        assert torch.equal(image, expected.image)
        assert expected.positive is not None and torch.equal(positive, expected.positive)


def test_a_run_on_aligned_pictures_says_how_they_were_made(root: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "aligned")
    align("folder", str(root / "faces"), output, size=40, margin=0.1)
    data = Data(
        name="folder", root=str(root / "faces"), aligned=output, cache=str(tmp_path / "cache")
    )
    run = settings(root, tmp_path / "run", data=data, optim={"epochs": 1})
    info = info_of(train(run))
    assert info["data"]["aligned"] == asdict(settings_of(Path(output)))
    assert info["data"]["train"] == dict.fromkeys(LABELS, 6)
    assert info["config"]["data"]["aligned"] == ""  # the machine's folder
    assert read_settings(tmp_path / "run" / "config.yaml")["data"]["aligned"] == output


# Starting from another model


def test_a_run_starts_from_a_model(finished: Path, root: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "faces" / "train", ["happiness", "fear"], 6)
    write_folder(tmp_path / "faces" / "valid", ["happiness", "fear"], 2, seed=1)
    run = settings(
        root,
        tmp_path / "tuned",
        data=Data(name="folder", root=str(tmp_path / "faces"), cache=""),
        start=str(finished),
        optim={"learning_rate": 1e-9, "epochs": 1, "warmup_learning_rate": 0, "weight_decay": 0},
    )
    tuned, original = (load_model(folder) for folder in (train(run), finished))
    assert tuned.labels == ("happiness", "fear")
    trained = dict(original.named_parameters())
    for name, parameter in tuned.named_parameters():
        torch.testing.assert_close(parameter, trained[name], rtol=1e-4, atol=1e-6)
    happiness = original.class_vectors()[LABELS.index("happiness")]
    torch.testing.assert_close(tuned.class_vectors()[0], happiness)
    info, before = info_of(tmp_path / "tuned"), info_of(finished)
    assert info["config"]["start"] == finished.name  # not where it lay
    weights = before["sha256"]["weights.safetensors"]
    assert info["initial_weights"] == {"name": before["name"], "sha256": weights}
    assert before["initial_weights"] == {"name": "net"}
    for folder in (finished, tmp_path / "tuned"):
        for path in (folder / "model.json", folder / "README.md"):  # nor any other folder of ours
            assert str(root.parent) not in path.read_text()


def test_teachers_are_named_with_their_terms(root: Path, tmp_path: Path) -> None:
    faces = datasets.load("folder", str(root / "faces"), "train")
    logits = torch.zeros(len(faces), 2, len(LABELS), dtype=torch.half)
    teacher = {"name": "ke/teacher", "seed": 3, "sha256": {}, "data_terms": "for research"}
    names = tuple(name_of(face.path, str(root / "faces")) for face in faces)
    file = tmp_path / "teachers.safetensors"
    write_logits(file, StoredLogits(names, LABELS, logits, (teacher,)))
    run = settings(root, tmp_path / "run", optim={"epochs": 1})
    train(replace(run, data=replace(run.data, teachers=str(file))))
    info = info_of(tmp_path / "run")
    assert info["teachers"] == [teacher]
    assert info["config"]["data"]["teachers"] == file.name
    assert "targets from ke/teacher: for research" in info["data_terms"]
    assert "mixed with the answers of `ke/teacher`" in (tmp_path / "run/README.md").read_text()
    assert ModelInfo.read(tmp_path / "run").teachers == (teacher,)


def test_a_start_of_another_method_is_refused(finished: Path, root: Path, tmp_path: Path) -> None:
    run = settings(root, tmp_path / "run", method="classifier", options={}, start=str(finished))
    with pytest.raises(ModelError, match=r"does not fit Classifier: missing \['head"):
        train(run)
    with pytest.raises(ModelError, match="does not exist: expected a model folder"):
        train(settings(root, tmp_path / "run", start=str(tmp_path / "nowhere")))


def test_a_start_of_another_fold_is_refused(
    finished: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights have seen the persons of this fold's test split."""
    there = replace(ModelInfo.read(finished), folder=finished)
    data = {**there.config["data"], "name": "ckplus", "fold": 2}
    info = replace(
        there, data=replace(there.data, name="ckplus"), config={**there.config, "data": data}
    )
    monkeypatch.setattr(ModelInfo, "read", lambda _: info)
    method = load_method(root)
    with pytest.raises(UsageError, match=r"trained in fold 2.*expected --data\.fold 2"):
        trainer._start_from(method, "f2", Data(name="ckplus", fold=1))
    trainer._start_from(method, "f2", Data(name="ckplus", fold=2))


def test_a_start_keeps_the_statistics_of_its_layers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, start = load_method(root), load_method(root)
    for each in (method, start):
        each.add_module("reduce", torch.nn.BatchNorm1d(3))
    start.get_submodule("reduce").running_mean.fill_(5)
    start.get_buffer("neutral_text").fill_(7)  # of the text: stays the new run's
    monkeypatch.setattr(ModelInfo, "read", lambda _: Mock(folder=Path("start")))
    monkeypatch.setattr(trainer, "in_own_fold", lambda *_: None)
    monkeypatch.setattr(trainer.build, "tensors_of", lambda _: dict(start.state_dict()))
    before = method.get_buffer("neutral_text").clone()
    trainer._start_from(method, "start", Data())
    assert method.get_submodule("reduce").running_mean.tolist() == [5, 5, 5]
    assert torch.equal(method.get_buffer("neutral_text"), before)


def load_method(root: Path) -> Any:
    """The method of `settings` with its starting weights."""
    run = settings(root, root / "unused")
    return trainer.build_method(run, trainer.build_networks(run), read_splits(run.pipeline))


def test_sentences_of_each_class_are_in_the_description(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    words = {name: [fill(TEMPLATES[number], name) for number in (1, 6)] for name in LABELS}
    path.write_text(json.dumps(words))
    options = {"template": str(path), "temperature": 0.1, "centre": False}
    folder = train(settings(root, tmp_path / "run", options=options, optim={"epochs": 1}))
    assert ModelInfo.read(folder).options["template"] == words
    assert load_model(folder).sentences[0] == " / ".join(words[LABELS[0]])


# Wrong settings, before anything is trained


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "method": ({"method": "kE"}, UsageError, f"unknown method 'kE': .*{', '.join(METHODS)}"),
    "option": ({"options": {"tau": 1}}, UsageError, "method ke has no option 'tau'"),
    "encoder": ({"encoder": Encoder(name="vgg")}, UsageError, "unknown encoder 'vgg'"),
    "data set": ({"data": Data(name="fer")}, UsageError, "unknown data set 'fer'"),
    "root": ({"data": Data(name="folder", root="nowhere")}, DataError, "no folder 'nowhere'"),
    "batch": ({"optim": {"batch_size": 25}}, DataError, "24 training pictures cannot fill a batch"),
    "no number": (
        {"options": {"temperature": float("nan")}},
        UsageError,
        "method ke: option temperature is nan, expected a finite number",
    ),
    "name": ({"name": "../drawn"}, ModelError, "'../drawn' leads out of its folder"),
    "random tower": (
        {
            "method": "classifier",
            "options": {"probe": True},
            "encoder": Encoder(name="vlm", weights="embedded", size=112, grey=True),
        },
        UsageError,
        "vlm is random in part or whole with --encoder.weights embedded: name others",
    ),
    "one picture": (
        {"encoder": Encoder(name="swin-t-112", weights="random"), "optim": {"batch_size": 1}},
        UsageError,
        "--optim.batch_size 1: expected at least 2 with 1 process: .* one picture at a time",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_one_line(case: str, root: Path, tmp_path: Path) -> None:
    changes, error, message = WRONG[case]
    with pytest.raises(error, match=message) as caught:
        train(settings(root, tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.json").exists()
    assert not (tmp_path / "run" / "history.json").exists()


@pytest.mark.parametrize("started", ["alone", "by torchrun"])
def test_more_processes_than_gpus_are_one_line(
    started: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    alone = started == "alone"
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE") if not alone else ():
        monkeypatch.setenv(name, "2")
    run = replace(settings(root, tmp_path / "run"), processes=2 if alone else 1)
    with pytest.raises(UsageError, match="2 processes on a machine that has 1 GPU: expected"):
        train(run)
    assert not (tmp_path / "run").exists()


def test_one_class_is_one_line(root: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "faces" / "train", ["happiness"], 8)
    data = Data(name="folder", root=str(tmp_path / "faces"))
    with pytest.raises(
        DataError, match=r"happiness is the only class of folder at .*: expected two or more"
    ):
        train(settings(root, tmp_path / "run", data=data))


def test_a_class_that_train_lacks_is_one_line(root: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "faces" / "train", ["happiness", "fear"], 8)
    write_folder(tmp_path / "faces" / "valid", ["happiness", "contempt"], 8)
    data = Data(name="folder", root=str(tmp_path / "faces"))
    with pytest.raises(DataError, match=r"^contempt: in valid of folder at .*, not in train; exp"):
        train(settings(root, tmp_path / "run", data=data))


def test_each_process_needs_the_pictures_that_its_encoder_needs() -> None:
    plain = {"pairs": False, "image": Mock(fewest_images=2), "frozen": tuple}
    method = Mock(**plain)
    trainer._check_step(method, 4, 2)
    with pytest.raises(UsageError, match="at least 8 with 4 processes"):
        trainer._check_step(method, 4, 4)
    for changes in ({"pairs": True}, {"frozen": lambda: ("image",)}):
        trainer._check_step(Mock(**{**plain, **changes}), 4, 4)


def test_the_default_folder_names_recipe_and_seed(root: Path) -> None:
    assert Run(name="ke/drawn", seed=3).folder == Path("runs/ke/drawn-seed3")
    assert Run().folder == Path("runs/ke-seed0")
    assert settings(root, Path("here")).folder == Path("here")


NAMES: dict[str, dict[str, Any]] = {
    **{name: WRONG[name][0] for name in ("method", "option", "encoder", "data set")},
    "protocol": {"data": Data(name="ferplus", protocol="minority")},
    "text": {"text": Text("no-such-model")},
    "landmarks": {"landmarks": Landmarks("no-such-network")},
    "weights": {"encoder": Encoder(name="resnet18", weights="nowhere")},
    "no weights": {"encoder": Encoder(name="resnet18")},
}


@pytest.mark.parametrize("case", NAMES)
def test_names_are_looked_up_before_any_picture_is_read(
    case: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*given: Any, **more: Any) -> Any:
        pytest.fail("a data set was read")

    monkeypatch.setattr(trainer, "read_splits", read)
    monkeypatch.setattr("PIL.Image.open", read)
    with pytest.raises((UsageError, ModelError)) as caught:
        train(settings(root, tmp_path / "run", **NAMES[case]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# From train() to a loss


PACKAGE = Path(trainer.__file__).parents[1]


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_few_frames_lie_between_train_and_a_loss(
    sam: float, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most five of fervor's own, the loss among them."""
    plain, stacks = methods.ke.text_similarity_loss, []

    def loss(*given: Any) -> Tensor:
        names = [info.frame.f_code for info in inspect.stack(0)]
        own = [code.co_name for code in names if Path(code.co_filename).is_relative_to(PACKAGE)]
        stacks.append(["text_similarity_loss", *own])
        return plain(*given)

    monkeypatch.setattr(methods.ke, "text_similarity_loss", loss)
    train(settings(root, tmp_path / "run", optim={"epochs": 1, "sam": sam}))
    assert len(stacks) == STEPS * (2 if sam else 1)
    for stack in stacks:
        assert stack[-1] == "train" and "losses" in stack
        assert len(stack) <= (6 if sam else 5), stack


RUN_SIGNATURES = 8
"""Functions below the commands, `train` and `sweep` that take a whole run."""

ENTRIES = {"training/trainer.py: train", "experiments/sweep.py: sweep"}


def test_a_run_is_not_handed_down() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = {ast.unparse(a.annotation) for a in arguments if a.annotation}
                if any(re.search(r"\bRun\b", name) for name in names):
                    found.add(f"{path.relative_to(PACKAGE).as_posix()}: {node.name}")
    below = {name for name in found if not name.startswith("cli/")} - ENTRIES
    assert len(below) == len(found) - len(ENTRIES) - 2, found  # the commands of both
    assert len(below) <= RUN_SIGNATURES, below


# Sharpness-aware steps, and the moving average


def test_sam_takes_the_frozen_features_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Any] = []

    def with_frozen(self: KE, batch: Any) -> Any:
        prepared.append(batch._replace(frozen=(torch.zeros(1),)))
        return prepared[-1]

    seen: list[Any] = []
    plain = KE.losses

    def losses(self: KE, batch: Any) -> dict[str, Tensor]:
        seen.append(batch)
        return plain(self, batch)

    monkeypatch.setattr(KE, "with_frozen", with_frozen)
    monkeypatch.setattr(KE, "losses", losses)
    optim = {"epochs": 1, "sam": 0.05, "name": "adam", "precision": "bf16"}
    folder = train(settings(root, tmp_path / "sam", optim=optim))
    assert len(prepared) == STEPS
    assert [id(batch) for batch in seen] == [id(batch) for batch in prepared for _ in range(2)]
    with (folder / "logs" / "metrics.csv").open() as file:
        assert any(row.get("train/loss_epoch") for row in csv.DictReader(file))
    load_model(folder)


def test_sam_clips_the_gradient_that_is_used(root: Path, tmp_path: Path) -> None:
    start = train(settings(root, tmp_path / "start", optim={"epochs": 1, "learning_rate": 1e-12}))
    before = load_file(start / "weights.safetensors")
    lengths = []
    for clip in (1e-6, 0.0):
        optim = {"epochs": 1, "sam": 0.05, "clip": clip, "learning_rate": 0.5, "momentum": 0.0}
        optim |= {"weight_decay": 0.0}
        folder = train(settings(root, tmp_path / f"clip{clip}", optim=optim))
        after = load_file(folder / "weights.safetensors")
        changed = [
            (after[k] - before[k]).norm() for k in after if k.endswith("to_neutral.0.weight")
        ]
        lengths.append(float(torch.stack(changed).norm()))
    assert lengths[0] < 1e-4 < lengths[1]


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_every_kind_of_step_is_clipped_in_one_place(
    sam: float, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipped: list[float | None] = []

    def clip(
        self: Training,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clipped.append(gradient_clip_val)

    monkeypatch.setattr(Training, "configure_gradient_clipping", clip)
    optim = {"epochs": 1, "sam": sam, "clip": 0.5, "clip_each": True}
    train(settings(root, tmp_path / "run", optim=optim))
    assert clipped == [0.5] * STEPS


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_gradients_are_logged_before_they_are_clipped(
    sam: float, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[dict[str, float]] = []
    monkeypatch.setattr(
        trainer, "gradient_norms", lambda method: lengths.append(gradient_norms(method)) or {}
    )
    for clip in (0.0, 1e-6):
        optim = {"epochs": 1, "sam": sam, "clip": clip, "name": "adam"}
        train(settings(root, tmp_path / f"clip{clip}", optim=optim))
    free, clipped = lengths
    assert free == clipped and max(free.values()) > 1e-3


def test_the_average_is_kept_and_does_not_change_the_training(
    root: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = recorded(monkeypatch)
    one = {"epochs": 1}
    plain = train(settings(root, tmp_path / "plain", optim=one))
    expected = list(losses)
    losses.clear()
    averaged = train(settings(root, tmp_path / "averaged", optim={**one, "average": 0.9}))
    assert losses == pytest.approx(expected, rel=1e-4)
    assert not same_weights(plain, averaged)
