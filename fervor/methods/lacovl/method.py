"""LaCoVL-FER: "Landmark-Guided Contrastive Learning Network with Vision-Language Enhancement for
Facial Expression Recognition", Wang et al., 2026, https://arxiv.org/abs/2605.19821.

Published: the abstract, and a figure with every part, arrow and the loss; no code. Parts that the
figure names after its parents (POSTER++, arXiv 2301.12149; DCS, arXiv 2411.01988) are theirs as
their code computes them; what neither says is ours. docs/methods/lacovl.md marks each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fervor.data.batch import Batch, soft_target
from fervor.errors import UsageError
from fervor.methods.base import Method
from fervor.methods.lacovl.cross_similarity import CrossSimilarityAttention, Extremes
from fervor.methods.lacovl.gated_attention import (
    AttentionOptions,
    Branches,
    GatePer,
    Residual,
    Sparsity,
)
from fervor.methods.lacovl.landmark_guided import STRIDES, LandmarkGuidedEncoder, Merge
from fervor.methods.lacovl.vision_language import Bias, SemanticHead, SemanticOptions
from fervor.methods.losses import text_similarity_loss
from fervor.models.image import Features, ImageEncoder
from fervor.models.image.base import resized
from fervor.models.layers import Summary, TokenTransformer
from fervor.models.mobilefacenet import LandmarkEncoder
from fervor.models.text.encoders import TextEncoder
from fervor.prompts import templates


class Logits(NamedTuple):
    """An image's answers; semantic ones need a teacher, base ones their head."""

    visual: Float[Tensor, "b c"]
    semantic: Float[Tensor, "b c"] | None
    base: Float[Tensor, "b c"] | None


EFFECT = 1e-3
"""Share of their length by which tokens have to move for landmarks to count as used (ours)."""

LEVEL = 0.01
"""Distance from one half within which a gate has decided nothing (ours)."""


class Inputs(NamedTuple):
    """What the networks that look at images make of them.

    Attributes:
        scales: the image encoder's maps at three scales.
        frozen: landmark maps (three) and teacher tokens (one), as far as there are such networks.
    """

    scales: list[Tensor]
    frozen: tuple[Tensor, ...]


