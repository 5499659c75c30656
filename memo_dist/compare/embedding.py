"""The one place that knows the libraries of embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memo_dist.compare.method import NotRunError
from memo_dist.errors import install_hint

Vectors = np.ndarray[Any, np.dtype[np.float32]]
_MODULES = "modules.json"
"""A sentence-transformers folder has it; a model2vec folder has not."""
_STATIC = "StaticModel"


class Embedder:
    """Turns texts into unit vectors.

    Raises:
        NotRunError: no model is named, its package is missing, or it cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        if not name:
            raise NotRunError("no embedding model: set compare.embedder to a folder or hub id")
        self._model = _load(name)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [texts, dimension]; a zero vector stays one."""
        if not texts:
            return np.zeros((0, 1), np.float32)
        found = np.asarray(self._model.encode(list(texts), show_progress_bar=False), np.float32)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        vectors: Vectors = found / np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors


def embedder_stamp(name: str) -> str:
    """What identifies the model: of a local folder the size and time of each file."""
    folder = Path(name)
    if not name or not folder.is_dir():
        return name
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    marks = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in files]
    return "\n".join([name, *marks])


def _load(name: str) -> Any:
    folder = Path(name)
    static = folder.is_dir() and not (folder / _MODULES).exists()
    try:
        if static or (not folder.is_dir() and _is_static(name)):
            from model2vec import StaticModel

            return StaticModel.from_pretrained(name)
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(name, trust_remote_code=False)
    except ImportError as error:
        raise NotRunError(f"{error.name} is not installed: {install_hint('compare')}") from error
    except Exception as error:
        raise NotRunError(f"compare.embedder={name} cannot be loaded: {error}") from error


def _is_static(name: str) -> bool:
    """Whether a hub id names a model2vec model: its configuration says so."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        return True  # transformers does not know static models
    return _STATIC in (getattr(config, "architectures", None) or [])
