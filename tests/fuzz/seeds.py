"""Writes the corpus: small files as they should be, drawn and made up, none of a data set.

PYTHONPATH=. python tests/fuzz/seeds.py
"""

import io
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pillow_heif import register_heif_opener
from safetensors.numpy import save

from fervor.data.datasets.affectnet import HEADER
from fervor.evaluation.results import CONTENT, checksum
from fervor.labels import FERPLUS_COLUMNS
from tests.support.drawn import face


CORPUS = Path(__file__).parent / "corpus"
BOUNDARY = "a-boundary"


def pictures() -> Iterator[tuple[str, bytes]]:
    """A drawn face in every form that is read, and in the forms that decoders treat apart."""
    grey = Image.fromarray(face("happiness")).resize((24, 24))
    colour = Image.merge("RGB", (grey, grey.rotate(90), grey.rotate(180)))
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "plain.jpg": (colour, "JPEG", {"quality": 60}),
        "progressive.jpg": (grey, "JPEG", {"progressive": True, "exif": exif}),
        "ink.jpg": (colour.convert("CMYK"), "JPEG", {}),
        "plain.png": (colour, "PNG", {}),
        "palette.png": (colour.quantize(8), "PNG", {"transparency": 0}),
        "deep.png": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG", {}),
        "see-through.png": (colour.convert("RGBA"), "PNG", {"exif": exif}),
        "lossy.webp": (colour, "WEBP", {}),
        "exact.webp": (colour, "WEBP", {"lossless": True}),
        "plain.bmp": (grey, "BMP", {}),
        "plain.tif": (colour, "TIFF", {}),
        "packed.tif": (grey, "TIFF", {"compression": "tiff_lzw"}),
        "old.tif": (grey.convert("1"), "TIFF", {"compression": "group4"}),
        "plain.gif": (colour, "GIF", {}),
        "plain.avif": (colour, "AVIF", {}),
        "tiles.heic": (colour.resize((100, 90)), "HEIF", {"tile_size": 64}),
    }
    register_heif_opener()
    for name, (image, form, options) in forms.items():
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        yield name, buffer.getvalue()


def tables() -> Iterator[tuple[str, str]]:
    """Label files."""
    votes = "7,0,2,0,0,0,0,0,1,0"
    yield (
        "ferplus-label/plain.csv",
        "".join(f'fer{number:07d}.png,"(0, 0, 48, 48)",{votes}\n' for number in range(3)),
    )
    header = ",".join(["Usage", "Image name", *FERPLUS_COLUMNS])
    rows = "".join(f"Training,fer{number:07d}.png,{votes}\n" for number in range(3))
    yield "ferplus-new/plain.csv", f"{header}\n{rows}PublicTest,,0,0,0,0,0,0,0,0,0,10\n"
    pixels = " ".join(str(number % 256) for number in range(48 * 48))
    raw = f"emotion,pixels,Usage\n3,{pixels},Training\n"
    yield "ferplus-pixels/plain.csv", raw
    yield "ferplus-raw/plain.csv", raw
    yield (
        "rafdb/plain.txt",
        "".join(f"train_{number:05d}.jpg {number % 7 + 1}\n" for number in range(1, 8)),
    )
    points = ";".join(["30.5"] * 136)
    row = f"1/train{0:032x}.jpg,0,2,30,40,{points},1,-0.25,0.5\n"
    yield "affectnet/plain.csv", ",".join(HEADER) + "\n" + row
    yield "ckplus/plain.txt", "   3.0000000e+00\n"
    yield "table/labels.csv", "path,label,split,group\n0.png,happy,train,a\n1.png,sad,valid,b\n"
    yield "table/votes.csv", "path,happiness,sadness\n0.png,3,1\n2.png,0,4.5\n"
    yield "folder/plain.txt", "happy\nsad\nAngry faces\n"
    recipe = Path(__file__).parents[2] / "fervor" / "recipes" / "ke" / "ferplus-mobilenet.yaml"
    yield "recipe/plain.yaml", recipe.read_text()
    yield "recipe/references.yaml", "method: ke\noptim: &o {epochs: 2}\nencoder: {size: 32}\n"


