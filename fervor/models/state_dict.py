"""Weights from elsewhere: read, renamed, checked, and reported in full.

Two sources: a state dict file in the names of its own code, and a folder or hub name of
transformers. In both, a trunk's tensor that is missing or left over is an error.
"""

import logging
import math
import re
import socket
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fervor.errors import ModelError
from fervor.io.typed_json import read_object
from fervor.models.pickles import Husk, read_tensors


log = logging.getLogger(__name__)

STATE_SUFFIXES = (".safetensors", ".pt", ".pth", ".pth.tar")

PATIENCE = 3.0
"""Seconds that the hub has to take a connection."""

NOTHING = r"(?!)"
"""A pattern that matches no name."""

Triple = tuple[float, float, float]
"""Red, green, blue."""

WRAPPERS = ("state_dict_backbone", "state_dict", "model")
_PREFIX = re.compile(r"^(module\.|backbone\.|resnet\.|swin\.|vit\.)+")
_OPTIONAL = re.compile(r"(num_batches_tracked|^mean|^deviation)$")
_HUB_NAME = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*$")


@dataclass(frozen=True)
class LoadReport:
    """What happened to every name of a weight file.

    Attributes:
        source: the file, folder or hub name.
        loaded: our names that were filled.
        missing: our names that the file has not: BatchNorm's step counters, pixel statistics.
        left_over: its names that were not used: classifier heads and derived buffers.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()

    def log(self) -> None:
        """Write the report to the log."""
        log.info(
            "%s: %d tensors loaded; missing: %s; left over: %s",
            self.source,
            len(self.loaded),
            ", ".join(self.missing) or "none",
            ", ".join(self.left_over) or "none",
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt, .pth or .pth.tar file, without wrappers and prefixes.

    Raises:
        ModelError: no such file, not a file of tensors, or two tensors of one name.
    """
    if not path.is_file():
        raise ModelError(f"weights {path} not found: give a {', '.join(STATE_SUFFIXES)} file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = read_tensors(path)
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"weights {path} cannot be read: {reason}; give a file that holds tensors alone"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and is_state(state.get(wrapper)):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"weights {path} hold more than named tensors: give a state dict")
    plain = {_PREFIX.sub("", key): tensor for key, tensor in state.items()}
    if len(plain) != len(state):
        raise ModelError(f"weights {path} name a tensor twice, with and without a prefix")
    return plain


def is_state(value: Any) -> bool:
    """Whether it can be a state dict: a mapping that was built, and not a husk of another class."""
    return isinstance(value, Mapping) and not isinstance(value, Husk)


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    ignored: str = NOTHING,
) -> LoadReport:
    """Fill a module; names may lack the module's "trunk." in front.

    `ignored` is a pattern of names that may be left over; BatchNorm's step counters and the pixel
    statistics may be missing.

    Raises:
        ModelError: any other tensor is missing, left over or of another shape.
    """
    own = module.state_dict()
    matching = {
        key if key in own or f"trunk.{key}" not in own else f"trunk.{key}": tensor
        for key, tensor in state.items()
    }
    loaded = sorted(own.keys() & matching.keys())
    report = LoadReport(
        source=source,
        loaded=tuple(loaded),
        missing=tuple(sorted(own.keys() - matching.keys())),
        left_over=tuple(sorted(matching.keys() - own.keys())),
    )
    _check(
        source,
        missing=[key for key in report.missing if not _OPTIONAL.search(key)],
        left_over=[key for key in report.left_over if not re.search(ignored, key)],
        shapes=[
            f"{key} {tuple(matching[key].shape)} instead of {tuple(own[key].shape)}"
            for key in loaded
            if matching[key].shape != own[key].shape
        ],
    )
    module.load_state_dict({**own, **{key: matching[key] for key in loaded}})
    report.log()
    return report


def _check(
    source: str, *, missing: Sequence[str], left_over: Sequence[str], shapes: Sequence[str]
) -> None:
    """One line on all that does not fit, or nothing."""
    parts = {"missing": missing, "left over": left_over, "other shape": shapes}
    problems = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in parts.items() if keys]
    if problems:
        raise ModelError(
            f"weights {source} do not fit the encoder: {'; '.join(problems)}; give weights of the "
            "same architecture"
        )


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")


RESNET_HEADS = r"^(trunk\.)?(fc|feature|classifier)\."
"""Classifier layers of ResNet-18 files; SCN's and EAC's MS-Celeb-1M files call them fc, feature."""

SWIN_DERIVED = r"(^head\.(weight|bias)$|^classifier\.|relative_position_index$|attn_mask$)"
"""Swin's classifier, and the buffers that every implementation computes for itself."""

