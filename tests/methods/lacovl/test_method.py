"""LaCoVL-FER as a whole: the printed loss, pairs, prediction, frozen networks, folders, sizes."""

import json
import math
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fervor.artifacts.model_info import ModelInfo
from fervor.cli.arguments import arguments_of
from fervor.cli.research.train import train as train_command
from fervor.config import Augment, Data, Encoder, Landmarks, Optim, Run, Teacher, Text
from fervor.data.batch import Batch
from fervor.data.splits import read_splits
from fervor.errors import ModelError, UsageError
from fervor.graphs.onnx import OUTPUTS, _Graph, _write_graph, export
from fervor.inference.predictor import Predictor
from fervor.methods.build import load_model, own_state, save_model, tower_checksums
from fervor.methods.lacovl.method import LaCoVL, Logits
from fervor.models.auxiliary import build_auxiliary
from fervor.models.image import ImageEncoder, build_image_encoder
from fervor.models.image.huggingface import TokenEncoder
from fervor.models.mobilefacenet import PACKAGED, LandmarkEncoder, MobileFaceNet
from fervor.prompts.templates import fill, template
from fervor.recipes import recipes
from fervor.training.optim import optimizer_of
from fervor.training.trainer import build_method, build_networks, train
from tests.support import tiny
from tests.support.drawn import (
    DrawnScales,
    DrawnText,
    TinyEncoder,
    batch,
    description,
    face,
    write_folder,
)


LABELS = ("neutral", "happiness", "anger")
SMALL: dict[str, Any] = {
    **{"resolution": 48, "width": 24, "heads": 3, "layer_scale": 0.5},
    **{"cross_dropout": 0.0, "drop_path": 0.0, "temperature": 0.2},
}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Landmarks, Teacher]:
    """A landmark network's file and a CLIP's folder."""
    root = tmp_path_factory.mktemp("companions")
    torch.manual_seed(0)
    torch.save({"state_dict": MobileFaceNet().state_dict()}, root / "landmarks.pth.tar")
    landmarks = Landmarks("mobilefacenet", str(root / "landmarks.pth.tar"))
    return landmarks, Teacher("clip", tiny.save_clip(root / "clip"), 32)


@pytest.fixture(scope="module")
def auxiliary(named: tuple[Landmarks, Teacher]) -> dict[str, Any]:
    return build_auxiliary("lacovl", LaCoVL.auxiliary, *named)


def build(
    auxiliary: dict[str, Any], *, image: ImageEncoder | None = None, **options: Any
) -> LaCoVL:
    """A small method whose new layers are far from their first values."""
    torch.manual_seed(0)
    settings = LaCoVL.Options(**{**SMALL, **options})
    method = LaCoVL(image or DrawnScales(), DrawnText(12), LABELS, settings, **auxiliary)
    with torch.no_grad():
        method.head.weight.mul_(4)
        for block in method.similarity:
            block.get_submodule("key_value").weight.mul_(8)  # type: ignore[operator, union-attr]
        if method.semantic is not None:
            nn.init.normal_(method.semantic.text_bias.second.weight)
    return method.eval()


def pairs(count: int = 1) -> Batch:
    """Faces, each with another of its class, targets that are shares."""
    faces = batch(LABELS, count)
    target = 0.7 * faces.target + 0.1
    return faces._replace(target=target, positive=batch(LABELS, count, seed=5).image)


# The objective


def cross_entropy(logits: Tensor, probabilities: Tensor) -> float:
    total = sum(math.exp(float(value)) for value in logits)
    return -sum(
        float(fraction) * (float(value) - math.log(total))
        for value, fraction in zip(logits, probabilities, strict=True)
    )


