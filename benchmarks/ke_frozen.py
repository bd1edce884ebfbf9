"""KE-FER's losses on frozen pooled features: the primary comparison of docs/decisions/evidence.md.

    python benchmarks/ke_frozen.py choose FERPLUS    settings on valid
    python benchmarks/ke_frozen.py rows FERPLUS      the chosen rows on test
    python benchmarks/ke_frozen.py explore FERPLUS   texts, centring and L_c's forms on valid

Each part writes a file below results/ke. What trains is the layer that joins the features to the
texts, and G. The method, its losses and its figures of activity are those of `fervor train`; the
loop is shorter than the trainer's, because a run holds thousands of steps of a few milliseconds.
The last weights are taken, no epoch is chosen.
"""

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import frozen_features
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fervor.config import Optim
from fervor.data.batch import Batch, soft_target
from fervor.data.image_set import ImageSet
from fervor.data.samplers import EpochSampler
from fervor.evaluation import results
from fervor.evaluation.evaluate import torch_logits
from fervor.evaluation.metrics import per_class
from fervor.evaluation.operating_points import log_prior
from fervor.evaluation.significance import gain, holm
from fervor.io import provenance
from fervor.labels import EXPRESSIONS, NEUTRAL
from fervor.methods.ke import KE
from fervor.models.image import build_image_encoder
from fervor.models.text.encoders import build_text_encoder
from fervor.training.activity import ACTIVITY, Activity, gradient_norms
from fervor.training.optim import learning_rate, optimizer_of


logger = logging.getLogger(__name__)

Logits = NDArray[np.float32]

RESULTS = Path(__file__).parents[1] / "results" / "ke"
NAME = "ke/frozen-pooled-160"

SIZES = {"4,000": 4000, "1,000": 1000, "all": 0}
"""Training pictures; 0 for all."""
PRIMARY = "4,000"
EPOCHS = {"1,000": 60, "4,000": 30, "all": 8}
BATCH = 64
REST = EXPRESSIONS.index(NEUTRAL)

RATES = (0.02, 0.1, 0.5)
RATE_AT = ("4,000", 0.05)
"""Size and temperature at which L_s chooses the rate that all rows take."""
TEMPERATURES = (0.02, 0.05, 0.1)
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
CHOOSING = 100
SEEDS = {"4,000": 5, "1,000": 5, "all": 3}
EXPLORING = (0,)
FACES = 512
"""Of valid, on which activity is measured."""

METRICS = (
    *("accuracy", "mean_class_accuracy", "neutral_recall"),
    *("accuracy_even_prior", "mean_class_accuracy_even_prior"),
)


@dataclass(frozen=True)
class Setting:
    """One training: how many pictures, which losses, how fast.

    Attributes:
        size: key of SIZES.
        rate: learning rate.
        temperature: tau.
        weight: of L_t and of L_c; 0 for L_s alone.
        text: text encoder.
        centre: whether the mean text vector is subtracted.
        contrast: form of L_c.
    """

    size: str
    rate: float
    temperature: float
    weight: float = 0.0
    text: str = "minilm-vectors"
    centre: bool = True
    contrast: str = "self"

    def optim(self) -> Optim:
        """SGD with a linear warm-up of one epoch and a cosine to zero, stepped by batch."""
        return Optim(
            epochs=EPOCHS[self.size],
            batch_size=BATCH,
            learning_rate=self.rate,
            nesterov=True,
            decay_all=False,
            schedule="step",
            warmup_learning_rate=0,
        )

    def options(self) -> KE.Options:
        """The method's own."""
        return KE.Options(
            temperature=self.temperature,
            transformation_weight=self.weight,
            contrast_weight=self.weight,
            centre=self.centre,
            contrast="simclr" if self.contrast == "simclr" else "self",
        )


@dataclass(frozen=True)
class Features:
    """What is trained on and measured on: features [n 1024] and classes [n].

    Attributes:
        views: of every training picture, one array for each view.
        label: the training pictures' classes.
        plain: the split that is measured on.
        plain_label: its classes.
        faces: of valid, for activity.
        labels: the classes' names.
        split: name of what is measured on.
        folder: where rows are kept as soon as they are trained; None for nowhere.
    """

    views: Sequence[frozen_features.Halves]
    label: Tensor
    plain: Tensor
    plain_label: Tensor
    faces: Batch
    labels: tuple[str, ...]
    split: str = ""
    folder: Path | None = None


