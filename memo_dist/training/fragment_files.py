"""The files of a checkpoint: each rank writes the fragments it holds, any rank reads any of them.

``rank-<r>.safetensors`` holds ``<weight|exp_avg|exp_avg_sq>/<parameter>``: fp32, flat; the
file's metadata holds each fragment's offset in its flattened parameter. No pickle is involved,
and neither the number of ranks nor the ZeRO stage of the reader matters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from memo_dist.errors import RunError
from memo_dist.io.marker import note_hashes

Fragments = Mapping[str, tuple[int, Mapping[str, torch.Tensor]]]


def snapshot(fragments: Fragments) -> Fragments:
    """The fragments as they are now, in host memory."""
    return {
        name: (start, {key: value.detach().to("cpu", copy=True) for key, value in values.items()})
        for name, (start, values) in fragments.items()
    }


def write_fragments(folder: Path, rank: int, fragments: Fragments) -> None:
    """Write one rank's part of a checkpoint, and its hash for the marker."""
    tensors = {
        f"{key}/{name}": value.contiguous()
        for name, (_, values) in fragments.items()
        for key, value in values.items()
    }
    starts = {name: start for name, (start, _) in fragments.items()}
    path = folder / f"rank-{rank}.safetensors"
    save_file(tensors, path, metadata={"starts": json.dumps(starts)})
    note_hashes(folder, rank, [path.name])


class FragmentReader:
    """Reads any piece of any parameter from all ranks' files of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pieces: dict[str, list[tuple[int, int, Any]]] = {}
        for path in sorted(folder.glob("rank-*.safetensors")):
            self._index(safe_open(path, framework="pt"))

    def _index(self, file: Any) -> None:
        starts: dict[str, int] = json.loads((file.metadata() or {})["starts"])
        for key in file.keys():  # noqa: SIM118 (not a dict)
            start = starts[key.partition("/")[2]]
            numel = file.get_slice(key).get_shape()[0]
            self._pieces.setdefault(key, []).append((start, start + numel, file))

    def __call__(self, name: str, key: str, start: int, numel: int) -> torch.Tensor:
        """fp32 [numel], from ``start`` of the flattened parameter.

        Raises:
            RunError: the checkpoint does not hold all of it.
        """
        out = torch.empty(numel)
        filled = 0
        for begin, end, file in self._pieces.get(f"{key}/{name}", ()):
            first, last = max(begin, start), min(end, start + numel)
            if first < last:
                piece = file.get_slice(f"{key}/{name}")[first - begin : last - begin]
                out[first - start : last - start] = piece
                filled += last - first
        if filled != numel:
            raise RunError(
                f"checkpoint {self._folder.name} holds {filled} of {numel} elements of {name}"
            )
        return out

    def load_weights(self, module: torch.nn.Module, base_name: Callable[[str], str]) -> None:
        """Set all trained weights of a module that no engine has cut yet."""
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                values = self(base_name(name), "weight", 0, parameter.numel())
                parameter.data.copy_(values.view_as(parameter))
