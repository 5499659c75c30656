"""From the name of a base model to its folder on this machine, identified by its hashes.

Names come from several configuration keys; every message names the key that was wrong.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from memo_dist.errors import UsageError, suggest
from memo_dist.models.identity import BaseModel, identify, weight_files
from memo_dist.models.smollm2 import SMOLLM2_NAME, WHEEL_ENV, load_smollm2

SCRATCH_NAME = "scratch"
BUILT_IN = (SMOLLM2_NAME, SCRATCH_NAME)
MEMORY_BASE = "memory.base"
"""The key that may name a scratch memory; others name models that exist."""

_HUB_ID = re.compile(r"\w[\w.-]{0,95}(?:/\w[\w.-]{0,95})?", re.ASCII)
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]
_HUB_SKIPPED = ["*/*", "consolidated*"]  # folders hold other formats; Mistral's second copy

__all__ = ["BUILT_IN", "SCRATCH_NAME", "BaseModel", "dry_check", "find_base", "resolve_base"]


def resolve_base(name: str, allow_download: bool = True, key: str = MEMORY_BASE) -> BaseModel:
    """The folder behind a name, downloaded or converted if need be.

    Args:
        name: ``smollm2-135m``, a local folder, or a hub id (``owner/model``). Built-in names
            win over a folder of the same name (write ``./smollm2-135m`` for the folder).
        allow_download: fetch from the registry or the hub what no cache holds.
        key: the configuration key that holds the name.

    Raises:
        UsageError: no such model, no safetensors, no causal language model, needs code of
            its own, or cannot be reached.
    """
    if name == SMOLLM2_NAME:
        dry_check(name, key)
        return load_smollm2(allow_download, key)  # its hashes are in the cache
    return identify(name, find_base(name, allow_download, key))


def find_base(name: str, allow_download: bool = True, key: str = MEMORY_BASE) -> Path:
    """The folder of :func:`resolve_base`, without reading its weights to hash them.

    Raises:
        UsageError: see there.
    """
    dry_check(name, key)
    if name == SCRATCH_NAME:
        raise UsageError(
            f"{key}={SCRATCH_NAME} is built from the run's own reflections; it has no"
            " folder before training starts"
        )
    if name == SMOLLM2_NAME:
        return load_smollm2(allow_download, key).path
    local = Path(name).expanduser()
    folder = local.absolute() if local.is_dir() else _from_hub(name, allow_download, key)
    _check_model(name, folder, key)
    return folder


def dry_check(name: str, key: str = MEMORY_BASE) -> None:
    """Check the name that ``key`` holds without downloading or loading anything.

    Raises:
        UsageError: empty, a misspelt built-in name, a folder that is not there or holds no
            model, or neither a folder nor a possible hub id.
    """
    if name in BUILT_IN:
        wheel = os.environ.get(WHEEL_ENV)
        if name == SMOLLM2_NAME and wheel and not Path(wheel).expanduser().is_file():
            raise UsageError(f"{WHEEL_ENV}={wheel} is not a file")
        return
    if not name.strip():
        raise UsageError(f"{key} is empty; name one of {_choices(key)}")
    local = Path(name).expanduser()
    if local.is_dir():
        _check_folder(local, key)
    elif local.exists():
        raise UsageError(f"{key}='{name}' is a file, not a model folder")
    else:
        _check_hub_id(name, key)


def _choices(key: str) -> str:
    return f"{_built_in(key)}, a local folder, or a hub id (owner/model)"


def _built_in(key: str) -> str:
    """Built-in names that the key may hold."""
    return ", ".join(BUILT_IN if key == MEMORY_BASE else (SMOLLM2_NAME,))


def _check_folder(folder: Path, key: str) -> None:
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{key}='{folder}' is not a Hugging Face model folder: config.json is missing"
        )
    weight_files(folder, f"choose another {key}")


def _check_hub_id(name: str, key: str) -> None:
    looks_local = name.startswith((".", "/", "~", "\\")) or name.count("/") > 1
    hint = suggest(name, BUILT_IN)
    if looks_local or (hint and "/" not in name):
        raise UsageError(f"{key}='{name}' does not exist{hint}; name one of {_choices(key)}")
    if not _HUB_ID.fullmatch(name):
        raise UsageError(
            f"{key}='{name}' is neither a folder nor a hub id; name one of {_choices(key)}"
        )


def _from_hub(name: str, allow_download: bool, key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        path = snapshot_download(
            name,
            allow_patterns=_HUB_FILES,
            ignore_patterns=_HUB_SKIPPED,
            local_files_only=not allow_download,
        )
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"{key}='{name}' is not on the hub, or is private and HF_TOKEN does not open it"
        ) from error
    except LocalEntryNotFoundError as error:
        raise UsageError(
            f"{key}='{name}' is neither a local folder nor in the hub's cache, and the hub"
            f" cannot be reached ({error.__cause__ or 'downloads are off'}); name a local folder"
            f" or one of {_built_in(key)}"
        ) from error
    except Exception as error:  # the HTTP client's errors differ between the hub's versions
        # https://github.com/huggingface/huggingface_hub/pull/3387
        raise UsageError(f"{key}='{name}' cannot be fetched from the hub: {error}") from error
    return Path(path)


def _check_model(name: str, folder: Path, key: str) -> None:
    """Refuse what is no causal language model or needs code from its repository."""
    _check_folder(folder, key)
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{key}='{name}' cannot be loaded without running code that it carries, or its"
            f" config.json is broken: {str(error).splitlines()[0]}"
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UsageError(
            f"{key}='{name}' is a {config.model_type} model, not a causal language model"
        )
