"""Licence and data terms of what a run makes."""

from fervor.config import Encoder, Landmarks, Run, Teacher, Text
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
