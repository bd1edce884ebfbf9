"""Prompts: templates, descriptions of the expressions, and the sentences made of them.

The nine templates and their numbers are those of KE-FER, arXiv 2409.08598, Table 3. The three kinds
of hard prompts are those of MPA-FER, arXiv 2506.21017; the descriptions are this project's own.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from fervor.errors import UsageError
from fervor.io.typed_json import read_object
from fervor.labels import canonical


SLOT = "[CLS]"
"""Where the class word goes (the paper's notation)."""

TEMPLATES = {
    1: "This person is [CLS].",
    2: "A photo of a [CLS] face.",
    3: "This is a [CLS] facial expression.",
    4: "A person makes a [CLS] facial expression.",
    5: "An ID photo of a [CLS] facial expression.",
    6: "A person is feeling [CLS].",
    7: "A person feeling [CLS] on the face.",
    8: "A photo of a person with a [CLS] expression on the face.",
    9: "A photo of a person making a [CLS] facial expression.",
}

DEFAULT_TEMPLATE = 9
"""The paper's choice, best in every column of its Table 3."""

WORDS = 3
"""A label of more words is a sentence."""

BARE = SLOT
"""The class word alone, as a template."""

Granularity = Literal["word", "phrase", "sentence"]

DIMENSIONS = ("brows", "eyes", "nose", "cheeks", "mouth", "jaw", "overall")
"""The parts of a face that the description bank speaks of, and all of it."""

HARD_PROMPTS = {
    "class": "a photo of [CLS]",
    "expression": "a photo of a person making a facial expression of [CLS]",
    "description": "a photo of a person making a facial expression of [CLS], with ",
}
"""MPA-FER's three kinds of hard prompts; the description follows the third."""

HardPrompt = Literal["class", "expression", "description"]

_ARTICLE = re.compile(r"\b(a) (?=\[CLS\])", re.IGNORECASE)


def template(number: int) -> str:
    """The template of a number.

    Raises:
        UsageError: there is no such number.
    """
    if number not in TEMPLATES:
        raise UsageError(f"no template {number}: expected 1 to {len(TEMPLATES)}")
    return TEMPLATES[number]


Template = int | str | dict[str, list[str]]
"""A number, a sentence with the class word's place, or sentences of each class."""


def read_template(given: Template) -> Template:
    """A template in full: the sentences of a file in place of its name.

    A file is JSON, {class: sentence} or {class: [sentence, ...]}; what has a place for the class
    word is no file.

    Raises:
        UsageError: no such number, or a file that cannot be read or holds something else.
    """
    if isinstance(given, int) or (isinstance(given, str) and given.isdecimal()):
        template(int(given))
        return int(given)
    if isinstance(given, dict) or SLOT in given:
        return given
    try:
        content = read_object(Path(given))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"template {given!r} is no number, has no {SLOT}, and is no file of sentences: {reason}"
        ) from None
    sentences_by_class = {}
    for label, said in content.items():
        texts = [said] if isinstance(said, str) else said
        plain = isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)
        if not plain or not all(text.strip() for text in texts):
            raise UsageError(
                f"template {given}: expected a sentence, or a list of them, for {label!r}"
            )
        name = canonical(label)
        if name in sentences_by_class:
            raise UsageError(
                f"template {given}: {label!r} is {name} once more; give each class once"
            )
        sentences_by_class[name] = [" ".join(text.split()) for text in texts]
    return sentences_by_class


def sentences_of(given: Template, label: str) -> list[str]:
    """The sentences that stand for a class.

    Raises:
        UsageError: a class that has none.
    """
    if isinstance(given, dict):
        if label not in given:
            raise UsageError(
                f"template: no sentences for {label!r}, only for {', '.join(given)}; write some"
            )
        return list(given[label])
    return [fill(template(given) if isinstance(given, int) else given, label)]


def fill(template: str, label: str) -> str:
    """The sentence for a label: "an" before a vowel, as in the released code ("an anger ...").

    Any text may stand for the label, so that new classes need no other function.

    Raises:
        UsageError: the template has no place for the class word.
    """
    if SLOT not in template:
        raise UsageError(f"template {template!r} has no {SLOT}: put it where the class word goes")
    word = label.strip()
    if word[:1].lower() in tuple("aeiou"):
        template = _ARTICLE.sub(r"\1n ", template)
    return template.replace(SLOT, word)


def sentences(template: str, labels: Sequence[str]) -> list[str]:
    """One sentence for each label, in their order."""
    return [fill(template, label) for label in labels]


def spoken(label: str) -> list[str]:
    """The sentences that stand for a class of any words.

    Up to three words are put into the nine templates; what is longer or ends with a full stop
    stands for itself.
    """
    if label.endswith((".", "!", "?")) or len(label.split()) > WORDS:
        return [label]
    return [fill(template, label) for template in TEMPLATES.values()]


@cache
def _bank() -> dict[str, Any]:
    import yaml

    path = files("fervor.prompts") / "action-units.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def bank_version() -> int:
    """The version of the description bank."""
    return int(_bank()["version"])


def described() -> tuple[str, ...]:
    """The expressions that the description bank knows."""
    return tuple(_bank()["classes"])


def description(
    label: str, *, dimension: str = "overall", granularity: Granularity = "sentence"
) -> str:
    """The bank's words on a part of the face: a word, a phrase, or a sentence.

    `overall` sentences are lists of features without a verb, so that they continue a prompt after
    "with"; the others are whole sentences.

    Raises:
        UsageError: an expression or a dimension that the bank has not.
    """
    if label not in _bank()["classes"]:
        raise UsageError(
            f"no description of {label!r}: the bank holds {', '.join(described())}; for other "
            "words make a file with fervor describe and name it in options.descriptions"
        )
    if dimension not in DIMENSIONS:
        raise UsageError(f"no dimension {dimension!r}: expected one of {', '.join(DIMENSIONS)}")
    text: str = _bank()["classes"][label][dimension][granularity]
    return text


def read_descriptions(path: Path) -> dict[str, str]:
    """The descriptions of a file that `fervor describe` wrote: class -> text.

    Raises:
        UsageError: no such file, or another content than {"descriptions": {class: text}}.
    """
    try:
        content = read_object(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"descriptions {path} cannot be read: {reason}; give a file of fervor describe"
        ) from None
    texts = content.get("descriptions")
    if not isinstance(texts, dict) or not texts:
        raise UsageError(
            f'descriptions {path} hold no {{"descriptions": {{class: text}}}}: give a file of '
            "fervor describe"
        )
    wrong = [label for label, text in texts.items() if not (isinstance(text, str) and text.strip())]
    if wrong:
        raise UsageError(f"descriptions {path}: the text of {wrong[0]!r} is empty or no text")
    return {label: " ".join(text.split()) for label, text in texts.items()}


def hard_prompts(
    kind: HardPrompt, labels: Sequence[str], descriptions: Path | None = None
) -> list[str]:
    """One hard prompt per label, in their order; `descriptions` is a file in place of the bank.

    Raises:
        UsageError: a label without a description, or a file that holds none.
    """
    plain = [fill(HARD_PROMPTS[kind], label) for label in labels]
    if kind != "description":
        return plain
    if descriptions is None:
        texts = {label: description(label) for label in labels}
    else:
        texts = read_descriptions(descriptions)
    if missing := [label for label in labels if label not in texts]:
        raise UsageError(
            f"descriptions {descriptions} hold no text for {missing[0]!r}, only for "
            f"{', '.join(texts)}: run fervor describe with these labels"
        )
    return [start + texts[label] for start, label in zip(plain, labels, strict=True)]
