"""Weight files of papers (.pt, .pth, .pth.tar) -> safetensors, read without executing anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from fervor.errors import ModelError, UsageError
from fervor.io.atomic import write_bytes
from fervor.models.pickles import Husk, read_tensors
from fervor.models.state_dict import WRAPPERS, is_state


class Report(NamedTuple):
    """What became of every entry of a weight file.

    Attributes:
        tensors: name, shape and kind of number of each tensor that was written.
        left_out: the other entries: epochs, optimisers and what else a checkpoint holds.
    """

    tensors: dict[str, tuple[tuple[int, ...], str]]
    left_out: tuple[str, ...]

    def lines(self) -> list[str]:
        """One line for each entry."""
        written = [
            f"{name}  {' x '.join(map(str, shape)) or 'one number'}  {kind}"
            for name, (shape, kind) in self.tensors.items()
        ]
        return written + [f"left out: {name}" for name in self.left_out]


def convert(file: str | Path, output: str | Path) -> Report:
    """Write the named tensors of a weight file as safetensors, under the names that they have.

    Of a checkpoint the state dict is taken, as training code nests it. Tensors and plain containers
    alone are built (see `models.pickles`); what else a checkpoint keeps is named as left out.

    Raises:
        ModelError: no such file, or not a file of tensors.
        UsageError: the output is no .safetensors file, or exists already.
    """
    source, target = Path(file), Path(output)
    if target.suffix != ".safetensors":
        raise UsageError(f"output {output}: expected a file that ends in .safetensors")
    if target.exists():
        raise UsageError(f"output {output} exists already: name another file")
    if not source.is_file():
        raise ModelError(f"weights {file} not found: give a .pt, .pth or .pth.tar file")
    state, left_out = _state_dict(_read(source))
    for name, value in state.items():
        if not isinstance(value, Tensor):
            left_out.append(_named(name, value))
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"weights {file} hold no named tensors: give a state dict")
    # each tensor by itself: safetensors refuses memory that two of them share
    whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    write_bytes(target, save(whole))
    kinds = {
        name: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in tensors.items()
    }
    return Report(kinds, tuple(left_out))


def _read(source: Path) -> Any:
    try:
        return read_tensors(source)
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"weights {source} cannot be read: {reason}; ask its authors for a file of tensors"
        ) from error


def _state_dict(content: Any) -> tuple[dict[str, Any], list[str]]:
    """The innermost state dict, and the entries beside it."""
    left_out: list[str] = []
    while isinstance(content, Mapping):
        inner = next((name for name in WRAPPERS if is_state(content.get(name))), None)
        if inner is None:
            return {str(name): value for name, value in content.items()}, left_out
        left_out += [_named(name, value) for name, value in content.items() if name != inner]
        content = content[inner]
    return {}, left_out


def _named(name: Any, value: Any) -> str:
    """An entry's name, and of what kind it is where it was not built."""
    return f"{name} ({value.kind}, not built)" if isinstance(value, Husk) else str(name)
