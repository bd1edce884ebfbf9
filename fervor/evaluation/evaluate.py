"""A model's answers to a split, and one result file per evaluation."""

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from fervor import plugins
from fervor.artifacts.joint_space import unit
from fervor.artifacts.model_info import GRAPH, ModelInfo
from fervor.artifacts.reader import open_session
from fervor.config import Data
from fervor.data import datasets
from fervor.data.batch import Batch
from fervor.data.datasets import Sample
from fervor.data.datasets.subsets import class_names
from fervor.data.duplicates import repeated
from fervor.data.image_set import ImageSet, read_images
from fervor.data.loading import evaluation_batches
from fervor.data.manifest import alignment
from fervor.data.splits import load_samples
from fervor.errors import DataError, ModelError, UsageError
from fervor.evaluation import results
from fervor.evaluation.label_mapping import Scope, scope, scope_of_words
from fervor.evaluation.metrics import softmax, summary
from fervor.evaluation.operating_points import figures_at_points
from fervor.evaluation.significance import (
    Floats,
    Ints,
    bootstrap_intervals,
    gain,
    grouped_intervals,
    mcnemar,
    sign_flips,
    units,
)
from fervor.evaluation.subgroups import by_attributes
from fervor.evaluation.training_split import check_persons, in_own_fold, own_training_samples
from fervor.inference.open_vocabulary import METHOD, check_labels, read_vocabulary
from fervor.io import provenance
from fervor.io.progress import progress
from fervor.methods.base import Method
from fervor.methods.build import build, with_words
from fervor.plugins import missing_extra


RUN_KEYS = (
    *("config", "seed", "commit", "selection", "average_of", "initial_weights"),
    *("starts", "inactive"),
)
"""What a result repeats of a model's description."""

Network = Callable[[Iterable[Batch]], Floats]
"""Batches -> one output over all of them, [n ...]."""


@torch.no_grad()
def torch_logits(method: Method, batches: Iterable[Batch]) -> Floats:
    """Logits [n c] of a method over batches, in fp32 and eval mode."""
    training = method.training
    method.eval()
    device = next(method.parameters()).device
    with method.constant_text():
        logits = [
            method.logits(method.batch_features(batch.to(device))).float().cpu().numpy()
            for batch in batches
        ]
    method.train(training)
    return np.concatenate(logits)


@torch.no_grad()
def torch_embedding(method: Method, batches: Iterable[Batch]) -> Floats:
    """What a method compares with its class vectors, [n d], over batches; for drawings."""
    with method.constant_text():
        return np.concatenate(
            [method.features(batch.images()).pooled.float().numpy() for batch in batches]
        )


def onnx_output(
    session: onnxruntime.InferenceSession, batches: Iterable[Batch], *, name: str = "logits"
) -> Floats:
    """One output of an exported model over batches: logits [n c], or embedding [n d]."""
    return np.concatenate(
        [session.run([name], {"image": batch.images().numpy()})[0] for batch in batches]
    )


def onnx_logits(path: Path, batches: Iterable[Batch]) -> Floats:
    """Logits [n c] of an exported model over batches."""
    return onnx_output(_session(path), batches)


def opened(info: ModelInfo, name: str = "logits") -> Network:
    """The exported graph where the folder has one, torch otherwise; ready for many batches.

    Args:
        info: the model.
        name: logits, or embedding for what is compared with the class vectors.
    """
    if (info.folder / GRAPH).is_file():
        return partial(onnx_output, open_session(info, 0), name=name)
    return partial(torch_logits if name == "logits" else torch_embedding, build(info))


def _session(path: Path) -> onnxruntime.InferenceSession:
    graph = path.read_bytes()  # by its bytes it finds no files beside it
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def logits_of(info: ModelInfo, images: ImageSet, words: Sequence[str] = ()) -> Floats:
    """Logits [n c] of a split's images: for the model's own classes, or for words.

    Raises:
        UsageError: the model's classes are no words, or its text encoder does not know these.
    """
    batches = _counted(evaluation_batches(images, size=info.input.size), len(images))
    if not words:
        return opened(info)(batches)
    if info.method != METHOD:
        return torch_logits(with_words(info, words), batches)
    vocabulary = read_vocabulary(info, words)
    embeddings = unit(opened(info, "embedding")(batches))
    return info.temperature * vocabulary.logits(embeddings, info.temperature)


