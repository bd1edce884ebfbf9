"""What teachers answer to training images: stored once, mixed with the votes from then on.

A file holds logits [n v c] of n images in v fixed views, the mean over the teachers, each divided
by its own temperature; names of images and classes stand beside them, with a checksum over all.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fervor.errors import DataError, counted
from fervor.io.atomic import write_bytes


VIEWS = (
    *(
        (1.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.04, 0.0),
        (1.08, 6.0, 0.0, 0.03),
        (0.93, -6.0, 0.0, -0.03),
    ),
)
"""Zoom, angle in degrees, shift to the right and down as shares of the side; each also mirrored."""


@dataclass(frozen=True)
class StoredLogits:
    """What a file holds.

    Attributes:
        names: of the images, relative to the data set's folder.
        labels: of the classes, in the logits' order.
        logits: calibrated, [n v c] in half precision.
        teachers: name, seed and checksum of each model.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    logits: Float[Tensor, "n v c"]
    teachers: tuple[dict[str, Any], ...]

    def checksum(self) -> str:
        """Over names, labels and logits."""
        described = json.dumps([self.names, self.labels, list(self.logits.shape)])
        digest = hashlib.sha256(described.encode())
        digest.update(self.logits.half().contiguous().numpy().tobytes())
        return digest.hexdigest()


def view_placements() -> Iterator[Float[Tensor, "1 2 3"]]:
    """The eight fixed views, as placements of `data.warped`; the first is the image as it is."""
    for zoom, degrees, right, down in VIEWS:
        angle = math.radians(degrees)
        cosine, sine = math.cos(angle) * zoom, math.sin(angle) * zoom
        for mirror in (1.0, -1.0):
            rows = [[cosine * mirror, -sine, 2 * right], [sine * mirror, cosine, 2 * down]]
            yield torch.tensor([rows])


def write_logits(path: Path, stored: StoredLogits) -> None:
    """Write the file whole or not at all."""
    facts = {
        "names": json.dumps(stored.names),
        "labels": json.dumps(stored.labels),
        "teachers": json.dumps(stored.teachers),
        "sha256": stored.checksum(),
    }
    write_bytes(path, save({"logits": stored.logits.half().contiguous()}, metadata=facts))


def read_logits(path: Path) -> StoredLogits:
    """Read and check a file that `write_logits` made.

    Raises:
        DataError: it is missing, none of these files, or differs from its checksum.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            stored = StoredLogits(
                tuple(map(str, json.loads(facts["names"]))),
                tuple(map(str, json.loads(facts["labels"]))),
                file.get_tensor("logits"),
                tuple(map(dict, json.loads(facts["teachers"]))),
            )
        if not torch.isfinite(stored.logits).all():
            raise ValueError("it holds what is no finite number")
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"teachers {path} cannot be read ({reason}): expected a file of "
            "tools/weights/store_logits.py"
        ) from None
    fits = stored.logits.ndim == 3 and stored.logits.shape[::2] == (
        len(stored.names),
        len(stored.labels),
    )
    if not fits or stored.checksum() != facts.get("sha256"):
        raise DataError(
            f"teachers {path} differs from its own checksum: the file is damaged or was changed; "
            "copy it again"
        )
    return stored


def name_of(source: str, root: str) -> str:
    """An image's name in a file of logits: its path below the data set's folder."""
    path = Path(source)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def teachers_targets(
    stored: StoredLogits, names: Sequence[str], labels: Sequence[str], *, temperature: float
) -> Float[Tensor, "n c"]:
    """Each image's distribution over the classes: softmax of the mean over views / temperature.

    Raises:
        DataError: images or classes that the file does not hold.
    """
    if missing := [label for label in labels if label not in stored.labels]:
        raise DataError(
            f"the stored logits hold no class {', '.join(missing)}: expected {', '.join(labels)}"
        )
    rows = {name: row for row, name in enumerate(stored.names)}
    absent = [name for name in names if name not in rows]
    if absent:
        raise DataError(
            f"the stored logits lack {len(absent)} of {counted(len(names), 'training image')}, "
            f"the first is {absent[0] or 'one without a file'}: store them for this split and "
            "protocol"
        )
    columns = [stored.labels.index(label) for label in labels]
    mean = stored.logits.float().mean(1)[:, columns]
    return (mean[[rows[name] for name in names]] / temperature).softmax(1)
