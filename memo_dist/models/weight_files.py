"""Weights to and from safetensors files, a tensor at a time: no process holds a model in full."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion

from memo_dist.io import atomic
from memo_dist.models.identity import SINGLE_WEIGHTS, WEIGHTS_INDEX, weight_files

FILE_BYTES = 4 * 2**30
"""Largest weights file; what a writer holds in memory beside one tensor."""
NamedTensor = tuple[str, torch.Tensor]


class WeightWriter:
    """Writes tensors as they come into a Hugging Face folder's weight files.

    One file is ``model.safetensors``; several are ``model-00001-of-0000N.safetensors`` with
    ``model.safetensors.index.json``. The names are final only after :meth:`close`.
    """

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES) -> None:
        """Write into ``folder`` (made if need be), files of at most ``file_bytes``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._limit = folder, file_bytes
        self._pending: dict[str, torch.Tensor] = {}
        self._bytes = 0
        self._files: list[list[str]] = []
        self._total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor, or keep it until its file is full."""
        if self._pending and self._bytes + tensor.nbytes > self._limit:
            self._flush()
        self._pending[name] = tensor.detach().cpu().contiguous()
        self._bytes += tensor.nbytes

    def close(self) -> None:
        """Write what is left, give the files their names, and write the index last."""
        self._flush()
        count = len(self._files)
        names = [_file_name(i, count) for i in range(count)]
        for index, name in enumerate(names):
            self._part(index).replace(self._folder / name)
        if count > 1:
            places = zip(names, self._files, strict=True)
            weight_map = {tensor: name for name, tensors in places for tensor in tensors}
            index_json = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            atomic.write_json(self._folder / WEIGHTS_INDEX, index_json)

    def _flush(self) -> None:
        if not self._pending:
            return
        # transformers reads the framework from the metadata and refuses a file without it.
        # https://github.com/safetensors/safetensors/issues/352
        save_file(self._pending, self._part(len(self._files)), metadata={"format": "pt"})
        self._files.append(list(self._pending))
        self._total += self._bytes
        self._pending, self._bytes = {}, 0

    def _part(self, index: int) -> Path:
        return self._folder / f"{atomic.TEMP_PREFIX}part-{index}"


def _file_name(index: int, count: int) -> str:
    if count == 1:
        return SINGLE_WEIGHTS
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def add_weights(writer: WeightWriter, model: Any, weights: Iterable[NamedTensor]) -> set[str]:
    """Write a training model's weights under the names that Hugging Face files give them.

    Args:
        writer: where to.
        model: the transformers model; its own tensors may be partitioned and are not read.
        weights: in full, by name in the model's state dict; a value need only hold until the
            next one is asked for.

    Returns:
        The names that need no writing any more: written ones, and those tied to one.
    """
    done = set(getattr(model, "all_tied_weights_keys", None) or {})
    for name, value in weights:
        if name not in done:
            # Some models are fused in memory (experts) and apart on disk.
            stored = revert_weight_conversion(model, {name: value.to("cpu", copy=True)})
            for stored_name, part in stored.items():
                writer.add(stored_name, part)
            done |= {name, *stored}
    return done


class StoredWeights:
    """The tensors of a folder's weight files: names and shapes from headers, values on demand."""

    def __init__(self, folder: Path) -> None:
        """Map the files of ``folder``.

        Raises:
            UsageError: see memo_dist.models.identity.weight_files.
        """
        self._streams: dict[str, Any] = {}
        for path in weight_files(folder):
            stream = safe_open(path, framework="pt")
            self._streams |= dict.fromkeys(stream.keys(), stream)  # type: ignore[no-untyped-call]

    @property
    def names(self) -> list[str]:
        """Every tensor's name, file by file."""
        return list(self._streams)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._streams[name].get_slice(name).get_shape())

    def __getitem__(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, in the dtype it is stored in."""
        value: torch.Tensor = self._streams[name].get_tensor(name)
        return value

    def __iter__(self) -> Iterator[NamedTensor]:
        """Every tensor by name, one at a time."""
        return ((name, self[name]) for name in self._streams)

    def parameters(self) -> int:
        """Number of weights, tied ones once."""
        return sum(math.prod(self.shape(name)) for name in self._streams)