class LaCoVL(Method):
    """Image maps guided by landmarks, pairs of one class, and a frozen vision-language model."""

    @dataclass(frozen=True)
    class Options:
        """Settings of LaCoVL-FER.

        Attributes:
            resolution: image and landmark networks see images of this size, every second pixel
                of a 224-pixel one (parents' code: 112, nearest).
            width: of a token (parents' code: 768).
            depth: layers of the encoder's transformer (parents' code: 2).
            cross_depth: layers of the cross transformer (DCS: 1).
            heads: of both, and of the teacher's attention (parents' code: 8; there: ours).
            cross_dropout: of the cross transformer (DCS: 0.2; on AffectNet-7 0.4).
            drop_path: of the coarsest scale's block, half of it at the middle one, none at the
                finest (POSTER++: 0.25).
            layer_scale: start of the block's two scales (POSTER++: 1e-5).
            normalise: BatchNorm on the image's maps, for networks whose maps are all positive
                (ours): Adam's steps then move all images' tokens alike, until none differs.
            branches: dense_sparse = a dense and a sparse attention over the same scores;
                bidirectional = landmarks to image and image to landmarks; dense_only = POSTER++
                (ours: the figure names two branches and a gate, not what they are).
            gate: one number of the gate for each channel, head or token (ours).
            sparsity: relu2 = squared positive scores; topk = the softmax of the largest (ours).
            keep: share of the scores that topk keeps (ours).
            residual: the block adds to the image's map as it is (ours), or to its LayerNorm
                (POSTER++).
            project_query: a linear layer before the query (ours); POSTER++ takes landmarks as
                they are.
            merge: tokens of the three scales one after the other (parents' code), or their sum; the
                figure's circled plus leaves it open.
            extremes: distances of a pair are turned to similarities by the pair's own minimum and
                maximum (ours), or in training by the batch's (DCS's code).
            alpha: weight of the text bias (figure; value ours).
            bias: one text bias for all classes (figure), or per_class (ours).
            renormalise: scale the moved class vectors to unit length (ours).
            temperature: divides the cosines with class vectors (CLIP: 0.01).
            learn_temperature: train it from there (ours).
            semantic_weight: lambda (figure; value ours: the factor 1/4 is a mean only with 1).
            base_head: also train DCS's head on the encoder's class token (the figure has none).
            predict: sum = mean of both heads' probabilities, as log; vis or sem alone (ours: an
                image to predict has no partner and is its own).
            template: number of the sentence's template, 1 to 9 (ours: 9, KE-FER's best), or a
                sentence of your own with [CLS].
            new_layers: learning rate of everything but the image encoder, as a multiple (ours).
        """

        resolution: int = 112
        width: int = 768
        depth: int = 2
        cross_depth: int = 1
        heads: int = 8
        cross_dropout: float = 0.2
        drop_path: float = 0.25
        layer_scale: float = 1e-5
        normalise: bool = False
        branches: Branches = "dense_sparse"
        gate: GatePer = "channel"
        sparsity: Sparsity = "relu2"
        keep: float = 0.5
        residual: Residual = "raw"
        project_query: bool = True
        merge: Merge = "concat"
        extremes: Extremes = "pair"
        alpha: float = 0.1
        bias: Bias = "shared"
        renormalise: bool = True
        temperature: float = 0.01
        learn_temperature: bool = False
        semantic_weight: float = 1.0
        base_head: bool = False
        predict: Literal["sum", "vis", "sem"] = "sum"
        template: int | str = 9
        new_layers: float = 10.0

        def __post_init__(self) -> None:
            step = STRIDES[-1]
            if self.resolution < 2 * step or self.resolution % step:
                raise UsageError(
                    f"resolution is {self.resolution}, expected a multiple of {step} from "
                    f"{2 * step} on"
                )
            if self.heads < 1 or self.width < 1 or self.width % self.heads:
                raise UsageError(f"width {self.width} is no multiple of {self.heads} heads")
            if not 0 <= self.drop_path < 1 or not 0 <= self.cross_dropout < 1:
                raise UsageError(
                    f"drop_path is {self.drop_path}, cross_dropout {self.cross_dropout}: expected "
                    "shares from 0 to below 1"
                )
            if min(self.depth, self.cross_depth, self.layer_scale) < 0:
                raise UsageError(
                    f"depth is {self.depth}, cross_depth {self.cross_depth}, layer_scale "
                    f"{self.layer_scale}: expected none below 0"
                )
            if self.temperature <= 0 or self.new_layers <= 0:
                raise UsageError(
                    f"temperature is {self.temperature}, new_layers {self.new_layers}: expected "
                    "numbers above 0"
                )
            self.attention()

        def attention(self) -> AttentionOptions:
            """Those of the gated cross attention."""
            return AttentionOptions(
                branches=self.branches,
                gate=self.gate,
                sparsity=self.sparsity,
                keep=self.keep,
                residual=self.residual,
                project_query=self.project_query,
                layer_scale=self.layer_scale,
            )

        def semantic(self) -> SemanticOptions:
            """Those of VLES and ECP."""
            return SemanticOptions(
                alpha=self.alpha,
                bias=self.bias,
                renormalise=self.renormalise,
                temperature=self.temperature,
                learn_temperature=self.learn_temperature,
            )

    pairs = True
    has_frozen_stage = True
    auxiliary = ("landmarks", "teacher")
    options: Options

    def __init__(
        self,
        image: ImageEncoder,
        text: TextEncoder,
        labels: Sequence[str],
        options: Options,
        *,
        landmarks: LandmarkEncoder | None = None,
        teacher: ImageEncoder | None = None,
    ) -> None:
        """The method around ready networks.

        Args:
            image: gives maps at three scales.
            text: encodes the classes' sentences, once.
            labels: in their order.
            options: see `Options`.
            landmarks: frozen; without it each query comes from the image.
            teacher: frozen; without it there is the visual head alone.

        Raises:
            UsageError: an encoder without three scales, or an option that needs a teacher.
        """
        super().__init__(image, text, labels, options)
        _check(image, options, teacher)
        self.landmarks, self.teacher = landmarks, teacher
        self._shapes: list[torch.Size] = []
        for network in (landmarks, teacher):
            if network is not None:
                network.requires_grad_(False).eval()
        width, count = options.width, len(labels)
        self.guided = LandmarkGuidedEncoder(
            image.scale_widths,
            image.scale_strides,
            landmark_width=None if landmarks is None else landmarks.widths[-1],
            resolution=options.resolution,
            width=width,
            depth=options.depth,
            heads=options.heads,
            merge=options.merge,
            drop_path=options.drop_path,
            attention=options.attention(),
            gated=teacher is not None or options.base_head,
            normalise=options.normalise,
        )
        self.similarity = nn.ModuleList(
            CrossSimilarityAttention(width, extremes=options.extremes)
            for _ in range(self.guided.groups)
        )
        self.cross = TokenTransformer(
            width,
            tokens=self.guided.transformer.positions.shape[1] - 1,
            depth=options.cross_depth,
            heads=options.heads,
            dropout=options.cross_dropout,
        )
        self.head = nn.Linear(width, count)
        self.base_head = nn.Linear(width, count) if options.base_head else None
        self.semantic: SemanticHead | None = None
        if teacher is not None:
            self.sentences = tuple(
                templates.sentences_of(options.template, label)[0] for label in labels
            )
            with torch.no_grad():
                texts = text.encode(self.sentences).float()
            self.semantic = SemanticHead(
                texts,
                width=width,
                heads=options.heads,
                teacher_width=teacher.width,
                options=options.semantic(),
            )

    def frozen(self) -> tuple[str, ...]:
        """The networks beside the encoders, as far as there are such."""
        return tuple(name for name in self.auxiliary if getattr(self, name) is not None)

    def train(self, mode: bool = True) -> Self:
        """As for every module, but what is frozen stays in eval mode."""
        super().train(mode)
        for name in self.frozen():
            self.get_submodule(name).eval()
        return self

    # What an image is compared with

    def class_vectors(self) -> Float[Tensor, "c d"]:
        """The sentences' vectors, unit length; without a teacher the visual head's rows."""
        return self.head.weight if self.semantic is None else self.semantic.texts

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Features:
        """The image in the space of the sentences, not normalised, and its logits.

        Tokens are patch tokens (mean over the scales) behind the same projection; without a
        teacher, the cross transformer's.
        """
        return self._features(self.inputs(image))

    def batch_features(self, batch: Batch) -> Features:
        """The same of a batch."""
        return self._features(self._batch_inputs(batch))

    def _features(self, inputs: Inputs) -> Features:
        summary, grid = self._guided(inputs), self.guided.grid
        crossed = self.cross(self._grown(summary.tokens, summary.tokens)[0])
        logits, place = self._answers(summary, crossed.vector, inputs.frozen)
        scores = self.answer(logits)
        if self.semantic is None or place is None:
            return Features(crossed.vector, self.guided.places(crossed.tokens), grid, scores)
        tokens = self.semantic.to_joint(self.guided.places(summary.tokens))
        return Features(place, tokens, grid, scores)

    def logits(self, features: Features) -> Float[Tensor, "b c"]:
        """Log probabilities of both heads' mean, or one head's logits; see `Options.predict`.

        They came with the features.
        """
        assert features.scores is not None, "features of another method"
        return features.scores

    def answer(self, logits: Logits) -> Float[Tensor, "b c"]:
        """What is predicted from an image's logits."""
        if logits.semantic is None or self.options.predict == "vis":
            return logits.visual
        if self.options.predict == "sem":
            return logits.semantic
        both = torch.stack([logits.visual.float(), logits.semantic.float()]).log_softmax(-1)
        return both.logsumexp(0) - math.log(2)

    # Training

    def with_frozen(self, batch: Batch) -> Batch:
        """The batch with landmark maps and teacher tokens of anchors and partners."""
        if batch.maps is not None:
            return batch
        return batch._replace(frozen=self._frozen(_both(batch.images(), batch.positive)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L = 1/4 sum over anchor and partner of CE(visual) + lambda CE(semantic), and its parts.

        Without partners in the batch each image is its own. The partner's target is its class,
        the anchor's the batch's shares.
        """
        if batch.maps is not None:
            inputs = self._unpacked(_both(batch.maps, batch.positive_maps))
        else:
            inputs = self.inputs(_both(batch.images(), batch.positive), frozen=batch.frozen)
        anchors, partners = self.pair_logits(inputs)
        targets = (batch.target, soft_target(batch.label, len(self.labels)))
        if batch.positive is None and batch.positive_maps is None:
            targets = (batch.target, batch.target)
        parts: dict[str, Tensor] = {}
        for name, anchor, partner in zip(Logits._fields, anchors, partners, strict=True):
            if anchor is not None and partner is not None:
                terms = map(text_similarity_loss, (anchor, partner), targets)
                parts[name] = torch.stack(list(terms)).sum() / 4
        weights = {"semantic": self.options.semantic_weight}
        weighted = [weights.get(name, 1.0) * part for name, part in parts.items()]
        return {"loss": torch.stack(weighted).sum(), **parts}

    def pair_logits(self, inputs: Inputs) -> tuple[Logits, Logits]:
        """Logits of anchors and partners, which follow the anchors in `inputs`."""
        summary = self._guided(inputs)
        grown = self._grown(*summary.tokens.chunk(2))
        crossed = self.cross(torch.cat(grown))
        logits, _ = self._answers(summary, crossed.vector, inputs.frozen)
        return _half(logits, 0), _half(logits, 1)

    def activity(self, batch: Batch) -> dict[str, float]:
        """Gates, the entropy of attention (1 is even), and what other faces' landmarks change.

        `landmarks` is how far the tokens move when every face gets its neighbour's landmarks, as a
        share of their length.
        """
        maps, frozen = self._batch_inputs(batch)
        guides = frozen[:3] if self.landmarks is not None else ()
        figures: dict[str, float] = {}
        for scale, mixture in zip(
            ("fine", "middle", "coarse"), self.guided.mixtures(maps, guides), strict=True
        ):
            places = mixture.first.shape[-1]
            entropy = -(mixture.first * mixture.first.clamp_min(1e-12).log()).sum(-1).mean()
            figures[f"entropy_{scale}"] = float(entropy) / math.log(places)
            if mixture.gate is not None:
                figures[f"gate_{scale}"] = float(mixture.gate.mean())
                figures[f"gate_spread_{scale}"] = float(mixture.gate.std())
        if self.landmarks is not None:
            own = self.guided(maps, guides).tokens
            other = self.guided(maps, [part.roll(1, 0) for part in guides]).tokens
            figures["landmarks"] = float((own - other).norm() / own.norm())
        return figures

    def inactive(self, start: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
        """Landmarks that change no token, and gates that never opened or closed."""
        parts = []
        if "landmarks" in now and now["landmarks"] < EFFECT:
            parts.append(f"landmarks (others' change tokens by {now['landmarks']:.1e})")
        gates = [name for name in now if name.startswith("gate_spread")]
        if gates and all(
            now[name] < LEVEL and abs(now[name.replace("_spread", "")] - 0.5) < LEVEL
            for name in gates
        ):
            parts.append("gate (even mixture everywhere)")
        return parts

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The image encoder at the rate, new layers at `new_layers` times it."""
        own = {id(parameter) for parameter in self.image.parameters()}
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) in own], "lr": learning_rate},
            {
                "params": [p for p in trained if id(p) not in own],
                "lr": learning_rate * self.options.new_layers,
            },
        ]
        return [group for group in groups if group["params"]]

    # The parts

    def inputs(
        self, image: Float[Tensor, "b 3 h w"], *, frozen: tuple[Tensor, ...] | None = None
    ) -> Inputs:
        """What the networks make of images; `frozen` where that is known already."""
        return Inputs(self._scales(image), self._frozen(image) if frozen is None else frozen)

    def _batch_inputs(self, batch: Batch) -> Inputs:
        """Those of a batch, without partners."""
        return self.inputs(batch.images()) if batch.maps is None else self._unpacked(batch.maps)

    def _frozen(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        if self.landmarks is not None:
            outputs += self.landmarks(resized(image, self.options.resolution))
        if self.teacher is not None:
            with torch.no_grad():
                features = self.teacher(resized(image, self.teacher.size, mode="bilinear"))
            outputs.append(torch.cat([features.pooled[:, None], features.tokens], dim=1))
        return tuple(outputs)

    def _scales(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        return self.image.scales(resized(image, self.options.resolution))

    def frozen_stage(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d 1 1"]:
        """All that frozen networks make of images, one map behind the other in a row.

        Raises:
            UsageError: the image encoder learns.
        """
        if any(parameter.requires_grad for parameter in self.image.parameters()):
            raise UsageError(
                "lacovl takes maps of several blocks: for data.views freeze them all with "
                f"--encoder.frozen_blocks {len(self.image.parts()) - 1}, or set data.views to 0"
            )
        scales, frozen = self.inputs(image)
        parts = [part.flatten(1) for part in (*scales, *frozen)]
        return torch.cat(parts, dim=1)[:, :, None, None]

    def _unpacked(self, row: Float[Tensor, "b d 1 1"]) -> Inputs:
        """The maps that `frozen_stage` put behind each other."""
        if not self._shapes:
            size = self.image.size
            with torch.no_grad():
                scales, frozen = self.inputs(torch.zeros(1, 3, size, size, device=row.device))
            self._shapes = [part.shape[1:] for part in (*scales, *frozen)]
        lengths = [shape.numel() for shape in self._shapes]
        parts = row.flatten(1).split(lengths, dim=1)
        maps = [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return Inputs(maps[: len(STRIDES)], tuple(maps[len(STRIDES) :]))

    def _guided(self, inputs: Inputs) -> Summary:
        guides = inputs.frozen[:3] if self.landmarks is not None else ()
        summary: Summary = self.guided(inputs.scales, guides)
        return summary

    def _grown(
        self, anchor: Float[Tensor, "b n w"], partner: Float[Tensor, "b n w"]
    ) -> tuple[Float[Tensor, "b n w"], Float[Tensor, "b n w"]]:
        """Both images' tokens plus what cross similarity makes of them."""
        groups = len(self.similarity)
        pairs = zip(anchor.chunk(groups, dim=1), partner.chunk(groups, dim=1), strict=True)
        grown = [block(*pair) for block, pair in zip(self.similarity, pairs, strict=True)]
        first, second = (torch.cat(side, dim=1) for side in zip(*grown, strict=True))
        return anchor + first, partner + second

    def _answers(
        self, summary: Summary, crossed: Float[Tensor, "b w"], frozen: tuple[Tensor, ...]
    ) -> tuple[Logits, Float[Tensor, "b d"] | None]:
        """All logits; and the image in the space of the sentences where there is a teacher."""
        visual = self.head(crossed)
        base = None if self.base_head is None else self.base_head(summary.vector)
        if self.semantic is None:
            return Logits(visual, None, base), None
        place, semantic = self.semantic(summary.vector, frozen[-1])
        return Logits(visual, semantic, base), place


def _check(image: ImageEncoder, options: LaCoVL.Options, teacher: ImageEncoder | None) -> None:
    if len(image.scale_widths) != len(STRIDES):
        raise UsageError(
            "lacovl needs an image encoder with maps at three scales: expected ir50, "
            "mobilefacenet, or face-mobilenet with last_stride 1"
        )
    if image.mirror:
        raise UsageError("lacovl does not predict from mirrored pictures: set encoder.mirror false")
    if teacher is None and options.predict == "sem":
        raise UsageError("predict sem needs a teacher: name one with --teacher.name")


def _both(anchor: Tensor, partner: Tensor | None) -> Tensor:
    """Anchors and then partners; each image is its own where there are no partners."""
    return torch.cat([anchor, anchor if partner is None else partner])


def _half(logits: Logits, place: int) -> Logits:
    """Those of the anchors (0) or of the partners (1)."""
    parts: list[Any] = [None if part is None else part.chunk(2)[place] for part in logits]
    return Logits(*parts)
