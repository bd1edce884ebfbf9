"""Expressions in a Gradio page: a picture in, its drawing and the largest face's probabilities out.

pip install fervor gradio && python gradio_app.py
"""

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor import Predictor, draw


predictor = Predictor()


def expressions(image: NDArray[np.uint8] | None) -> tuple[Image.Image | None, dict[str, float]]:
    """Gradio gives an RGB array; nothing before a picture was chosen."""
    if image is None:
        return None, {}
    faces = predictor(image)
    return draw(image, faces), faces[0].probabilities if faces else {}


demo = gr.Interface(
    expressions,
    gr.Image(type="numpy", label="A picture"),
    [gr.Image(label="Its faces"), gr.Label(label="The largest face")],
    title="Which expression is shown?",
    description="The expression as people would name it; not what a person feels.",
)

if __name__ == "__main__":
    demo.launch()
