"""Checkpoints of strangers: tensors and plain containers are built, all else stays a husk.

A pickle names classes and functions, and reading it would import and call them. Here those that
torch's own tensors and plain containers need are looked up in a table; every other name gives a
husk, which takes whatever is put into it and does nothing. So a checkpoint that keeps its
arguments (argparse.Namespace) or numpy's scalars beside its tensors is read for its tensors alone.
Before that a look at its operations, none of which is done, bounds what it would allocate.
"""

import collections
import pickle
import pickletools
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch.serialization import StorageType


GROWTH = 16
"""Bytes that may be allocated for each byte of a file: some tensors are named more than once."""
LEGACY_PARTS = 5
"""Pickles at the start of a file of torch before 1.6."""
PUTS = ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE")


class Husk(dict[Any, Any]):
    """Stands for an object of a class that is not built; as a mapping it keeps what it is given."""

    kind = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Husk":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> "Husk":
        return self

    def __setstate__(self, state: Any) -> None:
        return None

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, value: Any) -> None:
        """Lists of other classes lose what they hold."""

    def extend(self, values: Any) -> None:
        """The same for many values."""


def _husk(module: str, name: str) -> type[Husk]:
    """A husk that knows for which class it stands."""
    return type(name.rpartition(".")[2] or "Husk", (Husk,), {"kind": f"{module}.{name}"})


BUILT: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""What a state dict is made of; storages are torch's own business."""

DTYPES = {name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}


class TensorsAlone(pickle.Unpickler):
    """Looks names up in `BUILT`, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of the table, a dtype, or a husk."""
        if (module, name) in BUILT:
            return BUILT[module, name]
        if module == "torch" and name in DTYPES:
            return getattr(torch, name)
        if module in ("torch", "torch.cuda") and name.endswith("Storage"):
            with suppress(KeyError):
                return StorageType(name)  # knows its dtype, and allocates nothing
        return _husk(module, name)


def _load(file: Any, **settings: Any) -> Any:
    return TensorsAlone(file, **settings).load()


READER = SimpleNamespace(__name__="pickle", Unpickler=TensorsAlone, load=_load)
"""In place of the module pickle."""


def read_tensors(path: Path) -> Any:
    """What a .pt, .pth or .pth.tar file holds: tensors, plain values, containers, and husks.

    Raises:
        ValueError: a TorchScript archive, whose classes would have to be built; an archive of torch
            before 0.1.10, which is unpacked to disk; or one that asks for more memory than GROWTH
            times its size.
        Exception: whatever a damaged file makes torch raise.
    """
    limit = GROWTH * path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("it is a TorchScript archive, a program and not a state dict")
            if sum(part.file_size for part in archive.infolist()) > limit:
                raise ValueError(f"its parts unfold to more than {limit:,} bytes")
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as file:
                        _look_through(file, limit)
    elif tarfile.is_tarfile(path):
        raise ValueError("it is a tar archive, as torch wrote them before 2017")
    else:
        with path.open("rb") as file:
            for _ in range(LEGACY_PARTS):
                _look_through(file, limit)
    load: Callable[..., Any] = torch.load
    content = load(path, map_location="cpu", weights_only=False, pickle_module=READER)
    if sum(tensor.numel() * tensor.element_size() for tensor in _tensors_in(content)) > limit:
        raise ValueError(f"its tensors unfold to more than {limit:,} bytes")
    return content


def _look_through(file: IO[bytes], limit: int) -> None:
    """Read one pickle's operations without doing any.

    Raises:
        ValueError: they would allocate more than `limit`, or are none of torch.save.
    """
    last: list[tuple[str, Any]] = []
    numbers = 0
    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        if name in PUTS:
            if isinstance(argument, int) and argument > limit:  # the memo is a list that grows
                raise ValueError(f"it remembers more than {limit:,} values")
            continue
        if name == "BINPERSID":  # of a storage: a tuple that ends with its size, or size and None
            words = last[:-2] if last[-2:-1] == [("NONE", None)] else last[:-1]
            if last[-1][0] != "TUPLE" or not words or not isinstance(words[-1][1], int):
                raise ValueError("it holds a storage of unknown size")
            numbers += words[-1][1]
            if numbers > limit:
                raise ValueError(f"its storages hold more than {limit:,} numbers")
        last = [*last[-3:], (name, argument)]


def _tensors_in(content: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested containers, as often as one container names it."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, Mapping) else value)
