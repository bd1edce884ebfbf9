"""Accuracy under each corruption and severity, and what that is beside another model's.

The mean corruption error is that of Hendrycks and Dietterich (2019): a model's errors over the
severities of a corruption, divided by the baseline's; its mean over the corruptions, 1 where the
models are equally robust.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from fervor.artifacts.model_info import ModelInfo
from fervor.config import Data
from fervor.data.batch import Batch
from fervor.data.image_set import ImageSet
from fervor.errors import UsageError
from fervor.evaluation import results
from fervor.evaluation.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, Corruption, corrupt
from fervor.evaluation.evaluate import (
    Network,
    counted_images,
    counted_samples,
    opened,
    origin,
    result_name,
)
from fervor.evaluation.label_mapping import Scope
from fervor.evaluation.significance import Floats, Ints
from fervor.io import provenance
from fervor.io.image import to_input
from fervor.io.progress import progress
from fervor.plugins import missing_extra


BATCH = 128
FILED = "results/robustness"
COLUMNS = ("corruption", "group", "severity", "amount", "count", "correct", "accuracy")


def robustness(
    model: str,
    data: Data,
    *,
    split: str = "test",
    output: str = FILED,
    baseline: str = "",
    pictures: int = 0,
    seed: int = 0,
    points: Floats | None = None,
    report: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Measure a model under every corruption; writes a result file and its table below `output`.

    Args:
        model: a run folder or an exported model's folder.
        data: which images; corruptions change what is cut out of them, before it is resized.
        split: train, valid or test.
        output: folder of result files.
        baseline: a model folder, which is measured too, or the result file of an earlier
            measurement of the same images; empty for none.
        pictures: how many, chosen by the seed; 0 for all.
        seed: of the choice and of everything that is random in a corruption.
        points: eyes, nose and corners of the mouth of each of the split's images [n 5 2], as
            shares of width and height; None for their usual places in a crop.
        report: draw accuracy over severity too.

    Raises:
        UsageError: the baseline's file is of other images, a seed below 0, or matplotlib is
            missing.
    """
    for name, number in {"seed": seed, "pictures": pictures}.items():
        if number < 0:
            raise UsageError(f"--{name} {number}: expected at least 0")
    draw = _drawer() if report else None
    other = None
    if baseline.endswith(".json"):
        other = results.read(Path(baseline))
    elif baseline:
        path, other = robustness(
            baseline,
            data,
            split=split,
            output=output,
            pictures=pictures,
            seed=seed,
            points=points,
        )
    info = ModelInfo.read(model)
    scope, samples, described = counted_samples(info, data, split)
    numbers = drawn_rows(len(samples), pictures, seed)
    few = [samples[number] for number in numbers]
    shown, described = counted_images(info, data, scope, few, described)
    if shown.rows is not None:  # those without a face are gone
        numbers = numbers[shown.rows.numpy()]
    result = {
        **origin(info, described),
        **({"cross_data": scope.report} if scope.report else {}),
        "pictures": {"of": len(samples), "seed": seed, "points": points is not None},
        **measure(info, scope, shown, numbers, seed=seed, points=points),
    }
    if other is not None:
        result["baseline"] = compared(result, other, baseline)
    question = results.asked_of(
        result,
        temperature=info.temperature,
        pictures={**result["pictures"], "count": len(numbers)},
        baseline=None if other is None else other["sha256"],
    )
    name = result_name(info, described, cross=scope.report is not None)
    path, result = results.store(Path(output), name, result, question)
    _write_table(path.with_suffix(".csv"), result)
    if draw is not None:
        draw(path, [result] if other is None else [result, other])
    return path, result


def drawn_rows(count: int, pictures: int, seed: int) -> Ints:
    """The numbers of the images that are measured, ascending."""
    order = np.random.default_rng(seed).permutation(count)
    rows: Ints = np.sort(order[:pictures] if pictures else order)
    return rows


def measure(
    info: ModelInfo,
    scope: Scope,
    pictures: ImageSet,
    numbers: Ints,
    *,
    seed: int,
    points: Floats | None = None,
) -> dict[str, Any]:
    """Right answers without and with each corruption, by severity, and their means.

    `numbers` [n] are the images' places in the whole split, on which their corruptions depend.
    """
    network, size = opened(info), info.input.size
    label = pictures.label.numpy()
    total = len(numbers) * (1 + len(CORRUPTIONS) * len(SEVERITIES))

    with progress(total, "answering") as bar:

        def right(name: str = "", severity: int = 0) -> int:
            batches = corrupted_batches(
                pictures, numbers, name, severity, size=size, seed=seed, points=points
            )
            hits = int((_answers(network, batches, scope) == label).sum())
            bar.update(len(numbers))
            return hits

        clean = right()
        by_corruption = {
            name: _figures(kind, [right(name, severity) for severity in SEVERITIES], len(numbers))
            for name, kind in CORRUPTIONS.items()
        }
    by_group = {
        group: mean(row["mean_accuracy"] for row in by_corruption.values() if row["group"] == group)
        for group in GROUPS
    }
    return {
        "count": len(numbers),
        "clean": {"correct": clean, "accuracy": clean / len(numbers)},
        "mean_accuracy": mean(row["mean_accuracy"] for row in by_corruption.values()),
        "groups": by_group,
        "corruptions": by_corruption,
    }