def in_proportion(label: Tensor, count: int, seed: int) -> Tensor:
    """Places of `count` pictures in the classes' own proportions, drawn by the seed; 0 for all.

    Of a class as many as its share says, rounded down; the classes with the largest remainders get
    the rest. `in_proportion(l, 1000, s)` need not be part of `in_proportion(l, 4000, s)`.
    """
    if not count:
        return torch.arange(len(label))
    numbers = torch.bincount(label)
    probabilities = count * numbers.double() / len(label)
    wanted = probabilities.floor().long()
    largest = torch.argsort(wanted - probabilities, stable=True)
    wanted[largest[: count - int(wanted.sum())]] += 1
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    chosen = [order[label[order] == number][:n] for number, n in enumerate(wanted.tolist())]
    return torch.cat(chosen).sort().values


def _batch(features: Tensor, label: Tensor, classes: int) -> Batch:
    """Pooled features as maps of a single place, which the frozen encoder hands on."""
    maps = features.float()[:, :, None, None]
    return Batch(None, label, soft_target(label, classes), maps=maps)


def _batches(found: Features, places: Tensor, setting: Setting, seed: int) -> Iterator[Batch]:
    """The run's batches: epoch e takes view e mod 3 of the pictures at those places."""
    sampler = EpochSampler(found.label[places], BATCH, seed=seed)
    label, classes = found.label[places], len(found.labels)
    views = [torch.from_numpy(view[places.numpy()]) for view in found.views]
    for epoch in range(EPOCHS[setting.size]):
        sampler.set_epoch(epoch)
        for key in sampler:
            rows = torch.tensor(key.indices)
            yield _batch(views[epoch % len(views)][rows], label[rows], classes)


def pulls(method: KE, batch: Batch) -> dict[str, float]:
    """Length of each weighted loss's gradient in the joined features, mean over the pictures."""
    parts = {"similarity": "L_s", "transformation": "L_t", "contrast": "L_c"}
    assert batch.maps is not None
    pooled = method.joint(batch.maps.flatten(1)).detach().requires_grad_(True)
    joint, method.joint = method.joint, torch.nn.Identity()
    lengths = {}
    for name, shown in parts.items():
        weight = getattr(method.options, f"{name}_weight")
        loss = weight * method.losses(batch._replace(maps=pooled[:, :, None, None]))[name]
        (gradient,) = torch.autograd.grad(loss, pooled, allow_unused=True)
        lengths[shown] = 0.0 if gradient is None else float(gradient.norm(dim=1).sum())
    method.joint = joint
    return lengths


def fit(found: Features, setting: Setting, seed: int) -> tuple[KE, dict[str, Any]]:
    """Train one setting; the method, and what its parts did."""
    torch.manual_seed(seed)
    encoder, text = build_image_encoder(frozen_features.ENCODER), build_text_encoder(setting.text)
    method = KE(encoder, text, found.labels, setting.options()).train()
    optim = setting.optim()
    places = in_proportion(found.label, SIZES[setting.size], seed)
    steps = len(places) // BATCH
    optimizer = optimizer_of(method.parameter_groups(optim.learning_rate), optim)
    for group in optimizer.param_groups:
        group["fused"] = True  # one pass over the weights in place of five
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, steps, optim)
    )
    norms: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        activity = Activity(Path(folder), found.faces)
        activity.begin(method)
        for number, batch in enumerate(_batches(found, places, setting, seed)):
            optimizer.zero_grad()
            method.losses(batch)["loss"].backward()
            if number % steps == 0:
                norms.append(gradient_norms(method))
            optimizer.step()
            scheduler.step()
        activity.epoch(method, optim.epochs - 1)
        content = json.loads((Path(folder) / ACTIVITY).read_text(encoding="utf-8"))
    mean = {part: statistics.mean(row[part] for row in norms) for part in norms[0]}
    told = {
        "start": content["start"],
        "end": content["epochs"][-1],
        "gradient": mean,
        "pull": pulls(method, found.faces),
        "inactive": content["inactive"],
    }
    return method.eval(), told


def answers(method: KE, found: Features) -> Logits:
    """Logits [n c] of the split that is measured on."""
    batches = (
        _batch(features, label, len(found.labels))
        for features, label in zip(
            found.plain.split(1024), found.plain_label.split(1024), strict=True
        )
    )
    return torch_logits(method, batches).astype(np.float32)


