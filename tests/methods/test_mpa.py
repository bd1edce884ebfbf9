"""MPA-FER: every equation against a slow loop, what learns and what does not, published sizes."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from fervor.artifacts.model_info import ModelInfo, TextInfo
from fervor.config import Encoder
from fervor.data.batch import Batch
from fervor.errors import ModelError, UsageError
from fervor.evaluation.evaluate import torch_logits
from fervor.graphs.onnx import export
from fervor.inference.predictor import Predictor
from fervor.labels import BASIC
from fervor.methods.build import (
    load_model,
    own_state,
    save_model,
    save_weights,
    tower_checksums,
    with_words,
)
from fervor.methods.mpa import MPA
from fervor.models.image import build_image_encoder
from fervor.models.image.base import TransformerEncoder
from fervor.models.text.encoders import StoredText, build_text_encoder
from fervor.prompts import templates
from tests.support import tiny
from tests.support.drawn import (
    DrawnSoftText,
    DrawnTransformer,
    TinyEncoder,
    batch,
    description,
    face,
)


LABELS = ("happiness", "neutral", "anger")
Rows = list[list[float]]


def build(
    labels: Sequence[str] = LABELS, *, text: Any = None, prepared: bool = True, **options: Any
) -> MPA:
    torch.manual_seed(0)
    settings = MPA.Options(**{"top_k": 5, "alignment_temperature": 0.5, **options})
    method = MPA(DrawnTransformer(), text or DrawnSoftText(), labels, settings)
    with torch.no_grad():  # prompts that are felt
        for parameter in (method.soft.context, method.visual):
            if parameter is not None:
                parameter.mul_(20)
    if prepared:
        method.prepare([batch(labels, 3, seed=9)])
    return method


@pytest.fixture(scope="module")
def faces() -> Batch:
    return batch(LABELS, 3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLIP folder whose every letter is a token, with places for long prompts."""
    torch.manual_seed(0)
    return tiny.save_clip(tmp_path_factory.mktemp("clip") / "clip", positions=256)


def clip_method(folder: str, **options: Any) -> MPA:
    torch.manual_seed(0)
    encoder = build_image_encoder(Encoder(name="clip", weights=folder, size=32))
    return MPA(encoder, build_text_encoder(folder), LABELS, MPA.Options(**options))


# The prompted towers


