"""Templates and the sentences made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.errors import UsageError
from fervor.labels import EXPRESSIONS
from fervor.prompts import BARE, DEFAULT_TEMPLATE, SLOT, TEMPLATES, fill, sentences, template


def test_there_are_nine_templates_with_one_slot_each() -> None:
    assert list(TEMPLATES) == list(range(1, 10))
    assert all(text.count(SLOT) == 1 for text in TEMPLATES.values())
    assert len(set(TEMPLATES.values())) == 9


def test_the_default_is_the_papers() -> None:
    expected = "A photo of a person making a happiness facial expression."
    assert fill(template(DEFAULT_TEMPLATE), "happiness") == expected


@pytest.mark.parametrize(
    ("text", "label", "sentence"),
    [
        ("A photo of a [CLS] face.", "fear", "A photo of a fear face."),
        ("A photo of a [CLS] face.", "anger", "A photo of an anger face."),
        ("A photo of a [CLS] face.", "Anger", "A photo of an Anger face."),
        ("A [CLS] face.", "awe", "An awe face."),
        ("A person is feeling [CLS].", "anger", "A person is feeling anger."),
        ("An ID photo of a [CLS] face.", "neutral", "An ID photo of a neutral face."),
        ("Mama [CLS].", "anger", "Mama anger."),
        (BARE, " anger ", "anger"),
    ],
)
def test_the_article_follows_the_word(text: str, label: str, sentence: str) -> None:
    assert fill(text, label) == sentence


@given(st.sampled_from(list(TEMPLATES.values())), st.text(min_size=1))
def test_any_word_can_be_filled_in(text: str, word: str) -> None:
    sentence = fill(text, word)
    before, after = text.split(SLOT)
    assert sentence.endswith(f"{word.strip()}{after}")
    assert sentence.startswith(before.removesuffix(" a "))


def test_sentences_keep_the_order_of_the_labels() -> None:
    found = sentences(template(1), EXPRESSIONS)
    assert found == [f"This person is {label}." for label in EXPRESSIONS]


def test_what_cannot_be_filled_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"has no \[CLS\]"):
        fill("A photo of a face.", "fear")
    with pytest.raises(UsageError, match="expected 1 to 9"):
        template(10)
