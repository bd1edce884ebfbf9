"""The model folder: one typed `model.json`, and the files that it vouches for.

A model folder may come from a stranger. Every entry has a type and a range, which stand in the
annotations below, and every file a checksum that is compared when it is opened. Whatever does not
fit is one line of ModelError.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from fervor.config import LEAST_SIDE, SIDE, Encoder, Landmarks, Teacher
from fervor.errors import ModelError, counted
from fervor.io import provenance
from fervor.io.typed_json import decoded, encoded, read_object


__all__ = [
    "CARD",
    "CLASS_VECTORS",
    "COVER_VECTORS",
    "CUE_VECTORS",
    "DESCRIPTION",
    "EMBEDDED",
    "FILES",
    "GRAPH",
    "INT8_GRAPH",
    "MAX_WIDTH",
    "SHIPPED",
    "TEXT_VECTORS",
    "WEIGHTS",
    "WORD_PROJECTION",
    "WORD_VECTORS",
    "Auxiliary",
    "ImageInput",
    "Int8",
    "ModelInfo",
    "OperatingPoint",
    "OperatingPoints",
    "Parameters",
    "Selection",
    "TextInfo",
    "TrainingData",
    "find_model",
    "whole_numbers",
]

EMBEDDED = Path(__file__).parents[1] / "weights" / "embedded"
SHIPPED = {"embedded": EMBEDDED, "vlm": EMBEDDED.with_name("vlm")}
"""Models of the package by name."""

DESCRIPTION, CARD = "model.json", "README.md"
WEIGHTS = "weights.safetensors"
GRAPH, INT8_GRAPH = "model.onnx", "model.int8.onnx"
"""In single precision, and in eight bits where the folder has one."""
CLASS_VECTORS, TEXT_VECTORS = "class_vectors.safetensors", "text_vectors.safetensors"
CUE_VECTORS, COVER_VECTORS = "cue_vectors.safetensors", "cover_vectors.safetensors"
WORD_VECTORS, WORD_PROJECTION = "word_vectors.safetensors", "word_projection.safetensors"
FILES = (
    *(GRAPH, INT8_GRAPH, WEIGHTS, CLASS_VECTORS),
    *(TEXT_VECTORS, CUE_VECTORS, COVER_VECTORS, WORD_VECTORS, WORD_PROJECTION),
)
"""What a model.json may vouch for."""

SCHEMA = 1
MAX_NAME = 200
"""Characters of a name or a label."""
MAX_LABELS = 10_000
MAX_WIDTH = 16_384
"""Largest whole number among options and sizes: above every width that a text encoder has."""

_EXPECTED = "expected what fervor train and fervor export write"
_EXPORT = "run fervor export --model {folder} --output {folder}-onnx and name that folder"
_ADVICE = {
    GRAPH: _EXPORT,
    CLASS_VECTORS: _EXPORT,
    WEIGHTS: "give a run folder of fervor train",
    INT8_GRAPH: "make one with fervor export --int8, or leave --precision out",
}


# Ranges: each gives the complaint about a value, empty where there is none


def _within(low: float, high: float) -> Callable[[float], str]:
    def complaint(value: float) -> str:
        return "" if low <= value <= high else f"is {value!r:.30}, expected {low} to {high}"

    return complaint


def _name(text: str) -> str:
    fits = text.isprintable() and 0 < len(text) <= MAX_NAME
    return "" if fits else f"{text!r:.60} is no name"


def _printable(text: str) -> str:
    return "" if text.isprintable() else f"{text!r:.60} holds control characters"


def _filed(name: str) -> str:
    leads_out = not {"", ".", ".."}.isdisjoint(name.split("/"))  # results are filed under it
    return f"{name!r:.60} leads out of its folder" if leads_out else ""


def _different(labels: tuple[str, ...]) -> str:
    fits = 2 <= len(set(labels)) == len(labels) <= MAX_LABELS
    return "" if fits else "are not two or more different names"


def _hexadecimal(digits: str) -> str:
    return "" if re.fullmatch("[0-9a-f]{64}", digits) else "is not 64 hexadecimal digits"


def _known(sums: Mapping[str, str]) -> str:
    strange = [file for file in sums if file not in FILES]  # never a path that leads elsewhere
    return f"names {strange[0]!r:.60}, expected {', '.join(FILES)}" if strange else ""


def _plain(options: Mapping[str, Any]) -> str:
    """Values without names in them, but for sentences of each class."""
    nested = [
        key
        for key, value in options.items()
        if isinstance(value, Mapping) and not _are_sentences(value)
    ]
    return f"{nested[0]!r:.60} is no plain value" if nested else ""


def _are_sentences(value: Mapping[str, Any]) -> bool:
    return all(
        isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
        for texts in value.values()
    )


def _small(values: Any) -> str:
    for name, number in whole_numbers(encoded(values)):
        if abs(number) > MAX_WIDTH:
            return f"{name!r:.60} is {number!r:.30}, expected at most {MAX_WIDTH}"
    return ""


def whole_numbers(values: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number in nested values, with its name; of a list also their sum."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from whole_numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple):
        yield name, sum(value for value in values if isinstance(value, int))
        for value in values:
            yield from whole_numbers(value, name)
    elif isinstance(values, int):
        yield name, values


Name = Annotated[str, _name]
Line = Annotated[str, _printable]
Side = Annotated[int, _within(LEAST_SIDE, SIDE)]
Count = Annotated[int, _within(0, 2**53)]
Cells = Annotated[int, _within(1, 2048)]
Fraction = Annotated[float, _within(0, 1)]
Loss = Annotated[float, _within(0, math.inf)]
Temperature = Annotated[float, _within(0.01, 100)]  # what is fitted lies in 0.05..20
Checksum = Annotated[str, _hexadecimal]


# The entries


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The network's input.

    Attributes:
        size: width and height in pixels.
        crop: width and height of the face crop that is resized to `size`.
        grey: whether the network turns it to luminance.
    """

    size: Side
    crop: Side
    grey: bool = False


