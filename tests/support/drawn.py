"""Drawn faces, small data sets of them in exactly the official layouts, and drawn networks."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.artifacts.model_info import ModelInfo
from fervor.config import Encoder
from fervor.data.batch import Batch
from fervor.data.image_set import ImageSet
from fervor.data.loading import evaluation_batches
from fervor.errors import UsageError
from fervor.labels import EXPRESSIONS, FER2013, FERPLUS_COLUMNS
from fervor.methods.base import Method
from fervor.models.image.base import Features, ImageEncoder, Pixels, TransformerEncoder, from_map


Grey = NDArray[np.uint8]

SIDE = 48
"""Pixels of a FERPlus picture."""

USAGES = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}
FOLDERS = {"train": "FER2013Train", "valid": "FER2013Valid", "test": "FER2013Test"}
HEADER = ",".join(["Usage", "Image name", *FERPLUS_COLUMNS])


@dataclass(frozen=True)
class Looks:
    """How an expression is drawn, in shares of the face.

    Attributes:
        corners: height of the mouth's corners above its middle.
        side: height of the right corner above the left.
        opening: height of the open mouth.
        eyes: height of the open eyes.
        brows: height of the brows above the eyes.
        frown: how much lower the brows' inner ends are.
    """

    corners: float = 0.0
    side: float = 0.0
    opening: float = 0.0
    eyes: float = 0.06
    brows: float = 0.10
    frown: float = 0.0


LOOKS = {
    "neutral": Looks(),
    "happiness": Looks(corners=0.09, opening=0.03, eyes=0.04),
    "surprise": Looks(opening=0.13, eyes=0.10, brows=0.16),
    "sadness": Looks(corners=-0.08, frown=-0.05, eyes=0.04),
    "anger": Looks(corners=-0.03, frown=0.07, brows=0.06),
    "disgust": Looks(corners=-0.06, opening=0.05, eyes=0.02, frown=0.04),
    "fear": Looks(corners=-0.04, opening=0.07, eyes=0.10, frown=-0.06, brows=0.13),
    "contempt": Looks(side=0.09),
}


def face(expression: str, seed: int = 0, *, side: int = SIDE) -> Grey:
    """A grey face, uint8 [side side]; the seed moves its parts, its light and its noise."""
    random = np.random.default_rng([seed, EXPRESSIONS.index(expression)])
    looks, large = LOOKS[expression], 4 * side
    centre = np.array([0.5, 0.5]) + random.uniform(-0.04, 0.04, 2)
    skin, dark = int(random.integers(150, 220)), int(random.integers(10, 60))
    image = Image.new("L", (large, large), int(random.integers(40, 130)))
    draw = ImageDraw.Draw(image)

    def place(x: float, y: float) -> tuple[float, float]:
        return (large * (centre[0] + x), large * (centre[1] + y))

    draw.ellipse([place(-0.36, -0.46), place(0.36, 0.46)], fill=skin)
    width = max(2, large // 40)
    for half in (-1, 1):
        eye = 0.17 * half
        draw.ellipse([place(eye - 0.07, -0.1 - looks.eyes), place(eye + 0.07, -0.1)], fill=dark)
        brow = -0.12 - looks.eyes - looks.brows / 2
        ends = [place(eye + 0.1 * half, brow - looks.frown / 2)]
        ends.append(place(eye - 0.1 * half, brow + looks.frown / 2))
        draw.line(ends, fill=dark, width=width)
    draw.line([place(0, -0.05), place(0, 0.08)], fill=dark, width=width)
    turn = np.linspace(-1, 1, 15)
    upper = 0.24 - looks.corners * turn**2 - looks.side * turn.clip(0)
    lower = upper + looks.opening * (1 - turn**2)
    outline = [place(0.18 * x, y) for x, y in zip(turn, upper, strict=True)]
    outline += [place(0.18 * x, y) for x, y in zip(turn[::-1], lower[::-1], strict=True)]
    draw.polygon(outline, fill=dark)
    draw.line(outline, fill=dark, width=width)
    small = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float64)
    return (small + random.normal(0, 4, small.shape)).clip(0, 255).astype(np.uint8)


def pictures(labels: Sequence[str], count: int, *, seed: int = 0, side: int = SIDE) -> ImageSet:
    """A split in memory: `count` faces of each class, classes taking turns."""
    shown = [(name, seed * 1000 + turn) for turn in range(count) for name in labels]
    images = np.stack([face(name, number, side=side) for name, number in shown])
    label = torch.tensor([labels.index(name) for name, _ in shown])
    votes = torch.eye(len(labels))[label]
    sources = tuple(f"{name}{number}.png" for name, number in shown)
    return ImageSet(torch.from_numpy(images[:, None]), label, votes, sources)


def batch(labels: Sequence[str], count: int, *, size: int = SIDE, seed: int = 0) -> Batch:
    """`count` faces of each class as an encoder sees them."""
    split = pictures(labels, count, seed=seed)
    return next(evaluation_batches(split, size=size))


class TinyEncoder(ImageEncoder):
    """Two convolutions; every weight is a sine of its place."""

    def __init__(self, width: int = 6, *, size: int = SIDE) -> None:
        half = (0.5, 0.5, 0.5)
        super().__init__(width, Pixels(size, False, half, half))
        self.stem = nn.Conv2d(3, 8, 5, 3)
        self.blocks = nn.Sequential(nn.Conv2d(8, width, 3, 2))
        with torch.no_grad():
            for start, parameter in enumerate(self.parameters()):
                places = torch.arange(parameter.numel(), dtype=torch.float64)
                spread = (2 / parameter[0].numel()) ** 0.5
                parameter.copy_((torch.sin(37.0 * places + start) * spread).view_as(parameter))

    def forward(self, image: Tensor) -> Features:
        return from_map(self.blocks(F.leaky_relu(self.stem(self.normalised(image)))))

    def parts(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]


class DrawnText:
    """A text encoder whose vectors are drawn by the sentence; it counts what it is asked."""

    def __init__(self, width: int = 6) -> None:
        self.width = width
        self.asked: list[str] = []

    def encode(self, sentences: Sequence[str]) -> Tensor:
        self.asked += sentences
        return torch.stack([self.vector(sentence) for sentence in sentences])

    def vector(self, sentence: str) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(sentence.encode()))
        return 2 + torch.randn(self.width, generator=generator)


def _sines(module: nn.Module) -> None:
    """Make every weight a sine of its place."""
    with torch.no_grad():
        for start, parameter in enumerate(module.parameters()):
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            spread = (2 / parameter[0].numel()) ** 0.5
            parameter.copy_((torch.sin(37.0 * places + start) * spread).view_as(parameter))


class DrawnScales(ImageEncoder):
    """Three convolutions without overlap, at 1/4, 1/8 and 1/16; every weight is a sine."""

    scale_widths = (5, 6, 7)
    scale_strides = (4, 8, 16)

    def __init__(self, *, size: int = SIDE) -> None:
        half = (0.5, 0.5, 0.5)
        super().__init__(7, Pixels(size, False, half, half))
        self.blocks = nn.ModuleList(
            (nn.Conv2d(3, 5, 4, 4), nn.Conv2d(5, 6, 2, 2), nn.Conv2d(6, 7, 2, 2))
        )
        _sines(self)

    def forward(self, image: Tensor) -> Features:
        return from_map(self.scales(image)[-1])

    def scales(self, image: Tensor) -> list[Tensor]:
        maps, found = self.normalised(image), []
        for block in self.blocks:
            maps = F.leaky_relu(block(maps))
            found.append(maps)
        return found

    def parts(self) -> list[nn.Module]:
        return list(self.blocks)


class DrawnTransformer(TransformerEncoder):
    """A class token and the cells of a grid; a layer adds to each state what it and the mean say.

    Every weight is a sine of its place.
    """

    def __init__(self, width: int = 6, *, depth: int = 2, side: int = 4, size: int = SIDE) -> None:
        half = (0.5, 0.5, 0.5)
        super().__init__(width, Pixels(size, False, half, half))
        self.token_width = 5
        self.side = side
        self.stem = nn.Linear(3 * (size // side) ** 2, 5)
        self.blocks = nn.ModuleList(nn.Bilinear(5, 5, 5) for _ in range(depth))
        self.projection = nn.Linear(5, width)
        with torch.no_grad():
            for start, parameter in enumerate(self.parameters()):
                places = torch.arange(parameter.numel(), dtype=torch.float64)
                spread = (2 / parameter[0].numel()) ** 0.5
                parameter.copy_((torch.sin(37.0 * places + start) * spread).view_as(parameter))

    @property
    def layers(self) -> nn.ModuleList:
        return nn.ModuleList(_Mixing(block) for block in self.blocks)

    def embed(self, image: Tensor) -> Tensor:
        cell = image.shape[-1] // self.side
        cells = F.unfold(self.normalised(image), cell, stride=cell).mT
        states = torch.tanh(self.stem(cells))
        return torch.cat([states.mean(1, keepdim=True), states], 1)

    def finish(self, states: Tensor) -> Features:
        joint = self.projection(states)
        return Features(joint[:, 0], joint[:, 1:], (self.side, self.side))

    def parts(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]


class _Mixing(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, states: Tensor) -> Tensor:
        mean = states.mean(1, keepdim=True).expand_as(states).contiguous()
        return states + torch.tanh(self.block(states, mean))


class DrawnSoftText(nn.Module):
    """A frozen text encoder that takes embeddings: a token per word, drawn by the word.

    Vectors depend on the order of the tokens; what is asked for is counted.
    """

    def __init__(self, width: int = 6, token_width: int = 4, *, longest: int = 60) -> None:
        super().__init__()
        self.width, self.token_width, self.longest = width, token_width, longest
        self.calls = 0
        places = torch.arange(width * token_width, dtype=torch.float64)
        weight = torch.sin(29.0 * places).view(width, token_width).float()
        self.matrix = nn.Parameter(weight, requires_grad=False)

    def encode(self, sentences: Sequence[str]) -> Tensor:
        return self.encode_embeddings(*self.embed_words(sentences))

    def embed_words(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        words = [["<", *sentence.replace(".", " .").split(), ">"] for sentence in sentences]
        most = max(map(len, words))
        embeddings = torch.zeros(len(words), most, self.token_width)
        mask = torch.zeros(len(words), most)
        for row, tokens in enumerate(words):
            if len(tokens) > self.longest:
                raise UsageError(f"the prompt has {len(tokens)} tokens, expected {self.longest}")
            for place, token in enumerate(tokens):
                generator = torch.Generator().manual_seed(zlib.crc32(token.encode()))
                embeddings[row, place] = torch.randn(self.token_width, generator=generator)
            mask[row, : len(tokens)] = 1
        return embeddings, mask

    def encode_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        self.calls += 1
        place = torch.arange(embeddings.shape[1])
        weight = (mask * (1 + torch.sin(place)))[..., None]
        return torch.tanh((embeddings * weight).sum(1) / 2) @ self.matrix.T


def description(
    kind: str, encoder: Encoder, method: Method, *, mode: str = "honest", **changes: Any
) -> ModelInfo:
    """The description of a method as training writes it; `changes` replace entries of its JSON."""
    counts = dict.fromkeys(method.labels, 2)
    figures = {"accuracy": 0.9, "mean_class_accuracy": 0.8, "macro_f1": 0.7}
    split = "test" if mode == "paper" else "valid"
    content = {
        "schema": 1,
        "name": kind,
        "method": kind,
        "labels": list(method.labels),
        "input": {"size": encoder.size, "crop": 48, "grey": encoder.grey},
        "grid": [1, 1],
        "options": asdict(method.options),
        "encoder": asdict(encoder),
        "architecture": method.image.architecture,
        "text": {"name": "drawn", "width": method.text_width},
        "parameters": {"all": 10, "trainable": 9},
        "data": {"name": "drawn", "protocol": "all", "train": counts, "selection": counts},
        "temperature": 1.5,
        "operating_points": {
            "log_prior": [-1.0 - place for place in range(len(method.labels))],
            "prior_share": 0.2,
            **{point: {**figures, "abstain": 0.5} for point in ("natural", "balanced")},
        },
        "selection": {"mode": mode, "split": split, "epoch": 3, **figures},
        "licence": "Apache-2.0",
        "data_terms": "drawn by the tests",
        "seed": 29,
        "commit": "abc",
        "sha256": {},
        **changes,
    }
    return ModelInfo.parse(json.loads(json.dumps(content)))


@dataclass(frozen=True)
class Row:
    """A FERPlus row: the picture's name, the ten columns' votes, and FER2013's own number."""

    name: str
    votes: tuple[int, ...]
    emotion: int = 6