def corrupted_batches(
    pictures: ImageSet,
    numbers: Ints,
    name: str,
    severity: int,
    *,
    size: int,
    seed: int,
    points: Floats | None = None,
) -> Iterator[Batch]:
    """Images under one corruption as a network takes them in; clean ones at severity 0.

    `numbers` [n] are their places in the whole split: what is drawn for an image depends on them.
    """
    for indices in torch.arange(len(pictures)).split(BATCH):
        images = pictures.take(indices).permute(0, 2, 3, 1).numpy()
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        inputs = np.empty((len(images), 3, size, size), np.float32)
        for place, number in enumerate(numbers[indices.numpy()].tolist()):
            image = np.ascontiguousarray(images[place])
            if severity:
                height, width = image.shape[:2]
                where = None if points is None else points[number] * [width, height]
                image = corrupt(image, name, severity, seed=seed, number=number, points=where)
            inputs[place] = to_input(image, size)
        yield Batch(torch.from_numpy(inputs), pictures.label[indices], pictures.votes[indices])


def _answers(network: Network, batches: Iterator[Batch], scope: Scope) -> Ints:
    answers: Ints = network(batches)[:, scope.columns].argmax(1)
    return answers


def _figures(kind: Corruption, correct: list[int], count: int) -> dict[str, Any]:
    accuracy = [hits / count for hits in correct]
    return {
        "group": kind.group,
        "amounts": list(kind.amounts),
        "correct": correct,
        "accuracy": accuracy,
        "mean_accuracy": mean(accuracy),
    }


def compared(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> dict[str, Any]:
    """Corruption errors beside a baseline's; None where the baseline makes no mistake.

    Raises:
        UsageError: the other result is none of robustness, or of other images or classes.
    """
    same = "corruptions" in theirs and _counted(ours) == _counted(theirs)
    if not same:
        raise UsageError(
            f"--baseline {name}: expected a result of robustness on the same pictures; give the "
            "model folder to measure it"
        )
    errors = {}
    for kind, row in ours["corruptions"].items():
        below = sum(1 - accuracy for accuracy in theirs["corruptions"][kind]["accuracy"])
        above = sum(1 - accuracy for accuracy in row["accuracy"])
        errors[kind] = above / below if below else None
    finite_errors = [error for error in errors.values() if error is not None]
    return {
        "model": theirs["model"],
        "seed": theirs["run"]["seed"],
        "sha256": theirs["sha256"],
        "clean_accuracy": theirs["clean"]["accuracy"],
        "mean_corruption_error": mean(finite_errors) if finite_errors else None,
        "corruption_errors": errors,
    }


def _counted(result: dict[str, Any]) -> dict[str, Any]:
    """Which images and classes a result counts; files of old versions lack what was at default."""
    data, cross = result["data"], result.get("cross_data")
    keys = ("name", "protocol", "split", "fold", "faces", "margin", "aligned")
    return {
        **{key: data[key] for key in keys},
        "annotations": data.get("annotations", ""),
        "classes": data.get("classes", []),
        "classes_left_out": sorted(cross["data_only"]) if cross else [],
        **{key: result[key] for key in ("count", "pictures")},
    }


def _write_table(path: Path, result: dict[str, Any]) -> None:
    """One row for each corruption and severity."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    count, clean = result["count"], result["clean"]
    table.writerow(["clean", "", 0, "", count, clean["correct"], clean["accuracy"]])
    for name, row in result["corruptions"].items():
        for severity, amount, correct, accuracy in zip(
            SEVERITIES, row["amounts"], row["correct"], row["accuracy"], strict=True
        ):
            table.writerow([name, row["group"], severity, amount, count, correct, accuracy])
    provenance.write_text(path, text.getvalue())


def _drawer() -> Any:
    with missing_extra("report"):
        from fervor.evaluation import figures

    def draw(path: Path, measured: list[dict[str, Any]]) -> None:
        names = [f"{result['model']}, seed {result['run']['seed']}" for result in measured]
        accuracies = {
            name: {kind: row["accuracy"] for kind, row in result["corruptions"].items()}
            for name, result in zip(names, measured, strict=True)
        }
        clean = {
            name: result["clean"]["accuracy"] for name, result in zip(names, measured, strict=True)
        }
        figures.save(figures.severity_figure(accuracies, clean), path.parent, path.stem)

    return draw