_RESNET_NAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"\.conv(\d)\.", lambda match: f".layer.{int(match[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda match: f".layer.{int(match[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"^layer(\d)\.", lambda match: f"encoder.stages.{int(match[1]) - 1}.layers."),
]


def from_torchvision_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ResNet tensors in torchvision's names (conv1, bn1, layer1.0.conv1 ...) in transformers'."""
    renamed = {}
    for key, tensor in state.items():
        if re.match(r"(conv1|bn1|layer\d)\.", key):
            for pattern, replacement in _RESNET_NAMES:
                key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return renamed


def from_official_swin(trunk: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin tensors in the names of its authors' code (layers.0.blocks.0.attn.qkv ...) in `trunk`'s.

    Blocks are matched by the order of their layers, because transformers renamed those between
    versions; the joined query, key and value are split.
    """
    names = {"patch_embed.proj": "embeddings.patch_embeddings.projection"}
    names |= {"patch_embed.norm": "embeddings.norm", "norm": "layernorm"}
    joined: dict[str, list[str]] = {}
    for stage, layer in enumerate(_children(trunk, "encoder.layers")):
        for part in ("reduction", "norm"):
            key = f"layers.{stage}.downsample.{part}"
            names[key] = f"encoder.{key}"
        for place, block in enumerate(_children(layer, "blocks")):
            old, new = f"layers.{stage}.blocks.{place}", f"encoder.layers.{stage}.blocks.{place}"
            linear = [f"{new}.{name}" for name in _named(block, nn.Linear)]
            norms = [f"{new}.{name}" for name in _named(block, nn.LayerNorm)]
            joined[f"{old}.attn.qkv"] = linear[:3]
            ours = (*linear[3:], *norms)
            theirs = ("attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
            names |= {f"{old}.{key}": name for key, name in zip(theirs, ours, strict=True)}
            (table,) = (n for n, _ in block.named_parameters() if n.endswith("_bias_table"))
            names[f"{old}.attn"] = f"{new}.{table.rpartition('.')[0]}"
    renamed = {}
    for key, tensor in state.items():
        layer_name, _, kind = key.rpartition(".")
        if layer_name in joined:
            for name, third in zip(joined[layer_name], tensor.chunk(3), strict=True):
                renamed[f"{name}.{kind}"] = third
        elif layer_name in names and not re.search(SWIN_DERIVED, key):
            renamed[f"{names[layer_name]}.{kind}"] = tensor
        else:
            renamed[key] = tensor
    return renamed


def _children(module: nn.Module, path: str) -> Iterable[nn.Module]:
    return module.get_submodule(path).children()


def _named(module: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, kind)]


def load_pretrained(
    class_name: str, name: str, *, model_type: str, ignored: str = NOTHING, **options: Any
) -> tuple[Any, LoadReport]:
    """A model of transformers from a local folder or a hub name, in float32.

    Only a name that is no local folder may reach for the network. `ignored` is a pattern of the
    file's names that may be left over.

    Raises:
        ModelError: it cannot be found or fetched, is of another kind, or does not fit.
    """
    import transformers

    kind = model_kind(name)
    if kind != model_type:
        raise ModelError(f"{name} holds a model of kind {kind}, expected {model_type}")
    with _fetching(name):
        model, info = getattr(transformers, class_name).from_pretrained(
            name,
            local_files_only=_is_local(name),
            output_loading_info=True,
            dtype=torch.float32,
            **options,
        )
    left_over = tuple(sorted(info["unexpected_keys"]))
    missing = tuple(sorted(info["missing_keys"]))
    _check(
        name,
        missing=[key for key in missing if not _OPTIONAL.search(key)],
        left_over=[key for key in left_over if not re.search(ignored, key)],
        shapes=[str(key) for key in info["mismatched_keys"]],
    )
    loaded = tuple(sorted(model.state_dict().keys() - set(missing)))
    report = LoadReport(name, loaded, missing, left_over)
    report.log()
    return model, report


def model_kind(name: str) -> str:
    """The kind that a local folder or hub name of transformers says it is: clip, bert, ...

    Raises:
        ModelError: it cannot be found or fetched.
    """
    from transformers import AutoConfig

    with _fetching(name):
        config = AutoConfig.from_pretrained(name, local_files_only=_is_local(name))
    return str(config.model_type)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a local folder or hub name.

    Raises:
        ModelError: it cannot be found or fetched.
    """
    from transformers import AutoTokenizer

    with _fetching(name):
        return AutoTokenizer.from_pretrained(name, local_files_only=_is_local(name))


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Turn what transformers raises into one line, and hide its progress bars."""
    from transformers.utils import logging as transformers_logging

    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not Path(name).is_dir() and _is_local(name):
            reason = "it is not in the local cache and the hub is out of reach; give a local folder"
        raise ModelError(f"{name} cannot be loaded: {reason}") from error
    finally:
        if shown:
            bars.enable_progress_bar()


def _is_local(name: str) -> bool:
    """True for a folder, and where the hub is out of reach; false for a hub name otherwise.

    Raises:
        ModelError: neither a folder nor what can be a hub name.
    """
    if Path(name).is_dir():
        return True
    if not _HUB_NAME.match(name):
        raise ModelError(f"{name} is no folder and no hub name (owner/model): give one of them")
    return not _reachable()


@cache
def _reachable() -> bool:
    """Whether the hub answers; its own client would try for most of a minute to find out."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():  # what is behind them a connection of our own does not show
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), PATIENCE).close()
    except OSError:
        return False
    return True


def pixel_statistics(name: str) -> tuple[Triple, Triple] | None:
    """Mean and deviation per channel for images in 0..1, as a pretrained model's files say.

    None where they say nothing.

    Raises:
        ModelError: they say what is no mean or no deviation.
    """
    from transformers.utils.hub import cached_file

    for file in ("preprocessor_config.json", "processor_config.json"):
        path = cached_file(
            name,
            file,
            local_files_only=_is_local(name),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is None:
            continue
        try:
            settings = read_object(Path(path))
            settings = settings.get("image_processor", settings)
            # An image in 0..255 is scaled, lowered by one if so, then normalised.
            factor = 255 * settings.get("rescale_factor", 1 / 255)
            offset = 1.0 if settings.get("rescale_offset") else 0.0
            plain = not settings.get("do_normalize", "image_mean" in settings)
            mean = [0.0] * 3 if plain else settings["image_mean"]
            std = [1.0] * 3 if plain else settings["image_std"]
            values = [(value + offset) / factor for value in mean], [one / factor for one in std]
            (red, green, blue), scales = values
            if not (len(scales) == 3 and all(map(math.isfinite, [*values[0], *scales]))):
                raise ValueError("expected three finite numbers")
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{path} states no mean and deviation of pixels: {reason}") from None
        return (red, green, blue), (scales[0], scales[1], scales[2])
    return None
