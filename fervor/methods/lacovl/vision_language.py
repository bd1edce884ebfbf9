"""What LaCoVL-FER takes from a frozen vision-language model: VLES on the side of the image, ECP
on the side of the sentences.

The figure names the parts and their order; their shapes are our reading of it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.models.layers import EPS, Attention, feed_forward


Bias = Literal["shared", "per_class"]

REDUCTION = 16
"""The text bias is width -> width / 16 -> joint width (CoCoOp's meta-net)."""


class TeacherAttention(nn.Module):
    """VLES: an image's class token asks the frozen tower's tokens.

    k = LN(W tokens);  z = z + attend(LN(z) -> k);  z = z + FFN(LN(z))

    With a single token in place of many the softmax over it would be 1 and the attention a linear
    map: the tower gives its class token and all of its patches.
    """

    def __init__(self, width: int, *, heads: int, teacher_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(teacher_width, width)
        self.norm_context = nn.LayerNorm(width, eps=EPS)
        self.norm_query = nn.LayerNorm(width, eps=EPS)
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.feed_forward = feed_forward(width)

    def forward(
        self, vector: Float[Tensor, "b w"], tokens: Float[Tensor, "b n t"]
    ) -> Float[Tensor, "b w"]:
        """The class token, enhanced."""
        context = self.norm_context(self.projection(tokens))
        query = self.norm_query(vector)[:, None]
        vector = vector + self.attention(query, context)[:, 0]
        enhanced: Tensor = vector + self.feed_forward(self.norm(vector))
        return enhanced


class TextBias(nn.Module):
    """ECP's text bias generator: what an image adds to the class vectors; 0 at first.

    `shared` gives one vector for all classes (the figure's has no class index), `per_class` one for
    each, from the image and the class vector.
    """

    def __init__(self, width: int, joint: int, *, kind: Bias) -> None:
        super().__init__()
        self.kind: Bias = kind
        inputs = width if kind == "shared" else width + joint
        hidden = max(1, width // REDUCTION)
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, joint)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(
        self, vector: Float[Tensor, "b w"], texts: Float[Tensor, "c d"]
    ) -> Float[Tensor, "b k d"]:
        """The bias of each class, or of all (k = 1)."""
        inputs = vector[:, None]
        if self.kind == "per_class":
            inputs = torch.cat(
                [inputs.expand(-1, len(texts), -1), texts.expand(vector.shape[0], -1, -1)], dim=-1
            )
        bias: Tensor = self.second(F.relu(self.first(inputs)))
        return bias


def conditioned(
    texts: Float[Tensor, "c d"],
    bias: Float[Tensor, "b k d"],
    *,
    alpha: float,
    renormalise: bool = True,
) -> Float[Tensor, "b c d"]:
    """T + alpha * bias, scaled to unit length again.

    Without that a shared bias adds v . bias to the logit of every class, which softmax ignores.
    """
    moved = texts + alpha * bias
    return F.normalize(moved, dim=-1) if renormalise else moved


def text_logits(
    vector: Float[Tensor, "b d"], texts: Float[Tensor, "b c d"], scale: float | Tensor
) -> Float[Tensor, "b c"]:
    """scale * <v, t_c> with v of unit length and each image's own class vectors; in fp32."""
    with torch.autocast(vector.device.type, enabled=False):
        unit = F.normalize(vector.float(), dim=-1)
        return scale * (texts.float() @ unit[..., None])[..., 0]


@dataclass(frozen=True)
class SemanticOptions:
    """How class vectors move and are compared; the fields are explained in `LaCoVL.Options`."""

    alpha: float = 0.1
    bias: Bias = "shared"
    renormalise: bool = True
    temperature: float = 0.01
    learn_temperature: bool = False


class SemanticHead(nn.Module):
    """VLES and ECP: class token and teacher's tokens -> the space of the sentences, and logits."""

    texts: Tensor
    log_scale: Tensor

    def __init__(
        self,
        texts: Float[Tensor, "c d"],
        *,
        width: int,
        heads: int,
        teacher_width: int,
        options: SemanticOptions,
    ) -> None:
        super().__init__()
        self.options = options
        joint = texts.shape[1]
        self.register_buffer("texts", F.normalize(texts, dim=-1))
        self.teacher_attention = TeacherAttention(width, heads=heads, teacher_width=teacher_width)
        self.to_joint = nn.Linear(width, joint)
        self.text_bias = TextBias(width, joint, kind=options.bias)
        scale = -torch.log(torch.tensor(options.temperature))
        if options.learn_temperature:
            self.log_scale = nn.Parameter(scale)
        else:
            self.register_buffer("log_scale", scale)

    def forward(
        self, vector: Float[Tensor, "b w"], tokens: Float[Tensor, "b n t"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b c"]]:
        """The image among the sentences, not normalised, and its similarity to each of them."""
        options = self.options
        enhanced = self.teacher_attention(vector, tokens)
        place = self.to_joint(enhanced)
        bias = self.text_bias(enhanced, self.texts)
        moved = conditioned(self.texts, bias, alpha=options.alpha, renormalise=options.renormalise)
        return place, text_logits(place, moved, self.log_scale.exp())
