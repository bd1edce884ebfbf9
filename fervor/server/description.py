"""What a server says about its model and its limits."""

import json
from dataclasses import asdict
from typing import Any

from fervor.errors import ModelError
from fervor.inference.predictor import Predictor
from fervor.outputs.drawing import colour_of
from fervor.server.limits import Limits


__all__ = ["describe"]

CARD = "README.md"
TOLD = ("file_bytes", "request_bytes", "files", "pixels", "faces", "video_bytes", "video_seconds")


def describe(predictor: Predictor, limits: Limits) -> dict[str, Any]:
    """Name, labels, colours, licence and card of a model, and what is taken on."""
    labels, folder = predictor.labels, predictor.folder
    info = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    card = folder / CARD
    return {
        "name": info["name"],
        "precision": predictor.precision,
        "smallest_face": predictor.smallest_found,
        "labels": list(labels),
        "own_labels": labels == predictor.header.labels,
        "colours": {label: f"#{bytes(colour_of(label, labels)).hex()}" for label in labels},
        "licence": info.get("licence"),
        "data_terms": info.get("data_terms"),
        "card": card.read_text(encoding="utf-8") if card.is_file() else None,
        "explains": _explains(predictor),
        "limits": {name: value for name, value in asdict(limits).items() if name in TOLD},
    }


def _explains(predictor: Predictor) -> bool:
    try:
        predictor.check_explainable()
    except ModelError:
        return False
    return True