def slow_logits(method: LaCoVL, own: Tensor, other: Tensor, *, own_first: bool) -> Logits:
    """One picture beside its partner, the parts one after the other as the figure draws them."""
    assert method.landmarks is not None and method.teacher is not None
    head = method.semantic
    assert head is not None
    summaries = []
    for picture in (own, other):
        maps = method.image.scales(picture[None])
        summaries.append(method.guided(maps, method.landmarks(picture[None])))
    grown = []
    for group, block in enumerate(method.similarity):
        part = slice(9 * group, 9 * group + 9)
        tokens = [summary.tokens[:, part] for summary in summaries]
        pair = tokens if own_first else tokens[::-1]
        grown.append(block(*pair)[0 if own_first else 1])
    crossed = method.cross(summaries[0].tokens + torch.cat(grown, dim=1))
    visual = method.head(crossed.vector)[0]
    seen = F.interpolate(own[None], (32, 32), mode="bilinear", align_corners=False)
    taught = method.teacher(seen)
    tokens = torch.cat([taught.pooled[:, None], taught.tokens], 1)
    assert tokens.shape == (1, 17, 16)  # class token and 4 x 4 patches
    enhanced = head.teacher_attention(summaries[0].vector, tokens)
    vector = F.normalize(head.to_joint(enhanced), dim=-1)[0]
    bias = head.text_bias(enhanced, head.texts)[0, 0]
    semantic = []
    for text in head.texts:
        moved = text + method.options.alpha * bias
        semantic.append(vector @ moved / moved.norm() / method.options.temperature)
    return Logits(visual, torch.stack(semantic), None)


@pytest.mark.parametrize("weight", [1.0, 0.5])
@torch.no_grad()
def test_the_loss_is_the_printed_one(weight: float, auxiliary: dict[str, Any]) -> None:
    """L = 1/4 sum over a and p of CE(y_vis) + lambda CE(y_sem)."""
    method, faces = build(auxiliary, semantic_weight=weight, alpha=0.7), pairs()
    assert faces.positive is not None
    visual = semantic = 0.0
    for number in range(len(faces.label)):
        anchor, partner = faces.image[number], faces.positive[number]
        one = slow_logits(method, anchor, partner, own_first=True)
        two = slow_logits(method, partner, anchor, own_first=False)
        assert one.semantic is not None and two.semantic is not None
        own, other = faces.target[number], torch.eye(3)[faces.label[number]]
        visual += cross_entropy(one.visual, own) + cross_entropy(two.visual, other)
        semantic += cross_entropy(one.semantic, own) + cross_entropy(two.semantic, other)
    count = len(faces.label)
    losses = method.losses(faces)
    assert losses.keys() == {"loss", "visual", "semantic"}
    assert float(losses["visual"]) == pytest.approx(visual / count / 4, rel=1e-4)
    assert float(losses["semantic"]) == pytest.approx(semantic / count / 4, rel=1e-4)
    total = (visual + weight * semantic) / count / 4
    assert float(losses["loss"]) == pytest.approx(total, rel=1e-4)


@torch.no_grad()
def test_equal_logits_cost_the_logarithm_of_the_classes(auxiliary: dict[str, Any]) -> None:
    method = build(auxiliary)
    assert method.semantic is not None
    for layer in (method.head, method.semantic.to_joint):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert float(method.losses(pairs())["loss"]) == pytest.approx(math.log(3), rel=1e-5)


@torch.no_grad()
def test_the_base_head_adds_its_own_terms(auxiliary: dict[str, Any]) -> None:
    method, faces = build(auxiliary, base_head=True), pairs()
    losses = method.losses(faces)
    assert losses.keys() == {"loss", "visual", "semantic", "base"}
    parts = losses["visual"] + losses["semantic"] + losses["base"]
    torch.testing.assert_close(losses["loss"], parts)
    assert faces.positive is not None and method.base_head is not None
    images = torch.cat([faces.image, faces.positive])
    logits = method.base_head(method._guided(method.inputs(images)).vector)
    targets = torch.cat([faces.target, torch.eye(3)[faces.label]])
    expected = sum(map(cross_entropy, logits, targets)) / len(faces.label) / 4
    assert float(losses["base"]) == pytest.approx(expected, rel=1e-4)


# Pairs


