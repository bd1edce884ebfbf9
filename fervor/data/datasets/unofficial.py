"""Third-party copies of data sets (Kaggle, YOLO ...): recognised, so that the refusal says why.

Such copies number the expressions in an order of their own, mostly the alphabetical one, choose
other images or crop them anew. Nothing in a number says which order it is, so none is guessed.
"""

import re
from pathlib import Path

from fervor.data.datasets import files
from fervor.errors import DataError
from fervor.labels import is_expression


SPLITS = frozenset(
    {"train", "training", "valid", "val", "validation", "test", "train_set", "val_set", "test_set"}
)
WRAPPERS = frozenset({"dataset", "data", "images", "raf-db", "affectnet", "yolo_format"})
"""Folders between the root and the class folders, beside those of splits."""

ADVICE = (
    "ask the makers for the official release (docs/data.md), or rename the class folders to words "
    "after looking at the pictures and use --data.name folder"
)
NUMBER = re.compile(r"\d+(\.0*)?")


def is_number(label: str) -> bool:
    """Whether a label or the name of a class folder is a number."""
    return NUMBER.fullmatch(label.strip()) is not None


def refused(root: Path, *, words: bool = True) -> str:
    """Why what stands below the root is a third-party copy; empty where no known one does.

    Args:
        root: the data set's folder.
        words: whether class folders that are named in words make a copy of it.
    """
    for folder in _candidates(root):
        names = _names(folder, want_files=True)
        if config := next((n for n in names if n in ("data.yaml", "data.yml")), ""):
            return (
                f"{files.shown(folder / config)} marks a YOLO copy, whose numbers are in the order "
                f"of that file, mostly alphabetical; {ADVICE}"
            )
        classes = _names(folder, want_files=False)
        if len(numbers := [name for name in classes if is_number(name)]) > 1:
            return (
                f"{files.shown(folder / numbers[0])} and {len(numbers) - 1} more class folders are "
                "numbers, as in third-party copies, and nothing says in which order (the official "
                f"one, or the alphabetical one that many use); {ADVICE}"
            )
        named = [name for name in classes if is_expression(name)]
        if words and len(named) > 1:
            return (
                f"{files.shown(folder / named[0])} and {len(named) - 1} more are class folders, as "
                "in third-party copies, whose pictures and labels are not the official ones; for "
                "results of your own use --data.name folder"
            )
        if table := next((n for n in names if n.endswith("labels.csv")), ""):
            return (
                f"{files.shown(folder / table)} marks a third-party copy, whose pictures and label "
                f"numbers are not the official ones; {ADVICE}"
            )
    return ""


def _candidates(root: Path) -> list[Path]:
    """The root and the folders that copies put between it and the classes, at most two deep."""
    folders, level = [root], [root]
    for _ in range(2):
        level = [
            folder / name
            for folder in level
            for name in _names(folder, want_files=False)
            if name.lower() in SPLITS | WRAPPERS
        ]
        folders += level
    return folders


def _names(folder: Path, *, want_files: bool) -> list[str]:
    try:
        return files.files(folder) if want_files else files.folders(folder)
    except DataError:  # this only looks for a reason; whoever reads the folder reports it
        return []
