"""Model folders on the Hugging Face Hub: fetched by name, and published.

Nothing here happens unless a model is named as hub:user/name, or `fervor push` is called.
`HF_HUB_OFFLINE=1` forbids the network; what was fetched before is then used as it is.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fervor.artifacts.model_info import CARD, DESCRIPTION, FILES, ModelInfo
from fervor.errors import ModelError, UsageError


PREFIX = "hub:"
NEEDED = (DESCRIPTION, CARD)
"""What everybody needs; logs and configurations of a run stay at home."""


def fetched(model: str) -> Path:
    """The local folder of hub:user/name, or of hub:user/name@revision, its files verified.

    Files come to temporary names and are renamed when they are whole; those that the cache of
    huggingface_hub holds already are not fetched again.

    Raises:
        ModelError: it cannot be fetched, is no model folder, or is not what its model.json says.
        UsageError: the name is none, or huggingface_hub is not installed.
    """
    name, _, revision = model.removeprefix(PREFIX).partition("@")
    _check_name(name)
    with _talking(f"model {model}") as hub:
        folder = Path(
            hub.snapshot_download(name, revision=revision or None, allow_patterns=[*NEEDED, *FILES])
        )
    ModelInfo.read(folder).verify()
    return folder


def push(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Publish a model folder as user/name and return its address.

    Raises:
        ModelError: no whole model folder, or the hub refuses.
        UsageError: the name is none, or huggingface_hub is not installed.
    """
    place = Path(folder)
    _check_name(name)
    for file in NEEDED:
        if not (place / file).is_file():
            raise ModelError(f"{folder} holds no {file}: expected a run or model folder of fervor")
    info = ModelInfo.read(place)
    info.verify()
    with _talking(f"{name} on the hub") as hub:
        api = hub.HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=place,
            allow_patterns=[*NEEDED, *info.sha256],  # what an earlier export left is not
            commit_message=f"Add {info.name}",
        )
    return str(address)


def _check_name(name: str) -> None:
    user, _, own = name.partition("/")
    if not (user and own) or "/" in own:
        raise UsageError(f"{name!r} is no name on the hub: expected user/name")


@contextmanager
def _talking(what: str) -> Iterator[Any]:
    """huggingface_hub, whatever it raises turned into our own errors."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    except ModuleNotFoundError as error:
        raise UsageError(
            'the hub needs huggingface_hub, which is not installed: pip install "fervor[hub]"'
        ) from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield huggingface_hub
    except HFValidationError as error:
        raise UsageError(f"{what}: {error}") from error
    except Exception as error:  # httpx's, the hub's and the system's errors share no root
        if isinstance(error, ModelError | UsageError):
            raise
        raise ModelError(f"{what}: {error}") from error
