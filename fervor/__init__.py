"""Facial expression recognition with vision-language models: train, evaluate, predict, export."""

import os
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from fervor.data.datasets import load as load_dataset
    from fervor.evaluation.evaluate import evaluate
    from fervor.graphs.onnx import export
    from fervor.inference.prediction import Prediction, to_rows
    from fervor.inference.predictor import Predictor
    from fervor.methods.build import load_model
    from fervor.outputs.drawing import draw
    from fervor.training.trainer import train

__all__ = [
    "Prediction",
    "Predictor",
    "__version__",
    "draw",
    "evaluate",
    "export",
    "load_dataset",
    "load_model",
    "to_rows",
    "train",
]
__version__ = "0.1.0"

# Released builds of onnxruntime from 1.29 on report its use, under a number that they give to this
# machine and keep in the home folder. What forbids it counts only before onnxruntime is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PLACES = {
    "Prediction": "inference.prediction:Prediction",
    "Predictor": "inference.predictor:Predictor",
    "draw": "outputs.drawing:draw",
    "evaluate": "evaluation.evaluate:evaluate",
    "export": "graphs.onnx:export",
    "load_dataset": "data.datasets:load",
    "load_model": "methods.build:load_model",
    "to_rows": "inference.prediction:to_rows",
    "train": "training.trainer:train",
}

if not TYPE_CHECKING:  # a checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        # Loaded on first use: `import fervor` and `fervor --help` wait for no runtime.
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        from fervor.plugins import missing_extra

        module, _, attribute = _PLACES[name].partition(":")
        with missing_extra("train"):
            return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
