"""The end of a run: its folder becomes a model folder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fervor.artifacts.model_card import card
from fervor.artifacts.model_info import (
    WEIGHTS,
    Auxiliary,
    ImageInput,
    ModelInfo,
    Parameters,
    Selection,
    TextInfo,
    TrainingData,
)
from fervor.config import Data, Encoder, Run, SelectionMetric, published_name
from fervor.data import datasets
from fervor.data.distillation import read_logits
from fervor.data.manifest import alignment
from fervor.data.splits import Splits
from fervor.errors import ModelError, UsageError
from fervor.evaluation.evaluate import torch_logits
from fervor.evaluation.metrics import fitted_temperature, softmax, summary
from fervor.evaluation.operating_points import fitted_points
from fervor.io import provenance
from fervor.methods import build
from fervor.methods.base import Method
from fervor.models.distributed import own_device
from fervor.training.activity import inactive_parts
from fervor.training.feature_cache import plain_batches
from fervor.training.licences import terms
from fervor.training.resume import starts


LAST = "last.ckpt"
BEST = "best.safetensors"
METRICS = ("accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood")
"""What is measured after each epoch."""

DIVERGED = (
    "the training has diverged, its answers are not finite: train anew with another --output and a "
    "lower --optim.learning_rate"
)


def best_epoch(history: Sequence[Mapping[str, Any]], metric: SelectionMetric) -> Mapping[str, Any]:
    """The row of the epoch to keep, the first of equals; see `config.Run.selection_metric`.

    Raises:
        UsageError: all epochs have diverged, as runs of version 0.1 could.
    """
    sign = -1 if metric == "negative_log_likelihood" else 1
    rows = [row for row in history if math.isfinite(row["negative_log_likelihood"])]
    if not rows:
        raise UsageError(DIVERGED)
    return max(rows, key=lambda row: sign * row[metric])


def finish(
    method: Method, run: Run, splits: Splits, history: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Write the model folder: best weights, temperature, description and card.

    Raises:
        ModelError: the best weights are damaged.
        UsageError: their answers are not finite.
    """
    try:
        tensors = load_file(folder / BEST)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{folder / BEST} is damaged: {error}; train again") from None
    build.fill(method, tensors, folder / BEST)
    batches = plain_batches(method, splits.selection, run.pipeline)
    logits = torch_logits(method.to(own_device()), batches)  # a run's end has left it
    method.cpu()
    if not np.isfinite(logits).all():
        raise UsageError(DIVERGED)
    label = splits.selection.label.numpy()
    temperature = fitted_temperature(logits, label)
    best = best_epoch(history, run.selection_metric)
    figures = summary(softmax(logits, temperature), label, splits.labels)
    selection = Selection(
        mode=run.selection,
        split=splits.selected_on,
        epoch=best["epoch"],
        **{name: best[name] for name in METRICS},
        calibration_error=figures["calibration_error"],
    )
    size = run.encoder.size
    with torch.no_grad():
        grid = method.eval().features(torch.zeros(1, 3, size, size)).grid
    info = described(run, splits, method, selection=selection, temperature=temperature, grid=grid)
    points = fitted_points(logits / temperature, label, splits.train.counts())
    idle = tuple(inactive_parts(folder))
    info = replace(info, starts=tuple(starts(folder)), operating_points=points, inactive=idle)
    build.save_model(folder, tensors, info, card(info))
    forget_state(folder)


def forget_state(folder: Path) -> None:
    """Remove what a finished run needed to go on."""
    for name in (BEST, LAST):
        (folder / name).unlink(missing_ok=True)


def initial_weights(config: Encoder, start: str = "") -> dict[str, str]:
    """Where the encoder started: a name, or a model's or a file's name and checksum."""
    if start:
        model = ModelInfo.read(start)
        return {"name": model.name, "sha256": model.sha256[WEIGHTS]}
    if not config.weights:
        return {"name": "packaged"}
    weights = Path(config.weights)
    if weights.is_file():
        return {"file": weights.name, "sha256": provenance.sha256(weights)}
    return {"name": published_name(config.weights)}


def teachers(data: Data) -> tuple[dict[str, Any], ...]:
    """The models whose stored answers stood among the training's targets."""
    return read_logits(Path(data.teachers)).teachers if data.teachers else ()


def described(
    run: Run,
    splits: Splits,
    method: Method,
    *,
    selection: Selection | None = None,
    temperature: float = 1.0,
    grid: tuple[int, int] | None = None,
) -> ModelInfo:
    """The description of what a run made; its weights' checksum is not known yet.

    Without a selection it is that of a run before its first step, of which no figure is known.
    """
    if selection is None:
        none = dict.fromkeys(METRICS, 0.0)
        selection = Selection(run.selection, splits.selected_on, epoch=0, **none)
    resolved = run.published()
    towers = build.tower_checksums(method)
    encoder = run.encoder
    if "image" not in towers:  # else the folder holds no encoder: it is loaded from there again
        encoder = replace(encoder, weights=published_name(encoder.weights))
    size, stored = run.encoder.size, splits.train.images.shape[2:]
    auxiliary: dict[str, Any] = {name: getattr(run, name) for name in method.auxiliary}
    data, stated = run.data, terms(run)
    return ModelInfo(
        name=run.title,
        method=run.method,
        labels=splits.labels,
        input=ImageInput(size, run.encoder.crop or max(stored), run.encoder.grey),
        grid=grid,
        options=resolved["options"],
        encoder=encoder,
        initial_weights=initial_weights(run.encoder, run.start),
        teachers=teachers(data),
        architecture=method.image.architecture,
        text=TextInfo(run.text.name, int(method.text_width)),
        towers=towers,
        companions=Auxiliary(**auxiliary),
        prompts=tuple(method.sentences),
        parameters=Parameters(**build.sizes(method)),
        data=TrainingData(
            name=data.name,
            protocol=datasets.protocol_of(data.name, data.protocol),
            train_protocol=datasets.protocol_of(data.name, data.train_protocol or data.protocol),
            train=dict(zip(splits.labels, splits.train.counts(), strict=True)),
            selection=dict(zip(splits.labels, splits.selection.counts(), strict=True)),
            aligned=alignment(data),
        ),
        licence=stated["licence"],
        data_terms=stated["data_terms"],
        config=resolved,
        seed=run.seed,
        commit=provenance.commit(),
        versions=provenance.versions(),
        selection=selection,
        temperature=temperature,
        sha256={},
    )
