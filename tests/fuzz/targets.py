"""What may get bytes from strangers, each as a function of bytes.

A target may raise `FervorError` with one line. Anything else that leaves it is a bug.
"""

import asyncio
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fervor.artifacts import joint_space
from fervor.artifacts.model_info import CUE_VECTORS, DESCRIPTION, ModelInfo
from fervor.cli.main import _one_line
from fervor.data import datasets, manifest
from fervor.data.datasets import npyindex
from fervor.errors import FervorError, InputError
from fervor.evaluation import results
from fervor.io import image_header, sources
from fervor.labels import EXPRESSIONS
from fervor.prompts.templates import read_descriptions
from tests.support import trees
from tests.support.models import content


Target = Callable[[bytes], object]

MAX_PIXELS = 1_000_000
"""Of a fuzzed picture; what is larger is refused, as at every size."""

FEW = dict.fromkeys(EXPRESSIONS, 1)
MODEL = b"\x08\x08"


def one_input(name: str, data: bytes) -> bool:
    """Give bytes to a target; whether it took them, False where it refused them in one line.

    Raises:
        Exception: the target raised anything but its own errors, or one of several lines.
    """
    try:
        TARGETS[name](data)
    except FervorError as error:
        check_line(_one_line(error))  # as the command line says it
        return False
    return True


def check_line(text: str) -> None:
    """One line, that any terminal or file in UTF-8 can take, and of bounded length."""
    if not text or "\n" in text or "\r" in text:
        raise AssertionError(f"not one line: {text!r}")
    if len(text) > 3000:
        raise AssertionError(f"{len(text)} letters: {text[:200]!r}...")
    text.encode("utf-8")


def picture(data: bytes) -> None:
    """An uploaded or found picture; its header says no less than its decoder finds."""
    frame = sources.decode_image(io.BytesIO(data), "x", max_pixels=MAX_PIXELS)
    if frame.error is not None:
        check_line(frame.error)  # a field of a row
        raise InputError(frame.error)
    assert frame.image is not None and frame.image.ndim == 3 and frame.image.size
    header = image_header.read_header(io.BytesIO(data))
    assert header is not None and frame.pixels <= header.pixels <= MAX_PIXELS


def label_file(name: str, path: str, tree: Callable[[Path], Any], **options: str) -> Target:
    """A data set's tree in which one file holds the bytes."""

    @cache
    def root() -> Path:
        place = Path(tempfile.mkdtemp(dir=folder())) / name
        tree(place)
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).unlink(missing_ok=True)
        return place

    def target(data: bytes) -> None:
        (root() / path).write_bytes(data)
        split = "test" if name == "ckplus" else "train"
        datasets.load(name, root(), split, **options)

    return target


@cache
def folder() -> Path:
    """A folder of this process, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    place = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
    _KEPT.append(place)
    return Path(place.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def pictures_of_ferplus(root: Path) -> None:
    for split in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        (root / split).mkdir(parents=True)
        for number in range(3):
            (root / split / f"fer{number:07d}.png").touch()


def both_tables(root: Path) -> None:
    root.mkdir()
    (root / "fer2013new.csv").write_bytes((CORPUS / "ferplus-new" / "plain.csv").read_bytes())


def rafdb(root: Path) -> None:
    trees.write_rafdb(root, {"train": FEW, "test": FEW})


def affectnet(root: Path) -> None:
    trees.write_affectnet(root, {"train": FEW, "test": FEW})


def ckplus(root: Path) -> None:
    trees.write_ckplus(root, FEW | {"neutral": 0})


def table(root: Path) -> None:
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").touch()


def names_of_folders(data: bytes) -> None:
    """One's own pictures: what the sub-folders are called."""
    root = folder() / "own"
    shutil.rmtree(root, ignore_errors=True)
    for name in data.replace(b"\0", b"").split(b"\n")[:4]:
        place = os.path.join(os.fsencode(root), name.replace(b"/", b"")[:100].strip(b".") or b"_")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, b"a.png"), "wb"):
            pass
    datasets.load("folder", root, "train")


def number_of_numpy(data: bytes) -> None:
    """A label of AffectNet's release of 2021, and the index of such labels."""
    path = folder() / "labels.npz"
    path.write_bytes(data)
    npyindex._kept(path, "fingerprint")
    npyindex._parsed(data, "0_exp.npy")


def recipe(data: bytes) -> None:
    """The settings of a run."""
    from fervor.cli.arguments import arguments_of
    from fervor.cli.research.train import train

    path = folder() / "recipe.yaml"
    path.write_bytes(data)
    arguments_of("train", train, ["--config", str(path)])