@pytest.mark.parametrize("alone", [False, True])
@torch.no_grad()
def test_swapping_anchor_and_partner_swaps_the_outputs(
    alone: bool, auxiliary: dict[str, Any]
) -> None:
    method, faces = build({} if alone else auxiliary, base_head=True), pairs()
    assert faces.positive is not None
    there = torch.cat([faces.image, faces.positive])
    back = torch.cat([faces.positive, faces.image])
    anchors, partners = method.pair_logits(method.inputs(there))
    others, selves = method.pair_logits(method.inputs(back))
    for name in Logits._fields:
        first, second = getattr(anchors, name), getattr(partners, name)
        if first is None:
            assert alone and name == "semantic" and second is None
            continue
        torch.testing.assert_close(first, getattr(selves, name), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(second, getattr(others, name), rtol=1e-4, atol=1e-4)
        assert (first - second).abs().max() > 1e-3


@torch.no_grad()
def test_the_partner_changes_the_visual_answer_alone(auxiliary: dict[str, Any]) -> None:
    method, faces = build(auxiliary, base_head=True), pairs()
    assert faces.positive is not None
    images = torch.cat([faces.image, faces.positive])
    itself = torch.cat([faces.image, faces.image])
    paired, _ = method.pair_logits(method.inputs(images))
    own, again = method.pair_logits(method.inputs(itself))
    assert (paired.visual - own.visual).abs().max() > 1e-3
    assert paired.semantic is not None and own.semantic is not None
    torch.testing.assert_close(paired.semantic, own.semantic)
    torch.testing.assert_close(paired.base, own.base)
    torch.testing.assert_close(own.visual, again.visual, rtol=1e-4, atol=1e-5)


def test_a_class_of_one_picture_is_its_own_partner(auxiliary: dict[str, Any]) -> None:
    """Without partners in the batch the anchor's target is the partner's too; all stays finite."""
    method, faces = build(auxiliary).train(), pairs()
    alone = method.losses(faces._replace(positive=None))
    own = method.losses(faces._replace(positive=faces.image, target=torch.eye(3)[faces.label]))
    same = method.losses(faces._replace(positive=None, target=torch.eye(3)[faces.label]))
    torch.testing.assert_close(own["loss"], same["loss"])
    alone["loss"].backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


# Prediction


@torch.no_grad()
def test_a_picture_is_predicted_as_its_own_partner(auxiliary: dict[str, Any]) -> None:
    faces = batch(LABELS, 2)
    methods = {name: build(auxiliary, predict=name) for name in ("sum", "vis", "sem")}
    twice = torch.cat([faces.image, faces.image])
    logits, _ = methods["sum"].pair_logits(methods["sum"].inputs(twice))
    assert logits.semantic is not None
    expected = (logits.visual.softmax(1) + logits.semantic.softmax(1)) / 2
    found = methods["sum"](faces.image)
    torch.testing.assert_close(found.exp(), expected)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(6))
    torch.testing.assert_close(methods["vis"](faces.image), logits.visual, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(methods["sem"](faces.image), logits.semantic, rtol=1e-4, atol=1e-4)
    assert torch.equal(methods["sum"].train()(faces.image), found)  # nothing is drawn here


@torch.no_grad()
def test_without_a_teacher_the_visual_head_answers() -> None:
    method, faces = build({}), batch(LABELS, 2)
    assert method.frozen() == ()
    features = method.features(faces.image)
    expected = features.pooled @ method.class_vectors().T + method.head.bias
    torch.testing.assert_close(method(faces.image), expected, rtol=1e-4, atol=1e-5)
    assert method.losses(faces).keys() == {"loss", "visual"}
    assert features.tokens.shape == (6, 9, 24)


@torch.no_grad()
def test_features_are_in_the_space_of_the_sentences(auxiliary: dict[str, Any]) -> None:
    method, faces = build(auxiliary, alpha=0.0, predict="sem"), batch(LABELS, 2)
    features = method.features(faces.image)
    assert features.grid == (3, 3)
    assert features.tokens.shape == (6, 9, 12)
    cosines = F.normalize(features.pooled, dim=1) @ method.class_vectors().T
    torch.testing.assert_close(cosines / 0.2, method(faces.image), rtol=1e-4, atol=1e-4)
    text = DrawnText(12)
    expected = torch.stack([text.vector(fill(template(9), label)) for label in LABELS])
    torch.testing.assert_close(method.class_vectors(), F.normalize(expected, dim=1))
    assert method.sentences[2] == "A photo of a person making an anger facial expression."


@torch.no_grad()
def test_pictures_are_shrunk_to_every_second_pixel(auxiliary: dict[str, Any]) -> None:
    method = build(auxiliary)
    image = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(
        method._guided(method.inputs(image)).tokens,
        method.guided(
            method.image.scales(image[:, :, ::2, ::2]),
            auxiliary["landmarks"](image[:, :, ::2, ::2]),
        ).tokens,
    )


# Frozen networks


def test_what_is_frozen_neither_learns_nor_moves(auxiliary: dict[str, Any]) -> None:
    method, faces = build(auxiliary).train(), pairs()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    assert method.frozen() == ("landmarks", "teacher")
    method.losses(faces)["loss"].backward()
    torch.optim.SGD(method.parameter_groups(0.1), 0.1).step()
    for name, parameter in method.named_parameters():
        if name.startswith(("landmarks.", "teacher.")):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    moved = {
        key for key, value in method.state_dict().items() if not torch.equal(value, before[key])
    }
    assert not [
        key for key in moved if key.startswith(("landmarks.", "teacher.", "semantic.texts"))
    ]
    assert {"head.weight", "blocks.0.weight"} <= {key.removeprefix("image.") for key in moved}
    modes = [
        module.training
        for name in method.frozen()
        for module in method.get_submodule(name).modules()
    ]
    assert not any(modes)


def test_frozen_features_of_a_batch_serve_both_passes(
    auxiliary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, faces = build(auxiliary), pairs()
    calls: list[str] = []
    for name in method.frozen():
        plain = method.get_submodule(name).forward

        def counted(image: Tensor, name: str = name, plain: Any = plain) -> Any:
            calls.append(name)
            return plain(image)

        monkeypatch.setattr(method.get_submodule(name), "forward", counted)
    expected = method.losses(faces)["loss"]
    assert calls == ["landmarks", "teacher"]
    prepared = method.with_frozen(faces)
    assert len(calls) == 4
    for _ in range(2):
        torch.testing.assert_close(method.losses(prepared)["loss"], expected)
    assert len(calls) == 4
    assert [tuple(part.shape) for part in prepared.frozen] == [
        *((6, 64, 12, 12), (6, 128, 6, 6), (6, 512, 3, 3), (6, 17, 16)),
    ]


def test_new_layers_learn_faster(auxiliary: dict[str, Any]) -> None:
    method = build(auxiliary, learn_temperature=True, new_layers=7.0)
    groups = {
        group["lr"]: {id(p) for p in group["params"]} for group in method.parameter_groups(0.5)
    }
    own = {id(p) for p in method.image.parameters()}
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    assert groups == {0.5: own, 3.5: trained - own}
    assert method.semantic is not None
    assert id(method.semantic.log_scale) in groups[3.5]
    method.image.requires_grad_(False)
    assert [group["lr"] for group in method.parameter_groups(0.5)] == [3.5]


def test_the_scale_starts_from_the_temperature(auxiliary: dict[str, Any]) -> None:
    head = build(auxiliary).semantic
    assert head is not None
    assert float(head.log_scale.exp()) == pytest.approx(5)
    assert "log_scale" not in dict(head.named_parameters())


# Options


VARIANTS: list[dict[str, Any]] = [
    {"normalise": True},
    *({"branches": "bidirectional"}, {"branches": "dense_only"}, {"gate": "head"}),
    *({"gate": "token", "sparsity": "topk"}, {"merge": "sum"}, {"bias": "per_class"}),
    *({"extremes": "batch"}, {"residual": "normed", "project_query": False}),
    *({"base_head": True, "learn_temperature": True}, {"renormalise": False}),
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("alone", [False, True])
def test_every_option_learns(
    options: dict[str, Any], alone: bool, auxiliary: dict[str, Any]
) -> None:
    method = build({} if alone else auxiliary, **options).train()
    faces = pairs()
    before = method.losses(faces)["loss"]
    before.backward()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    length = torch.stack([p.grad.norm() for p in trained if p.grad is not None]).norm()
    learning_rate = 1e-3 * float(before.detach()) / float(length) ** 2
    torch.optim.SGD(trained, learning_rate).step()
    with torch.no_grad():
        assert method.losses(faces)["loss"] < before


@torch.no_grad()
def test_alpha_nothing_is_the_fixed_prompts(auxiliary: dict[str, Any]) -> None:
    faces = batch(LABELS, 1).image
    answers = {
        (alpha, renormalise): build(auxiliary, predict="sem", alpha=alpha, renormalise=renormalise)(
            faces
        ).softmax(1)
        for alpha in (0.0, 0.5)
        for renormalise in (True, False)
    }
    plain = answers[0.0, True]
    torch.testing.assert_close(answers[0.5, False], plain, rtol=1e-3, atol=1e-4)  # a no-op
    assert (answers[0.5, True] - plain).abs().max() > 0.01


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "resolution": ({"resolution": 100}, "resolution is 100, expected a multiple of 16 from 32"),
    "small": ({"resolution": 16}, "resolution is 16, expected a multiple"),
    "heads": ({"width": 20}, "width 20 is no multiple of 3 heads"),
    "keep": ({"keep": 0.0}, "keep is 0.0, expected a share"),
    "drop": ({"drop_path": 1.0}, "drop_path is 1.0, cross_dropout 0.0: expected shares"),
    "temperature": ({"temperature": 0.0}, "temperature is 0.0, new_layers 10.0: expected numbers"),
    "teacher": ({"predict": "sem"}, r"predict sem needs a teacher: name one with --teacher\.name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_one_line(case: str) -> None:
    options, message = WRONG[case]
    with pytest.raises(UsageError, match=message) as caught:
        build({}, **options)
    assert "\n" not in str(caught.value)


def test_encoders_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UsageError, match="three scales: expected ir50, mobilefacenet, or face-mob"):
        build({}, image=TinyEncoder())
    with pytest.raises(UsageError, match="three scales"):
        build({}, image=build_image_encoder(Encoder(last_stride=2)))
    with pytest.raises(UsageError, match="three scales"):
        build({}, image=build_image_encoder(Encoder("face-resnet")))
    with pytest.raises(UsageError, match=r"set encoder\.mirror false"):
        build({}, image=build_image_encoder(Encoder(mirror=True)))
    with pytest.raises(
        UsageError, match=r"freeze them all with --encoder\.frozen_blocks \d+, or set"
    ):
        build({}).frozen_stage(torch.zeros(2, 3, 48, 48))


# Maps in place of pictures


@pytest.mark.parametrize("beside", [True, False])
def test_maps_of_frozen_networks_stand_for_pictures(
    beside: bool, auxiliary: dict[str, Any]
) -> None:
    """Losses, answers and activity are the same, and no picture is looked at."""
    faces = pairs(2)
    method = build(auxiliary if beside else {})
    method.image.requires_grad_(False)
    assert faces.positive is not None
    with torch.no_grad():
        rows, partners = (method.frozen_stage(part) for part in (faces.image, faces.positive))
        assert rows.shape[2:] == (1, 1)
        cached = Batch(None, faces.label, faces.target, maps=rows, positive_maps=partners)
        expected, found = method.losses(faces), method.losses(cached)
        torch.testing.assert_close(found, expected)
        answered = method.logits(method.batch_features(cached))
        torch.testing.assert_close(answered, method(faces.image))
        assert method.activity(cached) == pytest.approx(method.activity(faces), rel=1e-4)


# Model folders


def saved(folder: Path, method: LaCoVL, config: Encoder, named: tuple[Landmarks, Teacher]) -> None:
    beside = {"landmarks": asdict(named[0]), "teacher": asdict(named[1])}
    info = description("lacovl", config, method, towers=tower_checksums(method), companions=beside)
    save_model(folder, own_state(method), info, "# card")


CONFIG = Encoder(size=48)


@pytest.fixture(scope="module")
def trained(auxiliary: dict[str, Any]) -> LaCoVL:
    """Small, on the face-pretrained MobileNet, its BatchNorm statistics in use."""
    method = build(auxiliary, image=build_image_encoder(CONFIG), temperature=0.2)
    with torch.no_grad():
        method.train().losses(pairs(2))
    return method.eval()


@torch.no_grad()
def test_a_folder_names_what_is_frozen(
    trained: LaCoVL, named: tuple[Landmarks, Teacher], tmp_path: Path
) -> None:
    saved(tmp_path, trained, CONFIG, named)
    stored = load_file(tmp_path / "weights.safetensors")
    assert not [key for key in stored if key.startswith(("landmarks.", "teacher."))]
    assert json.loads((tmp_path / "model.json").read_text())["towers"].keys() == {
        "landmarks",
        "teacher",
    }
    faces = batch(LABELS, 2).image
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded(faces), trained(faces), rtol=1e-4, atol=1e-5)
    assert loaded.frozen() == ("landmarks", "teacher")
    assert not any(p.requires_grad for p in loaded.get_submodule("teacher").parameters())


@pytest.mark.parametrize("network", ["landmarks", "teacher"])
def test_changed_or_missing_frozen_weights_are_one_line(network: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "landmarks.pt"
    state = MobileFaceNet().state_dict()
    torch.save(state, path)
    clip = tiny.save_clip(tmp_path / "clip")
    named = Landmarks("mobilefacenet", str(path)), Teacher("clip", clip, 32)
    beside = build_auxiliary("lacovl", LaCoVL.auxiliary, *named)
    saved(tmp_path / "run", build(beside, image=build_image_encoder(CONFIG)), CONFIG, named)
    load_model(tmp_path / "run")
    if network == "landmarks":
        torch.save({**state, "conv1.conv.weight": state["conv1.conv.weight"] + 1e-3}, path)
    else:
        model = transformers.CLIPModel.from_pretrained(clip)
        with torch.no_grad():
            next(model.vision_model.parameters()).add_(1e-3)
        model.save_pretrained(clip)
    with pytest.raises(ModelError, match=f"the {network} tower .* has the checksum") as caught:
        load_model(tmp_path / "run")
    assert "\n" not in str(caught.value)
    (path if network == "landmarks" else Path(clip)).rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"landmarks\.pt not found|clip is no folder") as caught:
        load_model(tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_it_exports_and_predicts(
    half: bool, trained: LaCoVL, named: tuple[Landmarks, Teacher], tmp_path: Path
) -> None:
    saved(tmp_path / "run", trained, CONFIG, named)
    graph = export(str(tmp_path / "run"), str(tmp_path / "out"), half=half)
    session = onnxruntime.InferenceSession(graph)
    by_folder = load_model(graph.parent)
    for count in (1, 2):
        image = batch(LABELS, count).image
        logits, embedding, local = session.run(
            ["logits", "embedding", "local"], {"image": image.numpy()}
        )
        with torch.no_grad():
            np.testing.assert_allclose(logits, by_folder(image), atol=1e-4)
            if not half:
                np.testing.assert_allclose(logits, trained(image), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
        assert local.shape == (3 * count, 9, 12)
        np.testing.assert_allclose(np.exp(logits).sum(1), 1, atol=1e-4)
    picture = np.repeat(face("happiness", 3)[:, :, None], 3, axis=2)
    found = Predictor(graph.parent, faces="precropped")(picture)[0]
    assert found.label in LABELS


def check_graph(method: LaCoVL, path: Path) -> None:
    """The graph answers as torch does, one picture and several."""
    graph = _Graph(method).eval()
    _write_graph(graph, 48, path, outputs=OUTPUTS, half=False)
    session = onnxruntime.InferenceSession(path)
    for count in (1, 3):
        image = batch(LABELS[:count], 1).image
        with torch.no_grad():
            expected = graph(image)
        for found, wanted in zip(
            session.run(None, {"image": image.numpy()}), expected, strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_graph_of_a_single_picture_equals_torch(tmp_path: Path) -> None:
    check_graph(build({}), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_option_exports(
    options: dict[str, Any], auxiliary: dict[str, Any], tmp_path: Path
) -> None:
    """Without face networks, whose export takes a minute and knows no option."""
    method = build({"teacher": auxiliary["teacher"]}, **options)
    check_graph(method, tmp_path / "model.onnx")


# Runs


RECIPES = [name for name in recipes() if name.startswith("lacovl/")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_with_tiny_encoders(
    recipe: str, named: tuple[Landmarks, Teacher], root: Path
) -> None:
    given = arguments_of("train", train_command, ["--config", recipe])["run"]
    assert given.method == "lacovl"
    assert given.selection == "honest"  # nothing else is published, as its page says
    evidence = given.profile == "evidence"
    without = {
        name: network.name == "none"
        for name, network in (("landmarks", given.landmarks), ("teacher", given.teacher))
    }
    assert evidence or not any(without.values())
    assert (given.teacher.name, given.text.name) in (
        *(("clip", "openai/clip-vit-base-patch16"), ("vlm", "vlm")),
        *((name, "vlm-vectors") for name in ("vlm", "none") if evidence),
    )
    run = replace(
        given,
        data=Data(name="folder", root=str(root)),
        text=Text(named[1].weights),
        landmarks=given.landmarks if without["landmarks"] else named[0],
        teacher=given.teacher if without["teacher"] else named[1],
    )
    splits = read_splits(run.pipeline)
    method = build_method(run, build_networks(run), splits)
    assert isinstance(method, LaCoVL)
    places = (method.options.resolution // 16) ** 2
    assert method.guided.transformer.positions.shape[1] == 3 * places + 1
    assert evidence or places == 49
    assert method.frozen() == tuple(name for name, left_out in without.items() if not left_out)
    optimizer = optimizer_of(method.parameter_groups(run.optim.learning_rate), run.optim)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[-1] / rates[0] == pytest.approx(method.options.new_layers)
    if evidence:
        assert run.optim.sam == 0
    else:
        assert type(optimizer).__name__ == "SAM"
        assert optimizer.param_groups[0]["rho"] == 0.05


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces; of one class the training split has a single picture."""
    folder = tmp_path_factory.mktemp("faces")
    write_folder(folder / "train", LABELS, 3)
    write_folder(folder / "train", ["surprise"], 1)
    write_folder(folder / "valid", [*LABELS, "surprise"], 2, seed=1)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode")
def test_a_run_with_sam_goes_on_after_an_interruption(
    named: tuple[Landmarks, Teacher],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(
        method="lacovl",
        data=Data(name="folder", root=str(root), cache=str(tmp_path / "cache")),
        augment=Augment(rotation=10),
        encoder=Encoder(size=48, grey=True, frozen_blocks=6),
        text=Text(named[1].weights),
        landmarks=named[0],
        teacher=named[1],
        optim=Optim(
            epochs=2,
            batch_size=4,
            name="adam",
            learning_rate=1e-3,
            sam=0.05,
            schedule="exponential",
            warmup_epochs=0,
            average=0.5,
        ),
        options={**SMALL, "cross_dropout": 0.2, "drop_path": 0.2},
        output=str(tmp_path / "whole"),
    )
    whole = ModelInfo.read(train(run))
    method = load_model(whole.folder)
    stored = load_file(whole.folder / "weights.safetensors")
    assert not [key for key in stored if key.startswith(("landmarks.", "teacher."))]
    assert whole.companions.teacher is not None
    assert whole.companions.teacher.weights == named[1].weights
    assert whole.prompts == tuple(method.sentences)
    assert whole.grid == (3, 3)

    plain, calls = LaCoVL.losses, []

    def losses(self: LaCoVL, batch: Batch) -> dict[str, Tensor]:
        calls.append(len(batch.frozen))
        if len(calls) == 7:  # two steps of two passes an epoch, and a step and a half
            raise KeyboardInterrupt
        return plain(self, batch)

    broken = replace(run, output=str(tmp_path / "broken"))
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(LaCoVL, "losses", losses)
        try:
            with pytest.raises(KeyboardInterrupt):
                train(broken)
        finally:
            signal.signal(signal.SIGINT, handler)
    assert set(calls) == {4}
    last = torch.load(tmp_path / "broken" / "last.ckpt", weights_only=False)["state_dict"]
    own = [key.removeprefix("average.module.").removeprefix("method.") for key in last]
    assert "head.weight" in own
    assert not [key for key in own if key.startswith(("landmarks.", "teacher."))]
    resumed = load_file(train(broken, resume=True) / "weights.safetensors")
    for key, tensor in stored.items():
        torch.testing.assert_close(resumed[key], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED.is_file(), reason="no landmark network is packaged")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode")
def test_the_complete_evidence_row_runs_on_packaged_networks_to_the_answer(
    root: Path, tmp_path: Path
) -> None:
    recipe = ["--config", "lacovl/ferplus-embedded-evidence"]
    given = arguments_of("train", train_command, recipe)["run"]
    run = replace(
        given,
        data=Data(name="folder", root=str(root), cache=""),
        optim=replace(given.optim, batch_size=4),
        output=str(tmp_path / "run"),
    )
    folder = train(run)
    info = ModelInfo.read(folder)
    assert set(info.towers) == {"landmarks", "teacher"}
    assert "landmark network landmarks: Apache-2.0" in info.licence
    path = export(str(folder), str(tmp_path / "exported"))  # compares graph and torch to 1e-4
    (found,) = Predictor(path.parent, faces="precropped", threads=1)(face("anger"))
    assert sum(found.probabilities.values()) == pytest.approx(1)


# The published size, and the embedded one


def clip_tower(size: int) -> ImageEncoder:
    """CLIP ViT-B/16's image tower with random weights, as a teacher's tokens leave it."""
    encoder = build_image_encoder(Encoder("clip", "random", size))
    assert isinstance(encoder, TokenEncoder)
    encoder.projection, encoder.width = nn.Identity(), encoder.token_width
    return encoder


@pytest.mark.slow
def test_the_published_size_takes_a_step() -> None:
    """IR-50, MobileFaceNet and CLIP ViT-B/16 with random weights, 224 pixels."""
    torch.manual_seed(0)
    labels = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    landmarks, teacher = LandmarkEncoder(MobileFaceNet()), clip_tower(224)
    method = LaCoVL(
        build_image_encoder(Encoder("ir50", size=224)),
        DrawnText(512),
        labels,
        LaCoVL.Options(),
        landmarks=landmarks,
        teacher=teacher,
    ).train()
    faces = Batch(
        torch.rand(2, 3, 224, 224),
        torch.tensor([0, 6]),
        torch.eye(7)[[0, 6]],
        torch.rand(2, 3, 224, 224),
    )
    prepared = method.with_frozen(faces)
    assert [tuple(part.shape[1:]) for part in prepared.frozen] == [
        *((64, 28, 28), (128, 14, 14), (512, 7, 7), (197, 768)),
    ]
    optimizer = torch.optim.Adam(method.parameter_groups(1e-5), 1e-5)
    before = method.losses(prepared)
    before["loss"].backward()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    optimizer.step()
    assert method.losses(prepared)["loss"].isfinite()
    with torch.no_grad():
        features = method.eval().features(faces.image)
    assert features.pooled.shape == (2, 512)
    assert features.tokens.shape == (2, 49, 512)

    def count(part: nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    similarity = 3 * (4 * 768 + 768 * 1536 + 1536 + 8 * 768**2 + 5 * 768)
    layer = 4 * (768**2 + 768) + 8 * 768**2 + 5 * 768 + 4 * 768
    cross = 768 + 148 * 768 + layer + 2 * 768 + 2 * (768**2 + 768)
    taught = 5 * (768**2 + 768) + 6 * 768 + 8 * 768**2 + 5 * 768
    semantic = taught + 768 * 512 + 512 + 768 * 48 + 48 + 48 * 512 + 512
    new = count(method.guided) + similarity + cross + 768 * 7 + 7 + semantic
    assert sum(p.numel() for p in trained) == count(method.image) + new
    assert count(method) == sum(map(count, (method.image, landmarks, teacher))) + new


def test_the_embedded_size_takes_a_step(auxiliary: dict[str, Any]) -> None:
    """112 pixels, width 256, two layers, 147 tokens, on the face-pretrained MobileNet."""
    torch.manual_seed(0)
    image = build_image_encoder(Encoder(size=112, frozen_blocks=2, grey=True))
    options = LaCoVL.Options(width=256)
    method = LaCoVL(image, DrawnText(12), LABELS, options, **auxiliary).train()
    assert method.guided.transformer.positions.shape == (1, 148, 256)
    assert len(method.guided.transformer.layers) == 2
    faces = batch(LABELS, 1, size=112)
    faces = faces._replace(positive=batch(LABELS, 1, size=112, seed=3).image)
    method.losses(faces)["loss"].backward()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    with torch.no_grad():
        assert method.eval().features(faces.image).grid == (7, 7)