def figures(logits: Logits, label: NDArray[Any], counts: Sequence[int]) -> dict[str, float]:
    """FIGURES of a split's logits; with an even prior, the training classes' shares divide."""
    found = {}
    for name, prior in {"": np.zeros(len(counts)), "_even_prior": log_prior(counts)}.items():
        scores = logits - prior
        answer = scores.argmax(1)
        by_class = per_class(label, answer, len(counts))
        found[f"accuracy{name}"] = float((answer == label).mean())
        found[f"mean_class_accuracy{name}"] = by_class.mean_class_accuracy()
        found[f"neutral_recall{name}"] = float(by_class.recall[REST])
    log_shares = F.log_softmax(torch.from_numpy(logits), dim=1)
    found["negative_log_likelihood"] = float(F.nll_loss(log_shares, torch.from_numpy(label)))
    return found


def trained(found: Features, setting: Setting, seed: int) -> dict[str, Any]:
    """One training's row of a result file; an earlier start's, where it was kept."""
    if found.folder is None:
        return _trained(found, setting, seed)
    asked = {"setting": asdict(setting), "seed": seed, "split": found.split}
    path = found.folder / f"row-{results.fingerprint(asked)}.json"
    if not path.is_file():
        row = _trained(found, setting, seed)
        provenance.write_text(path, json.dumps(row) + "\n")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _trained(found: Features, setting: Setting, seed: int) -> dict[str, Any]:
    method, activity = fit(found, setting, seed)
    logits, label = answers(method, found), found.plain_label.numpy()
    counts = torch.bincount(found.label, minlength=len(found.labels)).tolist()
    told = figures(logits, label, counts)
    logger.info("%s seed %d: %.2f %%", setting, seed, 100 * told["accuracy"])
    answer = " ".join(map(str, logits.argmax(1).tolist()))
    row = {"setting": asdict(setting), "seed": seed, "count": len(label), **told}
    return {**row, "activity": activity, "answer": answer}


# Choosing on valid


def choose(found: Features) -> list[dict[str, Any]]:
    """Every candidate on valid; the rate is L_s's, and all candidates take it.

    At all pictures nothing is chosen: they take what is chosen at 4,000.
    """
    rows = [trained(found, Setting(RATE_AT[0], r, RATE_AT[1]), CHOOSING) for r in RATES]
    rate = max(rows, key=lambda row: float(row["accuracy"]))["setting"]["rate"]
    asked = [
        Setting(size, rate, temperature, weight)
        for size in SIZES
        if size != "all"
        for temperature in TEMPERATURES
        for weight in (0.0, *WEIGHTS)
    ]
    done = [row["setting"] for row in rows]
    return rows + [trained(found, one, CHOOSING) for one in asked if asdict(one) not in done]


def choice(rows: Sequence[Mapping[str, Any]], size: str, *, complete: bool) -> Setting:
    """The best of a size's candidates: of L_s alone, or of all three losses with every part active.

    Raises:
        ValueError: in every candidate a part is inactive.
    """
    if size == "all":
        return replace(choice(rows, PRIMARY, complete=complete), size=size)
    rate = rows[-1]["setting"]["rate"]
    mine = [
        row
        for row in rows
        if (row["setting"]["size"], row["setting"]["rate"]) == (size, rate)
        and bool(row["setting"]["weight"]) == complete
        and not (complete and row["inactive"])
    ]
    return Setting(**max(mine, key=lambda row: float(row["accuracy"]))["setting"])


# Test


def comparison(
    rows: Sequence[Mapping[str, Any]], label: NDArray[Any], size: str, figure: str
) -> dict[str, Any]:
    """The complete loss against L_s at a size: the gain of a figure, its interval and p value.

    Mean class accuracy and neutral recall are accuracies too, of pictures with other weights.
    """
    counts = np.bincount(label)
    weights = {
        "accuracy": np.full(len(label), 1 / len(label)),
        "mean_class_accuracy": 1 / (len(counts) * counts[label]),
        "neutral_recall": (label == REST) / counts[REST],
    }[figure]

    def right(complete: bool) -> NDArray[Any]:
        mine = [r for r in rows if r["setting"]["size"] == size]
        mine = [r for r in mine if bool(r["setting"]["weight"]) == complete]
        mine = sorted(mine, key=lambda r: int(r["seed"]))
        told = np.array([np.array(r["answer"].split(), int) for r in mine])
        hits: NDArray[Any] = (told == label) * weights * len(label)
        return hits

    second, first = right(False), right(True)
    better = gain(first, second, np.arange(len(label)))
    return {
        "size": size,
        "figure": figure,
        "first": float(first.mean()),
        "second": float(second.mean()),
        "gain": better.mean,
        "interval": [better.low, better.high],
        "p_value": better.p_value,
    }


