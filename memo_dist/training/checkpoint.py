"""Checkpoints that exist only when complete.

``step-<n>/`` holds a ``rank-<r>.safetensors`` (see :mod:`memo_dist.training.fragment_files`) and a
``rng-<r>.safetensors`` a rank, ``state.json``, and ``COMPLETE`` (the size of every file), which
rank 0 writes after a barrier and removes first.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from memo_dist.io import atomic

COMPLETE = "COMPLETE"
STATE = "state.json"
_PREFIX = "step-"


@dataclass(frozen=True)
class TrainState:
    """What a resumed run must know besides weights and optimizer.

    Attributes:
        step: optimizer steps done.
        consumed_rows: packed rows consumed.
        position: of the data order: examples consumed, over all epochs.
        consumed_tokens, trained_tokens: tokens read, and tokens with loss, so far.
        seconds: wall-clock seconds of stepping, over all launches.
        seed: of the data order.
        job: hash of everything that decides the result (see ``TrainJob.identity``).
        world_size, zero_stage, threads: as they were; a resume may have others.
        weights_of_step: in final/ only: the step whose weights were chosen; 0: the last.
        best_recall, evals_without_gain: of held-out wordings while training, for early stop.
        versions: of the libraries that wrote it.
        pace_step, pace_seconds, spent: of ``schedule.Pace``.
    """

    step: int
    consumed_rows: int
    position: int
    consumed_tokens: int
    trained_tokens: int
    seconds: float
    seed: int
    job: str
    world_size: int
    zero_stage: int
    threads: int
    versions: dict[str, str]
    weights_of_step: int = 0
    best_recall: float = -1.0
    evals_without_gain: int = 0
    pace_step: int = 0
    pace_seconds: float = 0.0
    spent: float = 0.0


def tag(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"{_PREFIX}{step:07d}"


def random_file(rank: int) -> str:
    """Name of one rank's random state."""
    return f"rng-{rank}.safetensors"


def random_state() -> bytes:
    """This rank's random state, as a safetensors file."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return bytes(save(states))


def restore_random_state(folder: Path, rank: int) -> None:
    """Restore one rank's random state; a rank that was not there before keeps its own."""
    path = folder / random_file(rank)
    if not path.exists():
        return
    states = load_file(path)
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def complete(folder: Path, state: TrainState) -> None:
    """Make a written checkpoint exist: state, flush, then the marker. Rank 0, after a barrier."""
    atomic.write_json(folder / STATE, asdict(state))
    mark_complete(folder)


def mark_complete(folder: Path) -> None:
    """Flush every file of a folder to the disk and write its marker with their sizes."""
    sizes = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != COMPLETE):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        sizes[str(file.relative_to(folder))] = file.stat().st_size
    atomic.write_json(folder / COMPLETE, {"files": sizes})


def publish(new: Path, folder: Path) -> None:
    """Put a folder whose files are written in the place of ``folder``: marked, then renamed."""
    mark_complete(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)
    atomic.fsync_folder(folder.parent)


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file has the size that it names."""
    marker = folder / COMPLETE
    if not marker.exists():
        return False
    sizes: dict[str, int] = atomic.read_json(marker)["files"]
    files = {name: folder / name for name in sizes}
    return all(
        files[name].is_file() and files[name].stat().st_size == sizes[name] for name in sizes
    )


def read_state(folder: Path) -> TrainState:
    """The state of a complete checkpoint."""
    values: dict[str, Any] = atomic.read_json(folder / STATE)
    return TrainState(**values)


def latest(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = [f for f in checkpoints.glob(f"{_PREFIX}*") if is_complete(f)]
    return max(found, key=lambda folder: folder.name, default=None)


def prune(checkpoints: Path, keep: int) -> None:
    """Remove incomplete checkpoints and all complete ones but the newest ``keep``."""
    complete_ones = sorted(f for f in checkpoints.glob(f"{_PREFIX}*") if is_complete(f))
    kept = set(complete_ones[-keep:])
    for folder in checkpoints.glob(f"{_PREFIX}*"):
        if folder not in kept:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint, its marker first."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder)
