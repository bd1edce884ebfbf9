"""Recipes and model folders from strangers: no code, nothing outside their folder, no memory."""

import hashlib
import json
import re
import resource
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from fervor.artifacts.joint_space import read_covers, read_cues, read_space
from fervor.artifacts.model_info import (
    CLASS_VECTORS,
    COVER_VECTORS,
    CUE_VECTORS,
    WORD_VECTORS,
    ModelInfo,
)
from fervor.artifacts.reader import open_session
from fervor.cli.main import main
from fervor.data.manifest import MANIFEST, rows_of
from fervor.errors import DataError, ModelError, UsageError
from fervor.inference.open_vocabulary import _stored
from fervor.io.typed_json import DEEPEST, read_object
from fervor.recipes import check_file, check_values, read_recipe, setting_names
from tests.support.models import sha256, write_model


SECONDS = 5.0
MEGABYTES = 200


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Any:
    """Whatever is read here takes seconds and little memory, torch itself not counted."""
    if request.node.get_closest_marker("slow"):
        yield
        return
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.process_time() - begin < 2 * SECONDS
    assert grown < MEGABYTES or sys.platform != "linux"


# Recipes


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES: dict[str, tuple[str, str]] = {
    "an object": ("seed: !!python/object/apply:os.system ['touch {mark}']", "the tag"),
    "an object in options": (
        "options:\n  lr: !!python/object/new:os.system ['touch {mark}']",
        "the tag",
    ),
    "a name": ("seed: !!python/name:os.system", "the tag"),
    "an unknown tag": ("seed: !mine 3", "the tag !mine"),
    "a class": (
        "data:\n  class_path: stranger.Data\n  init_args: {{name: folder}}",
        "the setting class_path",
    ),
    "a class in options": (
        "options:\n  lr: {{class_path: subprocess.Popen, init_args: {{args: [touch, {mark}]}}}}",
        "the setting class_path",
    ),
    "a class by a dotted name": ("data.class_path: stranger.Data", "the setting data.class_path"),
    "a class by reference": (
        "seed: &c {{class_path: stranger.Data}}\noptions: {{<<: *c}}",
        "the setting class_path",
    ),
    "a class as a text": ("data: stranger.Data", "data is no group of settings"),
    "another recipe": ("config: other.yaml", "the setting config"),
    "another recipe for a part": ("optim: other.yaml", "optim is no group of settings"),
    "a bomb": (BOMB.replace("{", "{{").replace("}", "}}"), "unfolds to"),
    "itself": ("options: &o\n  more: *o", "unfolds to"),
    "deep": ("options: " + "[" * 4_000, "no readable YAML"),
    "deep by references": (
        "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 500)),
        "levels",
    ),
    "large": ("# " + "x" * 100_000, "larger than"),
    "binary": ("\x00\x01", "no readable YAML"),
    "a list": ("- method: ke", "holds no settings"),
    "wide": ("encoder: {{size: 1000000000}}", "--encoder.size 1000000000: expected at most 2,048"),
    "batches": ("optim: {{batch_size: 1000000000000}}", "expected at most 1,000,000"),
    "processes": ("processes: 1000000", "--processes 1000000: expected at most 1,024"),
    "no value": ("seed: null", "seed has no value"),
    "no value in a group": ("augment: {{rotation: }}", "augment.rotation has no value"),
    "options": ("options: {{bottleneck: 1000000000}}", "--options.bottleneck 1000000000: expected"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_runs_no_code_and_asks_for_no_memory(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    from fervor.cli.arguments import arguments_of
    from fervor.cli.research.train import train

    text, message = RECIPES[case]
    mark = tmp_path / "mark"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Data: pass\n"
    (tmp_path / "stranger.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text.format(mark=mark))
    with pytest.raises(UsageError) as caught:
        arguments_of("train", train, ["--config", "recipe.yaml"])
    assert re.search(message, str(caught.value)), str(caught.value)
    assert not mark.exists()


def test_no_setting_is_nothing() -> None:
    for name in setting_names():
        with pytest.raises(UsageError, match=f"{name} has no value"):
            check_values([(name, None)])
    with pytest.raises(UsageError, match=r"optim\.epochs has no value"):
        read_recipe("ke/ferplus-mobilenet", {"optim.epochs": None})


def test_every_recipe_of_the_package_is_within_the_bounds() -> None:
    from fervor.recipes import RECIPES as folder

    found = sorted(folder.rglob("*.yaml"))
    assert len(found) > 10
    for path in found:
        check_file(path)


# JSON and graphs


def test_json_has_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, message in (
        ('{"a": ' + "[" * 100_000, "nested deeper than"),
        ('{"a": ' + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1) + "}", "nested deeper than"),
        ("[]", "holds no object"),
        ('{"a": ' + "9" * 10_000 + "}", "limit|digits"),
        ('{"a": "' + "x" * 1000 + '"}', "larger than 1,000 bytes"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_object(path, largest=1000 if "larger" in message else 1_000_000)
    path.write_text('{"a": ' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}")
    assert read_object(path)


def graph_of(initialiser: onnx.TensorProto) -> onnx.ModelProto:
    """image -> logits that are one stored row, whatever the picture."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3])
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "row"], ["logits"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "stranger", [image], [logits], [initialiser, one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("place", ["{secret}", "../secret.bin", "secret.bin"])
def test_a_graph_reads_no_file_beside_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that a graph keeps in other files could be any file of the machine."""
    folder = write_model(tmp_path / "home" / "model")
    (tmp_path / "home").joinpath("secret.bin").write_bytes(struct.pack("<3f", 1, 2, 3))
    (folder / "secret.bin").write_bytes(struct.pack("<3f", 1, 2, 3))
    row = TensorProto(name="row", data_type=TensorProto.FLOAT, dims=[1, 3])
    row.data_location = TensorProto.EXTERNAL
    location = place.format(secret=tmp_path / "home" / "secret.bin")
    for key, value in {"location": location, "offset": "0", "length": "12"}.items():
        row.external_data.add(key=key, value=value)
    content = graph_of(row).SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    write_description(folder, sha256={"model.onnx": hashlib.sha256(content).hexdigest()})
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_session(ModelInfo.read(folder), 1)


def test_the_same_graph_with_its_own_weights_is_opened(tmp_path: Path) -> None:
    row = helper.make_tensor("row", TensorProto.FLOAT, [1, 3], [1.0, 2.0, 3.0])
    content = graph_of(row).SerializeToString()
    folder = write_model(tmp_path)
    (folder / "model.onnx").write_bytes(content)
    write_description(folder, sha256={"model.onnx": hashlib.sha256(content).hexdigest()})
    assert open_session(ModelInfo.read(folder), 1)


def write_description(folder: Path, **changes: Any) -> None:
    info = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**info, **changes}))


# Vectors beside a model


def claimed(shape: list[int], *, header: int | None = None) -> bytes:
    """A file of safetensors that claims more than it holds."""
    text = json.dumps({"vectors": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}})
    return struct.pack("<Q", header or len(text)) + text.encode() + b"\0" * 4


VECTOR_FILES: dict[str, bytes] = {
    "a header of a gigabyte": claimed([1], header=1 << 30),
    "a header of exabytes": claimed([1], header=(1 << 63) - 1),
    "a tensor of a gigabyte": claimed([1 << 28]),
    "a deep header": struct.pack("<Q", 100_000) + b'{"a":' + b"[" * 99_995,
    "nothing": b"",
}


@pytest.mark.parametrize("case", VECTOR_FILES)
def test_vectors_that_claim_too_much(case: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    sums = {}
    for name in (CLASS_VECTORS, CUE_VECTORS, COVER_VECTORS, WORD_VECTORS):
        (folder / name).write_bytes(VECTOR_FILES[case])
        sums[name] = sha256(folder / name)
    write_description(folder, grid=[7, 7], sha256=sums)
    info = ModelInfo.read(folder)
    for read in (read_space, read_cues, read_covers, _stored):
        with pytest.raises(ModelError) as caught:
            read(info)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cues", [{}, {"labels": 3}, {"labels": [], "dimensions": [], "texts": 1}])
def test_cues_of_another_kind(cues: Any, tmp_path: Path) -> None:
    import numpy as np

    folder = write_model(tmp_path)
    metadata = {"cues": json.dumps(cues)} if cues else None
    save_file({"vectors": np.zeros((1, 2, 3), np.float32)}, folder / CUE_VECTORS, metadata)
    write_description(folder, sha256={CUE_VECTORS: sha256(folder / CUE_VECTORS)})
    with pytest.raises(ModelError, match="holds no cues"):
        read_cues(ModelInfo.read(folder))


@pytest.mark.parametrize("dimensions", [None, "3", '["eyes"]', "{", "[" * 9999])
def test_covers_of_another_kind(dimensions: str | None, tmp_path: Path) -> None:
    import numpy as np

    folder = write_model(tmp_path)
    metadata = None if dimensions is None else {"dimensions": dimensions}
    tensors = {"weights": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    save_file(tensors, folder / COVER_VECTORS, metadata)
    write_description(folder, sha256={COVER_VECTORS: sha256(folder / COVER_VECTORS)})
    with pytest.raises(ModelError, match="tells no covers"):
        read_covers(ModelInfo.read(folder))


# Manifests


@pytest.mark.parametrize("file", ["../secret.png", "/etc/secret.png", "a/../../b.png", "", 3])
def test_a_manifest_names_no_file_outside_its_folder(file: Any, tmp_path: Path) -> None:
    row = {"source": "a.png", "annotated": None, "file": file, "status": "ok"}
    row |= {"state": [1, 2], "error": None}
    (tmp_path / MANIFEST).write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="none below the folder"):
        rows_of(tmp_path / MANIFEST)


# model.json as evaluation and export read it


ENTRIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a wide encoder": (lambda i: i["encoder"].update(size=10**9), "'size' is 1000000000"),
    "a wide option": (lambda i: i["options"].update(bottleneck=10**9), "is 1000000000"),
    "many layers": (
        lambda i: i["architecture"].update(depths=[10**6] * 4),
        "more than the weights hold",
    ),
    "wide layers": (
        lambda i: i["architecture"].update(hidden_sizes=[4, 8, 10**9]),
        "more than the weights hold",
    ),
    "layers that together are wide": (
        lambda i: i["architecture"].update(hidden_sizes=[1000, 1000, 2000]),
        "parameters, the weights hold",
    ),
    "another architecture": (lambda i: i.update(architecture={"nonsense": "x"}), r"model\.json: "),
    "options of no kind": (lambda i: i["options"].update(temperature="hot"), "temperature"),
    "no encoder": (lambda i: i["encoder"].update(name="../evil"), "unknown encoder"),
    "another part for a tower": (
        lambda i: i.update(towers={"image.layers": "0" * 64}),
        "towers.image.layers is no part of method ke",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a tiny ResNet, as training writes it."""
    pytest.importorskip("torch", reason="needs fervor[train]")
    from fervor.config import Encoder
    from fervor.methods.build import save_model
    from fervor.methods.ke import KE
    from fervor.models.image import build_image_encoder
    from tests.support import tiny
    from tests.support.drawn import DrawnText, description

    base = tmp_path_factory.mktemp("stranger")
    config = Encoder(name="resnet18", weights=tiny.save_resnet(base / "net"), size=32)
    options = KE.Options(temperature=0.07, bottleneck=2)
    labels = ("neutral", "happiness", "anger")
    method = KE(build_image_encoder(config), DrawnText(), labels, options)
    save_model(base / "m", method.state_dict(), description("ke", config, method), "# card")
    return base / "m"


@pytest.mark.slow  # for torch
def test_a_description_asks_for_no_more_than_its_weights_hold(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fervor.methods.build import load_model

    text = (folder / "model.json").read_text()
    assert load_model(folder)
    for case, (change, message) in ENTRIES.items():
        info = json.loads(text)
        change(info)
        (folder / "model.json").write_text(json.dumps(info))
        begin = time.process_time()
        capsys.readouterr()
        assert main(["export", "--model", str(folder), "--output", str(folder / "out")]) == 2
        said = capsys.readouterr().err
        assert message.replace("\\", "") in said and said.count("\n") == 1, (case, said)
        assert time.process_time() - begin < SECONDS
    (folder / "model.json").write_text('{"schema": 1, "name": ' + "[" * 100_000)
    with pytest.raises(ModelError, match="nested deeper"):
        load_model(folder)
    (folder / "model.json").write_text(text)


@pytest.mark.slow  # for torch
@pytest.mark.parametrize("case", VECTOR_FILES)
def test_weights_that_claim_too_much(case: str, folder: Path, tmp_path: Path) -> None:
    from fervor.artifacts.model_info import WEIGHTS
    from fervor.methods.build import load_model

    (tmp_path / "model.json").write_text((folder / "model.json").read_text())
    (tmp_path / WEIGHTS).write_bytes(VECTOR_FILES[case])
    write_description(tmp_path, sha256={WEIGHTS: sha256(tmp_path / WEIGHTS)})
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # for torch
@pytest.mark.parametrize("name", ["resnet18", "swin-t", "vit-b16", "clip", "align", "blip"])
def test_an_architecture_with_its_own_weights_is_taken(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs fervor[train]")
    from fervor.config import Encoder
    from fervor.methods.validation import check_architecture
    from fervor.models.image import build_image_encoder
    from tests.support import tiny

    config = Encoder(name=name, weights=tiny.SAVED[name](tmp_path / name), size=32)
    encoder = build_image_encoder(config)
    tensors = {f"image.{key}": value for key, value in encoder.state_dict().items()}
    random = Encoder(name=name, weights="random", size=32)
    assert encoder.architecture is not None
    check_architecture(random, encoder.architecture, tensors)
