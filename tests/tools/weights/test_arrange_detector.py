"""The int8 detector's operations in another order: the same answers, fewer operations."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import save_file

from fervor.artifacts import packaged
from fervor.faces.anchors import PADDING, STRIDES
from fervor.faces.detector import INT8_WEIGHTS, WEIGHTS
from tools.weights.arrange_detector import LANES, arrange, main, rounded
from tools.weights.make_detector import SLOPE
from tools.weights.make_detector_int8 import FineLevel, fuse_normalisation, narrow, quantise
from tools.weights.train_first_stage import RATE, rates, stored, widened


EXAMPLE = Path(__file__).parents[3] / "examples" / "astronaut.jpg"


def images(width: int, height: int) -> NDArray[np.uint8]:
    """The example and its mirror image, [2 h w 3]."""
    with Image.open(EXAMPLE) as opened:
        image = np.asarray(opened.convert("RGB").resize((width, height)))
    return np.stack([image, image[:, ::-1]])


def answers(path: Path, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Scores [b n], boxes [b n 4] and points [b n 10], arranged or not."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    score, *places = session.run(None, {"image": batch})
    if len(places) == 1:
        logits, *places = np.split(places[0], [2, 10], axis=2)
        np.testing.assert_allclose(score, 1 / (1 + np.exp(-logits.reshape(score.shape))), atol=1e-6)
    box, points = (part.reshape(*score.shape, -1) for part in places)
    return [score, box, points]


def context(path: Path, batch: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The finest level's context [b c h w], in steps of 8 bits."""
    model = onnx.load(path)
    made = {output: node for node in model.graph.node for output in node.output}
    heads = {"fine.heads.layer.weight", "level.0.weight"}
    (head,) = (node for node in model.graph.node if heads & set(node.input))
    name = head.input[0]
    while "Concat" not in made[name].op_type:
        name = made[name].input[0]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None)
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: NDArray[np.uint8] = session.run([name], {"image": batch})[0]
    return found.astype(np.int16)


def fine_level(folder: Path) -> Path:
    """A file of a finest level's weights, drawn."""
    torch.manual_seed(0)
    fine = FineLevel().eval()
    for part in fine.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.bias, -0.2, 0.2)
    fuse_normalisation(fine)
    save_file(fine.state_dict(), folder / "fine.safetensors")
    return folder / "fine.safetensors"


def test_more_channels_answer_the_same_until_slopes_change(tmp_path: Path) -> None:
    network, image = narrow(fine_level(tmp_path)), torch.from_numpy(images(96, 64).copy())
    expected = network(image)
    wider = widened(network)
    for answer, other in zip(wider(image), expected, strict=True):
        torch.testing.assert_close(answer, other, rtol=1e-4, atol=1e-4)
    first, second = (wider.maps.trunk.stage1.get_submodule(name) for name in ("0.0", "1.0"))
    assert len(first.get_parameter("weight")) == len(second.get_parameter("weight")) == LANES


