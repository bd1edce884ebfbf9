"""Weight files of others to safetensors: every entry reported, nothing executed."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fervor.__main__ import main
from fervor.convert import convert
from fervor.errors import ModelError, UsageError


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


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_file_does_not_run(tmp_path: Path, by_torch: bool) -> None:
    content = {"w": torch.ones(1), "trap": Trap(tmp_path / "sprung")}
    source = tmp_path / "bad.pt"
    if by_torch:
        torch.save(content, source)
    else:
        source.write_bytes(pickle.dumps({"trap": Trap(tmp_path / "sprung")}))
    with pytest.raises(ModelError, match="cannot be read without running code"):
        convert(source, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pt"]


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
