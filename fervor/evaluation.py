"""What a model gets right: metrics as pure functions on arrays, and one result file per evaluation.

Conventions: `probabilities` is [n c] with rows summing to 1, `label` holds class numbers [n];
every value lies in 0..1. A class without pictures does not enter a mean over classes.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special, stats
from sklearn import metrics as sklearn_metrics

from fervor import datasets, provenance
from fervor.checkpoint import Model, load_model
from fervor.config import Data
from fervor.data import Pictures, evaluation_batches, read_pictures
from fervor.datasets import Sample
from fervor.duplicates import repeated
from fervor.errors import UsageError
from fervor.methods import Batch, Method
from fervor.splits import alignment, load_samples
from fervor.transfer import Scope, scope


RUN_KEYS = ("config", "seed", "commit", "selection", "average_of")
"""What a result repeats of a model's description."""

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def confusion(label: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts [c c]: rows are the true classes, columns the answers."""
    matrix: Ints = sklearn_metrics.confusion_matrix(label, predicted, labels=range(classes))
    return matrix


def expected_calibration_error(probabilities: Floats, label: Ints, *, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins that hold equally many pictures."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == label
    order = np.argsort(confidence, kind="stable")
    gaps = [
        abs(correct[chunk].mean() - confidence[chunk].mean()) * len(chunk)
        for chunk in np.array_split(order, bins)
        if len(chunk)
    ]
    return float(sum(gaps) / len(label))


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy."""
    interval = stats.binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def summary(probabilities: Floats, label: Ints, labels: Iterable[str]) -> dict[str, Any]:
    """All figures of one evaluation; classes of one data set in the model's order."""
    names = list(labels)
    predicted = probabilities.argmax(1)
    matrix = confusion(label, predicted, len(names))
    correct, count = int(np.trace(matrix)), len(label)
    per_class = sklearn_metrics.precision_recall_fscore_support(
        label, predicted, labels=range(len(names)), zero_division=0
    )
    present = per_class[3] > 0
    low, high = accuracy_interval(correct, count)
    return {
        "count": count,
        "correct": correct,
        "accuracy": correct / count,
        "accuracy_interval": [low, high],
        "mean_class_accuracy": float(per_class[1][present].mean()),
        "macro_f1": float(per_class[2][present].mean()),
        "calibration_error": expected_calibration_error(probabilities, label),
        "negative_log_likelihood": float(
            -np.log(np.maximum(probabilities[np.arange(count), label], 1e-12)).mean()
        ),
        "classes": {
            name: {
                "count": int(per_class[3][number]),
                "precision": float(per_class[0][number]),
                "recall": float(per_class[1][number]),
                "f1": float(per_class[2][number]),
            }
            for number, name in enumerate(names)
        },
        "confusion": matrix.tolist(),
    }


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities [n c] of logits [n c]."""
    shares: Floats = special.softmax(logits.astype(np.float64) / temperature, axis=1)
    return shares


def fitted_temperature(logits: Floats, label: Ints) -> float:
    """The temperature that minimises the negative log likelihood (Guo et al., 2017), in 0.05..20.

    It changes no answer, only how sure the probabilities are.
    """

    def loss(log_temperature: float) -> float:
        shares = special.log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return float(-shares[np.arange(len(label)), label].mean())

    found = optimize.minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


@torch.no_grad()
def torch_logits(method: Method, batches: Iterable[Batch]) -> Floats:
    """Logits [n c] of a method over batches, in fp32 and eval mode."""
    training = method.training
    method.eval()
    device = next(method.parameters()).device
    with method.constant_text():
        logits = [
            method(batch.image.to(device, memory_format=torch.channels_last)).float().cpu().numpy()
            for batch in batches
        ]
    method.train(training)
    return np.concatenate(logits)


def onnx_logits(path: Path, batches: Iterable[Batch]) -> Floats:
    """Logits [n c] of an exported model over batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(["logits"], {"image": batch.image.numpy()})[0] for batch in batches]
    )


def logits_of(model: Model, pictures: Pictures) -> Floats:
    """Logits [n c] by the exported graph where the folder has one, by torch otherwise."""
    batches = evaluation_batches(pictures, size=model.info["input"]["size"])
    exported = model.folder / "model.onnx"
    if exported.is_file():
        return onnx_logits(exported, batches)
    return torch_logits(model.method(), batches)


def evaluate(
    model: str,
    data: Data,
    *,
    split: str = "test",
    output: str = "results",
    exclude_duplicates: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Evaluate a model folder on one split; writes a result file below `output` and returns both.

    On another data set than the model's own, only the classes that both know are counted, and the
    model answers with these alone; see `fervor.transfer`.

    Raises:
        UsageError: classes that do not fit, or duplicates of another data set's train.
    """
    loaded = load_model(model)
    info = loaded.info
    counted, pictures, described = _counted(info, data, split, exclude_duplicates)
    logits, label = logits_of(loaded, pictures), pictures.label.numpy()
    probabilities = softmax(logits[:, counted.columns], info["temperature"])
    cross = counted.report
    if cross is not None:
        right = logits.argmax(1) == np.array(counted.columns)[label]
        cross = {**cross, "accuracy_over_all_classes": float(right.mean())}
    result = {
        "model": info["name"],
        "run": {key: info.get(key) for key in RUN_KEYS},
        "sha256": info["sha256"],
        "data": described,
        "cross_data": cross,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        **summary(probabilities, label, counted.labels),
    }
    other = f"-{data.name}-{described['protocol']}" if cross else ""
    fold = f"-fold{data.fold}" if data.fold else ""
    path = Path(output) / f"{info['name']}-seed{info['seed']}{other}{fold}-{split}.json"
    provenance.write_text(path, json.dumps(result, indent=1) + "\n")
    return path, result


def _counted(
    info: dict[str, Any], data: Data, split: str, exclude_duplicates: bool
) -> tuple[Scope, Pictures, dict[str, Any]]:
    """The classes and pictures that are counted, and what a result says of them."""
    protocol = datasets.protocol_of(data.name, data.protocol)
    loaded, skipped = load_samples(data, split, protocol=protocol)
    counted = scope(info, data.name, protocol, loaded)
    samples, repeats = counted.samples, set()
    if exclude_duplicates:
        repeats = set(repeated(samples, _training_samples(info, data, split)))
        samples = tuple(sample for row, sample in enumerate(samples) if row not in repeats)
    pictures = read_pictures(
        samples,
        counted.labels,
        size=info["input"]["size"],
        faces=data.faces,
        margin=data.margin,
        cache=data.cache,
    )
    described = {
        "name": data.name,
        "protocol": protocol,
        "split": split,
        "fold": data.fold,
        "faces": data.faces,
        "margin": data.margin,
        "aligned": alignment(data),
        "exclude_duplicates": exclude_duplicates,
        "left_out": {
            "no_face": skipped + len(samples) - len(pictures),
            "duplicates": len(repeats),
        },
    }
    return counted, pictures, described


def _training_samples(info: dict[str, Any], data: Data, split: str) -> list[Sample]:
    """What the model was trained on, of the data set that it is evaluated on."""
    own = info["data"]
    if data.name != own["name"] or split == "train":
        raise UsageError(
            f"--exclude_duplicates with split {split} of {data.name}: expected another split than "
            f"train of the model's own data set, {own['name']}, whose train the pictures may repeat"
        )
    rule = own.get("train_protocol", own["protocol"])
    return load_samples(data, "train", protocol=rule)[0]
