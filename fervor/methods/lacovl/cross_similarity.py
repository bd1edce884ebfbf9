"""Cross similarity attention of a pair of images that show the same class.

The block is that of DCS (Wang et al., 2024, arXiv 2411.01988), which LaCoVL-FER's figure names.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor.models.distributed import largest
from fervor.models.layers import EPS, feed_forward


Extremes = Literal["pair", "batch"]
FLAT = 1e-3
"""Of a pair's largest distance: the least length that a row of similarities is divided by (ours).
Rounding and the gradient of distances that are alike would be blown up without bound."""


def distances(
    queries: Float[Tensor, "b n w"], keys: Float[Tensor, "b m w"]
) -> Float[Tensor, "b n m"]:
    """Euclidean distances in fp32, with a gradient that stays finite at 0."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = queries.float(), keys.float()
        lengths = queries.square().sum(-1)[..., None] + keys.square().sum(-1)[:, None]
        squared = lengths - 2 * queries @ keys.transpose(1, 2)
        return squared.clamp_min(1e-12).sqrt()


def similarity_of(
    distance: Float[Tensor, "b n m"], *, extremes: Extremes = "pair"
) -> Float[Tensor, "b n m"]:
    """max(D - min D) - (D - min D): 0 for the farthest places, largest for the nearest.

    Minimum and maximum are each pair's own, or those of the whole batch (released code of DCS).
    """
    if extremes == "batch":
        return largest(distance.max()) - distance
    return distance.amax(dim=(1, 2), keepdim=True) - distance


def place_weights(
    similarity: Float[Tensor, "b n m"], distance: Float[Tensor, "b n m"], axis: int
) -> Float[Tensor, "b k"]:
    """Weight of each place along `axis`: how similar the other image's places are to it.

    Each row of the other image's places has length 1 before the rows are added, or less where the
    pair's distances are all alike (`FLAT`); the weights sum to 1.
    """
    least = FLAT * distance.detach().amax(dim=(1, 2), keepdim=True)
    length = similarity.norm(dim=axis, keepdim=True).clamp_min(least)
    other = 3 - axis
    return torch.softmax((similarity / length).sum(dim=other), dim=1)


class CrossSimilarityAttention(nn.Module):
    """Lets the tokens of two images grow where the images resemble each other.

    x = LN1(x);  K, V = split(x W) for both;  D = |K_partner - K_anchor|
    s_anchor = sum over partner's places of S / ||S|| along the anchor's, and the other way round
    x = LN2(x + softmax(s) V);  out = x + MLP(x)

    All parameters serve both images, so that swapping the images swaps the results.
    """

    def __init__(self, width: int, *, extremes: Extremes = "pair") -> None:
        super().__init__()
        self.extremes: Extremes = extremes
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.key_value = nn.Linear(width, 2 * width)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.feed_forward = feed_forward(width)

    def forward(
        self, anchor: Float[Tensor, "b n w"], partner: Float[Tensor, "b n w"]
    ) -> tuple[Float[Tensor, "b n w"], Float[Tensor, "b n w"]]:
        """The changed tokens of both."""
        anchor, partner = self.norm1(anchor), self.norm1(partner)
        keys_anchor, values_anchor = self.key_value(anchor).chunk(2, dim=-1)
        keys_partner, values_partner = self.key_value(partner).chunk(2, dim=-1)
        # in training alone a batch's extremes may decide: a prediction is of its image alone
        extremes: Extremes = self.extremes if self.training else "pair"
        distance = distances(keys_partner, keys_anchor)
        similarity = similarity_of(distance, extremes=extremes)
        return (
            self._grown(anchor, values_anchor, place_weights(similarity, distance, 2)),
            self._grown(partner, values_partner, place_weights(similarity, distance, 1)),
        )

    def _grown(self, tokens: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        tokens = self.norm2(tokens + weight[..., None] * values)
        changed: Tensor = tokens + self.feed_forward(tokens)
        return changed
