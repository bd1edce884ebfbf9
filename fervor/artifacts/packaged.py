"""The weights that the package ships: licence, data terms, and whether a file is unchanged."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fervor.artifacts.model_info import DESCRIPTION, ModelInfo


__all__ = ["WEIGHTS", "Weight", "shipped"]

WEIGHTS = Path(__file__).parents[1] / "weights"
UNKNOWN = "not stated"


@dataclass(frozen=True, slots=True)
class Weight:
    """One file of weights.

    Attributes:
        name: the file below weights/.
        licence: of the weights.
        data_terms: what the training data allows.
        sha256: as its description states it.
        intact: whether the file has that checksum; False also where it is missing.
        needs: what the description says that it stands on (encoder and text tower); may be empty.
    """

    name: str
    licence: str
    data_terms: str
    sha256: str
    intact: bool
    needs: str


def shipped(folder: Path = WEIGHTS) -> list[Weight]:
    """Every file of weights in a folder, by name, as the .json beside it describes it."""
    return sorted(_weights(folder), key=lambda weight: weight.name)


def _weights(folder: Path) -> Iterator[Weight]:
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == DESCRIPTION:
            content = ModelInfo.read(path.parent).content()
        stated = content.get("sha256", {})
        if isinstance(stated, str):  # the description of one file that shares its name
            beside = sorted(
                other.name for other in path.parent.glob(f"{path.stem}.*") if other != path
            )
            stated = {(beside or [path.stem])[0]: stated}
        for name, checksum in stated.items():
            yield _weight(path.parent / name, content, str(checksum), folder)


def _weight(path: Path, content: dict[str, Any], checksum: str, folder: Path) -> Weight:
    actual = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    towers = {kind: content.get(kind) for kind in ("encoder", "text")}
    needs = [
        f"{kind} {tower['name']}"
        for kind, tower in towers.items()
        if isinstance(tower, dict) and "name" in tower
    ]
    return Weight(
        name=path.relative_to(folder).as_posix(),
        licence=str(content.get("licence", UNKNOWN)),
        data_terms=str(content.get("data_terms", content.get("training_data", UNKNOWN))),
        sha256=checksum,
        intact=actual == checksum,
        needs=", ".join(needs),
    )
