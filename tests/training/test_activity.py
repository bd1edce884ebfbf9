"""What parts do while they train: gradients, movement, effects, and the verdict on idle ones."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fervor.config import Augment, Data, Encoder, Optim, Run, Text
from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.methods.ke import KE
from fervor.methods.mpa import MPA
from fervor.models.image import build_image_encoder
from fervor.models.text.encoders import build_text_encoder
from fervor.training.activity import FACES, Activity, gradient_norms, parts, spread_rows
from fervor.training.trainer import train
from tests.support import tiny
from tests.support.drawn import DrawnText, TinyEncoder, batch, write_folder


pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode"),
]

LABELS = ("happiness", "neutral", "anger")


def ke(**options: Any) -> KE:
    torch.manual_seed(0)
    return KE(TinyEncoder(9), DrawnText(6), LABELS, KE.Options(**options))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 191, 3191])
def test_the_faces_are_of_all_classes(count: int) -> None:
    """Of a folder one class follows the other."""
    rows = spread_rows(count)
    assert len(rows) == len(rows.unique()) == min(count, FACES)
    assert (int(rows[0]), int(rows[-1])) == (0, count - 1)
    assert int(rows.diff().max() if count > 1 else 0) <= count // FACES + 2


def test_parts_and_their_gradients() -> None:
    method = ke()
    assert list(parts(method)) == ["image", "joint", "to_neutral"]
    method.losses(batch(LABELS, 4))["loss"].backward()  # type: ignore[no-untyped-call]
    norms = gradient_norms(method)
    squares = sum(float(p.grad.square().sum()) for p in method.joint.parameters())  # type: ignore[union-attr]
    assert norms["joint"] == pytest.approx(squares**0.5, rel=1e-5)
    method.to_neutral.zero_grad()
    assert gradient_norms(method)["to_neutral"] == 0.0


def test_the_figures_of_ke_are_cosines() -> None:
    method, faces = ke(), batch(LABELS, 4)
    with torch.no_grad():
        found = method.activity(faces)
        features = method.features(faces.image).pooled
        calm, rows = method.to_neutral(features), faces.label != 1
        expected = torch.cosine_similarity(calm[rows], method.neutral_text[None], dim=-1).mean()
    assert found["calm_neutral"] == pytest.approx(float(expected), abs=1e-6)
    assert set(found) == {"calm_neutral", "calm_own", "own", "change"}
    assert method.activity(Batch(faces.image[:0], faces.label[:0], faces.target[:0])) == {}
    still = method.inactive(found, found)
    assert [line.split(" ")[0] for line in still] == ["L_t", "L_c"]
    moved = {**found, "change": found["change"] + 0.2, "own": found["own"] + 0.2}
    assert method.inactive(found, moved) == []
    assert ke(transformation_weight=0, contrast_weight=0).inactive(found, found) == []


@pytest.fixture
def mpa(tmp_path: Path) -> MPA:
    torch.manual_seed(0)
    folder = tiny.save_clip(tmp_path / "clip", positions=300)
    encoder = build_image_encoder(Encoder(name="clip", weights=folder, size=32))
    options = MPA.Options(context_length=2, visual_prompts=2, visual_learning_rate=3.2)
    return MPA(encoder, build_text_encoder(folder), LABELS, options)


def test_visual_prompts_have_a_rate_of_their_own(mpa: MPA) -> None:
    text, visual = mpa.parameter_groups(0.03)
    assert (text["lr"], visual["lr"]) == (0.03, 3.2)
    assert text["params"] == [mpa.soft.context] and visual["params"] == [mpa.visual]
    mpa.options = replace(mpa.options, visual_learning_rate=0.0)
    assert [group["lr"] for group in mpa.parameter_groups(0.03)] == [0.03, 0.03]


def test_visual_prompts_that_do_nothing_are_named(mpa: MPA) -> None:
    faces = batch(LABELS, 2, size=32)
    with torch.no_grad():
        found = mpa.activity(faces)
        assert -1 <= found["prompted_unprompted"] <= 1
        assert mpa.inactive(found, {**found, "prompted_unprompted": 0.9999}) == [
            "visual prompts (cosine with and without them 0.9999)"
        ]
        assert mpa.inactive(found, {**found, "prompted_unprompted": 0.9}) == []
        assert mpa.visual is not None
        mpa.visual.mul_(30)
        assert mpa.activity(faces)["prompted_unprompted"] < found["prompted_unprompted"]


def test_what_stands_still_is_named(tmp_path: Path) -> None:
    method = ke()
    activity = Activity(tmp_path, batch(LABELS, 4))
    activity.begin(method)
    with torch.no_grad():
        method.joint.weight.mul_(2)  # type: ignore[operator, union-attr]
    activity.epoch(method, 0)
    content = json.loads((tmp_path / "activity.json").read_text())
    assert content["epochs"][0]["moved"]["joint"] > 0.5
    assert "to_neutral (did not move)" in content["inactive"]
    assert not any(line.startswith("joint") for line in content["inactive"])
    again = Activity(tmp_path, batch(LABELS, 4))  # a resumed run keeps its first figures
    again.begin(method)
    again.epoch(method, 1)
    later = json.loads((tmp_path / "activity.json").read_text())
    assert later["start"] == content["start"] and len(later["epochs"]) == 2


def drawn_run(folder: Path, **optim: Any) -> Run:
    """A run of two epochs of three steps on drawn faces."""
    for seed, split in enumerate(("train", "valid")):
        write_folder(folder / "faces" / split, LABELS, 6, seed=seed)
    settings: dict[str, Any] = {"batch_size": 6, "learning_rate": 0.05, "warmup_epochs": 0}
    return Run(
        data=Data(name="folder", root=str(folder / "faces"), cache=""),
        augment=Augment(erase=0),
        encoder=Encoder(name="resnet18", weights=tiny.save_resnet(folder / "net"), size=32),
        text=Text("minilm-vectors"),
        optim=Optim(epochs=2, **settings, **optim),
        options={"temperature": 0.1},
        output=str(folder / "run"),
    )


def stopped(run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's state after its first epoch, in which it was stopped."""
    plain, steps = KE.losses, []

    def losses(self: KE, batch: Any) -> Any:
        steps.append(batch)
        if len(steps) > 3:
            raise OSError("no electricity")
        return plain(self, batch)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no electricity"):
        patch.setattr(KE, "losses", losses)
        train(run)
    return Path(run.output) / "last.ckpt"


