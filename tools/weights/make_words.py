"""Fit the projection for any words, and store the vectors of common ones beside the vlm model.

    python tools/weights/make_words.py

The projection that the image-text model learned knows few words (docs/open-vocabulary.md). Here a
ridge regression from MiniLM's vectors to the class vectors is fitted on texts alone: the captions,
each aimed at the mean of the class vectors by its shares; the adjectives and the `more` words of
captions.yaml in six of the captions' templates; and the nine templates with the class names, aimed
at where the learned projection puts them and weighted so that the classes stay in place. No unseen
word takes part. Weights and graph of the model stay as they are. Needs MiniLM.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from fervor.artifacts.joint_space import unit
from fervor.artifacts.model_info import (
    CLASS_VECTORS,
    WEIGHTS,
    WORD_PROJECTION,
    WORD_VECTORS,
    ModelInfo,
)
from fervor.inference.minilm import MiniLM
from fervor.inference.open_vocabulary import ensemble
from fervor.io import provenance
from fervor.labels import EXPRESSIONS
from fervor.prompts import captions
from fervor.prompts import templates as prompts


FOLDER = Path(__file__).parents[2] / "fervor" / "weights" / "vlm"
RIDGE, ANCHOR = 100.0, 300.0
"""The ridge that best puts words that were left out near their own class (printed; text alone);
and the class names' weight, of 30 and 300 the one that costs FERPlus valid less than 0.3 points."""
RIDGES = (30.0, 100.0, 300.0, 1000.0)
FOLDS = 5

FORMS = (
    *("a {} face", "a person who looks {}", "somebody looking {}"),
    *("he looks {}", "this face looks {}", "a {} expression"),
)
"""Of captions.yaml's templates for adjectives."""

OTHER = """
bored, confused, proud, tired, embarrassed, interested, in pain, asleep, sleepy, excited,
curious, thoughtful, concentrated, focused, serious, shy, ashamed, guilty, jealous, envious,
hopeful, relieved, nostalgic, disappointed, frustrated, stressed, desperate, determined,
confident, insecure, skeptical, suspicious, sceptical, doubtful, puzzled, perplexed, distracted,
attentive, alert, drowsy, exhausted, flirtatious, in love, affectionate, grateful,
compassionate, sympathetic, caring, trusting, awkward, uncomfortable, impatient, restless,
dreamy, lost in thought, disapproving, accusing, pleading, pouting, sulking, yawning, winking,
kissing, shouting, screaming, talking, singing, whistling, not smiling
"""

Floats = NDArray[np.floating]
Rows = tuple[Floats, Floats, Floats]
"""Vectors [n k] of sentences, their aims [n d], their weights [n]."""


