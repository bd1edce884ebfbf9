"""What the endpoints take and give, in the words of OpenAPI."""

from collections.abc import Sequence
from typing import Any

from fervor.inference.prediction import WHOLE_NUMBERS
from fervor.outputs.tables import TEXTS, columns


__all__ = ["EXPLAINED", "errors", "explained", "rows", "text", "upload"]

ALWAYS = ("source", "frame", "status", "model", "schema")
"""Columns that are never empty."""

MEANINGS = {
    "source": "the file's name, as the client gave it",
    "frame": "number within a video, from 0; 0 for a picture",
    "time_s": "seconds from the start of a video",
    "face": "number within the picture, from 0, largest first",
    "track": "which face it is in a video",
    "status": "ok, no_face or error",
    "det_score": "the face detector's score, 0 to 1",
    "label": "the expression shown, as people would name it; not what a person feels",
    "prob": "its probability, 0 to 1",
    "error": "why the file could not be read",
}
MEANINGS |= dict.fromkeys(("x", "y", "width", "height"), "pixels of the upright picture")

EXPLAINED = {
    "heat": "for each class a grid of rows over the face; above 0 speaks for the class",
    "heat_by": "occlusion: a fall of log odds; similarity: a difference of cosines",
    "cues_for": "described cues that match the answer, best first",
    "cues_against": "cues of other expressions that match better, best first",
    "square": "map [2 3] from the grid, a square of side 1, to pixels of the upright picture",
    "covered": "parts of the face that seem covered (eyes, mouth): the answer is in doubt",
}
"""Further fields of an explained face."""
COVERED: dict[str, Any] = {"type": ["array", "null"], "items": {"type": "string"}}
COVERED["description"] = EXPLAINED["covered"] + "; in answers to predict and video where asked for"

ERRORS = {
    400: "not the form that is expected",
    401: "the token is missing or wrong",
    403: "asked under a strange name, or from a page of another origin",
    408: "the upload took too long",
    413: "more than the server takes: bytes, pixels, faces, files, seconds or frames",
    415: "not of the kind that is expected",
    422: "a parameter that is out of its range",
    429: "too much at once from one address; `Retry-After` says when to try again",
    500: "the server failed",
    501: "this server was installed without what is needed",
    503: "busy or stopping; `Retry-After` says when to try again",
}

ERROR = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {
        "error": {"type": "string", "description": "a word for programs"},
        "message": {"type": "string", "description": "one line for people"},
    },
}


def rows(labels: Sequence[str]) -> dict[str, Any]:
    """The schema of a row, columns in their order."""
    names = columns(labels)
    return {
        "type": "object",
        "required": list(names),
        "properties": {name: _column(name) for name in names} | {"covered": COVERED},
    }


def explained(labels: Sequence[str]) -> dict[str, Any]:
    """The schema of a row with the reasons behind it."""
    row = rows(labels)
    grid = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    texts = {name: {"type": "string"} for name in ("dimension", "text", "label")}
    cue = {"type": "object", "properties": {**texts, "score": {"type": "number"}}}
    more: dict[str, dict[str, Any]] = {
        "heat": {"type": ["object", "null"], "additionalProperties": grid},
        "heat_by": {"type": ["string", "null"]},
        "cues_for": {"type": ["array", "null"], "items": cue},
        "cues_against": {"type": ["array", "null"], "items": cue},
        "square": {"type": ["array", "null"], "items": grid["items"]},
        "covered": COVERED,
    }
    for name, column in more.items():
        column.setdefault("description", EXPLAINED[name])
    row["required"] += more
    row["properties"] |= more
    return row


def _column(name: str) -> dict[str, Any]:
    kind = "string" if name in TEXTS else "integer" if name in WHOLE_NUMBERS else "number"
    column: dict[str, Any] = {"type": kind if name in ALWAYS else [kind, "null"]}
    if name == "status":
        column["enum"] = ["ok", "no_face", "error"]
    if name.startswith("p_") or name in ("prob", "det_score"):
        column |= {"minimum": 0, "maximum": 1}
    if name in MEANINGS:
        column["description"] = MEANINGS[name]
    return column


def upload(what: str, *, several: bool) -> dict[str, Any]:
    """The request body with one file, or with one or more."""
    file: dict[str, Any] = {"type": "string", "format": "binary", "description": what}
    if several:
        file = {"type": "array", "items": file, "minItems": 1}
    form = {"type": "object", "required": ["file"], "properties": {"file": file}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers that are no result."""
    content = {"application/json": {"schema": ERROR}}
    return {status: {"description": ERRORS[status], "content": content} for status in statuses}


def text(kind: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The answer 200."""
    return {"description": description, "content": {kind: {"schema": schema}}}
