"""Weight files of others to safetensors: every entry reported, nothing executed."""

import argparse
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

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
    assert out[3].endswith("1 tensors written, 2 entries left out")


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
