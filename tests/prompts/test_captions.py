"""Captions: a function of the seed, even over the expressions, and free of the unseen words."""

from collections import Counter

import pytest

from fervor.labels import EXPRESSIONS, SYNONYMS
from fervor.prompts import captions
from fervor.prompts.templates import TEMPLATES, fill


@pytest.fixture(scope="module")
def composed() -> tuple[captions.Caption, ...]:
    return captions.compose(0)


def test_captions_are_a_function_of_the_seed(composed: tuple[captions.Caption, ...]) -> None:
    captions.compose.cache_clear()
    assert captions.compose(0) == composed
    other = captions.compose(1)
    assert {c.text for c in other} != {c.text for c in composed}
    assert len(other) > 2500


@pytest.mark.parametrize("seed", range(3))
def test_no_caption_holds_an_unseen_word_or_its_stem(seed: int) -> None:
    texts = [caption.text.lower() for caption in captions.compose(seed)]
    for name, words in captions.unseen().items():
        assert len(words) == 3, name
        for word in words:
            assert any(stem in word for stem in captions.unseen_stems()), word
            assert not any(word in text for text in texts), word
    for stem in captions.unseen_stems():
        assert not any(stem in text for text in texts), stem


def test_no_caption_is_a_sentence_of_the_nine_templates(
    composed: tuple[captions.Caption, ...],
) -> None:
    texts = {caption.text.lower().strip(".") for caption in composed}
    words = {*EXPRESSIONS, *SYNONYMS, *captions.unseen()}
    asked = {fill(t, word).lower().strip(".") for t in TEMPLATES.values() for word in words}
    assert not texts & asked
    for name in EXPRESSIONS:  # the words themselves are known
        assert any(name in text.split() for text in texts), name


def test_shares_are_distributions_and_even(composed: tuple[captions.Caption, ...]) -> None:
    first: Counter[str] = Counter()
    for caption in composed:
        assert sum(caption.probabilities.values()) == pytest.approx(1)
        assert set(caption.probabilities) <= set(EXPRESSIONS)
        first[max(caption.probabilities, key=lambda name: caption.probabilities[name])] += 1
    assert set(first) == set(EXPRESSIONS)
    assert max(first.values()) < 1.2 * min(first.values())


def test_every_caption_is_plain_english(composed: tuple[captions.Caption, ...]) -> None:
    texts = [caption.text for caption in composed]
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert "{" not in text and "  " not in text and text == text.strip()
        assert len(text.split()) < 70
        for vowel in "aeiou":
            assert f" a {vowel}" not in f" {text}".replace(" a one-", ""), text


def test_mixtures_name_both_and_say_which_is_stronger() -> None:
    own = captions.words()["expressions"]
    found = {}
    for caption in captions.compose(0):
        if caption.text == "mainly anxiety, a trace of revulsion":
            found = dict(caption.probabilities)
        if len(caption.probabilities) == 2 and "slight" not in caption.text:
            named = [
                name
                for name in caption.probabilities
                if any(
                    word in caption.text for word in (*own[name]["nouns"], *own[name]["adjectives"])
                )
            ]
            strongest = max(caption.probabilities, key=lambda name: caption.probabilities[name])
            assert strongest in named, caption
    assert not found or found == {"fear": captions.STRONGER, "disgust": captions.WEAKER}
