"""CK+: posed sequences from a neutral face to the apex of an expression, recorded in a laboratory.

Lucey et al., 2010, "The extended Cohn-Kanade dataset (CK+): a complete dataset for action unit and
emotion-specified expression". Layout: cohn-kanade-images/S005/001/S005_001_00000011.png and
Emotion/S005/001/S005_001_00000011_emotion.txt with one number such as 3.0000000e+00; most sequences
have no label. Whole, it is a test set for models trained elsewhere; with `fold`, one tenth of the
subjects is the test split and the others are the training split.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fervor.data.datasets.files import files, folders, lines
from fervor.data.datasets.samples import Expected, Sample, check_side
from fervor.data.datasets.unofficial import refused
from fervor.errors import DataError, counted
from fervor.labels import BASIC, CKPLUS, EXPRESSIONS, NEUTRAL


PROTOCOLS = ("first-last", "first-last-basic", "last", "last-three")

TERMS = "on request from the makers, for research that is not commercial"

TREE = """\
cohn-kanade-images/S005/001/         S005_001_00000001.png ... S005_001_00000011.png
  (also below extended-cohn-kanade-images/)
Emotion/S005/001/                    S005_001_00000011_emotion.txt
  (also below Emotion_labels/)"""

HEIGHT = 480
"""Of the official frames, which are 640 x 490 or 640 x 480."""

IMAGES = ("cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images")
LABELS = ("Emotion", "Emotion_labels/Emotion", "Emotion_labels")

COUNTS = dict(zip(CKPLUS, (0, 45, 18, 59, 25, 69, 28, 83), strict=True))
"""The 327 labelled sequences of 593 by expression; no label says neutral."""

FRAME = re.compile(r"(S\d{3}_\d{3})_(\d{8})\.png")
LABEL = re.compile(r"(S\d{3}_\d{3})_(\d{8})_emotion\.txt")


@dataclass(frozen=True)
class Recording:
    """A labelled sequence: its subject, its expression, and its frames' paths in time."""

    subject: str
    label: str
    frames: tuple[str, ...]


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Seven classes: with neutral and without contempt, or, of last frames, the other way round."""
    if protocol.startswith("first-last"):
        return BASIC
    return tuple(name for name in EXPRESSIONS if name != NEUTRAL)


def read(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """All images as test, in the order of subjects and sequences; see
    `fervor.data.datasets.load`.
    """
    if annotations:
        raise DataError(f"CK+ has one label source: leave --data.annotations {annotations} out")
    if split != "test":
        return []
    names = labels(protocol, ())
    samples = []
    for recording in _recordings(root):
        label_of_frame = {index: recording.label for index in _apex(protocol)}
        if recording.label not in names:
            label_of_frame.clear()
        if protocol == "first-last" or (protocol == "first-last-basic" and label_of_frame):
            label_of_frame[0] = NEUTRAL
        for index in sorted(label_of_frame, key=lambda index: index % len(recording.frames)):
            samples.append(
                Sample(recording.frames[index], label_of_frame[index], group=recording.subject)
            )
    check_side(samples, HEIGHT, where=f"{root}", copies="copies of 48 pixels")
    return samples


def expected(root: Path, split: str, *, protocol: str, annotations: str) -> Expected:
    """Official images by class; none in train and valid, where no fold is asked for."""
    if split != "test":
        return Expected({})
    names = labels(protocol, ())
    counts = {name: count * len(_apex(protocol)) for name, count in COUNTS.items() if name in names}
    if protocol == "first-last":
        counts[NEUTRAL] = sum(COUNTS.values())
    if protocol == "first-last-basic":
        counts[NEUTRAL] = sum(counts.values())
    return Expected(counts)


def _apex(protocol: str) -> tuple[int, ...]:
    return (-3, -2, -1) if protocol == "last-three" else (-1,)


def _recordings(root: Path) -> Iterator[Recording]:
    images = _folder(root, IMAGES, "pictures")
    annotations = _folder(root, LABELS, "labels")
    for subject in folders(annotations):
        for number in folders(annotations / subject):
            folder = annotations / subject / number
            label_files = [name for name in files(folder) if name.endswith(".txt")]
            if not label_files:  # most sequences have no label
                continue
            if len(label_files) > 1:
                raise DataError(
                    f"{folder} holds {len(label_files)} labels, expected one: {label_files[1]}"
                )
            frames, last = _frames(images / subject / number, f"{subject}_{number}")
            named = LABEL.fullmatch(label_files[0])
            if named is None or named[1] != f"{subject}_{number}":
                expected_name = f"{subject}_{number}_00000011_emotion.txt"
                raise DataError(f"{folder / label_files[0]}: expected a name as {expected_name}")
            if int(named[2]) not in last:
                raise DataError(
                    f"{images / subject / number}/{named[1]}_{named[2]}.png is missing but a label "
                    "names it"
                )
            yield Recording(subject, _label(folder / label_files[0]), frames)


def _frames(folder: Path, name: str) -> tuple[tuple[str, ...], frozenset[int]]:
    """Paths of a sequence's frames, sorted by their numbers, and the numbers."""
    numbered = {}
    for file in files(folder):
        match = FRAME.fullmatch(file)
        if match is None:
            continue
        if match[1] != name:
            raise DataError(f"{folder / file} belongs to another sequence than its folder")
        numbered[int(match[2])] = f"{folder}/{file}"
    if len(numbered) < 3:
        raise DataError(f"{folder} holds {counted(len(numbered), 'frame')}, expected three or more")
    return tuple(numbered[number] for number in sorted(numbered)), frozenset(numbered)


def _label(path: Path) -> str:
    text = " ".join(line for _, line in lines(path))
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{path} reads {text[:60]!r}, expected one number, 1 to 7") from None
    if value not in range(1, len(CKPLUS)):
        raise DataError(f"{path} has label {text}, out of range: expected 1 to {len(CKPLUS) - 1}")
    return CKPLUS[int(value)]


def _folder(root: Path, places: Sequence[str], what: str) -> Path:
    """The first of the places that hold subject folders."""
    for place in places:
        if (root / place).is_dir() and any(name[0] == "S" for name in folders(root / place)):
            return root / place
    reason = refused(root) or f"expected one of {', '.join(places)}, with folders as S005"
    raise DataError(f"{root} holds no {what} of CK+: {reason}")