def same_as_the_library(folder: str, size: int) -> None:
    """Bit for bit, with no prompts, with no layers of them, and with layers of none."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    encoder = build_image_encoder(Encoder(name="clip", weights=folder, size=size)).eval()
    text: Any = build_text_encoder(folder)
    assert isinstance(encoder, TransformerEncoder)
    image = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    lines = ["a face", "a photo of a sad face.", "fear"]
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        lines, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        seen = encoder.normalised(image)
        expected = model.get_image_features(pixel_values=seen).pooler_output
        width, depth = encoder.token_width, len(encoder.layers)
        for none in ((), torch.zeros(0, 8, width), torch.zeros(depth, 0, width)):
            pooled = encoder.prompted(encoder.embed(image), none).pooled
            assert torch.equal(pooled, expected)
        vectors = text.encode_embeddings(*text.embed_words(lines))
        assert torch.equal(vectors, text.encode(lines))
        assert torch.equal(vectors, model.get_text_features(**words).pooler_output)
        some = encoder.prompted(encoder.embed(image), 0.02 * torch.randn(depth, 8, width)).pooled
        assert not torch.allclose(some, pooled, atol=1e-5)


def test_without_prompts_it_is_the_librarys_clip(clip: str) -> None:
    same_as_the_library(clip, 32)


@pytest.mark.slow
def test_without_prompts_it_is_the_librarys_vit_b16(tmp_path: Path) -> None:
    special = tiny.save_clip_tokenizer(tmp_path)
    config = transformers.CLIPConfig(vision_config={"patch_size": 16}, text_config=special)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    same_as_the_library(str(tmp_path), 224)


def by_hand(layer: nn.Module, states: Tensor) -> Tensor:
    """A layer of CLIP for one picture, query by query and head by head."""
    state = dict(layer.named_parameters())

    def linear(name: str, vector: Tensor) -> Tensor:
        return state[f"{name}.weight"] @ vector + state[f"{name}.bias"]

    def norm(name: str, vector: Tensor) -> Tensor:
        scaled = (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    inner = [norm("layer_norm1", row) for row in states]
    parts = {p: [linear(f"self_attn.{p}_proj", row).view(2, -1) for row in inner] for p in "qkv"}
    found = []
    for place, row in enumerate(states):
        heads = []
        for head in range(2):
            query = parts["q"][place][head]
            scores = [math.exp(float(query @ k[head]) / len(query) ** 0.5) for k in parts["k"]]
            mixed = sum(s * v[head] for s, v in zip(scores, parts["v"], strict=True))
            heads.append(mixed / sum(scores))
        row = row + linear("self_attn.out_proj", torch.cat(heads))
        hidden = linear("mlp.fc1", norm("layer_norm2", row))
        found.append(row + linear("mlp.fc2", hidden * torch.sigmoid(1.702 * hidden)))
    return torch.stack(found)


@pytest.mark.parametrize("depth", [1, 2])
def test_prompts_join_each_layer_and_are_dropped_behind_it(depth: int, clip: str) -> None:
    """Equation 5, with attention written out."""
    encoder = clip_method(clip).image
    image = batch(LABELS, 1, size=32).image[:1]
    own = torch.randn(depth, 3, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = encoder.embed(image)[0]
        length = len(states)
        for place, layer in enumerate(encoder.layers):
            joined = torch.cat([states, own[place]]) if place < depth else states
            states = by_hand(layer, joined)[:length]
        expected = encoder.finish(states[None])
        found = encoder.prompted(encoder.embed(image), own)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-4, atol=1e-4)
    assert found.tokens.shape == (1, 16, 12) and found.grid == (4, 4)


# The objective against slow loops


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return product / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def mean_token(text: DrawnSoftText, sentence: str) -> list[float]:
    """The mean embedding of a sentence's words, its start and end left out."""
    tokens = text.embed_words([sentence])[0][0, 1:-1].tolist()
    return [sum(column) / len(tokens) for column in zip(*tokens, strict=True)]


def soft_tokens(method: MPA, text: DrawnSoftText) -> Rows:
    """Mean of the context's and the class word's embeddings; "." is a word too."""
    found = []
    for number, label in enumerate(method.labels):
        context = method.soft.context.detach()
        own = context[number] if context.ndim == 3 else context
        word = text.embed_words([f"{label}."])[0][0, 1:-1]
        found.append(torch.cat([own, word]).mean(0).tolist())
    return found


def alignment_by_hand(soft: Rows, hard: Rows, options: MPA.Options, kind: str) -> float:
    """Equations 1 to 3, each reading of them."""
    classes = range(len(soft))
    if kind == "none":
        return 0.0
    if kind == "l1":
        gaps = [
            sum(abs(a - b) for a, b in zip(unit(s), unit(h), strict=True))
            for s, h in zip(soft, hard, strict=True)
        ]
        return sum(gaps) / len(gaps)

    def term(own: int, other: Sequence[tuple[int, int]]) -> float:
        scores = [
            math.exp(cosine(soft[s], hard[h]) / options.alignment_temperature) for s, h in other
        ]
        return -math.log(scores[own] / sum(scores))

    over_soft = sum(term(d, [(c, d) for c in classes]) for d in classes)
    over_hard = sum(term(d, [(d, c) for c in classes]) for d in classes)
    total = {"soft": over_soft, "hard": over_hard, "both": (over_soft + over_hard) / 2}
    count = len(soft) if options.alignment_reduction == "mean" else 1
    return total[options.alignment_softmax] / count


def matching_by_hand(method: MPA, faces: Batch) -> float:
    """Equations 8 to 11."""
    options, total = method.options, 0.0
    with torch.no_grad():
        vectors: Rows = method.soft.vectors(method.text).tolist()
        seen = method.image.prompted(
            method.image.embed(faces.image), () if method.visual is None else list(method.visual)
        )
    for pooled, tokens, label in zip(*(part.tolist() for part in (*seen[:2], faces.label))):  # noqa: B905
        scores = []
        for vector in vectors:
            best = sorted((cosine(token, vector) for token in tokens), reverse=True)
            local = sum(best[: options.top_k]) / options.top_k if options.top_k else 0.0
            scores.append(cosine(pooled, vector) + local)
        powers = [math.exp(score / options.temperature) for score in scores]
        total -= math.log(powers[label] / sum(powers))
    return total / len(faces.label)


