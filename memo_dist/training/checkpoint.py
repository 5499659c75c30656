"""Checkpoints that exist only when complete.

``step-<n>/`` holds a ``rank-<r>.safetensors`` (see :mod:`memo_dist.training.fragment_files`) and a
``rng-<r>.safetensors`` a rank, ``state.json``, and ``COMPLETE`` (size and SHA-256 of every file),
which rank 0 writes after a barrier and removes first.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from memo_dist.errors import DamagedFileError
from memo_dist.io import atomic
from memo_dist.io.marker import COMPLETE as COMPLETE
from memo_dist.io.marker import is_complete as is_complete
from memo_dist.io.marker import mark_complete as mark_complete

logger = logging.getLogger(__name__)

STATE = "state.json"
DAMAGED = "damaged-"
"""Before the name of a checkpoint that was set aside."""
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


def publish(new: Path, folder: Path) -> None:
    """Put a folder whose files are written in the place of ``folder``: marked, then renamed."""
    mark_complete(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)
    atomic.fsync_folder(folder.parent)


def read_state(folder: Path) -> TrainState:
    """The state of a complete checkpoint."""
    return atomic.read_record(folder / STATE, TrainState)


def latest(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    return max(_complete_ones(checkpoints), key=lambda folder: folder.name, default=None)


def _complete_ones(checkpoints: Path) -> list[Path]:
    """The complete checkpoints by step; one whose marker is damaged counts as incomplete."""
    found = []
    for folder in sorted(checkpoints.glob(f"{_PREFIX}*")):
        try:
            if is_complete(folder):
                found.append(folder)
        except DamagedFileError as error:
            logger.warning("%s; the checkpoint is not used", error)
    return found


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that the one before is the newest; returns its new place."""
    place = folder.with_name(f"{DAMAGED}{folder.name}")
    shutil.rmtree(place, ignore_errors=True)
    folder.replace(place)
    atomic.fsync_folder(folder.parent)
    return place


def prune(checkpoints: Path, keep: int) -> None:
    """Remove incomplete checkpoints and all complete ones but the newest ``keep``."""
    kept = set(_complete_ones(checkpoints)[-keep:])
    for folder in checkpoints.glob(f"{_PREFIX}*"):
        if folder not in kept:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint, its marker first."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder)
