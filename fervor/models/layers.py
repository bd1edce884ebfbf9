"""The transformer that LaCoVL-FER is made of: attention, layers, a class token, drop-path."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


EPS = 1e-6
"""Of the transformers' LayerNorm (parents' code)."""


class DropPath(nn.Module):
    """Leaves a branch out for whole images at random in training; its mean stays the same."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """The branch, divided by the share that is kept, or zeros."""
        if not self.training or self.probability == 0:
            return branch
        survival = 1 - self.probability
        mask = torch.rand(len(branch), 1, 1, device=branch.device) < survival
        scaled: Tensor = branch * mask / survival
        return scaled


class Attention(nn.Module):
    """Multi-head attention of queries to a context: softmax(q k' / sqrt(width / heads)) v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, queries: Float[Tensor, "b n w"], context: Float[Tensor, "b m w"]
    ) -> Float[Tensor, "b n w"]:
        """What the queries take from the context."""
        query = split_heads(self.query(queries), self.heads)
        key, value = (
            split_heads(part, self.heads) for part in self.key_value(context).chunk(2, dim=-1)
        )
        mixed: Tensor = self.output(merge_heads(attend(query, key, value)))
        return mixed


def attend(
    query: Float[Tensor, "b h n d"], key: Float[Tensor, "b h m d"], value: Float[Tensor, "b h m d"]
) -> Float[Tensor, "b h n d"]:
    """softmax(q k' / sqrt(d)) v."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # torch's own takes three to seven times as long there, most of it backwards
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        return torch.softmax(scores, dim=-1).to(value.dtype) @ value
    attended: Tensor = F.scaled_dot_product_attention(query, key, value)
    return attended


def split_heads(tokens: Float[Tensor, "b n w"], heads: int) -> Float[Tensor, "b h n d"]:
    """Each head's part of the tokens."""
    parts: Tensor = tokens.unflatten(2, (heads, -1))
    return parts.transpose(1, 2)


def merge_heads(tokens: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n w"]:
    """The heads' parts side by side."""
    return tokens.transpose(1, 2).flatten(2)


def feed_forward(width: int, *, ratio: int = 4, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers with GELU between, `ratio` times as wide inside."""
    return nn.Sequential(
        nn.Linear(width, ratio * width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(ratio * width, width),
        nn.Dropout(dropout),
    )


class Layer(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm and beside a skip."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.feed_forward = feed_forward(width, dropout=dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """Tokens that have looked at each other."""
        normed = self.norm1(tokens)
        tokens = tokens + self.drop(self.attention(normed, normed))
        changed: Tensor = tokens + self.feed_forward(self.norm2(tokens))
        return changed


class Gate(nn.Module):
    """The squeeze-and-excitation gate of the parents: x * sigmoid(W2 relu(W1 x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, vector: Float[Tensor, "b w"]) -> Float[Tensor, "b w"]:
        """Each number times its gate in 0..1."""
        return vector * torch.sigmoid(self.second(F.relu(self.first(vector))))


class Summary(NamedTuple):
    """What a transformer makes of tokens: its class token behind the gate, and the tokens."""

    vector: Float[Tensor, "b w"]
    tokens: Float[Tensor, "b n w"]


class TokenTransformer(nn.Module):
    """Class token and learned positions, layers, a last LayerNorm, and the class token's gate.

    `gated` false leaves the gate out, where nobody asks for the class token.
    """

    def __init__(
        self,
        width: int,
        *,
        tokens: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.drop = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(Layer(width, heads, dropout=dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.gate: nn.Module = Gate(width) if gated else nn.Identity()
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.layers.apply(_small)

    def forward(self, tokens: Float[Tensor, "b n w"]) -> Summary:
        """The gated class token and the tokens after the last LayerNorm."""
        first = self.class_token.expand(tokens.shape[0], -1, -1)
        states = self.drop(torch.cat([first, tokens], dim=1) + self.positions)
        states = self.norm(self.layers(states))
        return Summary(self.gate(states[:, 0]), states[:, 1:])


def _small(layer: nn.Module) -> None:
    """The vision transformers' initial weights: normal of deviation 0.02, biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