def comparisons(rows: Sequence[Mapping[str, Any]], label: NDArray[Any]) -> list[dict[str, Any]]:
    """The primary test by itself, the others corrected for their number."""
    asked = [(s, f) for s in SIZES for f in ("accuracy", "mean_class_accuracy", "neutral_recall")]
    found = [comparison(rows, label, size, figure) for size, figure in asked]
    primary = [one["size"] == PRIMARY and one["figure"] == "accuracy" for one in found]
    others = holm([one["p_value"] for one, first in zip(found, primary, strict=True) if not first])
    corrected = iter(others)
    return [
        {**one, "primary": first, "p_value_holm": one["p_value"] if first else next(corrected)}
        for one, first in zip(found, primary, strict=True)
    ]


# Exploring on valid


def explored(chosen: Setting) -> dict[str, Setting]:
    """What is asked beside the primary question, from the complete loss's setting at its size."""
    return {
        "L_s": replace(chosen, weight=0.0),
        "complete": chosen,
        "fading L_c": replace(chosen, contrast="simclr"),
        "not centred": replace(chosen, centre=False),
        "vlm-vectors": replace(chosen, text="vlm-vectors"),
        "shuffled": replace(chosen, text="shuffled:minilm-vectors"),
        "simplex": replace(chosen, text="simplex"),
    }


# The command


def load(root: str, folder: Path, split: str) -> tuple[Features, ImageSet]:
    """Features of train, of the measured split, and of some faces of valid."""
    cache = str(folder)
    parts = {
        name: frozen_features.pictures_of(root, name, cache=cache) for name in ("train", "valid")
    }
    if split not in parts:
        parts[split] = frozen_features.pictures_of(root, split, cache=cache)
    train, valid, measured = parts["train"], parts["valid"], parts[split]
    views = frozen_features.views(train, folder)
    faces = torch.from_numpy(frozen_features.plain(valid, folder, "valid").copy())
    plain = torch.from_numpy(frozen_features.plain(measured, folder, split).copy())
    step = len(valid) // FACES
    sample = _batch(faces[::step], valid.label[::step], len(valid.labels))
    found = Features(views, train.label, plain, measured.label, sample, train.labels, split, folder)
    return found, measured


def store(
    name: str, split: str, rows: Sequence[Mapping[str, Any]], folder: Path, **more: Any
) -> Path:
    """Write a result file with its provenance."""
    weights = provenance.sha256(folder / "trunk.onnx")
    told: dict[str, Any] = {
        "model": NAME,
        "run": {
            "config": {
                "encoder": asdict(frozen_features.ENCODER),
                "views": frozen_features.PROFILE,
                "optim": asdict(Setting("all", 0.1, 0.1).optim()),
            },
            "seed": sorted({row["seed"] for row in rows}),
            "commit": provenance.commit(),
            "selection": {"mode": "honest", "split": "valid", "epoch": "last"},
        },
        "sha256": {"trunk.onnx": weights},
        "data": {"name": "ferplus", "protocol": "majority", "split": split},
        "count": rows[0]["count"],
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        **more,
        "rows": list(rows),
    }
    path = RESULTS / f"{name}.json"
    results.write(path, told)
    return path


def main() -> int:
    """Run one part of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("choose", "rows", "explore"))
    parser.add_argument("root", help="FERPlus")
    parser.add_argument("--features", type=Path, default=Path("runs/cache/frozen-pooled-160"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    split = "test" if given.part == "rows" else "valid"
    found, measured = load(given.root, given.features, split)
    if given.part == "choose":
        rows = choose(found)
        for row in rows:
            row["inactive"] = row.pop("activity")["inactive"]
            del row["answer"]
        path = store("frozen-choice", split, rows, given.features)
    else:
        chosen = results.read(RESULTS / "frozen-choice.json")["rows"]
        if given.part == "rows":
            settings = [choice(chosen, s, complete=c) for s in SIZES for c in (False, True)]
            rows = [trained(found, s, seed) for s in settings for seed in range(SEEDS[s.size])]
            label = measured.label.numpy()
            more = {"label": " ".join(map(str, label.tolist()))}
            tests = comparisons(rows, label)
            path = store("frozen-rows", split, rows, given.features, tests=tests, **more)
        else:
            asked = explored(choice(chosen, PRIMARY, complete=True))
            rows = [
                {"name": name, **trained(found, one, seed)}
                for name, one in asked.items()
                for seed in EXPLORING
            ]
            for row in rows:
                del row["answer"]
            path = store("frozen-explored", split, rows, given.features)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
