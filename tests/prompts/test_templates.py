"""Templates and the sentences made of them."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fervor.errors import UsageError
from fervor.labels import EXPRESSIONS
from fervor.prompts.templates import (
    BARE,
    DEFAULT_TEMPLATE,
    DIMENSIONS,
    HARD_PROMPTS,
    SLOT,
    TEMPLATES,
    Granularity,
    HardPrompt,
    bank_version,
    described,
    description,
    fill,
    hard_prompts,
    read_descriptions,
    read_template,
    sentences,
    sentences_of,
    template,
)


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


# Descriptions

GRANULARITIES = get_args(Granularity)


def test_the_bank_describes_every_part_of_every_expression_at_every_length() -> None:
    content = yaml.safe_load((files("fervor.prompts") / "action-units.yaml").read_text())
    assert content["version"] == bank_version() == 1
    assert set(described()) == set(EXPRESSIONS)
    assert tuple(content["dimensions"]) == DIMENSIONS
    assert tuple(content["granularities"]) == GRANULARITIES
    for label in EXPRESSIONS:
        assert content["classes"][label].keys() == {"action_units", *DIMENSIONS}
        for dimension in DIMENSIONS:
            texts = [
                description(label, dimension=dimension, granularity=name) for name in GRANULARITIES
            ]
            lengths = [len(text.split()) for text in texts]
            assert lengths[0] == 1 < lengths[1] < 10 and lengths[2] >= 4
            assert all(text.strip() == text and text.isascii() for text in texts)
            assert texts[2].endswith(".") == (dimension != "overall")


def test_descriptions_tell_the_expressions_apart_and_do_not_name_them() -> None:
    """A description that held the class word would be no description."""
    for granularity in GRANULARITIES:
        found = [description(label, granularity=granularity) for label in EXPRESSIONS]
        assert len(set(found)) == len(EXPRESSIONS)
    for label in EXPRESSIONS:
        for dimension in DIMENSIONS:
            for granularity in GRANULARITIES:
                text = description(label, dimension=dimension, granularity=granularity)
                for word in EXPRESSIONS:
                    assert not re.search(rf"\b{word}\b", text), (label, dimension, granularity)


def test_the_bank_is_known_by_names() -> None:
    with pytest.raises(UsageError, match=r"no description of 'bored': the bank holds neutral, .*"):
        description("bored")
    with pytest.raises(UsageError, match="no dimension 'ears': expected one of brows"):
        description("anger", dimension="ears")


def test_the_three_kinds_of_hard_prompts() -> None:
    assert tuple(HARD_PROMPTS) == get_args(HardPrompt)
    assert hard_prompts("class", ["fear"]) == ["a photo of fear"]
    expression = "a photo of a person making a facial expression of fear"
    assert hard_prompts("expression", ["fear"]) == [expression]
    assert hard_prompts("description", ["fear"]) == [f"{expression}, with {description('fear')}"]


def test_hard_prompts_come_in_the_order_of_the_labels() -> None:
    found = hard_prompts("description", EXPRESSIONS[::-1])
    assert found == hard_prompts("description", EXPRESSIONS)[::-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "cannot be read: Expecting"),
        ("\xff", "cannot be read"),
        ("[]", "holds no object"),
        ('{"descriptions": []}', "hold no"),
        ('{"descriptions": {}}', "hold no"),
        ('{"descriptions": {"fear": 3}}', "text of 'fear' is empty or no text"),
        ('{"descriptions": {"fear": " "}}', "text of 'fear' is empty or no text"),
    ],
)
def test_a_wrong_file_is_one_line(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=message) as refused:
        read_descriptions(path)
    assert "\n" not in str(refused.value)


def test_a_file_stands_in_for_the_bank(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"descriptions": {"bored": "a flat  look\n", "fear": "wide eyes"}}))
    found = hard_prompts("description", ["fear", "bored"], path)
    assert [text.rpartition(", with ")[2] for text in found] == ["wide eyes", "a flat look"]
    with pytest.raises(UsageError, match="hold no text for 'anger', only for bored, fear"):
        hard_prompts("description", ["anger"], path)
    assert hard_prompts("class", ["anger"], path) == ["a photo of anger"]


def test_a_template_is_a_number_a_sentence_or_a_file(tmp_path: Path) -> None:
    assert read_template(9) == read_template("9") == 9
    assert sentences_of(9, "anger") == ["A photo of a person making an anger facial expression."]
    own = read_template("the face shows [CLS]")
    assert sentences_of(own, "fear") == ["the face shows fear"]
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({"happy": ["a  smile", "raised cheeks"], "anger": "a frown"}))
    read = read_template(str(path))
    assert read == {"happiness": ["a smile", "raised cheeks"], "anger": ["a frown"]}
    assert read_template(read) == read
    assert sentences_of(read, "happiness") == ["a smile", "raised cheeks"]
    with pytest.raises(UsageError, match="no sentences for 'fear', only for happiness, anger"):
        sentences_of(read, "fear")
    for content in ({"fear": []}, {"fear": [1]}, {"fear": " "}, {"fear": {"a": "b"}}):
        path.write_text(json.dumps(content))
        with pytest.raises(UsageError, match="expected a sentence, or a list of them, for 'fear'"):
            read_template(str(path))
    path.write_text(json.dumps({"happy": "a smile", "joy": "a grin"}))
    with pytest.raises(UsageError, match="'joy' is happiness once more; give each class once"):
        read_template(str(path))
    with pytest.raises(UsageError, match=r"is no number, has no \[CLS\], and is no file"):
        read_template("the face shows it")
    with pytest.raises(UsageError, match="no template 10"):
        read_template(10)
