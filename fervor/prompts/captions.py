"""Captions for images of faces, composed from votes: what the image-text model learns from.

A caption is a sentence and the shares of the expressions that it speaks of. "A sad face" speaks of
sadness alone, "mostly sadness, with a touch of fear" of both, and a description of brows and mouth
of the expression it was written for. The words are this project's own (captions.yaml, and the bank
of descriptions); some are kept out of every caption, to test words that training never saw.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from fervor.labels import EXPRESSIONS, NEUTRAL
from fervor.prompts import templates as prompts


STRONGER, WEAKER, EVEN, SLIGHT = 0.75, 0.25, 0.5, 0.6
"""Shares of a mixture's parts, and of the expression in "slightly sad", whose rest is neutral."""

NAMED, DESCRIBED, SLIGHTLY, MIXED = 160, 120, 24, 12
"""Captions of each kind: three for each expression, the last for each ordered pair of them."""


_KINDS: tuple[prompts.Granularity, ...] = ("phrase", "sentence")


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence, and the share of each expression that it speaks of (they sum to 1)."""

    text: str
    probabilities: Mapping[str, float]


@cache
def words() -> dict[str, Any]:
    """The contents of captions.yaml."""
    text = (files("fervor.prompts") / "captions.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def unseen() -> dict[str, tuple[str, ...]]:
    """For each expression the words that no caption holds."""
    return {name: tuple(own["unseen"]) for name, own in words()["expressions"].items()}


def unseen_stems() -> tuple[str, ...]:
    """What no caption may contain, so that those words and their relatives stay unseen."""
    stems = [stem for own in words()["expressions"].values() for stem in own["unseen"].values()]
    return tuple(stems)


@cache
def compose(seed: int) -> tuple[Caption, ...]:
    """Captions of all kinds, as many of each expression; a function of seed and words alone."""
    drawn: dict[str, Caption] = {}
    for number, name in enumerate(EXPRESSIONS):
        draw = random.Random(f"{seed}-{name}")
        for kind in (
            _take(NAMED, _named(name, draw)),
            _take(DESCRIBED, _described(name, draw)),
            _take(SLIGHTLY, _slightly(name, draw)) if name != NEUTRAL else [],
            *(
                _take(MIXED, _mixed(name, other, draw))
                for place, other in enumerate(EXPRESSIONS)
                if place != number
            ),
        ):
            for caption in kind:
                drawn.setdefault(caption.text, caption)
    return tuple(drawn.values())


def _take(count: int, endless: Iterator[Caption]) -> list[Caption]:
    """Up to `count` different captions; fewer where the words do not give more."""
    taken: dict[str, Caption] = {}
    for _ in range(20 * count):
        caption = next(endless)
        if not any(stem in caption.text.lower() for stem in unseen_stems()):
            taken.setdefault(caption.text, caption)
        if len(taken) == count:
            break
    return list(taken.values())


def _named(name: str, draw: random.Random) -> Iterator[Caption]:
    """Sentences around a word, sometimes a strong one."""
    own, templates = words()["expressions"][name], words()["templates"]
    while True:
        kind = draw.choice(("adjectives", "nouns"))
        word = draw.choice(own[kind])
        if kind == "adjectives" and name != NEUTRAL and draw.random() < 0.25:
            word = draw.choice(templates["strong"]).format(word)
        yield Caption(_sentence(draw.choice(templates[kind]), word), {name: 1.0})


def _described(name: str, draw: random.Random) -> Iterator[Caption]:
    """One to three parts of the face from the bank, with or without the expression's word."""
    own, templates = words()["expressions"][name], words()["templates"]
    while True:
        kind = draw.choice(_KINDS)
        dimensions = draw.sample(prompts.DIMENSIONS, draw.choice((1, 2, 2, 3)))
        if "overall" in dimensions:  # it speaks of the other parts too
            dimensions = ["overall"]
        parts = [prompts.description(name, dimension=part, granularity=kind) for part in dimensions]
        if kind == "sentence" and dimensions != ["overall"]:
            text = draw.choice(templates["sentences"]).format(" ".join(parts))
        elif draw.random() < 0.5:
            text = draw.choice(templates["phrases"]).format(_joined(parts))
        else:
            word = draw.choice(own["adjectives"])
            text = _sentence(draw.choice(templates["named"]), word, _joined(parts))
        yield Caption(text, {name: 1.0})


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _slightly(name: str, draw: random.Random) -> Iterator[Caption]:
    """A weak expression: part of the raters see none."""
    own, templates = words()["expressions"][name], words()["templates"]
    probabilities = {name: SLIGHT, NEUTRAL: 1 - SLIGHT}
    while True:
        word = draw.choice(templates["slight"]).format(draw.choice(own["adjectives"]))
        yield Caption(_sentence(draw.choice(templates["adjectives"]), word), probabilities)


def _mixed(name: str, other: str, draw: random.Random) -> Iterator[Caption]:
    """Two expressions, the first stronger or both alike."""
    expressions, templates = words()["expressions"], words()["templates"]
    while True:
        even = draw.random() < 0.5
        probabilities = {name: EVEN, other: EVEN} if even else {name: STRONGER, other: WEAKER}
        parts = [draw.choice(expressions[part]["nouns"]) for part in (name, other)]
        parts += [draw.choice(expressions[part]["adjectives"]) for part in (name, other)]
        template = draw.choice(templates["both" if even else "mostly"])
        yield Caption(_sentence(template, *parts), probabilities)


def _sentence(template: str, *parts: str) -> str:
    """The template filled, with "an" before a vowel."""
    text = template.format(*parts)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}")
        text = f"an {text[2:]}" if text.startswith(f"a {vowel}") else text
    return text