def prototypes_by_hand(method: MPA, shown: Batch) -> Rows:
    """Equation 6: class means of what the tower gives without prompts."""
    with torch.no_grad():
        pooled = method.image(shown.image).pooled.tolist()
    found = []
    for number in range(len(method.labels)):
        members = [row for row, y in zip(pooled, shown.label.tolist(), strict=True) if y == number]
        found.append([sum(column) / len(members) for column in zip(*members, strict=True)])
    return found


def prototype_loss_by_hand(method: MPA, faces: Batch) -> float:
    """Equation 7."""
    means = prototypes_by_hand(method, batch(LABELS, 3, seed=9))
    with torch.no_grad():
        seen = method.image.prompted(
            method.image.embed(faces.image), () if method.visual is None else list(method.visual)
        ).pooled.tolist()
    total = 0.0
    for pooled, label in zip(seen, faces.label.tolist(), strict=True):
        if method.options.prototype_distance == "cosine":
            total += 1 - cosine(pooled, means[label])
        else:
            ends = zip(unit(pooled), unit(means[label]), strict=True)
            total += sum(abs(a - b) for a, b in ends)
    return total / len(faces.label)


VARIANTS: dict[str, dict[str, Any]] = {
    "reported": {},
    "over hard": {"alignment_softmax": "hard"},
    "over both": {"alignment_softmax": "both", "alignment_reduction": "mean"},
    "prompts by l1": {"prompt_alignment": "l1"},
    "tokens by l1": {"token_alignment": "l1", "prompt_alignment": "none"},
    "tokens off": {"token_alignment": "none"},
    "prototypes by l1": {"prototype_distance": "l1"},
    "class context": {"class_context": True},
    "types of hard prompts": {"hard_prompts": "class"},
    "one patch": {"top_k": 1, "temperature": 0.1},
    "all patches": {"top_k": 16},
    "weights": {"alignment_weight": 0.3, "prototype_weight": 2.5},
    "first layer": {"visual_depth": 1},
    "CoOp": {"visual_depth": 0, "alignment_weight": 0, "prototype_weight": 0, "top_k": 0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_objective_against_a_slow_loop(variant: str, faces: Batch) -> None:
    text = DrawnSoftText()
    options = {"temperature": 0.2, **VARIANTS[variant]}
    method = build(text=text, **options)
    found = {name: float(value.detach()) for name, value in method.losses(faces).items()}
    kind = method.options
    expected = {"matching": matching_by_hand(method, faces)}
    expected["loss"] = expected["matching"]
    if kind.alignment_weight:
        hard = templates.hard_prompts(kind.hard_prompts, LABELS)
        pairs = {
            "token_alignment": (soft_tokens(method, text), [mean_token(text, s) for s in hard]),
            "prompt_alignment": (
                method.soft.vectors(method.text).tolist(),
                text.encode(hard).tolist(),
            ),
        }
        parts = {
            name: alignment_by_hand(*pair, kind, getattr(kind, name))
            for name, pair in pairs.items()
            if getattr(kind, name) != "none"
        }
        expected |= {**parts, "alignment": sum(parts.values())}
        expected["loss"] += kind.alignment_weight * expected["alignment"]
    if kind.prototype_weight:
        expected["prototype"] = prototype_loss_by_hand(method, faces)
        expected["loss"] += kind.prototype_weight * expected["prototype"]
    assert found == {name: pytest.approx(value, rel=1e-4) for name, value in expected.items()}


def test_the_readings_of_the_alignment_differ(faces: Batch) -> None:
    found = [
        float(build(**VARIANTS[name]).losses(faces)["alignment"].detach())
        for name in ("reported", "over hard", "over both", "prompts by l1", "tokens off")
    ]
    assert all(abs(a - b) > 1e-3 for a, b in pairwise(sorted(found)))


def test_shares_are_targets(faces: Batch) -> None:
    method = build()
    with torch.no_grad():
        logits = torch.log_softmax(method(faces.image), dim=1)
        probabilities = 0.7 * faces.target + 0.1
        found = method.losses(faces._replace(target=probabilities))["matching"]
    torch.testing.assert_close(found, -(probabilities * logits).sum(1).mean())


def test_permuting_the_labels_permutes_the_logits(faces: Batch) -> None:
    order = [2, 0, 1]
    first, second = build(), build(tuple(LABELS[place] for place in order))
    torch.testing.assert_close(second(faces.image), first(faces.image)[:, order])


# What learns


def test_gradient_reaches_the_prompts_and_nothing_else(clip: str) -> None:
    method = clip_method(clip, top_k=4).train()
    faces = batch(LABELS, 2, size=32)
    method.prepare([faces])
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.losses(faces)["loss"].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    assert reached == {"soft.context", "visual"}
    assert method.visual is not None and method.visual.grad is not None
    assert (method.visual.grad.abs().amax((1, 2)) > 0).all()  # each layer's own
    assert method.soft.context.grad is not None
    assert (method.soft.context.grad.abs().amax(1) > 0).all()
    torch.optim.SGD(method.parameter_groups(0.1), 0.1, weight_decay=0.1).step()
    changed = {
        name
        for name, tensor in method.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"soft.context", "visual"}


@pytest.mark.parametrize(
    ("part", "reaches"),
    [
        ("matching", {"soft.context", "visual"}),
        ("alignment", {"soft.context"}),
        ("token_alignment", {"soft.context"}),
        ("prompt_alignment", {"soft.context"}),
        ("prototype", {"visual"}),
    ],
)
def test_each_part_of_the_objective_reaches_its_prompts(
    part: str, reaches: set[str], faces: Batch
) -> None:
    method = build()
    method.losses(faces)[part].backward()
    assert reaches == {
        name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()
    }


def test_towers_stay_in_eval_mode(clip: str) -> None:
    method = clip_method(clip).train()
    assert method.training
    for name in method.frozen():
        assert not any(module.training for module in method.get_submodule(name).modules())


ARCHITECTURES: dict[str, tuple[dict[str, Any], int, int]] = {
    "B/16": ({"patch_size": 16}, 512, 78_848),
    "L/14": (
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
        768,
        204_288,
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_sizes(name: str) -> None:
    vision, width, count = ARCHITECTURES[name]
    architecture = {
        "vision_config": vision,
        "text_config": {"num_hidden_layers": 1},
        "projection_dim": width,
    }
    with torch.device("meta"):
        encoder = build_image_encoder(
            Encoder(name="clip", weights="random", size=224), architecture=architecture
        )
    text: Any = DrawnSoftText(width, width)
    method = MPA(encoder, text, BASIC, MPA.Options())
    trained = [p for p in method.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == count


@pytest.mark.slow
def test_a_checkpoint_of_vit_b16_is_below_a_megabyte(tmp_path: Path) -> None:
    encoder = build_image_encoder(Encoder(name="clip", weights="random", size=224))
    text: Any = DrawnSoftText(512, 512)
    method = MPA(encoder, text, BASIC, MPA.Options(class_context=True))
    save_weights(tmp_path / "weights.safetensors", own_state(method))
    assert (tmp_path / "weights.safetensors").stat().st_size < 1_000_000


# Once before the first step


def test_prototypes_are_class_means_without_prompts() -> None:
    method = build(prepared=False)
    shown = batch(LABELS, 4, seed=2)
    chunks = [Batch(*(part[rows] for part in shown[:3])) for rows in torch.arange(12).split(5)]
    found = method.prepare(chunks)
    expected = prototypes_by_hand(method, shown)
    torch.testing.assert_close(found["prototypes"], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    again = build(prepared=False)
    assert again.prepare((), kept=found) == found  # no second pass
    assert torch.equal(again.prototypes, found["prototypes"])


def test_what_is_not_weighed_is_not_prepared() -> None:
    text = DrawnSoftText()
    method = build(text=text, prepared=False, alignment_weight=0, prototype_weight=0)
    before = text.calls
    assert method.images_to_prepare() is None
    assert method.prepare(()) == {}
    assert text.calls == before
    assert build(prototype_pictures=16, prepared=False).images_to_prepare() == 16


def test_the_text_tower_runs_once_for_hard_and_each_step_for_soft_prompts(faces: Batch) -> None:
    text = DrawnSoftText()
    method = build(text=text, prepared=False)
    start = text.calls
    method.prepare([faces])
    assert text.calls == start + 1
    for step in range(1, 4):
        method.losses(faces)
        assert text.calls == start + 1 + step
    with torch.no_grad(), method.constant_text():
        expected = [method(faces.image) for _ in range(3)]
    assert text.calls == start + 1 + 3 + 1
    with torch.no_grad():
        assert torch.equal(method(faces.image), expected[0])


def test_prediction_needs_neither_hard_prompts_nor_prototypes(faces: Batch) -> None:
    prepared, fresh = build(), build(prepared=False)
    assert torch.equal(prepared(faces.image), fresh(faces.image))
    assert own_state(fresh).keys() == {"soft.context", "visual"}
    with pytest.raises(AssertionError, match="prepare comes before"):
        fresh.losses(faces)


def test_the_sentences_are_recorded() -> None:
    assert list(build().sentences) == templates.hard_prompts("description", LABELS)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature is 0\.0, expected a number above 0"),
        ({"alignment_temperature": -1.0}, "alignment_temperature is -1"),
        ({"context_length": 0}, "context_length is 0, expected 1 or more"),
        ({"visual_depth": -2}, "visual_depth is -2, expected -1 or more"),
        ({"top_k": -1}, "top_k is -1, expected 0 or more"),
        ({"prototype_weight": -0.1}, "prototype_weight is"),
        ({"visual_depth": 3}, "visual_depth is 3, expected at most 2"),
        ({"context_length": 59}, "has 63 tokens|have 63 tokens"),
        ({"context_words": "a photo of", "context_length": 2}, "has 3 tokens, expected at most 2"),
    ],
)
def test_impossible_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        build(text=_Short(), **options)
    assert "\n" not in str(refused.value)


class _Short(DrawnSoftText):
    """Refuses what is longer than its positions, as a tower does."""

    def encode_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        if embeddings.shape[1] > self.longest:
            raise UsageError(f"prompts have {embeddings.shape[1]} tokens")
        return super().encode_embeddings(embeddings, mask)


def test_encoders_that_do_not_fit_are_one_line() -> None:
    options = MPA.Options()
    with pytest.raises(UsageError, match="TinyEncoder has none: choose encoder vlm or clip"):
        MPA(TinyEncoder(), DrawnSoftText(), LABELS, options)
    with pytest.raises(UsageError, match="StoredText has none: choose text vlm"):
        MPA(DrawnTransformer(384), StoredText(), LABELS, options)
    with pytest.raises(UsageError, match="gives 8 numbers, the text encoder 6"):
        MPA(DrawnTransformer(8), DrawnSoftText(), LABELS, options)


def test_a_context_longer_than_the_tokenizer_takes_is_one_line(tmp_path: Path) -> None:
    folder = tiny.save_clip(tmp_path / "clip")
    with pytest.raises(UsageError, match=r"prompts have \d+ tokens.*takes 77: shorten") as refused:
        clip_method(folder, context_length=70)
    assert "\n" not in str(refused.value)
    method = clip_method(folder)
    with pytest.raises(UsageError, match=r"a photo of .* has \d+ tokens.*takes 77") as refused:
        method.prepare([])
    assert "\n" not in str(refused.value)


def test_a_class_without_description_is_one_line(tmp_path: Path, faces: Batch) -> None:
    method = build(("happiness", "bored", "anger"), prepared=False)
    with pytest.raises(UsageError, match=r"no description of 'bored'.*fervor describe"):
        method.prepare([faces])
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"descriptions": {"happiness": "a smile", "anger": "a frown"}}))
    with pytest.raises(UsageError, match="no text for 'bored', only for happiness, anger"):
        build(("happiness", "bored", "anger"), prepared=False, descriptions=str(file)).prepare([])
    file.write_text(json.dumps({"descriptions": {name: f"{name} lips" for name in LABELS}}))
    own = build(descriptions=str(file))
    assert own.sentences[0].endswith("of happiness, with happiness lips")


# Model folders


def saved(folder: Path, clip: str, **options: Any) -> MPA:
    method = clip_method(clip, top_k=4, **options).eval()
    config = Encoder(name="clip", weights=clip, size=32)
    info = description("mpa", config, method, towers=tower_checksums(method))
    info = replace(info, text=TextInfo(clip, 12))
    save_model(folder, own_state(method), info, "# card")
    return method


@pytest.mark.parametrize("options", [{}, {"class_context": True}, {"visual_depth": 0}])
def test_a_folder_holds_the_prompts_alone_and_finds_the_towers(
    options: dict[str, Any], clip: str, tmp_path: Path
) -> None:
    method = saved(tmp_path / "run", clip, **options)
    stored = (tmp_path / "run" / "weights.safetensors").stat().st_size
    prompts_alone = sum(p.nbytes for p in method.parameters() if p.requires_grad)
    assert stored < prompts_alone + 500
    images = batch(LABELS, 2, size=32)
    loaded = load_model(tmp_path / "run")
    np.testing.assert_array_equal(torch_logits(loaded, [images]), torch_logits(method, [images]))
    assert not any(
        p.requires_grad
        for name in ("image", "text")
        for p in loaded.get_submodule(name).parameters()
    )


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_changed_or_missing_towers_are_one_line(tower: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tiny.save_clip(tmp_path / "clip", positions=256)
    saved(tmp_path / "run", folder)
    model = transformers.CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        next(model.get_submodule(tower).parameters()).add_(1e-3)
    model.save_pretrained(folder)
    name = "image" if tower == "vision_model" else "text"
    with pytest.raises(ModelError, match=f"the {name} tower .* has the checksum") as refused:
        load_model(tmp_path / "run")
    assert "\n" not in str(refused.value)
    (tmp_path / "clip").rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="clip"):
        load_model(tmp_path / "run")


def test_its_context_stands_in_front_of_other_words(
    clip: str, tmp_path: Path, faces: Batch
) -> None:
    """Learned prompts are kept; a class's logits depend on its own word alone."""
    image = faces.image[:, :, :32, :32]
    method = saved(tmp_path / "run", clip).eval()
    other = with_words(ModelInfo.read(tmp_path / "run"), ["surprise", LABELS[2], LABELS[0]])
    assert isinstance(other, MPA)
    assert torch.equal(other.soft.context, method.soft.context)
    with torch.no_grad():
        torch.testing.assert_close(other(image)[:, 1:], method(image)[:, [2, 0]])
    saved(tmp_path / "own", clip, class_context=True)
    with pytest.raises(UsageError, match="has a context for each of its classes, and none for"):
        with_words(ModelInfo.read(tmp_path / "own"), ["surprise", "fear"])


@pytest.mark.parametrize("half", [False, True])
def test_it_exports_with_its_text_frozen_and_predicts(
    half: bool, clip: str, tmp_path: Path
) -> None:
    import onnxruntime

    method = saved(tmp_path / "run", clip)
    graph = export(str(tmp_path / "run"), str(tmp_path / "out"), half=half)
    image = batch(LABELS, 2, size=32).image
    session = onnxruntime.InferenceSession(graph)
    logits, embedding, local = session.run(
        ["logits", "embedding", "local"], {"image": image.numpy()}
    )
    by_folder = load_model(tmp_path / "out")
    with torch.no_grad():
        np.testing.assert_allclose(logits, by_folder(image), atol=1e-3)
        if not half:
            np.testing.assert_allclose(logits, method(image), atol=1e-3)
    from safetensors.torch import load_file

    vectors = load_file(tmp_path / "out" / "class_vectors.safetensors")["class_vectors"].numpy()
    best = np.sort(local @ vectors.T, axis=1)[:, -4:].mean(1)  # patch scores explain the answer
    np.testing.assert_allclose((embedding @ vectors.T + best) / 0.01, logits, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(local, axis=2), 1, atol=1e-4)
    picture = np.repeat(face("happiness", 3)[:, :, None], 3, axis=2)
    found = Predictor(tmp_path / "out", faces="precropped")(picture)[0]
    assert found.label in LABELS
    (graph.parent / "weights.safetensors").unlink()  # and neither text nor torch weights
    assert Predictor(tmp_path / "out", faces="precropped")(picture)[0].label == found.label