def model(data: bytes) -> None:
    """A model.json beside a graph."""
    place = folder() / "model"
    place.mkdir(exist_ok=True)
    (place / "model.json").write_bytes(data)
    (place / "model.onnx").write_bytes(MODEL)
    info = ModelInfo.read(place)
    joint_space.read_space(info)
    joint_space.read_cues(info)
    joint_space.read_covers(info)


def cues(data: bytes) -> None:
    """The vectors beside a model."""
    place = folder() / "cues"
    place.mkdir(exist_ok=True)
    (place / CUE_VECTORS).write_bytes(data)
    entries = content(sha256={CUE_VECTORS: hashlib.sha256(data).hexdigest()})
    (place / DESCRIPTION).write_text(json.dumps(entries))
    joint_space.read_cues(ModelInfo.read(place))


def result(data: bytes) -> None:
    """A result file."""
    path = folder() / "result.json"
    path.write_bytes(data)
    results.read(path)


def descriptions(data: bytes) -> None:
    """Descriptions of expressions."""
    path = folder() / "descriptions.json"
    path.write_bytes(data)
    read_descriptions(path)


def aligned(data: bytes) -> None:
    """The manifest of an aligned folder."""
    place = folder() / "aligned"
    place.mkdir(exist_ok=True)
    (place / manifest.MANIFEST).write_bytes(data)
    (place / manifest.SETTINGS).write_bytes(data.partition(b"\n")[0])
    manifest.rows_of(place / manifest.MANIFEST)
    manifest.settings_of(place)


def boxes(data: bytes) -> None:
    """Places of faces: JSON Lines where they begin as such, else CSV."""
    from fervor.faces.places import GivenBoxes

    path = folder() / ("boxes.jsonl" if data.startswith(b"{") else "boxes.csv")
    path.write_bytes(data)
    GivenBoxes(path)


def notes(data: bytes) -> None:
    """What a run has noted, before it goes on."""
    from fervor.training import resume

    place = folder() / "run"
    place.mkdir(exist_ok=True)
    for name in resume.NOTES:
        (place / name).write_bytes(data)
        resume.check_notes(place)
        (place / name).unlink()


def checkpoint(data: bytes) -> None:
    """A file of torch's."""
    from fervor.models.convert import convert

    path = folder() / "weights.pt"
    path.write_bytes(data)
    output = folder() / "weights.safetensors"
    output.unlink(missing_ok=True)
    convert(path, output)


def teachers(data: bytes) -> None:
    """What other models say of the training images."""
    from fervor.data.distillation import read_logits

    path = folder() / "logits.safetensors"
    path.write_bytes(data)
    read_logits(path)


def form(data: bytes) -> None:
    """The body of an upload, in two chunks."""
    from fastapi import Request

    from fervor.server.limits import Quotas
    from fervor.server.uploads import UploadLimits, receive

    middle = len(data) // 2
    chunks = iter([(data[:middle], True), (data[middle:], False)])

    async def messages() -> dict[str, Any]:
        body, more = next(chunks)
        return {"type": "http.request", "body": body, "more_body": more}

    kind = (b"content-type", b"multipart/form-data; boundary=a-boundary")
    request = Request({"type": "http", "headers": [kind]}, messages)
    most, held = UploadLimits(4, 10_000, 20_000, 5.0), Quotas("byte", most=50_000, each=50_000)
    asyncio.run(receive(request, most, held, "client"))


CORPUS = Path(__file__).parent / "corpus"

LABEL_FILES: dict[str, Target] = {
    "ferplus-label": label_file("ferplus", "FER2013Train/label.csv", pictures_of_ferplus),
    "ferplus-new": label_file("ferplus", "fer2013new.csv", pictures_of_ferplus),
    "ferplus-pixels": label_file("ferplus", "fer2013.csv", both_tables),
    "ferplus-raw": label_file("ferplus", "fer2013.csv", table, protocol="raw"),
    "rafdb": label_file("rafdb", "basic/EmoLabel/list_patition_label.txt", rafdb),
    "affectnet": label_file("affectnet", "training.csv", affectnet),
    "affectnet-npy": number_of_numpy,
    "ckplus": label_file("ckplus", "Emotion/S005/001/S005_001_00000010_emotion.txt", ckplus),
    "table": label_file("csv", "labels.csv", table),
    "folder": names_of_folders,
}
"""Annotations of every data set."""

TARGETS: dict[str, Target] = {
    "picture": picture,
    **LABEL_FILES,
    "recipe": recipe,
    "model": model,
    "cues": cues,
    "result": result,
    "descriptions": descriptions,
    "aligned": aligned,
    "boxes": boxes,
    "notes": notes,
    "checkpoint": checkpoint,
    "teachers": teachers,
    "form": form,
}