def test_the_rate_of_a_tensor_follows_its_size(tmp_path: Path) -> None:
    """The first kernels are 10,000 times as small as the second ones, pixels being 0..255."""
    network = widened(narrow(fine_level(tmp_path)))
    sizes = {id(part): float(part.detach().square().mean().sqrt()) for part in network.parameters()}
    groups = rates(network)
    assert [group["most"] for group in groups] == pytest.approx(
        [RATE * sizes[id(part)] for group in groups for part in group["params"]]
    )
    assert max(sizes.values()) > 5000 * min(sizes.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's exporter's, of itself
@pytest.mark.parametrize("plain", [False, True])
def test_a_rearranged_detector_answers_the_same(tmp_path: Path, plain: bool) -> None:
    path = fine_level(tmp_path)
    network = narrow(path)
    if plain:
        network = widened(network, plain=True)
        save_file(stored(network), tmp_path / "first.safetensors")
        network = narrow(tmp_path / "first.safetensors")
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    quantise(network, before, [images(320, 320)])
    shutil.copy(before, after)
    arrange(after)

    for size in ((320, 320), (256, 96)):
        batch = images(*size)
        with torch.no_grad():
            right = [answer.numpy() for answer in network(torch.from_numpy(batch.copy()))]
        plain, arranged = answers(before, batch), answers(after, batch)
        for expected, found, other in zip(right, plain, arranged, strict=True):
            assert found.shape == other.shape == expected.shape
            assert np.abs(found - other).mean() < 0.01 * np.abs(expected).max()
            # Two roundings less: it is not further from single precision.
            assert np.abs(other - expected).mean() <= np.abs(found - expected).mean()
        plain, arranged = context(before, batch), context(after, batch)
        near, middle, far = slice(0, 16), slice(16, 24), slice(32, 40)
        assert arranged.shape[1] == 3 * LANES
        for own, other in ((slice(0, 16), near), (slice(16, 24), middle), (slice(24, 32), far)):
            assert plain[:, own].std() > 5
            assert np.abs(plain[:, own] - arranged[:, other]).mean() < 1.5
        assert not arranged[:, 40:].any()


def test_the_packaged_graph_is_arranged() -> None:
    """Nothing is transposed first, enlarged by searching or shaped by what was computed."""
    graph = onnx.load(INT8_WEIGHTS).graph
    assert not {"Resize", "Squeeze", "Mul"} & {node.op_type for node in graph.node}
    (centred,) = (node for node in graph.node if "plane" in node.input)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert centred.op_type == "DequantizeLinear" and centred.input[1:] == ["one", "grey"]
    assert stored["one"] == 1 and stored["grey"] == round(np.mean(PADDING))
    assert stored["maps.trunk.stage1.0.0.weight.half"].shape == (LANES, 1, 3, 9)
    first, second, third = (
        stored[f"maps.trunk.stage1.{layer}.weight.half"] for layer in ("0.0", "1.0", "1.3")
    )
    assert third.shape == (LANES, LANES, 1, 1)
    half = LANES // 2
    np.testing.assert_array_equal(first[:half], first[half:])
    np.testing.assert_array_equal(second[:half], -second[half:])
    np.testing.assert_allclose(third[:, half:], -SLOPE * third[:, :half], rtol=1e-6)
    (signs,) = (node for node in graph.node if "maps.trunk.stage1.1.0.bias" in node.input)
    kinds = {entry.name: onnx.helper.get_attribute_value(entry) for entry in signs.attribute}
    assert kinds["activation"] == b"Relu" and "activation_params" not in kinds


def test_what_is_filled_up_is_nothing() -> None:
    """What the padding's colour and the grey differ by stands in the first biases."""
    stored, whole = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        for path in (INT8_WEIGHTS, WEIGHTS)
    )
    kernels = stored["maps.trunk.stage1.0.0.weight.half"].astype(np.float32)
    beyond = kernels.reshape(LANES, -1, 3).sum(axis=1) @ (PADDING - stored["grey"].astype(float))
    biases = whole["trunk.stage1.0.0.bias"]
    np.testing.assert_allclose(
        stored["maps.trunk.stage1.0.0.bias"] + beyond, np.tile(biases, 2), atol=1e-5
    )
    assert np.abs(beyond).max() > 1e-3


def test_answers_are_products_of_what_lies_in_memory() -> None:
    graph = onnx.load(INT8_WEIGHTS).graph
    makers = {name: node for node in graph.node for name in node.output}
    assert "Split" not in {node.op_type for node in graph.node}
    together = makers["answers"]
    assert together.op_type == "Concat" and len(together.input) == len(STRIDES)
    for name in together.input:
        product = makers[name]
        assert product.op_type == "MatMulIntegerToFloat"
        cells = makers[product.input[0]]
        assert [cells.op_type, makers[cells.input[0]].op_type] == ["Reshape", "Transpose"]


def test_kernels_are_rounded_as_finely_as_pairs_allow() -> None:
    kernels = np.array([[3, 4, -2, 1], [5, -5, 0, -1]], np.float32)
    whole, steps = rounded(kernels)
    assert steps.tolist() == pytest.approx([7 / 127, 5 / 127])
    assert whole.tolist() == [[54, 73, -36, 18], [127, -127, 0, -25]]
    np.testing.assert_allclose(whole * steps[:, None], kernels, atol=0.5 * steps.max())


@pytest.mark.parametrize("path", [INT8_WEIGHTS, packaged.WEIGHTS / "embedded" / "model.int8.onnx"])
def test_no_two_products_leave_sixteen_bits(path: Path) -> None:
    """Processors without VNNI add products of 8 bits two by two in 16, and cut off what is more."""
    graph = onnx.load(path).graph
    stored = (numpy_helper.to_array(tensor) for tensor in graph.initializer)
    kernels = [values.astype(int) for values in stored if values.dtype == np.int8]
    assert len(kernels) > 20
    for values in kernels:
        if values.ndim == 4:  # channels last, as they are multiplied
            values = values.transpose(2, 3, 1, 0).reshape(-1, len(values))
        if values.ndim < 2:  # zero points
            continue
        values = np.pad(values, ((0, len(values) % 2), (0, 0))).reshape(-1, 2, values.shape[1])
        assert values.clip(0).sum(axis=1).max() * 255 < 2**15
        assert values.clip(max=0).sum(axis=1).min() * 255 >= -(2**15)


def test_a_graph_is_arranged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / INT8_WEIGHTS.name
    shutil.copy(INT8_WEIGHTS, path)
    monkeypatch.setattr("sys.argv", ["arrange_detector.py", str(path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"{path} is arranged already" in capsys.readouterr().err
    assert path.read_bytes() == INT8_WEIGHTS.read_bytes()