def _counted(batches: Iterable[Batch], total: int) -> Iterator[Batch]:
    """The batches; says how far their answers are."""
    with progress(total, "answering") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.label))


@dataclass(frozen=True)
class Question:
    """What a model is asked of a split, where that is not all of it with the model's own classes.

    Attributes:
        words: in place of the model's classes; images of classes that they name are counted.
        exclude_duplicates: leave out images that also stand in the model's train.
        attributes: read the samples' attributes too, for accuracy by group.
    """

    words: Sequence[str] = ()
    exclude_duplicates: bool = False
    attributes: bool = False


PLAIN = Question()


@dataclass(frozen=True)
class Answers:
    """What one model answers to one split.

    Attributes:
        info: the model.
        scope: the classes that are counted.
        images: the images [n]; their labels are numbers of these classes.
        samples: the annotations that they come from [n].
        logits: of all the model's classes [n k].
        probabilities: of the classes that are counted [n c].
        described: what a result says of the data.
    """

    info: ModelInfo
    scope: Scope
    images: ImageSet
    samples: tuple[Sample, ...]
    logits: Floats
    probabilities: Floats
    described: dict[str, Any]

    @property
    def label(self) -> Ints:
        """Class numbers [n]."""
        return self.images.label.numpy()

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is answered rightly [n]."""
        right: NDArray[np.bool_] = self.probabilities.argmax(1) == self.label
        return right

    @property
    def unit(self) -> Ints:
        """Each image's person [n]; every image its own where none are known."""
        return units(self.images.groups, len(self.images))

    def embedding(self, rows: Ints) -> Floats:
        """Features [m d] of some of the images, as compared with the class vectors."""
        subset = self.images.subset(torch.from_numpy(rows))
        batches = evaluation_batches(subset, size=self.info.input.size)
        return opened(self.info, "embedding")(batches)


def answer(
    info: ModelInfo,
    data: Data,
    split: str,
    question: Question = PLAIN,
) -> Answers:
    """Answer a split's images, those of classes that model (or words) and data set share.

    Raises:
        UsageError: classes that do not fit, or duplicates of another data set's train.
    """
    scope, samples, described = counted_samples(info, data, split, question)
    images, described = counted_images(info, data, scope, samples, described)
    if images.rows is not None:  # those without a face are gone
        samples = tuple(samples[row] for row in images.rows.tolist())
    logits = logits_of(info, images, question.words)
    if not np.isfinite(logits).all():
        raise ModelError(
            f"{info.folder}: the model's answers are no finite numbers; train it again"
        )
    probabilities = softmax(logits[:, scope.columns], info.temperature)
    return Answers(info, scope, images, samples, logits, probabilities, described)


def evaluate(
    model: str | Path,
    data: Data,
    *,
    split: str = "test",
    labels: Sequence[str] = (),
    output: str | Path = "results",
    exclude_duplicates: bool = False,
    report: bool = False,
    umap: bool = False,
    compare: str = "",
    slices: Sequence[str] = (),
) -> tuple[Path, dict[str, Any]]:
    """Evaluate a model folder on one split; writes a result file below `output` and returns both.

    On another data set than the model's own, only the classes that both know are counted, and the
    model answers with these alone; see `fervor.evaluation.label_mapping`. With `labels` it answers
    with these words in place of its own classes.

    Args:
        model: a run folder or an exported model's folder.
        data: which images.
        split: train, valid or test.
        labels: words to choose of, in place of the model's own classes; images of classes that
            they name are counted.
        output: folder of result files.
        exclude_duplicates: leave out images that also stand in the model's train.
        report: write figures and tables into a folder beside the result file.
        umap: lay the features out by UMAP too, in the report.
        compare: another model that answers the same images.
        slices: attributes of the images by which accuracy is divided.

    Raises:
        UsageError: classes or a fold that do not fit, duplicates of another data set's train, an
            attribute that no image has, or a report without matplotlib or umap-learn.
    """
    if umap and not report:
        raise UsageError("umap: a layout belongs into a report; add --report, or leave --umap out")
    if report:
        with missing_extra("report"):
            from fervor.evaluation.report import write_report
    words = check_labels(labels) if labels else ()
    if umap:
        with missing_extra("umap"):
            importlib.import_module("umap")  # before all the work
    question = Question(words, exclude_duplicates, attributes=bool(slices))
    answers = answer(ModelInfo.read(model), data, split, question)
    result = {**origin(answers.info, answers.described), **_figures(answers)}
    if compare:
        second, same = ModelInfo.read(compare), replace(data, fold=answers.described["fold"])
        other = answer(second, same, split, replace(question, attributes=False))
        result["comparison"] = comparison(answers, other)
    if slices:
        result["slices"] = by_attributes(answers.samples, answers.correct, slices)
    settings = results.asked_of(
        result,
        pictures=result["answers"]["pictures"],
        temperature=answers.info.temperature,
        compare=result["comparison"]["sha256"] if compare else None,
        slices=sorted(slices),
        **({"labels": list(words)} if words else {}),
    )
    name = result_name(answers.info, answers.described, cross=answers.scope.report is not None)
    path, result = results.store(Path(output), name, result, settings)
    if report:
        write_report(path.with_suffix(""), answers, result, root=data.root, umap=umap)
    return path, result


