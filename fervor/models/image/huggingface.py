"""Image encoders around networks of transformers: adapters, and the table of those on offer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor.config import Encoder
from fervor.errors import UsageError
from fervor.models.image.base import (
    Features,
    ImageEncoder,
    Pixels,
    TransformerEncoder,
    from_map,
    square,
)
from fervor.models.state_dict import (
    NOTHING,
    RESNET_HEADS,
    STATE_SUFFIXES,
    SWIN_DERIVED,
    Triple,
    from_official_swin,
    from_torchvision_resnet,
    load_pretrained,
    load_state,
    pixel_statistics,
    read_state,
)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and deviation of the published models; a model folder's own values come before them."""


class MapEncoder(ImageEncoder):
    """A convolutional net: ResNet, or ALIGN's EfficientNet.

    ALIGN's image vectors are the mean over the last map as it is; its texts are projected to them.
    """

    def __init__(self, trunk: Any, pixels: Pixels, *, stem: str, blocks: str) -> None:
        convolutions = [layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
        super().__init__(convolutions[-1].out_channels, pixels)
        self.trunk = trunk
        self._stem, self._blocks = stem, blocks

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB images in 0..1."""
        return from_map(self.trunk(self.normalised(image)).last_hidden_state)

    def parts(self) -> list[nn.Module]:
        """The stem and then the stages (ALIGN: blocks)."""
        stem = self.trunk.get_submodule(self._stem)
        return [stem, *self.trunk.get_submodule(self._blocks).children()]


class TokenEncoder(TransformerEncoder):
    """A vision transformer with a class token: ViT, or the image tower of CLIP or BLIP.

    The class token is `pooled`, the patches are the tokens. All of them go through the tower's last
    normalisation and, where it has one, its projection into the space shared with texts. CLIP gives
    its class token alone that normalisation; patches need it to be compared with texts.
    """

    def __init__(
        self,
        trunk: Any,
        pixels: Pixels,
        *,
        stem: Sequence[str],
        blocks: str,
        norm: str,
        projection: nn.Linear | None = None,
        layer_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        width = trunk.config.hidden_size if projection is None else projection.out_features
        super().__init__(width, pixels)
        self.trunk = trunk
        self.projection = nn.Identity() if projection is None else projection
        self.token_width = int(trunk.config.hidden_size)
        self.layer_arguments = layer_arguments or {}
        self._stem, self._blocks, self._norm = stem, blocks, norm

    @property
    def layers(self) -> nn.ModuleList:
        """Those of the tower, as transformers made them."""
        layers: nn.ModuleList = self.trunk.get_submodule(self._blocks)
        return layers

    def embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n k"]:
        """Class token and patches; positions are interpolated where the size differs."""
        size = self.trunk.config.image_size
        embeddings, *norms = (self.trunk.get_submodule(name) for name in self._stem)
        states: Tensor = embeddings(
            self.normalised(image),
            interpolate_pos_encoding=tuple(image.shape[-2:]) != (size, size),
        )
        for norm in norms:
            states = norm(states)
        return states

    def finish(self, states: Float[Tensor, "b n k"]) -> Features:
        """The class token on its own, so that it is bit for bit the library's own vector."""
        norm = self.trunk.get_submodule(self._norm)
        pooled: Tensor = self.projection(norm(states[:, 0]))
        tokens: Tensor = self.projection(norm(states[:, 1:]))
        return Features(pooled, tokens, square(tokens.shape[1]))

    def parts(self) -> list[nn.Module]:
        """The embeddings and then the transformer's layers."""
        stem = nn.ModuleList(self.trunk.get_submodule(name) for name in self._stem)
        return [stem, *self.layers]


class SwinEncoder(ImageEncoder):
    """Swin Transformer: the mean over its last places, and these as tokens.

    `feature` (its name in the released code) is the embedding of the face-pretrained variant:
    linear, BatchNorm, linear, BatchNorm. Tokens go through it with BatchNorm's running statistics,
    so that `pooled` is their mean in eval mode.
    """

    def __init__(self, trunk: Any, pixels: Pixels, *, feature: Sequence[nn.Module] = ()) -> None:
        width = trunk.num_features
        for layer in feature:
            width = layer.out_features if isinstance(layer, nn.Linear) else width
        super().__init__(width, pixels)
        self.trunk = trunk
        self.feature = nn.Sequential(*feature)
        if any(isinstance(layer, nn.BatchNorm1d) for layer in feature):
            self.fewest_images = 2
        self._stride = trunk.config.patch_size * 2 ** (len(trunk.config.depths) - 1)
        least = self._stride * (trunk.config.window_size - 1) + 1
        if self.size < least:  # its last map would be smaller than a window
            raise UsageError(f"size is {self.size}, this Swin expects at least {least} pixels")

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB images in 0..1."""
        states = self.trunk(self.normalised(image)).last_hidden_state
        rows, columns = (-(-side // self._stride) for side in image.shape[-2:])
        tokens = states
        for layer in self.feature:
            tokens = _running(layer, tokens)
        return Features(self.feature(states.mean(dim=1)), tokens, (rows, columns))

    def parts(self) -> list[nn.Module]:
        """The embeddings and then the stages."""
        return [self.trunk.embeddings, *self.trunk.encoder.layers]


def _running(layer: nn.Module, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
    """A layer on tokens; BatchNorm uses its running statistics and leaves them alone."""
    if not isinstance(layer, nn.BatchNorm1d):
        linear: Tensor = layer(tokens)
        return linear
    assert layer.running_mean is not None and layer.running_var is not None
    scale = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
    return (tokens - layer.running_mean) * scale + layer.bias


@dataclass(frozen=True)
class Tower:
    """How an encoder is made of a model of transformers.

    Attributes:
        class_name: the model's class.
        settings: its configuration for random weights and images of a given size.
        statistics: mean and deviation where no model folder names them.
        adapt: the encoder around the model.
        ignored: pattern of names in weight files that may be left over.
        rename: a state dict in its authors' names -> in those of the model.
        options: further arguments of the model.
        folders: whether a model folder of transformers can hold the whole encoder.
    """

    class_name: str
    settings: Callable[[int], dict[str, Any]]
    statistics: tuple[Triple, Triple]
    adapt: Callable[[Any, Pixels], ImageEncoder]
    ignored: str = NOTHING
    rename: Callable[[Any, Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda _, state: state
    options: Mapping[str, Any] = field(default_factory=dict)
    folders: bool = True


def _swin_feature(model: Any, pixels: Pixels) -> ImageEncoder:
    """With the embedding of KE-FER's released code: 512 features."""
    first = nn.Linear(768, 768, bias=False)
    second = nn.Linear(768, 512, bias=False)
    norms = nn.BatchNorm1d(768, eps=2e-5), nn.BatchNorm1d(512, eps=2e-5)
    for linear in (first, second):
        nn.init.trunc_normal_(linear.weight, std=0.02)
    return SwinEncoder(model, pixels, feature=(first, norms[0], second, norms[1]))


_NO_TEXT = {
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 1,
}
"""A text tower that is built only because the whole model has one, and then left."""

TOWERS = {
    "resnet18": Tower(
        "ResNetModel",
        lambda size: {
            "embedding_size": 64,
            "hidden_sizes": [64, 128, 256, 512],
            "depths": [2, 2, 2, 2],
            "layer_type": "basic",
        },
        IMAGENET,
        lambda model, pixels: MapEncoder(model, pixels, stem="embedder", blocks="encoder.stages"),
        ignored=RESNET_HEADS,
        rename=lambda model, state: from_torchvision_resnet(state),
    ),
    "swin-t-112": Tower(
        "SwinModel",
        lambda size: {"image_size": 112, "patch_size": 2},
        IMAGENET,
        _swin_feature,
        ignored=SWIN_DERIVED,
        rename=from_official_swin,
        options={"add_pooling_layer": False},
        folders=False,
    ),
    "swin-t": Tower(
        "SwinModel",
        lambda size: {"image_size": 224, "patch_size": 4},
        IMAGENET,
        SwinEncoder,
        ignored=SWIN_DERIVED,
        rename=from_official_swin,
        options={"add_pooling_layer": False},
    ),
    "vit-b16": Tower(
        "ViTModel",
        lambda size: {"image_size": size},
        HALF,
        lambda model, pixels: TokenEncoder(
            model, pixels, stem=["embeddings"], blocks="layers", norm="layernorm"
        ),
        ignored=r"^(classifier|pooler)\.",
        options={"add_pooling_layer": False},
    ),
    "clip": Tower(
        "CLIPModel",
        lambda size: {
            "vision_config": {"image_size": size, "patch_size": 16},
            "text_config": _NO_TEXT,
        },
        OPENAI,
        lambda model, pixels: TokenEncoder(
            model.vision_model,
            pixels,
            stem=["embeddings", "pre_layrnorm"],
            blocks="encoder.layers",
            norm="post_layernorm",
            projection=model.visual_projection,
            layer_arguments={"attention_mask": None},
        ),
    ),
    "align": Tower(
        "AlignModel",
        lambda size: {"text_config": _NO_TEXT, "vision_config": {}},
        HALF,
        lambda model, pixels: MapEncoder(
            model.vision_model, pixels, stem="embeddings", blocks="encoder.blocks"
        ),
    ),
    "blip": Tower(
        "BlipForImageTextRetrieval",
        lambda size: {
            "vision_config": {"image_size": size},
            "text_config": _NO_TEXT,
        },
        OPENAI,
        lambda model, pixels: TokenEncoder(
            model.vision_model,
            pixels,
            stem=["embeddings"],
            blocks="encoder.layers",
            norm="post_layernorm",
            projection=model.vision_proj,
        ),
    ),
}


def build_tower(config: Encoder, *, architecture: Mapping[str, Any] | None = None) -> ImageEncoder:
    """The encoder of a name in TOWERS: pretrained, from a state dict file, or random.

    Raises:
        UsageError: an impossible size, or a folder for an encoder that none can hold.
        ModelError: weights that are missing or do not fit.
    """
    import transformers

    tower = TOWERS[config.name]
    model_class = getattr(transformers, tower.class_name)
    statistics, report = tower.statistics, None
    from_file = config.weights.endswith(STATE_SUFFIXES)
    if config.weights in ("", "random") or from_file:
        settings = tower.settings(config.size) if architecture is None else architecture
        model = model_class(model_class.config_class(**settings), **tower.options)
    elif tower.folders:
        model, report = load_pretrained(
            tower.class_name,
            config.weights,
            model_type=model_class.config_class.model_type,
            ignored=tower.ignored,
            **tower.options,
        )
        statistics = pixel_statistics(config.weights) or statistics
    else:
        raise UsageError(
            f"weights of {config.name} are {config.weights}, expected a state dict file "
            f"({', '.join(STATE_SUFFIXES)}): no model folder holds its embedding"
        )
    encoder = tower.adapt(model, Pixels(config.size, config.grey, *statistics))
    encoder.architecture = model.config.to_diff_dict()
    if from_file:
        state = tower.rename(model, read_state(Path(config.weights)))
        report = load_state(encoder, state, source=config.weights, ignored=tower.ignored)
    encoder.report = report
    return encoder
