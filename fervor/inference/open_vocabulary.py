"""Any words as classes: their vectors in the joint space of an image-text model, without torch.

The vectors of common words lie beside the shipped model; for others the text tower reads the word
list once, and what it gave is kept in the user's cache directory.

Where NONE is among the words it stands for what the model knows besides: its own classes whose
texts lie far from every word that is given, taken together. Both numbers were chosen on FERPlus
valid (benchmarks/measure_open_vocabulary.py).
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fervor.artifacts.joint_space import read_floats, read_space, unit
from fervor.artifacts.model_info import WEIGHTS, WORD_PROJECTION, WORD_VECTORS, ModelInfo
from fervor.errors import ModelError, UsageError
from fervor.io.atomic import write_bytes
from fervor.prompts import templates


__all__ = ["NONE", "Vocabulary", "cache_folder", "check_labels", "ensemble", "read_vocabulary"]

METHOD, TOWER, TOWER_WIDTH = "vlm", "minilm", 384
LARGEST_SCALE = 100.0
"""What the learned scale of cosines may reach (methods/vlm.py)."""
LONGEST = 200
"""Characters of a label."""
NONE = "none of these"
"""The label that wins where none of the others fits."""
NEAR = 0.725
"""Cosine with a word from which a class of the model is taken for what the word means."""
LESS = 1.0
"""What is taken from the logit of NONE, because several classes stand for it."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Words as the classes of a model.

    Attributes:
        labels: the words, in their order.
        vectors: float32 [c d], unit length; that of NONE is the mean direction of `rivals`.
        scale: what cosines are multiplied by to become logits.
        rivals: float32 [r d], unit length: the classes that NONE stands for; empty without it.
    """

    labels: tuple[str, ...]
    vectors: Floats
    scale: float
    rivals: Floats

    def logits(self, embeddings: NDArray[Any], temperature: float) -> NDArray[Any]:
        """Tempered logits [n c] of embeddings [n d]; NONE has all of its rivals' together."""
        by = self.scale / temperature
        logits = by * embeddings @ self.vectors.T
        if NONE in self.labels:
            rivals = np.logaddexp.reduce(by * embeddings @ self.rivals.T, axis=1)
            logits[:, self.labels.index(NONE)] = rivals - LESS
        return logits


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels without space around them; NONE in any case is NONE.

    Raises:
        UsageError: fewer than two, an empty one, one twice, one too long or unprintable.
    """
    if isinstance(labels, str):
        raise UsageError(f"labels={labels!r}: expected a list of words or sentences")
    stripped = (label.strip() for label in labels)
    plain = tuple(NONE if label.casefold() == NONE else label for label in stripped)
    if not all(plain):
        raise UsageError(f"labels {', '.join(plain)}: one is empty; give words or sentences")
    if doubled := [label for label in plain if plain.count(label) > 1]:
        raise UsageError(f"label {doubled[0]!r} is given twice: give each once")
    if len(plain) < 2:
        raise UsageError(f"labels {', '.join(plain) or 'are empty'}: give two or more to choose of")
    if wrong := [label for label in plain if len(label) > LONGEST or not label.isprintable()]:
        raise UsageError(
            f"label {wrong[0][:40]!r}: expected at most {LONGEST} printable characters"
        )
    return plain


def read_vocabulary(info: ModelInfo, labels: Sequence[str]) -> Vocabulary:
    """Class vectors of any words for the image-text model of a folder.

    Raises:
        ModelError: another kind of model, weights that are missing, or no text tower is installed.
        UsageError: see `check_labels`; or NONE beside words for all that the model knows.
    """
    plain = check_labels(labels)
    if info.method != METHOD or info.text.name != TOWER:
        raise ModelError(
            f"model {info.name} knows its own classes alone: for labels of your own name "
            "a model of method vlm, or none"
        )
    (log_scale,), _ = read_floats(info, WEIGHTS, "log_scale")
    if log_scale.size != 1:
        raise ModelError(f"{info.folder / WEIGHTS}: log_scale is no single number")
    with np.errstate(over="ignore"):
        scale = min(float(np.exp(log_scale)), LARGEST_SCALE)
    known = _stored(info)
    words = [label for label in plain if label != NONE]
    if missing := [label for label in words if label not in known]:
        known |= _asked(missing, info)
    rivals = np.empty((0, info.text.width), np.float32)
    if NONE in plain:
        rivals = _besides(info, np.stack([known[label] for label in words]))
        known[NONE] = ensemble(rivals)
    vectors = np.stack([known[label] for label in plain])
    return Vocabulary(plain, vectors, scale, rivals)


def _besides(info: ModelInfo, words: Floats) -> Floats:
    """The model's own class vectors [r d] that lie far from all words [c d]."""
    own = read_space(info).vectors
    rivals: Floats = own[(own @ unit(words).T < NEAR).all(axis=1)]
    if not len(rivals):
        raise UsageError(
            f"label {NONE!r}: the other labels mean all that model {info.name} knows "
            f"({', '.join(info.labels)}); leave it out"
        )
    return rivals


def ensemble(vectors: Floats) -> Floats:
    """One unit vector [d] from the vectors of several sentences [k d]: their mean direction."""
    return unit(unit(vectors).mean(0))


def cache_folder() -> Path:
    """Where this user's caches lie."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "fervor"


def _stored(info: ModelInfo) -> dict[str, Floats]:
    """The words whose vectors lie beside the model."""
    if not info.vouches(WORD_VECTORS):
        return {}
    (vectors,), notes = read_floats(info, WORD_VECTORS, "vectors")
    try:
        words = [str(word) for word in json.loads(notes["words"])]
        if vectors.ndim != 2 or vectors.shape[1] != info.text.width:
            raise ValueError(f"vectors of shape {vectors.shape}, expected [n {info.text.width}]")
        return dict(zip(words, vectors, strict=True))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{info.folder / WORD_VECTORS} holds no words: {error}; export or copy it again"
        ) from None


def _asked(labels: Sequence[str], info: ModelInfo) -> dict[str, Floats]:
    """Unit vectors of words, from the cache or the text tower and the model's projection."""
    file = WORD_PROJECTION if info.vouches(WORD_PROJECTION) else WEIGHTS
    (weight, bias), _ = read_floats(info, file, "projection.weight", "projection.bias")
    expected = (info.text.width, TOWER_WIDTH)
    if weight.shape != expected or bias.shape != expected[:1]:
        raise ModelError(
            f"{info.folder / file}: the projection is {weight.shape} and {bias.shape}, expected "
            f"{expected} and {expected[:1]}"
        )
    sentences = [templates.spoken(label) for label in labels]
    content = json.dumps(sentences).encode() + weight.tobytes() + bias.tobytes()
    name = hashlib.sha256(content).hexdigest()[:32]
    path = cache_folder() / "words" / f"{name}.safetensors"
    try:
        return dict(zip(labels, load(path.read_bytes())["vectors"], strict=True))
    except (OSError, SafetensorError, KeyError, ValueError):
        pass  # not there, or damaged: it is written anew
    from fervor.inference.minilm import MiniLM

    tower = MiniLM()
    vectors = [ensemble(tower.encode(own) @ weight.T + bias) for own in sentences]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({"vectors": np.stack(vectors)}))
    except OSError:
        pass  # a home that cannot be written to costs the next run a second
    return dict(zip(labels, vectors, strict=True))