@dataclass(frozen=True, slots=True)
class TextInfo:
    """The text encoder: its name, and the width of its vectors."""

    name: str
    width: Annotated[int, _within(1, MAX_WIDTH)]


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """The frozen networks beside the encoders, for methods that take some."""

    landmarks: Landmarks | None = None
    teacher: Teacher | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many parameters there are, how many train, and the bytes of these."""

    all: Count
    trainable: Count
    trainable_bytes: Count | None = None


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The data set of the training.

    Attributes:
        name: of the data set.
        protocol: the rule that turned annotations into labels.
        train: images of each class in the training split.
        selection: images of each class in the split that the epoch was chosen on.
        train_protocol: the rule of the training split, where it had another.
        aligned: how the aligned copy was made, where one was read.
    """

    name: Name
    protocol: Line
    train: Mapping[Name, Count] = field(default_factory=dict)
    selection: Mapping[Name, Count] = field(default_factory=dict)
    train_protocol: Line | None = None
    aligned: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """How the epoch, counted from 0, was chosen, and what was measured there.

    Attributes:
        mode: paper chose on the test split.
    """

    mode: Literal["honest", "paper"]
    split: Name
    epoch: Count
    accuracy: Fraction
    mean_class_accuracy: Fraction
    macro_f1: Fraction
    negative_log_likelihood: Loss | None = None
    calibration_error: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Int8:
    """The int8 graph beside the one in single precision.

    Attributes:
        faces: that both graphs answered.
        agreement: fraction of them that they answer alike.
        temperature: of its own, where one was fitted; else the model's.
    """

    faces: Count
    agreement: Fraction
    temperature: Temperature | None = None


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a point gives on the choosing split; `abstain` is the threshold of `abstain="auto"`."""

    accuracy: Fraction
    mean_class_accuracy: Fraction
    macro_f1: Fraction
    abstain: Fraction


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """Where the model can answer; see `evaluation.operating_points`.

    Attributes:
        log_prior: logarithm of the training classes' shares, in the order of the labels.
        prior_share: of `log_prior`, that the balanced point subtracts from calibrated logits.
        natural: the logits as they are.
        balanced: after the subtraction.
    """

    log_prior: tuple[Annotated[float, _within(-100, 0)], ...]
    prior_share: Fraction
    natural: OperatingPoint
    balanced: OperatingPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The entries of a model.json, and where its folder lies.

    Attributes:
        name: that results are filed under; may hold "/".
        method: a method of fervor, or module:Class of another package.
        labels: expressions in the order of the logits.
        input: the network's input.
        grid: rows and columns of the cells that the graph's output `local` lists row by row.
        options: the method's own.
        encoder: the image encoder.
        initial_weights: where the encoder started: a name, or a file and its checksum.
        teachers: models whose stored answers stood among the targets: name, seed, checksums, terms.
        architecture: sizes of an image encoder that its name does not tell.
        text: the text encoder.
        towers: checksums of the frozen encoders that the folder does not hold.
        companions: the frozen networks beside the encoders.
        prompts: the sentences of the classes.
        parameters: how many there are.
        data: the data set of the training.
        selection: how the epoch was chosen.
        temperature: logits are divided by it before the softmax.
        operating_points: where it can answer, for models that store it.
        licence: of the weights.
        data_terms: what the training data allows.
        config: the whole configuration of the run; nothing is built of it.
        seed: of the run.
        commit: of fervor's source tree; empty where it is unknown.
        versions: of the packages that decide the numbers.
        half: whether matrices and kernels are stored in half precision.
        int8: the int8 graph beside the other.
        average_of: the runs whose weights were averaged.
        starts: when the run was begun and resumed.
        inactive: parts of the method that did nothing while it trained.
        sha256: of each file that the folder vouches for.
        extra: entries of other names; repeated when the description is written again.
        folder: where it was read.
    """

    name: Annotated[Name, _filed]
    method: Name
    labels: Annotated[tuple[Name, ...], _different]
    input: ImageInput
    grid: tuple[Cells, Cells] | None = None
    options: Annotated[Mapping[str, Any], _plain, _small]
    encoder: Annotated[Encoder, _small]
    initial_weights: Mapping[Name, str] = field(default_factory=dict)
    teachers: tuple[Mapping[str, Any], ...] = ()
    architecture: Mapping[str, Any] | None = None
    text: TextInfo
    towers: Mapping[Name, Checksum] = field(default_factory=dict)
    companions: Annotated[Auxiliary, _small] = Auxiliary()
    prompts: tuple[str, ...] = ()
    parameters: Parameters
    data: TrainingData
    selection: Selection
    temperature: Temperature
    operating_points: OperatingPoints | None = None
    licence: Line
    data_terms: Line
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: Annotated[int, _within(0, 2**32 - 1)]
    commit: Line
    versions: Mapping[Name, Line] = field(default_factory=dict)
    half: bool = False
    int8: Int8 | None = None
    average_of: tuple[Mapping[str, Any], ...] = ()
    starts: tuple[Mapping[str, Any], ...] = ()
    inactive: tuple[str, ...] = ()
    sha256: Annotated[Mapping[str, Checksum], _known]
    extra: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = field(default=Path(), compare=False)

    @classmethod
    def read(cls, model: str | Path | None) -> Self:
        """The description of a model folder; names as of `find_model`.

        Raises:
            ModelError: no such folder, no model.json in it, or an entry that does not fit.
        """
        folder = find_model(model)
        path = folder / DESCRIPTION
        if not path.is_file():
            raise ModelError(f"{folder} holds no {DESCRIPTION}: expected a model folder of fervor")
        try:
            return replace(cls.parse(read_object(path)), folder=folder)
        except (ValueError, OSError) as error:
            raise ModelError(f"{path}: {error}; {_EXPECTED}") from None

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Self:
        """The description that a model.json's object holds.

        Raises:
            ValueError: the first entry that is missing, of another type or out of its range.
        """
        if content.get("schema") != SCHEMA:
            raise ValueError(f"schema is {content.get('schema')!r:.60} instead of {SCHEMA}")
        own = {entry.name for entry in fields(cls)} - {"extra", "folder"}
        values = {key: value for key, value in content.items() if key in own}
        extra = {key: content[key] for key in content if key not in own and key != "schema"}
        info: Self = decoded(cls, values)
        points = info.operating_points
        if points is not None and len(points.log_prior) != len(info.labels):
            raise ValueError(
                f"operating_points.log_prior holds {counted(len(points.log_prior), 'number')} for "
                f"{counted(len(info.labels), 'label')}"
            )
        return replace(info, extra=extra)

    def content(self) -> dict[str, Any]:
        """The object of a model.json; what is None is left out."""
        entries = encoded(self)
        del entries["extra"], entries["folder"]
        return {"schema": SCHEMA, **entries, **self.extra}

    def validate(self) -> None:
        """Whether it can be read again as it is.

        Raises:
            ModelError: an entry of another type, or out of its range.
        """
        try:
            self.parse(json.loads(self.text_form()))
        except ValueError as error:
            raise ModelError(f"{DESCRIPTION} of {self.name!r:.60}: {error}") from None

    def text_form(self) -> str:
        """The text of a model.json."""
        return json.dumps(self.content(), indent=1) + "\n"

    def write(self, folder: Path | None = None) -> None:
        """Write model.json into a folder, by default the one that it was read from.

        Raises:
            ModelError: see `validate`.
        """
        self.validate()
        provenance.write_text((folder or self.folder) / DESCRIPTION, self.text_form())

    # The files

    @property
    def card(self) -> str | None:
        """The text of the folder's card, where it has one."""
        path = self.folder / CARD
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def vouches(self, name: str) -> bool:
        """Whether the folder has a file of this name with a checksum."""
        return name in self.sha256 and (self.folder / name).is_file()

    def read_file(self, name: str) -> bytes:
        """A file's bytes: what was compared is what is used.

        Raises:
            ModelError: there is none, none with a checksum, or another one.
        """
        path = self.path_of(name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from None
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    def verified(self, name: str) -> Path:
        """The path of a file that is too large to hold twice; see `read_file`."""
        path = self.path_of(name)
        try:
            checksum = provenance.sha256(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from None
        self._compare(name, checksum)
        return path

    def verify(self) -> None:
        """Compare every file that is there with its checksum.

        Raises:
            ModelError: one is another.
        """
        for name in self.sha256:
            if (self.folder / name).is_file():
                self.verified(name)

    def path_of(self, name: str) -> Path:
        """Where a file lies that has a checksum; it is not compared yet.

        Raises:
            ModelError: there is none, or none with a checksum.
        """
        path = self.folder / name
        if not path.is_file():
            advice = _ADVICE.get(name, "copy the folder anew").format(folder=self.folder)
            raise ModelError(f"{self.folder} holds no {name}: {advice}")
        if name not in self.sha256:
            raise ModelError(
                f"{self.folder / DESCRIPTION} has no sha256 of {name}: export the model again"
            )
        return path

    def _compare(self, name: str, checksum: str) -> None:
        if checksum != self.sha256[name]:
            raise ModelError(
                f"{self.folder / name} has the sha256 {checksum[:12]}..., {DESCRIPTION} says "
                f"{self.sha256[name][:12]}...: the file is damaged or was changed; export or copy "
                "the model again"
            )


def find_model(model: str | Path | None) -> Path:
    """The folder of a model, of a name of SHIPPED too; empty or None is the embedded one.

    A name hub:user/name is fetched from the Hugging Face Hub.

    Raises:
        ModelError: there is no such folder.
    """
    name = str(model or "embedded")
    if name in SHIPPED:
        folder = SHIPPED[name]
        if not folder.is_dir():
            raise ModelError(
                f"this installation holds no {name} model ({folder} is missing): "
                "reinstall fervor, or name a model folder"
            )
        return folder
    if name.startswith("hub:"):
        from fervor.artifacts.hub import fetched

        return fetched(name)
    folder = Path(name)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelError(f"model {model} {what}: expected a model folder, as fervor export writes")
    return folder
