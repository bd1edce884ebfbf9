"""Bi-branch gated cross attention (BGCA) of LaCoVL-FER, for one scale.

Known is the name, that landmark maps guide image maps, and what it is for: less redundant, steadier
attention. The branches and the gate are our reading; window, relative positions, layer scale and
drop-path are those of POSTER++ (arXiv 2301.12149).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor.errors import UsageError
from fervor.models.layers import DropPath, feed_forward, merge_heads, split_heads


Branches = Literal["dense_sparse", "bidirectional", "dense_only"]
GatePer = Literal["channel", "head", "token"]
Sparsity = Literal["relu2", "topk"]
Residual = Literal["raw", "normed"]

TINY = 1e-6
"""Keeps the sum of an empty sparse row from dividing by zero."""


@dataclass(frozen=True)
class AttentionOptions:
    """How the two branches look and mix; the fields are explained in `LaCoVL.Options`."""

    branches: Branches = "dense_sparse"
    gate: GatePer = "channel"
    sparsity: Sparsity = "relu2"
    keep: float = 0.5
    residual: Residual = "raw"
    project_query: bool = True
    layer_scale: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UsageError(f"keep is {self.keep}, expected a share above 0 and up to 1")


class Mixture(NamedTuple):
    """What a block attends to: each branch's weights, and the first branch's share.

    Attributes:
        first: dense attention, or landmarks looking at the image; a row of weights per query.
        second: sparse attention, or the image looking at landmarks; None for a single branch.
        gate: share of the first branch in 0..1; None for a single branch.
    """

    first: Float[Tensor, "b h n n"]
    second: Float[Tensor, "b h n n"] | None
    gate: Float[Tensor, "b n c"] | None


class RelativePositions(nn.Module):
    """A learned number for each head and each offset between two places of a square."""

    index: Tensor

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        rows, columns = torch.arange(side**2) // side, torch.arange(side**2) % side
        offset = (rows[:, None] - rows + side - 1) * (2 * side - 1)
        offset = offset + columns[:, None] - columns + side - 1
        self.register_buffer("index", offset, persistent=False)

    def forward(self) -> Float[Tensor, "h n n"]:
        """What is added to the scores of every image."""
        return self.table[self.index].permute(2, 0, 1)


class Scores(nn.Module):
    """Scores and values of one direction: queries of one map, keys and values of the other."""

    def __init__(self, width: int, heads: int, side: int, *, project_query: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query: nn.Module = nn.Linear(width, width) if project_query else nn.Identity()
        self.key_value = nn.Linear(width, 2 * width)
        self.positions = RelativePositions(side, heads)

    def forward(
        self, queries: Float[Tensor, "b n c"], context: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "b h n n"], Float[Tensor, "b h n d"]]:
        """q k' / sqrt(d) + relative positions, and the values."""
        query = split_heads(self.query(queries), self.heads)
        key, value = (
            split_heads(part, self.heads) for part in self.key_value(context).chunk(2, dim=-1)
        )
        return query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + self.positions(), value


class GatedCrossAttention(nn.Module):
    """The image's map of one scale, changed by what the landmarks' map of that scale points at.

    I and L are the LayerNormed tokens of image and landmarks; F is the image's map.

        dense_sparse:   O = g * softmax(A) V + (1 - g) * sparse(A) V,   A = L Wq (I Wk)'
        bidirectional:  O = g * attend(L -> I) + (1 - g) * attend(I -> L)
        dense_only:     O = softmax(A) V                                (POSTER++)
        g = sigmoid(Wg [L; I] + b), b = 0 at first
        F = F + gamma1 * (O Wo);  F = F + gamma2 * FFN(LN(F))
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        side: int,
        drop_path: float = 0.0,
        options: AttentionOptions | None = None,
    ) -> None:
        super().__init__()
        self.options = options = options or AttentionOptions()
        self.heads = heads
        self.norm_image = nn.LayerNorm(width)
        self.norm_landmarks = nn.LayerNorm(width)
        query = options.project_query
        self.scores = Scores(width, heads, side, project_query=query)
        self.reverse: Scores | None = None
        if options.branches == "bidirectional":
            self.reverse = Scores(width, heads, side, project_query=query)
        self.gate: nn.Linear | None = None
        if options.branches != "dense_only":
            gates = {"channel": width, "head": heads, "token": 1}[options.gate]
            self.gate = nn.Linear(2 * width, gates)
            nn.init.trunc_normal_(self.gate.weight, std=0.02)
            nn.init.zeros_(self.gate.bias)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward(width)
        self.gamma1 = nn.Parameter(torch.full((width,), options.layer_scale))
        self.gamma2 = nn.Parameter(torch.full((width,), options.layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, image: Float[Tensor, "b c h w"], landmarks: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The image's map, guided."""
        tokens, queries = self._tokens(image, landmarks)
        mixture, values = self._attend(*queries)
        attended = self._mixed(mixture, values)
        carried = queries[0] if self.options.residual == "normed" else tokens
        carried = carried + self.drop_path(self.gamma1 * self.output(attended))
        carried = carried + self.drop_path(self.gamma2 * self.feed_forward(self.norm(carried)))
        maps: Tensor = carried.transpose(1, 2).unflatten(2, image.shape[2:])
        return maps

    def mixture(
        self, image: Float[Tensor, "b c h w"], landmarks: Float[Tensor, "b c h w"]
    ) -> Mixture:
        """Attention and gate of such maps, to be looked at and measured."""
        return self._attend(*self._tokens(image, landmarks)[1])[0]

    def _tokens(self, image: Tensor, landmarks: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The image's tokens as they are, and both sides' LayerNormed tokens."""
        tokens = image.flatten(2).transpose(1, 2)
        guides = landmarks.flatten(2).transpose(1, 2)
        return tokens, (self.norm_image(tokens), self.norm_landmarks(guides))

    def _attend(self, image: Tensor, landmarks: Tensor) -> tuple[Mixture, tuple[Tensor, Tensor]]:
        """Weights, gate, and each branch's values."""
        scores, values = self.scores(landmarks, image)
        dense = torch.softmax(scores, dim=-1)
        if self.gate is None:
            return Mixture(dense, None, None), (values, values)
        logits = self.gate(torch.cat([landmarks, image], dim=-1))
        gate = torch.sigmoid(logits)
        if self.options.gate == "head":
            gate = gate.repeat_interleave(image.shape[2] // self.heads, dim=-1)
        gate = gate.expand_as(image)
        if self.reverse is None:
            return Mixture(dense, self._sparse(scores), gate), (values, values)
        reverse, others = self.reverse(image, landmarks)
        return Mixture(dense, torch.softmax(reverse, dim=-1), gate), (values, others)

    def _sparse(self, scores: Tensor) -> Tensor:
        """Weights of which some are zero; a row's sum is 1, or 0 where no score is positive."""
        if self.options.sparsity == "topk":
            count = max(1, round(self.options.keep * scores.shape[-1]))
            least = scores.topk(count, dim=-1).values[..., -1:]
            return torch.softmax(scores.masked_fill(scores < least, -torch.inf), dim=-1)
        positive = torch.relu(scores).square()
        return positive / (positive.sum(-1, keepdim=True) + TINY)

    def _mixed(self, mixture: Mixture, values: tuple[Tensor, Tensor]) -> Tensor:
        first = merge_heads(mixture.first @ values[0])
        if mixture.second is None or mixture.gate is None:
            return first
        second = merge_heads(mixture.second @ values[1])
        return mixture.gate * first + (1 - mixture.gate) * second
