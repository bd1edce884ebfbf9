"""Two real processes against one: every loss's value and gradient, and a whole run."""

import csv
import json
import multiprocessing
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, distributed

from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.methods import method_class
from fervor.methods.base import Method
from fervor.models import distributed as processes
from tests.support import tiny
from tests.support.drawn import (
    DrawnScales,
    DrawnSoftText,
    DrawnText,
    DrawnTransformer,
    batch,
    write_folder,
)


LABELS = ("neutral", "happiness", "surprise", "anger")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier": ("classifier", {}),
    "ke": ("ke", {"temperature": 0.1}),
    "ke, all pairs": ("ke", {"temperature": 0.1, "self_contrast": "all_pairs"}),
    "ke, simclr": ("ke", {"temperature": 0.1, "contrast": "simclr"}),
    "mpa": ("mpa", {"temperature": 0.1, "context_length": 2, "visual_prompts": 2, "top_k": 3}),
    "lacovl": ("lacovl", {"extremes": "batch"}),
    "vlm": ("vlm", {"drawn": 5}),
}
SMALL = {"resolution": 48, "width": 24, "heads": 3, "cross_dropout": 0.0, "drop_path": 0.0}


def build(case: str) -> Method:
    torch.manual_seed(0)
    name, options = CASES[case]
    chosen: Any = method_class(name)
    if name == "lacovl":
        options = {**SMALL, **options}
    image = DrawnScales() if name == "lacovl" else DrawnTransformer(6)
    text = DrawnSoftText(6) if name == "mpa" else DrawnText(6)
    method: Method = chosen(image, text, LABELS, chosen.Options(**options))
    method.prepare([batch(LABELS, 1)])
    return method.train()


def drawn(case: str) -> Batch:
    """Twelve pictures, the expressions of the first half unlike those of the second."""
    faces = batch(LABELS, 3)
    order = faces.label.argsort()  # one half holds all the neutral pictures
    faces = Batch(faces.image[order], faces.label[order], faces.target[order])
    if CASES[case][0] == "lacovl":
        other = batch(LABELS, 3, seed=5)
        faces = faces._replace(positive=other.image[other.label.argsort()])
    return faces


