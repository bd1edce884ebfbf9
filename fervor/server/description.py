"""What a server says about its model and its limits."""

from dataclasses import asdict
from typing import Any, get_args

from fervor.errors import ModelError
from fervor.inference.classifier import Prior
from fervor.inference.predictor import Predictor
from fervor.outputs.drawing import colour_of
from fervor.server.limits import Limits


__all__ = ["describe"]

TOLD = (
    *("file_bytes", "pixels", "faces"),
    *("request_bytes", "request_pixels", "files"),
    *("video_bytes", "video_seconds", "video_frames"),
)
"""The limits that a client can keep to."""


def describe(predictor: Predictor, limits: Limits) -> dict[str, Any]:
    """Name, labels, colours, licence and card of a model, and what is taken on."""
    labels, info = predictor.labels, predictor.info
    return {
        "name": info.name,
        "precision": predictor.precision,
        "prior": predictor.prior,
        "priors": _priors(predictor),
        "smallest_face": predictor.smallest_side,
        "labels": list(labels),
        "own_labels": labels == info.labels,
        "colours": {label: f"#{bytes(colour_of(label, labels)).hex()}" for label in labels},
        "licence": info.licence,
        "data_terms": info.data_terms,
        "card": info.card,
        "explains": _explains(predictor),
        "limits": {name: value for name, value in asdict(limits).items() if name in TOLD},
    }


def _priors(predictor: Predictor) -> dict[str, dict[str, float]]:
    """The operating points that a request may name, each with what it gave on valid."""
    points = predictor.info.operating_points
    if points is None or predictor.labels != predictor.info.labels:
        return {}
    told = ("accuracy", "mean_class_accuracy")
    return {
        prior: {name: getattr(getattr(points, prior), name) for name in told}
        for prior in get_args(Prior)
    }


def _explains(predictor: Predictor) -> bool:
    try:
        predictor.check_explainable()
    except ModelError:
        return False
    return True
