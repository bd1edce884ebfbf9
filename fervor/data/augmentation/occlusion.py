"""Parts of faces that training covers: where they lie, found once by the landmark network.

A pair of sunglasses covers both eyes, a mask nose and mouth, a hand one half: a rectangle anywhere
rarely does. Places are those of the stored images, so that a cover moves with its face.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fervor.faces.landmarks import GRAPH, SIZE
from fervor.io.atomic import atomic_write
from fervor.io.image import to_input
from fervor.io.onnx_session import open_packaged
from fervor.io.progress import progress


PARTS = {
    "right eye": (*range(17, 22), *range(36, 42)),
    "left eye": (*range(22, 27), *range(42, 48)),
    "eyes": tuple(range(36, 48)),
    "nose": tuple(range(27, 36)),
    "mouth": tuple(range(48, 68)),
    "nose and mouth": (*range(31, 36), *range(48, 68)),
    "right half": (*range(0, 9), *range(17, 22), *range(36, 42), *range(48, 52)),
    "left half": (*range(8, 17), *range(22, 27), *range(42, 48), *range(52, 55)),
}
"""Landmarks of each part in iBUG's order; right is the person's."""

BATCH = 128


def part_boxes(images: Tensor, cache: str = "") -> Float[Tensor, "n p 4"]:
    """x and y of the centre, half the width and half the height of each part of each face.

    Coordinates are those of `data.warped`: -1..1 from edge to edge. With a `cache` folder the
    landmark network looks at a set of images once.

    Args:
        images: uint8 [n k h w].
        cache: a folder, or empty.
    """
    if not cache:
        return _boxes(_points(images))
    digest = hashlib.sha256(repr((tuple(images.shape), SIZE)).encode())
    for block in images.split(4096):
        digest.update(block.numpy().data)
    path = Path(cache) / f"landmarks-{digest.hexdigest()[:16]}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            np.save(partial, _points(images).numpy())
    return _boxes(torch.from_numpy(np.load(path)))


def _points(images: Tensor) -> Float[Tensor, "n 68 2"]:
    """Landmarks as shares of the image, by the packaged network."""
    session = open_packaged(GRAPH, "the landmark network", threads=0)
    points = []
    with progress(len(images), "finding landmarks") as bar:
        for block in images.split(BATCH):
            arrays = block.permute(0, 2, 3, 1).numpy()
            inputs = [to_input(a[:, :, 0] if a.shape[2] == 1 else a, SIZE) for a in arrays]
            points.append(session.run(["points"], {"image": np.stack(inputs)})[0])
            bar.update(len(block))
    return torch.from_numpy(np.concatenate(points))


def _boxes(points: Float[Tensor, "n 68 2"]) -> Float[Tensor, "n p 4"]:
    places = 2 * points - 1
    boxes = []
    for numbers in PARTS.values():
        part = places[:, list(numbers)]
        low, high = part.amin(1), part.amax(1)
        boxes.append(torch.cat([(low + high) / 2, (high - low) / 2], 1))
    return torch.stack(boxes, 1)


def drawn_covers(
    boxes: Float[Tensor, "b p 4"], probability: float
) -> tuple[Float[Tensor, "b 4"], Float[Tensor, " b"]]:
    """A box for each face, and the shade 0..1 that covers it; of no size where nothing is covered.

    One part is drawn, its box made 1 to 1.6 times as large and moved by up to a fifth of it.
    """
    count = len(boxes)
    box = boxes[torch.arange(count), torch.randint(boxes.shape[1], (count,))]
    centre, half = box[:, :2], box[:, 2:] * (1 + 0.6 * torch.rand(count, 1))
    centre = centre + 0.4 * half * (torch.rand(count, 2) - 0.5)
    covered = (torch.rand(count, 1) < probability).to(half.dtype)
    return torch.cat([centre, half * covered], 1), torch.rand(count)


def covered(
    image: Float[Tensor, "b k i j"],
    grid: Float[Tensor, "b i j 2"],
    covers: Float[Tensor, "b 4"],
    shade: Float[Tensor, " b"],
) -> Float[Tensor, "b k i j"]:
    """The images with a shade wherever a pixel comes from inside its cover, an ellipse.

    Args:
        image: warped images.
        grid: where each of their pixels comes from, x and y in -1..1.
        covers: centre and half sides, as `drawn_covers` gives them.
        shade: what replaces the pixels.
    """
    (indices,) = (covers[:, 2:] > 0).all(1).nonzero(as_tuple=True)
    centre, half = covers[indices, None, None, :2], covers[indices, None, None, 2:]
    inside = ((grid[indices] - centre) / half).square().sum(-1) < 1
    covered_ones = torch.where(inside[:, None], shade[indices, None, None, None], image[indices])
    return image.index_copy(0, indices, covered_ones)