def descriptions() -> Iterator[tuple[str, str]]:
    """JSON of every kind."""
    header = {
        "schema": 1,
        "name": "tiny",
        "labels": ["neutral", "happiness"],
        "input": {"size": 16, "crop": 12},
        "temperature": 1.5,
        "grid": [7, 7],
        "sha256": {"model.onnx": "0" * 64},
    }
    yield "model/plain.json", json.dumps(header, indent=1)
    result = {"model": "tiny", "accuracy": 0.5, "count": 3}
    yield "result/plain.json", json.dumps({**result, CONTENT: checksum(result)})
    texts = {"descriptions": {"happiness": "raised cheeks", "sadness": "lowered corners"}}
    yield "descriptions/plain.json", json.dumps(texts)
    settings = {"name": "folder", "size": 64, "margin": 0.0, "missing": "keep", "detector": "0"}
    yield "aligned/settings.json", json.dumps(settings) + "\n"
    row = {"source": "a.png", "split": "train", "label": "anger", "annotated": [1, 2, 3, 4]}
    row |= {"file": "pictures/a.png.png", "score": 0.9, "box": [1, 2, 3, 4], "points": None}
    row |= {"error": None, "state": [10, 20], "status": "ok"}
    yield "aligned/rows.jsonl", json.dumps(row) + "\n" + json.dumps({**row, "source": "b"}) + "\n"


def of_runs() -> Iterator[tuple[str, bytes]]:
    """What runs leave, and what they are given: notes, checkpoints, teachers, boxes."""
    import torch

    from fervor.data.distillation import StoredLogits, write_logits

    history = [{"epoch": 0, "accuracy": 0.5, "selected_on": "valid"}]
    yield "notes/history.json", json.dumps(history).encode()
    starts = [{"epoch": 0, "commit": "", "versions": {}, "changed": []}]
    yield "notes/starts.json", json.dumps({"starts": starts}).encode()
    activity = {"start": {"part": 0.5}, "epochs": [{"epoch": 0, "moved": {}}], "inactive": []}
    yield "notes/activity.json", json.dumps(activity).encode()
    state = {"state_dict": {"weight": torch.ones(2, 3)}, "epoch": 3}
    for name, zipped in {"plain": True, "old": False}.items():
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        yield f"checkpoint/{name}.pt", buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.safetensors"
        teacher = {"model": "tiny", "seed": 0, "sha256": "0" * 64}
        logits = torch.ones(1, 1, 2)
        write_logits(path, StoredLogits(("a.png",), ("anger", "fear"), logits, (teacher,)))
        yield "teachers/plain.safetensors", path.read_bytes()
    row = {"source": "a.png", "frame": 0, "x": 1.5, "y": 2, "width": 30, "height": 40, "track": 1}
    rows = [row, row | {"x": None, "y": None, "width": None, "height": None}]
    yield "boxes/plain.jsonl", "".join(json.dumps(one) + "\n" for one in rows).encode()
    cells = [",".join("" if cell is None else str(cell) for cell in one.values()) for one in rows]
    yield "boxes/plain.csv", "\n".join([",".join(row), *cells, ""]).encode()


def binaries() -> Iterator[tuple[str, bytes]]:
    """Files of numpy and safetensors, and an upload."""
    for name, array in {"number": np.array(3), "word": np.array("3"), "row": np.arange(3)}.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        yield f"affectnet-npy/{name}.npy", buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, fingerprint=np.array("fingerprint"), labels=np.arange(3, dtype=np.uint8))
    yield "affectnet-npy/index.npz", buffer.getvalue()
    bank = {"labels": ["anger"], "dimensions": ["brows", "mouth"], "texts": [["low", "tight"]]}
    vectors = {"vectors": np.ones((1, 2, 4), np.float32)}
    yield "cues/plain.safetensors", save(vectors, {"cues": json.dumps(bank)})
    header = json.dumps({"vectors": {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 1]}})
    claims = struct.pack("<Q", len(header)) + header.encode() + b"\0"
    yield "cues/claims.safetensors", claims
    part = 'Content-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n0123\r\n'
    text = f"--{BOUNDARY}\r\n{part}--{BOUNDARY}\r\n{part}--{BOUNDARY}--\r\n"
    yield "form/plain.txt", text.encode()


def main() -> None:
    """Write the corpus anew."""
    found = {f"picture/{name}": content for name, content in pictures()}
    found |= {name: text.encode() for name, text in (*tables(), *descriptions())}
    found |= dict((*binaries(), *of_runs()))
    for name, content in found.items():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
