"""Expression names, and the order in which each data set numbers them.

Labels are names; an index exists only inside a model, whose ordered names travel with it.
"""

from collections.abc import Sequence

from fervor.errors import DataError


NEUTRAL = "neutral"

EXPRESSIONS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
"""The project's order of the eight expressions (that of FERPlus's vote columns)."""

BASIC = EXPRESSIONS[:7]
"""Neutral and the six basic expressions: the seven classes, without contempt."""

FERPLUS_COLUMNS = (*EXPRESSIONS, "unknown", "NF")
"""FERPlus's ten vote columns; NF = not a face."""

FER2013 = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""FER2013's numbers 0..6."""

RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""RAF-DB's numbers 1..7, in order."""

AFFECTNET = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)
"""AffectNet's numbers 0..7 (8 none, 9 uncertain, 10 no face are not expressions)."""

CKPLUS = (
    "neutral",
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
)
"""CK+'s numbers 0..7; 0 stands in no label file (first frames are neutral)."""

SYNONYMS = {
    "neutrality": "neutral",
    "calm": "neutral",
    "happy": "happiness",
    "joy": "happiness",
    "surprised": "surprise",
    "sad": "sadness",
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "contemptuous": "contempt",
}
"""Other words for the eight expressions, as folder names and label files use them."""


def canonical(name: str) -> str:
    """The project's name for an expression; case, surrounding space and synonyms are folded.

    Raises:
        DataError: the word is neither one of the eight expressions nor a listed synonym.
    """
    word = name.strip().lower()
    word = SYNONYMS.get(word, word)
    if word not in EXPRESSIONS:
        names = ", ".join([*EXPRESSIONS, *SYNONYMS])
        raise DataError(f"unknown expression {name!r}: expected one of {names}")
    return word


def is_expression(name: str) -> bool:
    """Whether a word names one of the eight expressions, as `canonical` reads it."""
    word = name.strip().lower()
    return SYNONYMS.get(word, word) in EXPRESSIONS


def ordered(names: Sequence[str]) -> tuple[str, ...]:
    """The given expressions in the project's order, whatever order they came in."""
    return tuple(name for name in EXPRESSIONS if name in set(names))
