"""Small data sets in exactly the official layouts, whose pictures are links to one drawn face."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervor.data.datasets import load
from fervor.data.datasets.affectnet import HEADER
from fervor.errors import DataError
from fervor.labels import AFFECTNET, CKPLUS, EXPRESSIONS, RAFDB
from tests.support.drawn import face


Damage = Callable[[Path], object]
Damages = Mapping[str, tuple[Damage, str]]
"""What is spoilt, how, and a pattern of the line that says so."""

SIZES = {
    "train": dict(zip(EXPRESSIONS, (9, 8, 7, 6, 5, 4, 3, 2), strict=True)),
    "test": dict(zip(EXPRESSIONS, (2, 3, 4, 5, 6, 7, 8, 9), strict=True)),
}
"""Pictures of a made-up release: no two classes of a split are equally large."""

FREE = {"train": SIZES["train"], "test": dict.fromkeys(EXPRESSIONS, 3)}
"""The same for AffectNet, whose validation classes are equally large."""


def one_face(root: Path, size: tuple[int, int] = (0, 0)) -> Path:
    """The picture that all others are links to, of an official size where there is one."""
    path = root / ".face.jpg"
    root.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(face("neutral"))
    (picture.resize(size) if size[0] else picture).save(path)
    return path


def link(picture: Path, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(picture, place)


def write_rafdb(root: Path, sizes: Mapping[str, Mapping[str, int]], *, base: str = "basic") -> Path:
    """EmoLabel and Image/aligned, pictures of all classes in turns."""
    picture = one_face(root, (100, 100))
    lines = []
    for split, by_class in sizes.items():
        labels = in_turns({name: by_class[name] for name in RAFDB})
        for number, label in enumerate(labels, start=1):
            name = f"{split}_{number:0{5 if split == 'train' else 4}d}"
            lines.append(f"{name}.jpg {RAFDB.index(label) + 1}\n")
            link(picture, root / base / "Image" / "aligned" / f"{name}_aligned.jpg")
    (root / base / "EmoLabel").mkdir()
    (root / base / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return root


def write_affectnet(root: Path, sizes: Mapping[str, Mapping[str, int]]) -> Path:
    """The original release; a row of each class that is no expression comes first."""
    picture = one_face(root)
    for split, name in {"train": "training.csv", "test": "validation.csv"}.items():
        lines = [",".join(HEADER)]
        labels = [8, 9, 10, *map(AFFECTNET.index, in_turns(sizes[split]))]
        for number, label in enumerate(labels):
            path = f"{number % 3 + 1}/{split}{number:032x}.jpg"
            link(picture, root / "Manually_Annotated_Images" / path)
            landmarks = ";".join(["30.5"] * 136)
            lines.append(f"{path},{number},2,30,40,{landmarks},{label},-0.25,0.5")
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def write_affectnet_2021(root: Path, sizes: Mapping[str, Mapping[str, int]]) -> Path:
    """The release of 2021: words hold the labels, as numpy saves them."""
    picture = one_face(root)
    for split, name in {"train": "train_set", "test": "val_set"}.items():
        folder = root / name / "annotations"
        folder.mkdir(parents=True)
        for number, label in enumerate(in_turns(sizes[split])):
            link(picture, root / name / "images" / f"{number}.jpg")
            save_label(folder / f"{number}_exp.npy", AFFECTNET.index(label))
            np.save(folder / f"{number}_val.npy", np.array("-0.25"))
    return root


def save_label(path: Path, label: object) -> None:
    path.unlink(missing_ok=True)
    np.save(path, np.array(str(label)))


def write_ckplus(root: Path, sizes: Mapping[str, int]) -> Path:
    """Sequences of four frames, two per subject, every third of them without a label."""
    picture = one_face(root, (640, 490))
    labels: list[str | None] = []
    for label in in_turns(sizes):
        labels += [label, None] if len(labels) % 3 == 1 else [label]
    for place, expression in enumerate(labels):
        subject, sequence = f"S{place // 2 + 5:03d}", f"{place % 2 + 1:03d}"
        frames = root / "cohn-kanade-images" / subject / sequence
        names = [f"{subject}_{sequence}_{number:08d}" for number in (1, 2, 9, 10)]
        link(picture, *(frames / f"{name}.png" for name in names))
        folder = root / "Emotion" / subject / sequence
        folder.mkdir(parents=True)
        if expression is not None:
            text = f"   {CKPLUS.index(expression):.7e}\n"
            (folder / f"{names[-1]}_emotion.txt").write_text(text)
    (root / "cohn-kanade-images" / ".DS_Store").touch()
    (root / "Emotion" / "S005" / "001" / ".DS_Store").touch()
    return root


def in_turns(sizes: Mapping[str, int]) -> list[str]:
    """Each class as often as its size says, one of every class after the other."""
    rounds = range(max(sizes.values()))
    return [name for turn in rounds for name, size in sizes.items() if turn < size]


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.unlink()
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def loop(path: Path) -> None:
    """A symbolic link in place of a file or folder, to itself."""
    if path.exists():
        path.rename(path.with_name(f".{path.name}.away"))
    path.symlink_to(path.name)


def undecodable(folder: Path) -> None:
    """A picture whose name is no UTF-8."""
    place = os.fsencode(folder) + b"/face\xe9.jpg"
    with open(place, "wb"):
        pass


def line_of_refusal(name: str, root: Path, split: str = "train", **options: str) -> str:
    """What is said when a damaged tree is loaded."""
    with pytest.raises(DataError) as caught:
        load(name, root, split, **options)
    message = str(caught.value)
    assert "\n" not in message
    message.encode()  # it can be printed
    return message


def check_refusals(
    name: str, tmp_path: Path, write: Damage, damages: Damages, split: str = "train"
) -> None:
    """Every damage has its own line, which names a path, and an undamaged tree has none."""
    lines = {}
    for number, (damage, (spoil, pattern)) in zip(count(), damages.items()):
        root = tmp_path / str(number)
        write(root)
        load(name, root, split)
        spoil(root)
        message = line_of_refusal(name, root, split)
        assert re.search(pattern, message), f"{damage}: {message}"
        assert str(root) in message, f"{damage}: {message}"
        lines[damage] = re.sub(r"\S*/\S*|\d+", "", message.replace(str(root), ""))
    twins = [pair for pair in pairs(list(lines)) if lines[pair[0]] == lines[pair[1]]]
    assert not twins, f"these damages are told apart by their paths alone: {twins}"


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(one, two) for place, one in enumerate(names) for two in names[:place]]