def main() -> None:
    """Fit, store."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    tower = MiniLM()
    classes = load_file(FOLDER / CLASS_VECTORS)["class_vectors"].astype(np.float64)
    words = [
        (word, number)
        for number, name in enumerate(EXPRESSIONS)
        for word in (*known(name)["adjectives"], *known(name)["more"])
    ]
    vectors = {
        word: tower.encode([captions._sentence(form, word) for form in FORMS]) for word, _ in words
    }
    fixed = fixed_rows(tower, classes)

    def fitted(ridge: float, chosen: Sequence[tuple[str, int]]) -> tuple[Floats, Floats]:
        rows = [
            (vectors[w], np.repeat(classes[[c]], len(FORMS), 0), np.ones(len(FORMS)))
            for w, c in chosen
        ]
        return ridge_fit([*fixed, *rows], ridge)

    for ridge in RIDGES:
        fraction = left_out(words, vectors, classes, ridge, fitted)
        print(f"ridge {ridge:g}: {fraction:.3f} of words left out are nearest to their own class")
    weight, bias = (part.astype(np.float32) for part in fitted(RIDGE, words))
    names = listed()
    stored = [ensemble(tower.encode(prompts.spoken(name)) @ weight.T + bias) for name in names]
    store(weight, bias, names, np.stack(stored))


def known(name: str) -> dict[str, list[str]]:
    """The words of an expression."""
    own: dict[str, list[str]] = captions.words()["expressions"][name]
    return own


def fixed_rows(tower: MiniLM, classes: Floats) -> list[Rows]:
    """The captions, and the class names under the nine templates."""
    composed = captions.compose(0)
    probabilities = np.array(
        [[one.probabilities.get(name, 0.0) for name in EXPRESSIONS] for one in composed]
    )
    own = tower.encode([one.text for one in composed])
    templates = tower.encode([text for name in EXPRESSIONS for text in prompts.spoken(name)])
    weights = load_file(FOLDER / WEIGHTS)
    learned = templates @ weights["projection.weight"].astype(np.float64).T
    aims = unit(learned + weights["projection.bias"].astype(np.float64))
    return [
        (own, unit(probabilities @ classes), np.ones(len(own))),
        (templates, aims, np.full(len(templates), ANCHOR)),
    ]


def ridge_fit(rows: Sequence[Rows], ridge: float) -> tuple[Floats, Floats]:
    """Weight [d k] and bias [d] of weighted least squares, the weight's squares times `ridge`."""
    inputs, aims, weights = (
        np.concatenate(part).astype(np.float64) for part in zip(*rows, strict=True)
    )
    middle, aim = (np.average(values, axis=0, weights=weights) for values in (inputs, aims))
    root = np.sqrt(weights)[:, None]
    centred = (inputs - middle) * root
    square = centred.T @ centred + ridge * np.eye(inputs.shape[1])
    matrix = np.linalg.solve(square, centred.T @ ((aims - aim) * root))
    return matrix.T, aim - middle @ matrix


def left_out(
    words: Sequence[tuple[str, int]],
    vectors: dict[str, Floats],
    classes: Floats,
    ridge: float,
    fitted: Callable[[float, Sequence[tuple[str, int]]], tuple[Floats, Floats]],
) -> float:
    """Share of the words that lie nearest to their own class in a fit that has not seen them."""
    order = np.random.default_rng(0).permutation(len(words))
    right = []
    for fold in range(FOLDS):
        out = [words[place] for place in order[fold::FOLDS]]
        weight, bias = fitted(ridge, [pair for pair in words if pair not in out])
        for word, number in out:
            vector = ensemble((vectors[word] @ weight.T + bias).astype(np.float32))
            right.append(int((classes @ vector).argmax()) == number)
    return float(np.mean(right))


def listed() -> list[str]:
    """The words that are stored: those of captions.yaml, unseen ones too, and others."""
    found: list[str] = []
    for name in EXPRESSIONS:
        own = known(name)
        found += [name, *own["adjectives"], *own["nouns"], *own["more"], *own["unseen"]]
    return list(dict.fromkeys([*found, *(word.strip() for word in OTHER.split(","))]))


def store(weight: Floats, bias: Floats, words: list[str], vectors: Floats) -> None:
    """Both files, and their checksums in model.json."""
    # a transposed view would be written as its memory lies
    projection = {"projection.weight": np.ascontiguousarray(weight), "projection.bias": bias}
    (FOLDER / WORD_PROJECTION).write_bytes(save(projection))
    data = save({"vectors": vectors}, metadata={"words": json.dumps(words)})
    (FOLDER / WORD_VECTORS).write_bytes(data)
    info = ModelInfo.read(FOLDER)
    sums = {name: provenance.sha256(FOLDER / name) for name in (WORD_PROJECTION, WORD_VECTORS)}
    made = {
        "count": len(words),
        "captions": captions.words()["version"],
        "script": "tools/weights/make_words.py",
    }
    replace(info, sha256={**info.sha256, **sums}, extra={**info.extra, "words": made}).write()
    print(f"{len(words)} words")


if __name__ == "__main__":
    main()
