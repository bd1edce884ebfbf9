"""Licence and data terms of what a run makes."""

from pathlib import Path

import torch

from fervor.config import Data, Encoder, Landmarks, Run, Teacher, Text
from fervor.data.distillation import StoredLogits, write_logits
from fervor.training.licences import terms


def test_terms_name_data_and_starting_weights() -> None:
    packaged = terms(Run())
    assert "FER2013" in packaged["data_terms"]
    assert "VGGFace2" in packaged["data_terms"]
    assert "MIT" in packaged["licence"]
    random = terms(Run(encoder=Encoder(weights="random")))
    assert "VGGFace2" not in random["data_terms"]
    tuned = terms(Run(start="embedded"))  # what the model that it starts from carries
    assert "VGGFace2" in tuned["data_terms"]
    assert "MIT" in tuned["licence"]
    own = terms(Run(encoder=Encoder(name="resnet18", weights="mine.pt")))
    assert "mine.pt" in own["data_terms"]


def test_the_text_encoder_brings_its_terms() -> None:
    for name in ("minilm-vectors", "minilm", "vlm-vectors", "vlm"):
        found = terms(Run(method="ke", text=Text(name)))
        assert "text encoder minilm_vectors: Apache-2.0 (model)" in found["licence"], name
        assert "MS MARCO" in found["data_terms"]
        assert ("text encoder vlm/" in found["data_terms"]) == name.startswith("vlm")
    other = terms(Run(method="mpa", text=Text("openai/clip-vit-base-patch16")))["data_terms"]
    assert "text encoder openai/clip-vit-base-patch16: the terms of its source apply" in other
    assert "MS MARCO" not in other
    assert "text encoder" not in terms(Run(method="classifier"))["data_terms"]


def test_networks_beside_the_encoders_bring_their_terms() -> None:
    run = Run(
        method="lacovl",
        landmarks=Landmarks("mobilefacenet"),
        teacher=Teacher("clip", "openai/clip-vit-base-patch16"),
    )
    found = terms(run)["data_terms"]
    assert "landmark network landmarks: faces of FERPlus" in found
    assert "landmark network landmarks: Apache-2.0" in terms(run)["licence"]
    assert "teacher openai/clip-vit-base-patch16: the terms of its source apply" in found
    assert "landmark network" not in terms(Run())["data_terms"]


def test_terms_name_files_without_their_folders(tmp_path: Path) -> None:
    for name in ("image.pt", "text", "marks.pt", "teacher.pt"):
        (tmp_path / name).touch()
    found = terms(
        Run(
            method="lacovl",
            encoder=Encoder(name="resnet18", weights=str(tmp_path / "image.pt")),
            text=Text(str(tmp_path / "text")),
            landmarks=Landmarks("mobilefacenet", str(tmp_path / "marks.pt")),
            teacher=Teacher("clip", str(tmp_path / "teacher.pt")),
        )
    )["data_terms"]
    assert str(tmp_path) not in found
    for named in ("weights image.pt", "encoder text", "network marks.pt", "teacher teacher.pt"):
        assert f"{named}: the terms of" in found


def test_what_parts_share_is_said_once(tmp_path: Path) -> None:
    known = [
        {"name": name, "data_terms": terms(Run(start="embedded"))["data_terms"]} for name in "ab"
    ]
    file = tmp_path / "teachers.safetensors"
    write_logits(file, StoredLogits((), (), torch.zeros(0, 1, 0), (*known, {"name": "c"}, {})))
    found = terms(Run(start="embedded", data=Data(teachers=str(file))))["data_terms"]
    assert found.count("VGGFace2") == found.count("FER2013's pictures") == 1
    assert "targets from b: no further terms; " in found
    source = "the terms of its source apply"
    assert f"targets from c: {source}; targets from a teacher: {source}" in found


def test_a_text_encoder_that_the_starting_weights_name_is_said_once() -> None:
    alone = terms(Run(start="embedded"))
    found = terms(Run(method="ke", start="embedded", text=Text("minilm-vectors")))
    assert "text encoder minilm_vectors" in alone["data_terms"]
    for what in ("licence", "data_terms"):
        assert found[what].count("text encoder minilm_vectors") == 1
        assert found[what].count("MIT (package)") == alone[what].count("MIT (package)")