def gradients(method: Method, faces: Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    losses = method.losses(faces)
    losses["loss"].backward()
    found = {
        name: parameter.grad
        for name, parameter in method.named_parameters()
        if parameter.grad is not None
    }
    return {"the loss": losses["loss"].detach(), **found}


def half(faces: Batch, rank: int) -> Batch:
    parts = [None if part is None else part.chunk(2)[rank] for part in faces[:4]]
    return Batch(*parts)  # type: ignore[arg-type]


def work(rank: int, folder: str) -> None:
    """One of two processes; the first writes what both found, averaged as DDP averages it."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    found = {}
    for case in CASES:
        own = gradients(build(case), half(drawn(case), rank))
        for name in sorted(own):
            distributed.all_reduce(own[name])
            own[name] /= 2
        found[case] = own
    number = torch.tensor(float(rank), requires_grad=True)
    largest = processes.largest(number)
    largest.backward()
    assert (float(largest), number.grad) == (1.0, 2.0 * rank)  # a mean over two comes after it
    shared = processes.all_gather_arrays(processes.shard(7).numpy())
    assert np.concatenate(shared).tolist() == list(range(7))
    assert len(shared) == processes.world() == 2
    normalised = torch.nn.BatchNorm1d(2)
    normalised(torch.tensor([[0.0, 1.0], [2.0, 5.0]]) + rank)
    processes.align_buffers(normalised)
    expected = torch.tensor([0.1, 0.3])  # a tenth of the first process's means
    torch.testing.assert_close(normalised.get_buffer("running_mean"), expected)
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    processes.part()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("two")
    start = multiprocessing.get_context("spawn")
    started = [start.Process(target=work, args=(rank, str(folder))) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    answers: dict[str, dict[str, Tensor]] = torch.load(folder / "found.pt")
    return answers


@pytest.mark.parametrize("case", CASES)
def test_two_processes_find_the_gradient_of_one(
    case: str, found: dict[str, dict[str, Tensor]]
) -> None:
    expected = gradients(build(case), drawn(case))
    assert found[case].keys() == expected.keys() and len(expected) > 2
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[case][name],
            gradient,
            atol=1e-6,
            rtol=1e-4,
            msg=lambda text, n=name: f"{n}: {text}",
        )


def test_the_halves_alone_would_not_do(found: dict[str, dict[str, Tensor]]) -> None:
    """Without what is gathered the mean of the halves' losses is another number."""
    for case in ("ke", "vlm"):
        alone = [gradients(build(case), half(drawn(case), rank))["the loss"] for rank in range(2)]
        assert abs(float(torch.stack(alone).mean() - found[case]["the loss"])) > 1e-4, case


def test_one_process_gathers_nothing() -> None:
    part = torch.ones(3, 2, requires_grad=True)
    assert processes.all_gather_with_grad(part) is part
    assert processes.world() == 1
    assert processes.shard(5).tolist() == [0, 1, 2, 3, 4]
    assert float(processes.largest(torch.tensor(2.0))) == 2
    assert processes.devices_and_nodes(3) == (3, 1)


@pytest.mark.parametrize(
    ("cuda", "mps", "count", "line"),
    [
        (
            1,
            False,
            2,
            "2 processes on a machine that has 1 GPU: expected .*node\\), or",
        ),
        (
            2,
            False,
            3,
            "3 processes on a machine that has 2 GPUs: expected .*node\\), or",
        ),
        (0, True, 2, "2 processes on a machine that has 1 GPU: expected .*node\\)$"),
        (2, False, 2, ""),
        (0, True, 1, ""),
        (0, False, 9, ""),  # processors serve as many as are asked for
    ],
)
def test_each_process_needs_a_gpu_where_there_are_any(
    cuda: int, mps: bool, count: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    with pytest.raises(UsageError, match=line) if line else nullcontext():
        processes.check_devices(count)


def test_torchrun_counts_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "12")
    assert processes.devices_and_nodes(1) == (4, 3)


def test_each_process_has_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert processes.own_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert processes.own_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert processes.own_device() == torch.device("cuda", 3)


# A whole run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of KE-FER on drawn faces, its encoder without batch statistics."""
    folder = tmp_path_factory.mktemp("run")
    for seed, (split, count) in enumerate({"train": 6, "valid": 3}.items()):
        write_folder(folder / "faces" / split, LABELS, count, seed=seed)
    torch.manual_seed(0)
    settings = {
        "method": "ke",
        "data": {"name": "folder", "root": str(folder / "faces"), "cache": str(folder / "cache")},
        "encoder": {"name": "vit-b16", "weights": tiny.save_vit(folder / "net"), "size": 32},
        "optim": {
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 0.03,
            "warmup_learning_rate": 0.0,
            "average": 0.9,
        },
        "options": {"temperature": 0.1, "centre": True},
        "threads": 1,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


def train(recipe: Path, name: str, *given: str) -> Path:
    words = [sys.executable, "-m", "fervor", "train", *given]
    if "--resume" not in given:
        words += [f"--config={recipe}", f"--output={recipe.parent / name}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=quiet())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(recipe.parent / name)]
    return recipe.parent / name


def quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def curve(run: Path, logs: str = "logs") -> list[float]:
    with (run / logs / "metrics.csv").open() as file:
        return [
            float(row["train/loss_epoch"])
            for row in csv.DictReader(file)
            if row["train/loss_epoch"]
        ]


def history(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "history.json").read_text())
    return rows


DIES_IN_THE_SECOND_EPOCH = """
import os, signal, sys
from fervor.cli.main import main
from fervor.training.trainer import Training

step = Training.training_step

def last_steps(self, *given):
    if self.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *given)

Training.training_step = last_steps
sys.exit(main(sys.argv[1:]))
"""


DIVERGES_IN_ONE_PROCESS = """
import sys
from fervor.cli.main import main
from fervor.training.trainer import Training

step = Training.training_step

def spoilt(self, batch, number):
    loss = step(self, batch, number)
    if (self.current_epoch, number, self.global_rank) == (1, 1, 1):
        self._losses[-1] = loss.detach() / 0
    return loss

Training.training_step = spoilt
sys.exit(main(sys.argv[1:]))
"""


def killed_under_torchrun(recipe: Path, name: str) -> Path:
    """What two processes left of a run after its first epoch."""
    script, folder = recipe.parent / "dies.py", recipe.parent / name
    script.write_text(DIES_IN_THE_SECOND_EPOCH)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", str(script)]
    words = [sys.executable, *launch, "train", f"--config={recipe}", f"--output={folder}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=quiet())
    assert done.returncode != 0
    assert (folder / "last.ckpt").is_file()
    assert not (folder / "model.json").exists()
    return folder


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one_and_either_ends_what_the_other_began(
    recipe: Path,
) -> None:
    one = train(recipe, "one")
    two = train(recipe, "two", "--processes=2")
    begun = killed_under_torchrun(recipe, "begun")
    both = train(recipe, "begun", "--resume", str(begun), "--processes=1")
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-4)
    np.testing.assert_allclose(curve(both), curve(one)[:1], rtol=1e-4)
    np.testing.assert_allclose(curve(both, "logs-2"), curve(one)[1:], rtol=1e-4)
    kept = {path.name for path in one.iterdir()}
    assert {path.name for path in two.iterdir()} == kept
    assert {path.name for path in both.iterdir()} == kept | {"logs-2"}
    for run in (two, both):
        assert [row["epoch"] for row in history(run)] == [0, 1]
        for row, expected in zip(history(run), history(one), strict=True):
            assert row.pop("selected_on") == expected["selected_on"]
            assert row == pytest.approx({name: expected[name] for name in row}, rel=1e-4)


@pytest.mark.slow
def test_two_processes_stop_together_where_the_loss_of_one_is_not_finite(recipe: Path) -> None:
    script, folder = recipe.parent / "diverges.py", recipe.parent / "diverged"
    script.write_text(DIVERGES_IN_ONE_PROCESS)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", str(script)]
    words = [sys.executable, *launch, "train", f"--config={recipe}", f"--output={folder}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=quiet())
    assert done.returncode != 0
    assert done.stderr.count("epoch 2, step 2: the loss is not finite: train anew") in (1, 2)
    assert [row["epoch"] for row in history(folder)] == [0]
    assert not (folder / "model.json").exists()
