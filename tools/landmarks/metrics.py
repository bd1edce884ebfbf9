"""How far points are from where they should be, and from themselves in a turned picture."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fervor.data.augmentation import warped
from fervor.data.image_set import ImageSet
from fervor.data.loading import evaluation_batches
from fervor.models.mobilefacenet import SIZE, LandmarkEncoder
from tools.landmarks.facemesh import MIRRORED


OUTER_CORNERS = (36, 45)
"""Of the eyes: their distance is what errors are divided by."""

FAILED = (0.08, 0.1)
"""Errors above are failures; both limits are in use in the field."""

ANGLES = (-20.0, 20.0)
"""Degrees by which pictures are turned to see whether points turn along."""


def found_in(encoder: LandmarkEncoder, pictures: ImageSet) -> Float[Tensor, "n p 2"]:
    """Points of all pictures, shares of them."""
    batches = evaluation_batches(pictures, size=SIZE)
    return torch.cat([encoder.points(batch.images()) for batch in batches])


def errors(
    found: Float[Tensor, "n p 2"], wanted: Float[Tensor, "n p 2"]
) -> dict[str, Float[Tensor, " n"]]:
    """Mean distance of a face's points, divided by the distance of the outer corners of the eyes
    (`inter_ocular`), and by the diagonal of the box around the wanted points (`diagonal`)."""
    gap = (found - wanted).norm(dim=-1).mean(1)
    first, second = OUTER_CORNERS
    eyes = (wanted[:, first] - wanted[:, second]).norm(dim=-1)
    box = (wanted.amax(1) - wanted.amin(1)).norm(dim=-1)
    return {"inter_ocular": gap / eyes, "diagonal": gap / box}


def summary(found: dict[str, Float[Tensor, " n"]]) -> dict[str, float]:
    """Mean errors, and the share of the faces whose inter-ocular error is a failure."""
    figures = {f"error_{name}": _rounded(values.mean()) for name, values in found.items()}
    for limit in FAILED:
        fraction = (found["inter_ocular"] > limit).float().mean()
        figures[f"failures_above_{limit:g}"] = _rounded(fraction)
    return figures


def consistency(
    encoder: LandmarkEncoder, pictures: ImageSet, points: Float[Tensor, "n p 2"]
) -> dict[str, float]:
    """Inter-ocular distance between a picture's points and those of its mirrored and its turned
    version, mapped back; the eyes' distance is that of `points`."""
    plain = found_in(encoder, pictures)
    first, second = OUTER_CORNERS
    eyes = (points[:, first] - points[:, second]).norm(dim=-1)
    figures = {}
    for name, placements in (("mirrored", _mirror()), *((_turned(a), _turn(a)) for a in ANGLES)):
        again = _found_again(encoder, pictures, placements)
        figures[f"moved_when_{name}"] = _rounded(
            ((again - plain).norm(dim=-1).mean(1) / eyes).mean()
        )
    return figures


def _found_again(
    encoder: LandmarkEncoder, pictures: ImageSet, placement: Float[Tensor, "2 3"]
) -> Float[Tensor, "n p 2"]:
    """Points found in changed pictures, as places of the pictures as they were."""
    parts = []
    for batch in evaluation_batches(pictures, size=SIZE):
        placements = placement.expand(len(batch.images()), -1, -1)
        found = 2 * encoder.points(warped(batch.images(), placements, SIZE)) - 1
        back = found @ placement[:, :2].T + placement[:, 2]
        if torch.linalg.det(placement[:, :2]) < 0:
            back = back[:, list(MIRRORED)]
        parts.append((back + 1) / 2)
    return torch.cat(parts)


def _mirror() -> Float[Tensor, "2 3"]:
    return torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def _turn(degrees: float) -> Float[Tensor, "2 3"]:
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]])


def _turned(degrees: float) -> str:
    return f"turned_{degrees:+g}"


def _rounded(value: Tensor) -> float:
    return round(float(value), 5)