def test_a_resumed_run_has_moved_since_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = drawn_run(tmp_path)
    whole = train(replace(run, output=str(tmp_path / "whole")))
    stopped(run, monkeypatch)
    resumed = train(run, resume=True)
    expected, found = (
        json.loads((folder / "activity.json").read_text())["epochs"][1]["moved"]
        for folder in (whole, resumed)
    )
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("case", ["another network", "no tensors", "an older run"])
def test_a_beginning_that_does_not_fit_is_refused_and_a_missing_one_is_not(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = drawn_run(tmp_path)
    last = stopped(run, monkeypatch)
    state = torch.load(last, weights_only=True)
    beginning = state.pop("beginning")
    if case == "an older run":
        torch.save(state, last)
        assert (train(run, resume=True) / "model.json").is_file()
        return
    part = next(iter(beginning))
    wrong = torch.zeros(1) if case == "another network" else "a word"
    torch.save(state | {"beginning": {**beginning, part: wrong}}, last)
    with pytest.raises(UsageError, match=r"last\.ckpt does not fit the run: .* beginning") as error:
        train(run, resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("each", [False, True])
def test_a_run_logs_its_parts(each: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clipped: list[int] = []
    plain = torch.nn.utils.clip_grad_norm_

    def clip(parameters: Any, *given: Any, **named: Any) -> Any:
        parameters = list(parameters)
        clipped.append(len(parameters))
        return plain(parameters, *given, **named)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    folder = train(drawn_run(tmp_path, clip=1.0, clip_each=each))
    with next(folder.glob("logs/metrics.csv")).open() as file:
        table = list(csv.DictReader(file))
    assert any(row.get("gradient/to_neutral_epoch") for row in table)
    content = json.loads((folder / "activity.json").read_text())
    assert [row["epoch"] for row in content["epochs"]] == [0, 1]
    assert set(content["epochs"][0]["moved"]) == {"image", "joint", "to_neutral"}
    info = json.loads((folder / "model.json").read_text())
    assert info["inactive"] == content["inactive"]
    assert bool(clipped)
