"""The exported graph against torch: any batch, halves, and what lies beside it."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import Tensor

from fervor.artifacts.model_info import Int8, ModelInfo, TextInfo
from fervor.config import Encoder
from fervor.errors import ModelError, UsageError
from fervor.evaluation.evaluate import onnx_logits, torch_logits
from fervor.evaluation.metrics import softmax
from fervor.faces.landmarks import GRAPH
from fervor.graphs import onnx as module
from fervor.graphs.onnx import export
from fervor.inference.predictor import Predictor
from fervor.io.atomic import lock_folder
from fervor.io.provenance import sha256
from fervor.methods import method_class
from fervor.methods.base import Method
from fervor.methods.build import load_model, own_state, save_model, tower_checksums
from fervor.methods.classifier import Classifier
from fervor.methods.ke import KE
from fervor.models.image import build_image_encoder
from fervor.models.text.encoders import build_text_encoder
from fervor.plugins import METHODS
from tests.support import tiny
from tests.support.drawn import DrawnText, batch, description, face


LABELS = ("neutral", "happiness", "anger", "contempt")
FILES = [
    "README.md",
    "class_vectors.safetensors",
    "model.json",
    "model.onnx",
    "weights.safetensors",
]


def save(folder: Path, config: Encoder, *, method: str = "ke", **options: Any) -> Path:
    """A model folder as training leaves it, its BatchNorm statistics in use."""
    torch.manual_seed(0)
    chosen = method_class(method)
    if method == "ke":
        options = {"centre": True, "temperature": 0.1, **options}
    settings: Any = chosen.Options(**options)
    built: Method = chosen(build_image_encoder(config), DrawnText(12), LABELS, settings)
    with torch.no_grad():
        built.train()(batch(LABELS, 3, size=config.size).image)
    save_model(folder, built.state_dict(), description(method, config, built), "# card")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of KE-FER on the face-pretrained MobileNet."""
    config = Encoder(name="face-mobilenet", size=96, grey=True)
    return save(tmp_path_factory.mktemp("run"), config)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(str(run), str(tmp_path_factory.mktemp("exported"))).parent


