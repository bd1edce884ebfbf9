"""What each tool answers to FERPlus's test faces."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peers import Tool
from PIL import Image
from processes import Driver, Failed
from scenes import enlarged

from fervor.data.datasets import Sample, load


PROTOCOL = "majority7"
CHUNK = 64
HOW = {
    "given": "the picture of 48 px is the face",
    "found": "enlarged to 192 px, its edge repeated for 48 px around it; the tool's own detector "
    "finds the face; a face that is not found counts as wrong",
}


def chosen(root: str, count: int) -> list[Sample]:
    """Test pictures of the seven expressions that all tools know, evenly spaced; 0 for all."""
    samples = load("ferplus", root, "test", protocol=PROTOCOL)
    if not 0 < count < len(samples):
        return samples
    return [samples[place * len(samples) // count] for place in range(count)]


def _answers(driver: Driver, what: str, paths: Sequence[str]) -> list[str]:
    return [
        label
        for start in range(0, len(paths), CHUNK)
        for label in driver.ask(what, paths=list(paths[start : start + CHUNK]))["value"]
    ]


def _enlarged(samples: Sequence[Sample], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, sample in enumerate(samples):
        path = folder / f"{number:04}.png"
        with Image.open(sample.path) as face:
            Image.fromarray(enlarged(face)).save(path)
        paths.append(str(path))
    return paths


def _figures(answers: Sequence[str], samples: Sequence[Sample]) -> dict[str, Any]:
    right = sum(answer == sample.label for answer, sample in zip(answers, samples, strict=True))
    found = sum(answer != "" for answer in answers)
    return {"count": len(samples), "found": found, "accuracy": right / len(samples)}


@contextmanager
def _saying(what: str) -> Iterator[None]:
    print(f"  {what}", file=sys.stderr, flush=True)
    yield


def measure(
    tools: dict[str, Tool], root: str, folder: Path, *, given: int, found: int, threads: int
) -> dict[str, Any]:
    """Accuracy of each tool with faces that are given, and with those that it finds."""
    whole, part = chosen(root, given), chosen(root, found)
    jobs = {
        "given": ("classify_known", [sample.path for sample in whole], whole),
        "found": ("recognise", _enlarged(part, folder), part),
    }
    result: dict[str, Any] = {
        "data": "FERPlus",
        "split": "test",
        "protocol": f"{PROTOCOL} (majority, without contempt, which no peer knows; fervor is asked "
        "for the best of the other seven)",
        "how": HOW,
        "tools": {name: {} for name in tools},
    }
    for name, tool in tools.items():
        with Driver(tool, threads) as driver:
            for how, (what, paths, samples) in jobs.items():
                with _saying(f"{name}, faces {how}"):
                    try:
                        figures = _figures(_answers(driver, what, paths), samples)
                    except Failed as error:
                        figures = {"not_measured": str(error)}
                result["tools"][name][how] = figures
    return result
