"""Checkpoints of strangers: tensors and plain containers are built, all else stays a husk.

A pickle names classes and functions, and reading it would import and call them. Here those that
torch's own tensors and plain containers need are looked up in a table; every other name gives a
husk, which takes whatever is put into it and does nothing. So a checkpoint that keeps its
arguments (argparse.Namespace) or numpy's scalars beside its tensors is read for its tensors alone.
"""

import collections
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


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
            return getattr(torch, name)
        return _husk(module, name)


def _load(file: Any, **settings: Any) -> Any:
    return TensorsAlone(file, **settings).load()


READER = SimpleNamespace(__name__="pickle", Unpickler=TensorsAlone, load=_load)
"""In place of the module pickle."""


def read_tensors(path: Path) -> Any:
    """What a .pt, .pth or .pth.tar file holds: tensors, plain values, containers, and husks.

    Raises:
        ValueError: a TorchScript archive, whose classes would have to be built.
        Exception: whatever a damaged file makes torch raise.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("it is a TorchScript archive, a program and not a state dict")
    load: Callable[..., Any] = torch.load
    return load(path, map_location="cpu", weights_only=False, pickle_module=READER)
