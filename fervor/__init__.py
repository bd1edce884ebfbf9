"""Facial expression recognition with vision-language models: train, evaluate, predict, export."""

import os
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from fervor.inference.prediction import to_rows
    from fervor.inference.predictor import Prediction, Predictor
    from fervor.outputs.drawing import draw

__all__ = ["Prediction", "Predictor", "__version__", "draw", "to_rows"]
__version__ = "0.1.0"

# Released builds of onnxruntime from 1.29 on report its use, under a number that they give to this
# machine and keep in the home folder. What forbids it counts only before onnxruntime is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import fervor` and `fervor --help` wait for no runtime.
    if name in ("Prediction", "Predictor"):
        from fervor.inference import predictor

        return getattr(predictor, name)
    if name == "to_rows":
        from fervor.inference import prediction

        return prediction.to_rows
    if name == "draw":
        from fervor.outputs import drawing

        return drawing.draw
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
