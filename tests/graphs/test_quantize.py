"""Eight bits beside single precision: what is quantised, that it agrees, when it is chosen."""

import json
import logging
import platform
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from fervor.artifacts.model_info import GRAPH, INT8_GRAPH, Int8, ModelInfo, find_model
from fervor.cli.main import main
from fervor.errors import ModelError, UsageError
from fervor.faces.alignment import crop
from fervor.faces.detector import FaceDetector, select
from fervor.graphs import quantize
from fervor.graphs.onnx import write_checked, write_method
from fervor.inference import precision as eightbits
from fervor.inference.precision import Precision
from fervor.inference.predictor import Predictor
from fervor.io.image import to_input
from fervor.io.onnx_session import Session
from fervor.methods.build import build
from tests.support.models import SIZE, sha256, write_model


EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
COLOURS = np.random.default_rng(0).integers(0, 256, (128, 1, 1, 3), dtype=np.uint8)


class Network(nn.Module):
    """Six convolutions, two of them depthwise, over a picture and its mirror image."""

    def __init__(self, *, mirror: bool = True) -> None:
        super().__init__()
        self.mirror = mirror
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for width_in, width_out, groups in (
            (3, 8, 1),
            (8, 8, 8),
            (8, 16, 1),
            (16, 16, 1),
            (16, 16, 16),
            (16, 16, 1),
        ):
            layer = nn.Conv2d(width_in, width_out, 3, padding=1, groups=groups)
            nn.init.kaiming_normal_(layer.weight)
            layers += [layer, nn.ReLU6()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(16, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.layers(image)
        if self.mirror:
            maps = maps + self.layers(image.flip(-1))
        return self.last(maps.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose graph has convolutions."""
    folder = write_model(tmp_path_factory.mktemp("model"))
    write_checked(Network(), folder / GRAPH, size=SIZE, outputs=["logits"], half=False)
    return vouched(folder)


def vouched(folder: Path) -> Path:
    info = json.loads((folder / "model.json").read_text())
    info["sha256"]["model.onnx"] = sha256(folder / GRAPH)
    (folder / "model.json").write_text(json.dumps(info))
    return folder


def copied(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def faces() -> np.ndarray:
    """Pictures of one colour each with some noise, [128 3 16 16] in 0..1."""
    noise = np.random.default_rng(1).random((len(COLOURS), 3, SIZE, SIZE), np.float32)
    return np.asarray(0.8 * COLOURS.transpose(0, 3, 1, 2) / 255 + 0.2 * noise, np.float32)


@pytest.fixture(scope="module")
def quantised(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(model, tmp_path_factory.mktemp("quantised") / "model")
    report = quantize.add_int8(folder, faces())
    assert (report.graph, report.faces) == (folder / INT8_GRAPH, 128)
    assert report.bytes == (folder / INT8_GRAPH).stat().st_size
    return folder


def test_eight_bits_answer_nearly_what_single_precision_answers(quantised: Path) -> None:
    crops = [np.full((SIZE, SIZE, 3), colour[0], np.uint8) for colour in COLOURS]
    single = Predictor(quantised, faces="precropped")
    eight = Predictor(quantised, faces="precropped", precision="int8")
    found, expected = eight.classify(crops), single.classify(crops)
    gap = np.abs(found - expected).max()
    assert 0 < gap < 0.1  # other numbers, for it computes otherwise, and near ones
    (face,) = eight(crops[0])
    assert (eight.precision, face.model) == ("int8", "tiny (int8)")
    (face,) = single(crops[0])
    assert (single.precision, face.model) == ("fp32", "tiny")


def test_the_first_of_each_pass_stays_as_it_is(quantised: Path) -> None:
    graph = onnx.load(quantised / INT8_GRAPH).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    eight = [made.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert sorted(eight) == 2 * [False] + 10 * [True]
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    single = [
        shapes[n.input[1]] for n, is_eight in zip(convolutions, eight, strict=True) if not is_eight
    ]
    assert sorted(single) == 2 * [[8, 3, 3, 3]]


class Attending(nn.Module):
    """Local features of a convolution's map, what they attend to among themselves, two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = Network(mirror=False).layers
        self.local, self.mixed = nn.Linear(16, 12), nn.Linear(12, 12)
        self.hidden, self.last = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        local = self.local(self.layers(image).flatten(2).transpose(1, 2))
        tokens = (local @ local.transpose(1, 2)).softmax(2) @ self.mixed(local)
        return self.last(self.hidden(tokens).relu()).mean(1), local


def test_of_matrix_products_the_one_of_a_map_alone_is_in_eight_bits(tmp_path: Path) -> None:
    source, target = tmp_path / GRAPH, tmp_path / INT8_GRAPH
    write_checked(Attending(), source, size=SIZE, outputs=["logits", "local"], half=False)
    quantize.quantize_model(source, target, faces())
    graph = onnx.load(target).graph
    made = {output: node for node in graph.node for output in node.output}
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    eight = [
        shapes[made[node.input[1]].input[0]]
        for node in graph.node
        if node.op_type == "MatMul"
        and node.input[1] in made
        and made[node.input[1]].op_type == "DequantizeLinear"
        and made[node.input[1]].input[0] in shapes
    ]
    assert eight == [[16, 12]]
    found, expected = (
        Session(path, str(path), 1).run(["local"], {"image": faces()})[0]
        for path in (target, source)
    )
    assert 0 < np.abs(found - expected).mean() < 0.05 * expected.std()


def test_channels_keep_their_means(tmp_path: Path) -> None:
    """What rounding shifts on the average is taken from the biases, layer after layer."""
    source, target = tmp_path / GRAPH, tmp_path / INT8_GRAPH
    write_checked(Network(mirror=False), source, size=SIZE, outputs=["logits"], half=False)
    quantize.quantize_model(source, target, faces())
    gaps = []
    for place in range(1, 6):  # the first is not quantised
        single, eight = (maps_of(path, place) for path in (source, target))
        gap = eight.mean((0, 2, 3)) - single.mean((0, 2, 3))
        gaps.append(np.abs(gap).max() / single.std())
    assert max(gaps) < 2e-3


def maps_of(path: Path, place: int) -> np.ndarray:
    """What a convolution of a graph makes of the faces, before anything is clipped."""
    model = onnx.load(path)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    name = convolutions[place].output[0]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    maps: np.ndarray = session.run([name], {"image": faces()})[0]
    return maps


@pytest.mark.slow
def test_a_model_that_mirrors_sees_the_picture_alone(tmp_path: Path) -> None:
    """A picture and its mirror image are the same to the one graph, and not to the other."""
    info = ModelInfo.read("embedded")
    info = replace(info, encoder=replace(info.encoder, mirror=True))
    size, both = info.input.size, tmp_path / "both.onnx"
    write_method(build(info), both, size=size, half=info.half)
    alone = quantize._unmirrored(info, tmp_path)
    image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    image[..., size // 2 :] /= 2
    gaps = []
    for path in (both, alone):
        session = Session(path, str(path), 1)
        one, other = (
            session.run(["embedding"], {"image": np.ascontiguousarray(shown)})[0]
            for shown in (image, image[..., ::-1])
        )
        gaps.append(np.abs(one - other).max())
    assert gaps[0] < 1e-5 < 1e-3 < gaps[1]


def test_the_packaged_graphs_have_one_pass() -> None:
    folder = find_model("embedded")
    counts = [
        sum(node.op_type == "Conv" for node in onnx.load(folder / name).graph.node)
        for name in (GRAPH, INT8_GRAPH)
    ]
    assert counts == [27, 27]


def test_model_json_vouches_for_the_graph(quantised: Path, tmp_path: Path) -> None:
    info = json.loads((quantised / "model.json").read_text())
    assert ModelInfo.read(quantised).sha256[INT8_GRAPH] == sha256(quantised / INT8_GRAPH)
    assert info["int8"]["faces"] == 128 and 0.9 <= info["int8"]["agreement"] <= 1
    damaged = copied(quantised, tmp_path / "damaged")
    (damaged / INT8_GRAPH).write_bytes((damaged / GRAPH).read_bytes())
    assert Predictor(damaged, faces="precropped")
    with pytest.raises(ModelError, match=r"model\.int8\.onnx has the sha256 .* damaged"):
        Predictor(damaged, faces="precropped", precision="int8")


def test_a_graph_without_convolutions_stays_alone(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelError, match="has no convolutions"):
        quantize.add_int8(folder, faces())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_graph_that_answers_otherwise_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(model, tmp_path / "model")
    answers = {GRAPH: np.zeros(128, int), INT8_GRAPH: np.repeat([0, 1], 64)}

    def answered(graph: Path, _: np.ndarray) -> np.ndarray:
        return answers[GRAPH if graph.name == GRAPH else INT8_GRAPH]

    monkeypatch.setattr(quantize, "answers", answered)
    with pytest.raises(ModelError, match=r"same answer to 50\.0% of 128 faces"):
        quantize.add_int8(folder, faces())
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in model.iterdir())


class TestFaces:
    def test_a_folder_is_drawn_from(self, model: Path, tmp_path: Path) -> None:
        for number, colour in enumerate(COLOURS[:3]):
            Image.fromarray(np.tile(colour, (20, 20, 1))).save(tmp_path / f"{number}.png")
        found = quantize.faces_of(str(model), str(tmp_path))
        assert found.shape == (3, 3, SIZE, SIZE)
        colours = {tuple(np.rint(255 * face[:, 0, 0]).astype(int)) for face in found}
        assert colours == {tuple(colour.ravel().tolist()) for colour in COLOURS[:3]}

    def test_a_run_knows_its_own(self, model: Path, tmp_path: Path) -> None:
        root = tmp_path / "faces"
        for split, shade in (("train", 10), ("valid", 200)):
            for label in ("neutral", "happiness", "sadness"):
                folder = root / split / label
                folder.mkdir(parents=True)
                Image.new("L", (20, 20), shade).save(folder / "a.png")
        run = copied(model, tmp_path / "run")
        data = {"name": "folder", "root": str(root)}
        (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
        found = quantize.faces_of(str(run))
        np.testing.assert_allclose(found, np.full((3, 3, SIZE, SIZE), 10 / 255), rtol=1e-6)

    def test_faces_in_photographs_are_cut_out_at_the_models_side(
        self, model: Path, tmp_path: Path
    ) -> None:
        for label in ("neutral", "happiness", "sadness"):
            folder = tmp_path / "faces" / "train" / label
            folder.mkdir(parents=True)
            shutil.copy(EXAMPLE, folder)
        run = copied(model, tmp_path / "run")
        data = {"name": "folder", "root": str(tmp_path / "faces"), "faces": "largest"}
        (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
        side = ModelInfo.read(model).input.crop
        photo = np.asarray(Image.open(EXAMPLE).convert("RGB"))
        cut = crop(photo, select(FaceDetector().detect([photo])[0], "largest")[0], side)
        faces = quantize.faces_of(str(run))
        np.testing.assert_allclose(faces[0], to_input(cut, SIZE), atol=1e-6)

    def test_a_model_does_not(self, model: Path) -> None:
        with pytest.raises(UsageError, match="name a folder of such faces, cut out, with --pict"):
            quantize.faces_of(str(model))

    @pytest.mark.parametrize("text", ["data: [", "data: {colour: red}", "seed: 0", "- 1"])
    def test_a_damaged_configuration_is_one_line(
        self, text: str, model: Path, tmp_path: Path
    ) -> None:
        run = copied(model, tmp_path / "run")
        (run / "config.yaml").write_text(text)
        with pytest.raises(UsageError, match=r"config\.yaml .* with --pictures"):
            quantize.faces_of(str(run))

    def test_what_cannot_be_read_is_named(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"no picture")
        with pytest.raises(UsageError, match=r"a\.png cannot be read"):
            quantize.faces_of(str(model), str(tmp_path))

    def test_pictures_need_int8(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", "--model", "m", "--output", "o", "--pictures", "p"]) == 2
        assert capsys.readouterr().err.endswith("pictures=p: needs --int8\n")


class TestChoice:
    @pytest.mark.parametrize(
        ("flags", "chosen", "why"),
        [
            ({"avx2", "avx512bw", "avx512_vnni"}, "int8", "this processor has AVX-512 VNNI"),
            ({"avx2", "avx_vnni"}, "int8", "this processor has AVX-VNNI"),
            ({"X86_V3", "X86_V4"}, "int8", "this processor has AVX-512"),
            ({"ASIMD", "ASIMDDP"}, "int8", "this processor has ARM dot products"),
            ({"avx", "avx2", "fma"}, "int8", "this processor has AVX2"),
            ({"X86_V2", "X86_V3"}, "int8", "this processor has AVX2"),
            ({"avx", "sse4_2"}, "fp32", "this processor has no fast eight bits"),
        ],
    )
    def test_auto_follows_from_instructions(
        self,
        quantised: Path,
        flags: set[str],
        chosen: str,
        why: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(eightbits, "_features", lambda: flags)
        eightbits.int8_instructions.cache_clear()
        with caplog.at_level(logging.INFO, logger="fervor.inference.precision"):
            predictor = Predictor(quantised, faces="precropped", precision="auto")
        eightbits.int8_instructions.cache_clear()
        assert predictor.precision == chosen
        assert predictor.name == ("tiny (int8)" if chosen == "int8" else "tiny")
        assert caplog.messages == [f"computes in {chosen}: {why}"]

    @pytest.mark.parametrize(
        ("faces", "agreement", "chosen"),
        [(100, 0.985, "int8"), (100, 0.9849, "fp32"), (99, 1.0, "fp32")],
    )
    def test_auto_takes_a_graph_that_answers_alike(
        self,
        quantised: Path,
        tmp_path: Path,
        faces: int,
        agreement: float,
        chosen: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(eightbits, "int8_instructions", lambda: "instructions")
        folder = copied(quantised, tmp_path / "model")
        info = ModelInfo.read(folder)
        replace(info, int8=Int8(faces, agreement)).write()
        assert Predictor(folder, faces="precropped", precision="auto").precision == chosen
        assert Predictor(folder, faces="precropped", precision="int8").precision == "int8"
        assert Predictor(folder, faces="precropped").precision == "fp32"

    def test_eight_bits_have_a_temperature_of_their_own(
        self, quantised: Path, tmp_path: Path
    ) -> None:
        folder = copied(quantised, tmp_path / "model")
        info = ModelInfo.read(folder)
        before = Predictor(folder, faces="precropped", precision="int8")
        replace(info, int8=Int8(128, 1.0, 2 * info.temperature)).write()
        crops = [np.full((SIZE, SIZE, 3), colour[0], np.uint8) for colour in COLOURS]
        after = Predictor(folder, faces="precropped", precision="int8")
        expected = np.sqrt(before.classify(crops))  # half the logits
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(after.classify(crops), expected, rtol=1e-5)
        single = Predictor(folder, faces="precropped").classify(crops)
        np.testing.assert_array_equal(
            single, Predictor(quantised, faces="precropped").classify(crops)
        )

    def test_this_processor_is_read(self) -> None:
        found = eightbits._features()
        common = {"x86_64": {"sse2", "X86_V2", "SSE2"}, "arm64": {"ASIMD"}}
        assert found & common.get(platform.machine(), found)

    def test_a_cluster_never_chooses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantised: Path
    ) -> None:
        """Its processors may differ, and its answers must not."""
        import_module("fervor.inference.cluster")  # which takes the true Predictor
        given: dict[str, Any] = {}

        def stop(**options: Any) -> None:
            given.update(options)
            raise UsageError("enough")

        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        monkeypatch.setattr("fervor.inference.predictor.Predictor", stop)
        words = ["predict", str(tmp_path), "--model", str(quantised), "--precision", "auto"]
        assert main([*words]) == 2 and given["precision"] == "auto"
        rows = str(tmp_path / "rows.jsonl")
        assert main([*words, "--cluster", "--output", rows]) == 2 and given["precision"] == "fp32"

    @pytest.mark.parametrize(("precision", "threads"), [("fp32", 2), ("int8", 1)])
    def test_in_eight_bits_groups_have_the_threads(
        self, quantised: Path, precision: Precision, threads: int
    ) -> None:
        crops = list(np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8))
        many, one = (
            Predictor(quantised, faces="precropped", precision=precision, threads=count)
            for count in (2, 1)
        )
        assert many.classifier._session.threads == threads
        np.testing.assert_allclose(many.classify(crops), one.classify(crops), atol=1e-6)
        assert many.classify([]).shape == (0, len(many.labels))

    def test_without_a_graph_in_eight_bits_auto_is_single_precision(self, model: Path) -> None:
        assert Predictor(model, faces="precropped", precision="auto").precision == "fp32"
        with pytest.raises(ModelError, match=r"holds no model\.int8\.onnx: make one with fervor"):
            Predictor(model, faces="precropped", precision="int8")

    def test_an_unknown_precision_is_named(self, model: Path) -> None:
        with pytest.raises(UsageError, match="precision='int4': expected one of fp32, int8, auto"):
            Predictor(model, precision="int4")  # type: ignore[arg-type]

    def test_a_cluster_has_no_graphics_card(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["predict", str(tmp_path), "--cluster", "--device", "cuda"]) == 2
        assert "runs on processors" in capsys.readouterr().err
