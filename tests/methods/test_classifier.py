"""The baseline: a linear layer, on an encoder that trains or is probed."""

from pathlib import Path

import torch

from fervor.config import Encoder
from fervor.methods.build import load_model, own_state, save_model, tower_checksums
from fervor.methods.classifier import Classifier
from fervor.models.image import build_image_encoder
from tests.support import tiny
from tests.support.drawn import DrawnText, TinyEncoder, batch, description


LABELS = ("happiness", "neutral", "anger")


def test_a_probe_trains_its_linear_layer_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tiny.save_resnet(tmp_path / "net")
    config = Encoder(name="resnet18", weights=folder, size=32)
    options = Classifier.Options(probe=True)
    method = Classifier(build_image_encoder(config), DrawnText(), LABELS, options).train()
    faces = batch(LABELS, 2, size=32)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.losses(faces)["loss"].backward()
    torch.optim.SGD(method.parameter_groups(0.1), 0.1, weight_decay=0.1).step()
    changed = {
        name
        for name, tensor in method.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == own_state(method).keys() == {"head.weight", "head.bias"}
    info = description("classifier", config, method, towers=tower_checksums(method))
    save_model(tmp_path / "run", own_state(method), info, "")
    with torch.no_grad():
        found = load_model(tmp_path / "run")(faces.image)
        torch.testing.assert_close(found, method(faces.image))


def test_the_baseline_trains_all(tmp_path: Path) -> None:
    method = Classifier(TinyEncoder(), DrawnText(), LABELS, Classifier.Options())
    assert method.frozen() == ()
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert all(module.training for module in method.train().modules())