@pytest.fixture(scope="module")
def halved(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(str(run), str(tmp_path_factory.mktemp("halved")), half=True).parent


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return batch(LABELS, 2, size=96).image


def answers(folder: Path, image: Tensor) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found: list[NDArray[np.float32]] = session.run(
        ["logits", "embedding", "local"], {"image": image.numpy()}
    )
    return found


def test_the_graph_equals_torch_for_any_batch(exported: Path, run: Path, faces: Tensor) -> None:
    method = load_model(run)
    with torch.no_grad():
        logits, features = method(faces), method.features(faces)
    embedding = torch.nn.functional.normalize(features.pooled, dim=1)
    for count in (1, 2, 8):
        found = answers(exported, faces[:count])
        np.testing.assert_allclose(found[0], logits[:count], atol=1e-4)
        np.testing.assert_allclose(found[1], embedding[:count], atol=1e-5)
        assert found[2].shape == (count, 36, 12)


def test_the_mean_of_local_is_the_embedding(exported: Path, faces: Tensor) -> None:
    _, embedding, local = answers(exported, faces)
    np.testing.assert_allclose(local.mean(1), embedding, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)


def test_logits_are_embedding_times_class_vectors(exported: Path, faces: Tensor) -> None:
    logits, embedding, _ = answers(exported, faces)
    stored = load_file(exported / "class_vectors.safetensors")
    np.testing.assert_allclose(
        embedding @ stored["class_vectors"].numpy().T / 0.1, logits, atol=1e-4
    )
    np.testing.assert_allclose(stored["class_vectors"].norm(dim=1), 1, atol=1e-6)


def test_the_stored_centre_was_subtracted(exported: Path, run: Path) -> None:
    method = load_model(run)
    assert isinstance(method, KE)
    centre = load_file(exported / "class_vectors.safetensors")["centre"]
    assert torch.equal(centre, method.text_centre())
    assert centre.any()


def test_the_folder_is_complete_and_checked(exported: Path, run: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == FILES
    info = json.loads((exported / "model.json").read_text())
    before = json.loads((run / "model.json").read_text())
    assert {key: info[key] for key in before if key != "sha256"} == {
        key: before[key] for key in before if key != "sha256"
    }
    names = ("model.onnx", "weights.safetensors", "class_vectors.safetensors")
    assert info["sha256"] == {name: sha256(exported / name) for name in names}
    assert "# ke" in (exported / "README.md").read_text()
    assert ModelInfo.read(exported).labels == LABELS


def test_what_was_measured_of_an_int8_graph_goes_with_it(run: Path, tmp_path: Path) -> None:
    info = ModelInfo.read(run)
    measured = Int8(faces=100, agreement=0.99, temperature=0.7)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    replace(info, int8=measured, folder=folder).write(folder)
    assert ModelInfo.read(folder).int8 == measured
    assert ModelInfo.read(export(str(folder), str(tmp_path / "out")).parent).int8 is None


def test_the_session_opens_without_a_word(
    exported: Path, halved: Path, faces: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in (exported, halved):
        answers(folder, faces[:1])
    assert capfd.readouterr() == ("", "")


def test_halves_equal_equally_rounded_weights(halved: Path, run: Path, faces: Tensor) -> None:
    method = load_model(run)
    with torch.no_grad():
        for tensor in method.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim > 1:
                tensor.copy_(tensor.half())
        expected = method(faces)
    np.testing.assert_allclose(answers(halved, faces)[0], expected, atol=1e-4)
    with torch.no_grad():
        stored = load_model(halved)(faces)
    torch.testing.assert_close(stored, expected, atol=1e-4, rtol=0)


def test_halves_are_stored_as_halves(exported: Path, halved: Path) -> None:
    sizes = {folder: (folder / "model.onnx").stat().st_size for folder in (exported, halved)}
    assert sizes[halved] < 0.55 * sizes[exported]
    for tensor in onnx.load(halved / "model.onnx").graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            assert values.size < 5000, tensor.name
    kept = load_file(halved / "weights.safetensors")
    assert all(
        tensor.dtype == (torch.float16 if tensor.ndim > 1 else torch.float32)
        for tensor in kept.values()
        if tensor.is_floating_point()
    )


def test_evaluation_reads_graph_and_torch_alike(exported: Path, run: Path) -> None:
    batches = [batch(LABELS, 2, size=96, seed=seed) for seed in range(2)]
    by_graph = onnx_logits(exported / "model.onnx", batches)
    by_torch = torch_logits(load_model(run), batches)
    assert by_graph.shape == (16, 4)
    np.testing.assert_allclose(by_graph, by_torch, atol=1e-4)


def test_predictor_gives_the_graphs_answer(exported: Path) -> None:
    picture = np.repeat(face("happiness", 3)[:, :, None], 3, axis=2)
    found = Predictor(exported, faces="precropped")(picture)[0]
    logits = answers(exported, batch(("happiness",), 1, size=96).image)[0]
    assert logits.shape == (1, 4)
    shown = batch(("happiness",), 4, size=96).image[3:]
    expected = softmax(answers(exported, shown)[0], 1.5)[0]
    assert found.probabilities is not None
    np.testing.assert_allclose(list(found.probabilities.values()), expected, atol=1e-5)
    assert found.label == LABELS[int(expected.argmax())]


def test_texts_that_learned_are_frozen_into_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, words = tiny.save_resnet(tmp_path / "net"), tiny.save_clip(tmp_path / "clip")
    config = Encoder(name="resnet18", weights=net, size=32)
    options = KE.Options(text="learned", centre=True, temperature=0.1)
    built = KE(build_image_encoder(config), build_text_encoder(words), LABELS, options)
    assert built.soft is not None
    with torch.no_grad():
        built.soft.context.add_(torch.randn_like(built.soft.context))
    info = description("ke", config, built, towers=tower_checksums(built))
    info = replace(info, text=TextInfo(words, 12))
    save_model(tmp_path / "run", own_state(built), info, "# card")
    assert not any(name.startswith("text.") for name in own_state(built))
    image = batch(LABELS, 2, size=32).image
    with torch.no_grad():
        expected = built.eval()(image)
    out = export(str(tmp_path / "run"), str(tmp_path / "out")).parent
    (tmp_path / "clip").rename(tmp_path / "gone")  # the graph needs it no more
    np.testing.assert_allclose(answers(out, image)[0], expected, atol=1e-4)
    stored = load_file(out / "class_vectors.safetensors")
    torch.testing.assert_close(stored["class_vectors"], built.class_vectors().detach())
    torch.testing.assert_close(stored["centre"], built.text_centre().detach())


def test_a_linear_probe_exports_with_the_encoder_inside(tmp_path: Path) -> None:
    config = Encoder(
        name="resnet18", weights=tiny.save_resnet(tmp_path / "net"), size=32, grey=True
    )
    torch.manual_seed(0)
    options = Classifier.Options(probe=True)
    built = Classifier(build_image_encoder(config), DrawnText(12), LABELS, options)
    info = description("classifier", config, built, towers=tower_checksums(built))
    save_model(tmp_path / "run", own_state(built), info, "# card")
    assert set(own_state(built)) == {"head.weight", "head.bias"}
    image = batch(LABELS, 2, size=32).image
    with torch.no_grad():
        expected = built.eval()(image)
    out = export(str(tmp_path / "run"), str(tmp_path / "out")).parent
    np.testing.assert_allclose(answers(out, image)[0], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", tiny.SAVED)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in {"mpa", "lacovl"}])
def test_every_encoder_exports(method: str, encoder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Encoder(name=encoder, weights=tiny.SAVED[encoder](tmp_path / "net"), size=32)
    run = save(tmp_path / "run", config, method=method)
    images = batch(LABELS, 1, size=32)
    by_torch = torch_logits(load_model(run), [images])
    np.testing.assert_allclose(
        onnx_logits(export(str(run), str(tmp_path / "out")), [images]), by_torch, atol=1e-4
    )
    halved = export(str(run), str(tmp_path / "half"), half=True)
    rounded = torch_logits(load_model(halved.parent), [images])
    np.testing.assert_allclose(onnx_logits(halved, [images]), rounded, atol=1e-4)


def test_a_run_folder_can_be_its_own_output_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    config = Encoder(name="resnet18", weights=tiny.save_resnet(tmp_path / "net"), size=32)
    run = save(tmp_path / "run", config, method="classifier")
    weights = (run / "weights.safetensors").read_bytes()
    capfd.readouterr()
    assert export(str(run), str(run)) == run / "model.onnx"
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (run / "weights.safetensors").read_bytes() == weights
    assert sorted(path.name for path in run.iterdir()) == FILES
    load_model(run)


def test_an_export_into_its_run_leaves_the_weights(run: Path, halved: Path, tmp_path: Path) -> None:
    """A kill between the renames would else leave the only weights under a checksum of others."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    before = (folder / "weights.safetensors").stat()
    with pytest.raises(UsageError, match="holds the whole weights: name another folder"):
        export(str(folder), str(folder), half=True)
    export(str(folder), f"{folder}/../run")
    after = (folder / "weights.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    info = ModelInfo.read(folder)
    assert info.verified("weights.safetensors") and info.verified("class_vectors.safetensors")
    half = Path(shutil.copytree(halved, tmp_path / "half"))
    assert export(str(half), str(half), half=True).is_file()


def test_an_export_leaves_what_the_run_links_to(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (tmp_path / "store").mkdir()
    stored = (folder / "weights.safetensors").rename(tmp_path / "store" / "weights.safetensors")
    (folder / "weights.safetensors").symlink_to(stored)
    before = stored.read_bytes()
    with pytest.raises(UsageError, match=r"weights\.safetensors would be overwritten; name ano"):
        export(str(folder), str(tmp_path / "store"), half=True)
    assert stored.read_bytes() == before


def test_the_output_must_not_be_a_file(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file: give a folder to export to") as caught:
        export(str(run), str(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_two_exports_do_not_write_into_one_folder(run: Path, tmp_path: Path) -> None:
    with (
        lock_folder(tmp_path / "out"),
        pytest.raises(UsageError, match="out is being written by another process"),
    ):
        export(str(run), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = Encoder(name="resnet18", weights=tiny.save_resnet(tmp_path / "net"), size=32)
    run = save(tmp_path / "run", config)
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match=r"the exported graph differs from torch by .*e") as caught:
        export(str(run), str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


def test_prelu_is_written_as_products(tmp_path: Path) -> None:
    """onnxruntime fuses these; a slope that two layers share, and one that is computed."""
    slope = np.linspace(-0.5, 1.5, 6, dtype=np.float32).reshape(6, 1, 1)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("PRelu", ["image", "slope"], ["once"]),
            onnx.helper.make_node("PRelu", ["once", "slope"], ["twice"]),
            onnx.helper.make_node("Abs", ["slope"], ["computed"]),
            onnx.helper.make_node("PRelu", ["twice", "computed"], ["answer"]),
        ],
        "prelu",
        [onnx.helper.make_tensor_value_info("image", 1, ["b", 6, 4, 4])],
        [onnx.helper.make_tensor_value_info("answer", 1, ["b", 6, 4, 4])],
        [numpy_helper.from_array(slope, "slope")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    image = np.random.default_rng(0).normal(size=(2, 6, 4, 4)).astype(np.float32)

    def answer() -> NDArray[np.float32]:
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found: NDArray[np.float32] = session.run(None, {"image": image})[0]
        return found

    before = answer()
    module.replace_prelu(model)
    assert [node.op_type for node in model.graph.node].count("PRelu") == 1
    np.testing.assert_allclose(answer(), before, atol=1e-6)


def test_the_shipped_landmark_network_has_no_slow_operation() -> None:
    kinds = {node.op_type for node in onnx.load(GRAPH).graph.node}
    assert "PRelu" not in kinds and "Relu" in kinds
