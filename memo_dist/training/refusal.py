"""What starting the ranks again cannot mend: it ends a training at once.

Ray Train starts all ranks anew after any failure, ``train.max_failures`` times. That helps against
a dead node; a configuration that a rank refuses, or a training that does not fit into a GPU, most
often fails in the same way again, each time after minutes of loading. The same command continues.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.training.job import Outcome

FILE_NAME = "refused.txt"
"""In the job's folder while a launch under Ray ends: why its ranks refuse to train."""


def entered(
    entry: Callable[[dict[str, Any]], Outcome],
    folder: Path,
    train: TrainConfig,
    values: dict[str, Any],
) -> Outcome:
    """Run a rank, unless a rank of this launch has refused before.

    Args:
        entry: the rank's work.
        folder: of the job; all ranks see it.
        train: how it is trained.
        values: what ``entry`` gets.

    Raises:
        UsageError: the configuration does not fit, or the GPU's memory does not; noted for the
            driver and for ranks that are started again.
    """
    note = folder / FILE_NAME
    if FILE_NAME in os.listdir(folder):  # noqa: PTH208 (NFS may remember that a name was missing)
        return "stopped"  # all ranks end here, so that nobody starts them once more
    try:
        return entry(values)
    except UsageError as error:
        atomic.write_text(note, str(error))
        raise
    except torch.OutOfMemoryError as error:
        refused = UsageError(gpu_is_full(train, error))
        atomic.write_text(note, str(refused))
        raise refused from error


def gpu_is_full(train: TrainConfig, error: torch.OutOfMemoryError) -> str:
    """What to say where a training does not fit into a GPU's memory."""
    checkpointing = "" if train.gradient_checkpointing else " train.gradient_checkpointing=true,"
    return (
        "the training does not fit into this GPU's memory: lower"
        f" train.micro_batch_tokens={train.micro_batch_tokens}, or set{checkpointing} a higher"
        f" train.zero_stage or a smaller memory.base ({str(error).splitlines()[0]})"
    )


def clear(folder: Path) -> None:
    """Forget what ranks of an earlier launch have refused."""
    (folder / FILE_NAME).unlink(missing_ok=True)


def refused(folder: Path) -> UsageError | None:
    """Why the ranks of this launch have refused to train; None where they have not."""
    note = folder / FILE_NAME
    if not note.exists():
        return None
    return UsageError(note.read_text(encoding="utf-8", errors="replace"))
