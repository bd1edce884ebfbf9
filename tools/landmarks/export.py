"""The landmark network as a graph that needs no torch: pictures in 0..1 -> points."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from fervor.graphs.onnx import write_checked
from fervor.io.atomic import atomic_write
from fervor.models.mobilefacenet import SIZE, LandmarkEncoder


class _Points(nn.Module):
    def __init__(self, encoder: LandmarkEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b p 2"]:
        """Points of RGB pictures in 0..1."""
        return self.encoder.points(image)


def export_points(encoder: LandmarkEncoder, path: Path) -> None:
    """Write `image` [b 3 112 112] -> `points` [b p 2], kernels in half precision, checked.

    Raises:
        ModelError: the graph's answers differ from torch's by more than 1e-4.
    """
    with atomic_write(path) as partial:
        write_checked(_Points(encoder), partial, size=SIZE, outputs=("points",), half=True)
