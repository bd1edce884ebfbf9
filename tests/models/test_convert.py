"""Weight files of others to safetensors: every entry reported, nothing executed."""

import argparse
import io
import pickle
import resource
import struct
import time
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import _utils

from fervor.cli.main import main
from fervor.errors import ModelError, UsageError
from fervor.models.convert import convert
from fervor.models.state_dict import read_state


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_checkpoint_becomes_its_tensors(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    state = OrderedDict(
        {"module.fc.weight": weight, "module.tied": weight, "steps": torch.tensor(7)}
    )
    state["half"] = weight.half()[:, ::2]  # no tensor of its own memory
    content = {"epoch": 12, "best": 0.9, "state_dict": state, "optimizer": {"lr": 0.1}}
    report = convert(saved(tmp_path / "net.pth.tar", content), tmp_path / "net.safetensors")
    written = load_file(tmp_path / "net.safetensors")
    assert written.keys() == state.keys() == report.tensors.keys()
    for name, tensor in state.items():
        assert torch.equal(written[name], tensor) and written[name].dtype == tensor.dtype
    assert report.left_out == ("epoch", "best", "optimizer")
    assert report.lines()[:1] == ["module.fc.weight  3 x 4  float32"]
    assert "steps  one number  int64" in report.lines()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_command_says_what_became_of_each_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path / "a.pt", {"model": {"w": torch.ones(2), "name": "x"}, "epoch": 3})
    assert main(["convert", str(source), str(tmp_path / "a.safetensors")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == ["w  2  float32", "left out: epoch", "left out: name"]
    assert out[3].endswith("1 tensor written, 2 entries left out")


class Trap:
    """Unpickled carelessly, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_does_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"w": torch.ones(1), "trap": Trap(tmp_path / "sprung")}
    torch.save(content, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
    report = convert(tmp_path / "bad.pt", tmp_path / "out.safetensors")
    assert list(report.tensors) == ["w"] and "not built" in report.left_out[0]
    assert list(read_state(saved(tmp_path / "w.pt", {"state_dict": {"w": torch.ones(1)}}))) == ["w"]
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(content["trap"]))
    with pytest.raises(ModelError, match="cannot be read"):
        convert(tmp_path / "pickle.pt", tmp_path / "other.safetensors")
    assert not (tmp_path / "sprung").exists()


def test_a_program_is_no_weight_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/constants.pkl", b"")
        archive.writestr("program/data.pkl", b"")
    with pytest.raises(ModelError, match="a program and not a state dict"):
        convert(tmp_path / "program.pt", tmp_path / "out.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_checkpoint_keeps_beside_its_tensors_is_passed_over(
    tmp_path: Path, zipped: bool
) -> None:
    """As training code of papers saves it: arguments, numpy's numbers, lists, an optimiser."""
    weight = torch.nn.Parameter(torch.randn(2, 3))
    content = {
        "args": argparse.Namespace(lr=0.1, names=["a", "b"]),
        "best_acc1": np.float64(0.88),
        "curve": np.arange(3),
        "epoch": np.int64(3),
        "state_dict": OrderedDict({"module.w": weight, "steps": torch.tensor(7)}),
        "seen": {"a set"},
        "counts": defaultdict(list, {"x": [1]}),
    }
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    report = convert(path, tmp_path / "out.safetensors")
    assert list(report.tensors) == ["module.w", "steps"]
    assert report.left_out[0] == "args (argparse.Namespace, not built)"
    assert torch.equal(load_file(tmp_path / "out.safetensors")["module.w"], weight)
    assert torch.equal(read_state(path)["w"], weight)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pt", {"epoch": 3})
    with pytest.raises(ModelError, match="hold no named tensors"):
        convert(source, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="hold no named tensors"):
        convert(saved(tmp_path / "list.pt", [torch.ones(1)]), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="not found"):
        convert(tmp_path / "none.pt", tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        convert(source, tmp_path / "a.bin")
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(UsageError, match="exists already"):
        convert(source, tmp_path / "a.safetensors")
    (tmp_path / "cut.pt").write_bytes(source.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read"):
        convert(tmp_path / "cut.pt", tmp_path / "b.safetensors")


# Small files that ask for much memory


class Calls:
    """Pickled, the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Stored:
    """Stands for a storage of so many numbers."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers


def pickled(content: Any, *, legacy: bool = False) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, Stored):
                return None
            found = ("storage", torch.FloatStorage, "0", "cpu", value.numbers)
            return (*found, None) if legacy else found

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(content)
    return buffer.getvalue()


def a_tensor(stored: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> Calls:
    arguments = (Stored(stored), 0, shape, steps, False, OrderedDict())
    return Calls(_utils._rebuild_tensor_v2, *arguments)


def archive(path: Path, content: Any, data: bytes = b"\0" * 4, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        code = content if isinstance(content, bytes) else pickled(content)
        parts = {"data.pkl": code, "byteorder": b"little", "data/0": data}
        for name, part in {**parts, "version": b"3\n"}.items():
            file.writestr(f"archive/{name}", part)
    return path


def legacy(path: Path, content: Any) -> Path:
    """As torch wrote files before 1.6."""
    sizes = {"short": 2, "int": 4, "long": 4}
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, about)]
    parts += [pickled(content, legacy=True), pickle.dumps(["0"], 2)]
    path.write_bytes(b"".join(parts) + struct.pack("<q", 1) + b"\0" * 4)
    return path


LARGE = 10**10
GREEDY: dict[str, Callable[[Path], Path]] = {
    "a number repeated": lambda path: archive(path, {"w": a_tensor(1, (LARGE,), (0,))}),
    "only a bytearray": lambda path: archive(path, {"x": Calls(bytearray, LARGE)}),
    "only a storage": lambda path: archive(path, {"x": Calls(torch.FloatStorage, LARGE)}),
    "a tensor without numbers": lambda path: archive(
        path,
        {"w": Calls(_utils._rebuild_meta_tensor_no_storage, torch.float32, (LARGE,), (1,), False)},
    ),
    "zeros that are packed": lambda path: archive(
        path,
        {"w": a_tensor(10**7, (10**7,), (1,))},
        b"\0" * 4 * 10**7,
        compression=zipfile.ZIP_DEFLATED,
    ),
    "one tensor under many names": lambda path: archive(
        path,
        dict.fromkeys(map(str, range(9999)), a_tensor(10**6, (10**6,), (1,))),
        b"\0" * 4_000_000,
    ),
    "a storage of an old file": lambda path: legacy(path, {"w": a_tensor(LARGE, (1,), (1,))}),
    "a long memory": lambda path: archive(path, b"\x80\x02}r\xff\xff\xff\x7f."),
}


@pytest.mark.parametrize("case", GREEDY)
def test_a_file_gets_no_more_memory_than_it_is_worth(case: str, tmp_path: Path) -> None:
    source = GREEDY[case](tmp_path / "a.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    for read in (
        lambda: convert(source, tmp_path / "out.safetensors"),
        lambda: read_state(source),
    ):
        with pytest.raises(ModelError) as refused:
            read()
        assert "\n" not in str(refused.value)
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert not (tmp_path / "out.safetensors").exists()


def test_an_old_file_and_shared_tensors_are_read(tmp_path: Path) -> None:
    convert(legacy(tmp_path / "old.pt", {"w": a_tensor(1, (1,), (1,))}), tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")["w"].tolist() == [0]
    tied = torch.randn(100, 100)
    saved(tmp_path / "tied.pt", {"a": tied, "b": tied, "c": tied.t()})
    report = convert(tmp_path / "tied.pt", tmp_path / "b.safetensors")
    assert report.tensors.keys() == {"a", "b", "c"}