def origin(info: ModelInfo, described: dict[str, Any]) -> dict[str, Any]:
    """What a result says of where its numbers come from."""
    content = info.content()
    return {
        "model": info.name,
        "run": {key: content[key] for key in RUN_KEYS},
        "sha256": content["sha256"],
        "data": described,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }


def result_name(info: ModelInfo, described: dict[str, Any], *, cross: bool) -> str:
    """What a result's file is called before its fingerprint: model, seed, and what was evaluated.

    Args:
        info: the model's description.
        described: what a result says of the data.
        cross: whether the data set is another one than the model's own.
    """
    other = f"-{plugins.title(described['name'])}-{described['protocol']}" if cross else ""
    fold = f"-fold{described['fold']}" if described["fold"] else ""
    return f"{info.name}-seed{info.seed}{other}{fold}-{described['split']}"


def rows_of(answers: Answers) -> dict[str, Any]:
    """Every image's class, answer and person, so that another result can be compared with it.

    Classes are numbers in the order of the result's `classes`; persons are numbered as they come.
    `pictures` is a checksum of the images' names, classes and persons, in their order.
    """
    names = [Path(source).name for source in answers.images.sources]
    label, persons = answers.label.tolist(), answers.unit.tolist()
    return {
        "pictures": hashlib.sha256(json.dumps([names, label, persons]).encode()).hexdigest(),
        "label": _words(label),
        "answer": _words(answers.probabilities.argmax(1).tolist()),
        "person": _words(persons) if answers.images.groups else "",
    }


def _words(numbers: Iterable[int]) -> str:
    """Numbers in one line of a result file."""
    return " ".join(map(str, numbers))


def _figures(answers: Answers) -> dict[str, Any]:
    figures = summary(answers.probabilities, answers.label, answers.scope.labels)
    intervals = bootstrap_intervals(np.array(figures["confusion"]))
    if answers.images.groups:  # images of one person are one observation
        answer, classes = answers.probabilities.argmax(1), len(answers.scope.labels)
        intervals = grouped_intervals(answers.label, answer, answers.unit, classes)
        figures["accuracy_interval"] = list(intervals["accuracy"])
    points = answers.info.operating_points
    if points is not None and "words" not in (answers.scope.report or {}):
        calibrated = answers.logits.astype(np.float64) / answers.info.temperature
        figures["operating_points"] = figures_at_points(
            calibrated, answers.label, answers.scope.columns, points
        )
    cross = answers.scope.report
    if cross is not None:
        right = answers.logits.argmax(1) == np.array(answers.scope.columns)[answers.label]
        cross = {**cross, "accuracy_over_all_classes": float(right.mean())}
    return {
        "cross_data": cross,
        **figures,
        "persons": len(set(answers.unit.tolist())) if answers.images.groups else None,
        "bootstrap_intervals": {name: list(pair) for name, pair in intervals.items()},
        "answers": rows_of(answers),
    }


