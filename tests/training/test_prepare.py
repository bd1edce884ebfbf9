"""What is done once before the first step, and the runs of a method that needs it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fervor.cli.main import main
from fervor.config import Augment, Data, Encoder, Optim, Run, Text
from fervor.data.batch import Batch
from fervor.data.loading import evaluation_batches
from fervor.data.splits import read_splits
from fervor.errors import UsageError
from fervor.evaluation.evaluate import torch_logits
from fervor.methods.build import load_model
from fervor.methods.mpa import MPA
from fervor.training.prepare import prepare
from fervor.training.trainer import train
from tests.support import tiny
from tests.support.drawn import DrawnSoftText, DrawnTransformer, pictures, write_folder
from tests.training.test_trainer import history_of, info_of, pytestmark


__all__ = ["pytestmark"]

LABELS = ("neutral", "happiness", "surprise")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in two splits, and a tiny CLIP: `faces` and `clip`."""
    folder = tmp_path_factory.mktemp("preparation")
    for seed, (split, count) in enumerate({"train": 6, "valid": 3}.items()):
        write_folder(folder / "faces" / split, LABELS, count, seed=seed)
    torch.manual_seed(0)
    tiny.save_clip(folder / "clip", positions=256)
    return folder


def settings(root: Path, output: Path, **options: Any) -> Run:
    clip = str(root / "clip")
    return Run(
        method="mpa",
        data=Data(name="folder", root=str(root / "faces"), cache=str(output.parent / "cache")),
        augment=Augment(rotation=5),
        encoder=Encoder(name="clip", weights=clip, size=32),
        text=Text(name=clip),
        optim=Optim(epochs=3, batch_size=6, learning_rate=0.02, warmup_learning_rate=0.0, clip=1.0),
        options={"top_k": 4, **options},
        output=str(output),
        name="drawn",
    )


class Counted(MPA):
    """Counts the pictures that `prepare` sees."""

    seen = 0

    def prepare(self, batches: Any, *, kept: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        def counted() -> Any:
            for one in batches:
                Counted.seen += len(one.label)
                yield one

        return super().prepare(counted(), kept=kept)


def method(**options: Any) -> Counted:
    torch.manual_seed(0)
    Counted.seen = 0
    return Counted(DrawnTransformer(), DrawnSoftText(), LABELS, MPA.Options(**options))


def test_the_pass_is_cached_by_content(tmp_path: Path) -> None:
    run = Run(data=Data(cache=str(tmp_path / "cache")), encoder=Encoder(size=48))
    split = pictures(LABELS, 5)
    first = method()
    prepare(first, split, run.pipeline, precision=run.optim.precision)
    assert Counted.seen == 15
    (file,) = (tmp_path / "cache").iterdir()
    assert torch.equal(load_file(file)["prototypes"], first.prototypes)
    again = method(top_k=3, alignment_weight=0.5)  # neither matters to the prototypes
    prepare(again, split, replace(run, seed=4).pipeline, precision=run.optim.precision)
    assert Counted.seen == 0
    assert torch.equal(again.prototypes, first.prototypes)
    other = method()
    with torch.no_grad():
        other.image.projection.weight.add_(0.1)
    prepare(other, split, run.pipeline, precision=run.optim.precision)  # another tower
    prepare(
        method(), pictures(LABELS, 5, seed=1), run.pipeline, precision=run.optim.precision
    )  # other pictures
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_subset_has_the_count_asked_for_and_follows_the_seed(tmp_path: Path) -> None:
    run = Run(data=Data(cache=str(tmp_path / "cache")), encoder=Encoder(size=48))
    split = pictures(LABELS, 6)
    found = []
    for seed in (0, 1):
        some = method(prototype_pictures=2)
        prepare(some, split, replace(run, seed=seed).pipeline, precision=run.optim.precision)
        assert Counted.seen == 6
        found.append(some.prototypes)
    assert not torch.allclose(found[0], found[1])
    many = method(prototype_pictures=100)
    prepare(many, split, run.pipeline, precision=run.optim.precision)
    assert Counted.seen == 18
    whole = method()
    prepare(whole, split, run.pipeline, precision=run.optim.precision)
    torch.testing.assert_close(whole.prototypes, many.prototypes)


def test_no_pass_where_none_is_wanted(tmp_path: Path) -> None:
    run = Run(data=Data(cache=str(tmp_path / "cache")), encoder=Encoder(size=48))
    prepare(
        method(prototype_weight=0), pictures(LABELS, 2), run.pipeline, precision=run.optim.precision
    )
    assert Counted.seen == 0 and not (tmp_path / "cache").exists()


def test_a_run_holds_prompts_alone_and_resumes_exactly(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(settings(root, tmp_path / "whole"))
    info = info_of(whole)
    assert info["parameters"]["trainable"] == 10 * 16 + 2 * 8 * 16
    assert info["parameters"]["trainable_bytes"] == 4 * info["parameters"]["trainable"]
    assert info["towers"].keys() == {"image", "text"}
    assert info["prompts"][0].startswith(
        "a photo of a person making a facial expression of neutral"
    )
    assert load_file(whole / "weights.safetensors").keys() == {"soft.context", "visual"}

    plain, steps = MPA.losses, []

    def stopped(self: MPA, batch: Batch) -> dict[str, Tensor]:
        steps.append(0)
        if len(steps) == 5:  # in the second epoch of three steps
            raise RuntimeError("killed")
        return plain(self, batch)

    monkeypatch.setattr(MPA, "losses", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        train(settings(root, tmp_path / "cut"))
    saved = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=False)["state_dict"]
    assert saved.keys() == {"method.soft.context", "method.visual"}
    monkeypatch.setattr(MPA, "losses", plain)
    cut = train(settings(root, tmp_path / "cut"), resume=True)
    first, second = (load_file(folder / "weights.safetensors") for folder in (whole, cut))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)
    assert len(history_of(cut)) == 3

    split = read_splits(settings(root, whole).pipeline).selection
    logits = torch_logits(load_model(whole), evaluation_batches(split, size=32))
    assert (logits.argmax(1) == split.label.numpy()).mean() == info["selection"]["accuracy"]


def test_a_wrong_description_file_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    run = settings(root, tmp_path / "run", descriptions=str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match=r"descriptions .*none\.json cannot be read: No such file"):
        train(run)
    assert not (tmp_path / "run").exists()


def test_a_frozen_tower_has_weights(root: Path, tmp_path: Path) -> None:
    run = replace(settings(root, tmp_path / "run"), method="classifier", text=Text())
    lines = {
        "": r"has no weights of its own: name",
        "random": r"resnet18 is random in .*: name others",
    }
    for weights, line in lines.items():
        encoder = Encoder(name="resnet18", weights=weights, size=32)
        with pytest.raises(UsageError, match=line):
            train(replace(run, options={"probe": True}, encoder=encoder))


def test_the_command_says_what_trains(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    run = settings(root, tmp_path / "run")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(replace(run, optim=replace(run.optim, epochs=1)).resolved()))
    assert main(["train", "--config", str(recipe)]) == 0
    assert "trains 416 of " in (shown := capsys.readouterr()).err
    assert "1,664 bytes" in shown.err
    assert shown.out.strip().endswith("run")
