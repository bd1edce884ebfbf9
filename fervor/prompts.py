"""Prompt templates: the sentences whose vectors stand for the expressions.

The nine templates and their numbers are those of KE-FER, arXiv 2409.08598, Table 3.
"""

import re
from collections.abc import Sequence

from fervor.errors import UsageError


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

BARE = SLOT
"""The class word alone, as a template."""

_ARTICLE = re.compile(r"\b(a) (?=\[CLS\])", re.IGNORECASE)


def template(number: int) -> str:
    """The template of a number.

    Raises:
        UsageError: there is no such number.
    """
    if number not in TEMPLATES:
        raise UsageError(f"no template {number}: expected 1 to {len(TEMPLATES)}")
    return TEMPLATES[number]


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
