"""The image tower of the embedded image-text model: a face-pretrained trunk, then a transformer.

The trunk, a MobileNet trained on faces, stands where a vision transformer has its patch embedding:
at 144 pixels it gives 9 x 9 places. Class token, positions and pre-norm layers follow as in CLIP,
whose layers of transformers these are. The class token starts from the mean over the places, so
that a tower without layers would already answer as the trunk does. All of this is ours; the
alignment with texts is in methods/vlm.py.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.config import Encoder
from fervor.errors import UsageError
from fervor.models.image.base import Features, Pixels, TransformerEncoder, square
from fervor.models.image.face_nets import FaceMobileNet
from fervor.models.state_dict import load_state, read_state
from fervor.models.text.encoders import TextEncoder
from fervor.prompts import templates


WEIGHTS = Path(__file__).parents[2] / "weights"
VLM = WEIGHTS / "vlm" / "weights.safetensors"
EMBEDDED = WEIGHTS / "embedded" / "weights.safetensors"

ARCHITECTURE: Mapping[str, int] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "projection_dim": 384,
}
"""Of CLIPVisionConfig: the transformer's sizes and the joint space's width."""


class VisionTower(TransformerEncoder):
    """Images -> the joint space: the class token is `pooled`, the trunk's places are the tokens."""

    layer_arguments: Mapping[str, Any] = {"attention_mask": None}

    has_frozen_stage = True

    def __init__(self, trunk: FaceMobileNet, settings: Mapping[str, Any], pixels: Pixels) -> None:
        from transformers import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPEncoderLayer

        config = CLIPVisionConfig(**settings, hidden_act="gelu")
        config._attn_implementation = "sdpa"
        super().__init__(config.projection_dim, pixels, keep_statistics=False)
        self.architecture = dict(settings)
        self.token_width = width = int(config.hidden_size)
        self.trunk = trunk
        self.patches = nn.Linear(trunk.width, width, bias=False)
        self.class_token = nn.Parameter(torch.zeros(width))
        side = pixels.size // 16
        self.positions = nn.Parameter(torch.zeros(1 + side * side, width))
        self.pre_norm = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(
            CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.projection_dim, bias=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Small weights, smaller where a layer writes into the states (as in GPT-2 and CLIP)."""
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        for layer in self.transformer:
            for name in ("self_attn.out_proj", "mlp.fc2"):
                weight = layer.get_parameter(f"{name}.weight")
                weight.div_(math.sqrt(2 * len(self.transformer)))
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer's layers, in the order in which they are applied."""
        return self.transformer

    def embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n k"]:
        """What the first layer gets: class token and places with their positions."""
        return self.embed_maps(self.frozen_stage(image))

    def embed_maps(self, maps: Float[Tensor, "b d i j"]) -> Float[Tensor, "b n k"]:
        """The same of the maps that the trunk's frozen parts made of images."""
        for part in self.parts()[self._frozen :]:
            maps = part(maps)
        places = self.patches(maps.flatten(2).transpose(1, 2))
        if places.shape[1] + 1 != len(self.positions):
            raise UsageError(
                f"the picture gives {places.shape[1]} places, this encoder expects "
                f"{len(self.positions) - 1}: give pictures of {self.size} pixels"
            )
        first = self.class_token + places.mean(1, keepdim=True)
        states: Tensor = self.pre_norm(torch.cat([first, places], 1) + self.positions)
        return states

    def finish(self, states: Float[Tensor, "b n k"]) -> Features:
        """The last normalisation and the projection into the joint space."""
        joint: Tensor = self.projection(self.norm(states))
        return Features(joint[:, 0], joint[:, 1:], square(joint.shape[1] - 1))

    def frozen_stage(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d i j"]:
        """What the trunk's frozen parts make of images."""
        maps = self.normalised(image)
        for part in self.parts()[: self._frozen]:
            maps = part(maps)
        return maps

    def parts(self) -> list[nn.Module]:
        """The trunk's stem and blocks; what stands above them is not frozen by blocks."""
        return [self.trunk.stem, *self.trunk.blocks]


def ensemble(vectors: Float[Tensor, "c k d"]) -> Float[Tensor, "c d"]:
    """One unit vector per class from its k sentences': the mean of their directions."""
    return F.normalize(F.normalize(vectors, dim=-1).mean(1), dim=-1)


def class_vectors(text: TextEncoder, labels: Sequence[str]) -> Float[Tensor, "c d"]:
    """Unit vectors for words or sentences, in the space of the text encoder (`vlm` for this model).

    Up to three words are put into the nine templates, whose mean stands for them; what is longer or
    ends with a full stop stands for itself.

    Raises:
        UsageError: no labels, an empty one, or one twice.
    """
    plain = [label.strip() for label in labels]
    if not plain or not all(plain) or len(set(plain)) < len(plain):
        raise UsageError(f"labels are {list(labels)}: give words or sentences, each once")
    rows = [ensemble(text.encode(templates.spoken(label)).float()[None])[0] for label in plain]
    return torch.stack(rows)


def build_vlm(config: Encoder, *, architecture: Mapping[str, Any] | None = None) -> VisionTower:
    """The image tower: as shipped, random, from a file, or new layers on the embedded trunk.

    `config.weights` is empty for the shipped weights, `random`, `embedded` for the trunk of the
    embedded classifier under a random transformer, or a state dict file.

    Raises:
        UsageError: a size that is no multiple of 16, or not that of the weights.
        ModelError: weights that are missing or do not fit.
    """
    if config.size % 16 or config.size < FaceMobileNet.least:
        raise UsageError(f"size is {config.size}, vlm expects a multiple of 16 from 32 pixels")
    trunk = FaceMobileNet(last_stride=1)
    std = 1 / trunk.scale
    pixels = Pixels(config.size, config.grey, trunk.mean, (std, std, std))
    encoder = VisionTower(trunk, architecture or ARCHITECTURE, pixels)
    if config.weights == "embedded":
        state = _below(read_state(EMBEDDED), "image.trunk.")
        load_state(trunk, state, source=str(EMBEDDED))  # no report: the transformer is random
    elif config.weights != "random":
        path = Path(config.weights) if config.weights else VLM
        state = read_state(path)
        state = _below(state, "image.") or state
        places = len(state.get("positions", encoder.positions)) - 1
        if places != len(encoder.positions) - 1:
            raise UsageError(
                f"size is {config.size}: {path} takes {16 * math.isqrt(places)} pixels; "
                "set encoder.size, of a teacher teacher.size, to that"
            )
        encoder.report = load_state(encoder, state, source=str(path))
    return encoder


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {
        key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
    }
