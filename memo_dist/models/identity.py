"""What identifies a model folder: the hashes of its weights and of its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memo_dist.errors import UsageError
from memo_dist.io.hashing import hash_file, hash_value

WEIGHTS_INDEX = "model.safetensors.index.json"
SINGLE_WEIGHTS = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine's disk.

    Attributes:
        name: the name it was asked for by (``memory.base``).
        path: a Hugging Face folder with safetensors weights and a tokenizer.
        weights_hash: see :func:`hash_weights`.
        vocabulary_hash: see :func:`hash_vocabulary`.
        dtype: torch name of the dtype that the weights are stored in (``float32``).
    """

    name: str
    path: Path
    weights_hash: str
    vocabulary_hash: str
    dtype: str


def weight_files(folder: Path, advice: str = "choose another memory.base") -> list[Path]:
    """The safetensors files that make up the model in ``folder``, sorted by name.

    The index decides where there is one (some repositories carry a second copy of the weights).

    Args:
        folder: of the model.
        advice: what to do where there are none; ends the message. "": nothing.

    Raises:
        UsageError: there are none (pickle-only folders are refused: unpickling runs code), or
            a file that the index names is missing.
    """
    files = _indexed(folder)
    if files is None and (folder / SINGLE_WEIGHTS).is_file():
        files = [folder / SINGLE_WEIGHTS]
    if files is None:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(_no_weights(folder, advice))
    for path in files:
        if not path.is_file():
            raise UsageError(f"'{folder}' is incomplete: {path.name} is missing")
    return files


def hash_weights(folder: Path) -> str:
    """SHA-256 over the sorted (file name, SHA-256 of the file) of the folder's safetensors files.

    Raises:
        UsageError: see :func:`weight_files`.
    """
    return hash_value([[path.name, hash_file(path)] for path in weight_files(folder)])


def model_stamp(name: str) -> str:
    """What changes with the files of a local model folder, at once; "" of a name on a hub.

    Sizes and times of its weights: for a model whose answers are kept, not for one in a bank.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return ""
    found = [(path.name, path.stat()) for path in weight_files(folder)]
    return hash_value([[path, stat.st_size, stat.st_mtime_ns] for path, stat in found])


def hash_vocabulary(folder: Path) -> str:
    """SHA-256 over the tokenizer's token -> id map, added tokens included.

    Raises:
        UsageError: the folder has no tokenizer that loads without running code of its own.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UsageError(f"the tokenizer in '{folder}' cannot be loaded: {error}") from error
    return hash_value(tokenizer.get_vocab())


def weights_dtype(folder: Path) -> str:
    """Torch name of the dtype of the first tensor of the folder's weights."""
    from safetensors import safe_open

    first = weight_files(folder)[0]
    try:
        with safe_open(first, framework="np") as weights:
            names = sorted(weights.keys())
            stored = weights.get_slice(names[0]).get_dtype() if names else ""
    except Exception as error:  # safetensors raises its own SafetensorError, not exported typed
        # https://github.com/safetensors/safetensors/issues/523
        raise UsageError(f"'{first}' is not a readable safetensors file: {error}") from error
    return _DTYPES.get(stored, stored.lower())


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Load or save models without transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def identify(name: str, folder: Path) -> BaseModel:
    """Hash the model in ``folder``; reads every weight once.

    Raises:
        UsageError: weights or tokenizer are missing or unreadable.
    """
    dtype = weights_dtype(folder)
    return BaseModel(name, folder, hash_weights(folder), hash_vocabulary(folder), dtype)


def _indexed(folder: Path) -> list[Path] | None:
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return None
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"'{index}' is not a weight index: {error}") from error
    if any(Path(name).name != name for name in names):
        raise UsageError(f"'{index}' names weights outside its folder")
    return [folder / name for name in sorted(names)]


def _no_weights(folder: Path, advice: str) -> str:
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        return (
            f"'{folder}' holds its weights as pickles only; loading one runs code that it carries."
            f" Convert it to safetensors{f', or {advice}' if advice else ''}"
        )
    return f"'{folder}' holds no model weights (*.safetensors){f'; {advice}' if advice else ''}"