def comparison(first: Answers, second: Answers) -> dict[str, Any]:
    """Two models on the same images, and whether they differ.

    McNemar's exact test; where persons are known, the test that flips persons' signs.

    Raises:
        UsageError: the models do not know the same classes.
    """
    fold, own = second.described["fold"], first.described["fold"]
    if fold != own:
        raise UsageError(
            f"--compare {second.info.folder}: it answers fold {fold}, the model fold {own}: "
            "expected the same test pictures"
        )
    same = first.images.sources == second.images.sources
    if set(first.scope.labels) != set(second.scope.labels) or not same:
        raise UsageError(
            f"--compare {second.info.folder}: it answers with {', '.join(second.scope.labels)}, "
            f"the model with {', '.join(first.scope.labels)}: expected the same classes"
        )
    test, unit = mcnemar(first.correct, second.correct), first.unit
    ours, theirs = first.correct[None].astype(float), second.correct[None].astype(float)
    better = gain(ours, theirs, unit)
    grouped, p_value = bool(first.images.groups), test.p_value
    if grouped:
        p_value = sign_flips((ours - theirs)[0], unit)
    return {
        "model": second.info.name,
        "seed": second.info.seed,
        "sha256": dict(second.info.sha256),
        "accuracy": float(second.correct.mean()),
        "first_only": test.first_only,
        "second_only": test.second_only,
        "gain": better.mean,
        "gain_interval": [better.low, better.high],
        "test": "sign flips of persons" if grouped else "McNemar",
        "p_value": p_value,
    }


def counted_samples(
    info: ModelInfo,
    data: Data,
    split: str,
    question: Question = PLAIN,
) -> tuple[Scope, tuple[Sample, ...], dict[str, Any]]:
    """The classes and annotations that are counted, and what a result says of them.

    Of the model's own data set its own fold is read where none is given.

    Raises:
        UsageError: classes that do not fit, another fold than the training's, or duplicates of
            another training.
        DataError: the split holds no images.
    """
    protocol = datasets.protocol_of(data.name, data.protocol)
    data = in_own_fold(info, replace(data, protocol=protocol))
    loaded, skipped = load_samples(data, split, protocol=protocol)
    if not loaded:
        raise DataError(
            f"{data.name} under {data.root} has no images of the split {split}: expected some; "
            "what a training holds out by --data.validation is no such split"
        )
    if split != "train":
        check_persons(info, data, loaded)
    shared_scope = (
        scope_of_words(info, question.words, data.name, protocol, loaded)
        if question.words
        else scope(info, data.name, protocol, loaded)
    )
    samples, repeats = shared_scope.samples, set()
    if question.exclude_duplicates:
        repeats = set(repeated(samples, _training_samples(info, data, split)))
        samples = tuple(sample for row, sample in enumerate(samples) if row not in repeats)
    if question.attributes:
        samples = tuple(datasets.with_attributes(data.name, data.root, samples))
    classes = class_names(data.classes)
    described = {
        "name": data.name,
        "protocol": protocol,
        "annotations": data.annotations,
        "split": split,
        "fold": data.fold,
        "faces": data.faces,
        "margin": data.margin,
        "aligned": alignment(data),
        "exclude_duplicates": question.exclude_duplicates,
        **({"classes": list(classes)} if classes else {}),
        "left_out": {
            "no_face": skipped,
            "duplicates": len(repeats),
        },
    }
    return shared_scope, samples, described


def counted_images(
    info: ModelInfo,
    data: Data,
    scope: Scope,
    samples: Sequence[Sample],
    described: dict[str, Any],
) -> tuple[ImageSet, dict[str, Any]]:
    """The samples' images, and what a result says of the data when those are read."""
    images = read_images(
        samples,
        scope.labels,
        size=info.input.size,
        faces=data.faces,
        margin=data.margin,
        crop=info.input.crop,
        cache=data.cache,
    )
    left_out = dict(described["left_out"])
    left_out["no_face"] += len(samples) - len(images)
    return images, {**described, "left_out": left_out}


def _training_samples(info: ModelInfo, data: Data, split: str) -> list[Sample]:
    """What the model was trained on, of the data set that it is evaluated on."""
    own = info.data
    if data.name != own.name or split == "train":
        raise UsageError(
            f"--exclude_duplicates with split {split} of {data.name}: expected another split than "
            f"train of the model's own data set, {own.name}, whose train the pictures may repeat"
        )
    return own_training_samples(info, data)