def ballot(**votes: int) -> tuple[int, ...]:
    """The ten columns, those that are not named at 0."""
    assert votes.keys() <= set(FERPLUS_COLUMNS)
    return tuple(votes.get(name, 0) for name in FERPLUS_COLUMNS)


def rows(start: int, expressions: Sequence[str]) -> list[Row]:
    """One clear majority each: eight votes, and two for another expression."""
    found = []
    for number, name in enumerate(expressions, start=start):
        other = "sadness" if name == "neutral" else "neutral"
        votes = ballot(**{name: 8, other: 2})
        emotion = FER2013.index(name) if name in FER2013 else FER2013.index("neutral")
        found.append(Row(f"fer{number:07d}.png", votes, emotion))
    return found


def shown(row: Row) -> Grey:
    """The face that a row's votes describe."""
    best = max(range(len(EXPRESSIONS)), key=lambda column: row.votes[column])
    return face(EXPRESSIONS[best], int(row.name[3:10] or 0) if row.name else 0)


def write_pictures(root: Path, splits: Mapping[str, Sequence[Row]], *, labels: bool = True) -> Path:
    """FER2013Train, FER2013Valid and FER2013Test with their pictures and (`labels`) label.csv."""
    for split, entries in splits.items():
        folder = root / FOLDERS[split]
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for row in entries:
            if row.name:
                Image.fromarray(shown(row)).save(folder / row.name)
                votes = ",".join(map(str, row.votes))
                lines.append(f'{row.name},"(0, 0, 48, 48)",{votes}\n')
        if labels:
            (folder / "label.csv").write_text("".join(lines))
    return root


def write_votes(root: Path, splits: Mapping[str, Sequence[Row]]) -> Path:
    """fer2013new.csv."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [HEADER]
    for split, entries in splits.items():
        lines += [f"{USAGES[split]},{row.name},{','.join(map(str, row.votes))}" for row in entries]
    (root / "fer2013new.csv").write_text("\n".join(lines) + "\n")
    return root


def write_pixels(root: Path, splits: Mapping[str, Sequence[Row]]) -> Path:
    """fer2013.csv."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["emotion,pixels,Usage"]
    for split, entries in splits.items():
        for row in entries:
            pixels = " ".join(map(str, shown(row).ravel()))
            lines.append(f"{row.emotion},{pixels},{USAGES[split]}")
    (root / "fer2013.csv").write_text("\n".join(lines) + "\n")
    return root


def write_folder(root: Path, names: Sequence[str], count: int, *, seed: int = 0) -> Path:
    """`count` faces in a sub-folder of each expression."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = Image.fromarray(face(name, seed * 1000 + number))
            image.save(root / name / f"{number:03d}.png")
    return root
