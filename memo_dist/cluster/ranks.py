"""Who am I among the training ranks, and the few small things that ranks agree on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memo_dist.cluster.store import announce, await_event, group_store

_CPU = torch.device("cpu")
_UNFINISHED = "rank 0 still writes the result; run the same command again to continue"


@dataclass(frozen=True)
class Ranks:
    """This process' place, from the rank environment that every launcher sets.

    Attributes:
        rank: 0-based among all ranks.
        world: number of ranks.
        local_rank: 0-based on this machine.
    """

    rank: int
    world: int
    local_rank: int

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read RANK, WORLD_SIZE and LOCAL_RANK; alone where they are not set.

        ``torchrun``, ``deepspeed`` and Ray Train set them; for Slurm's own ranks see
        :mod:`memo_dist.cluster.rendezvous`.
        """
        rank = int(os.environ.get("RANK", "0"))
        return cls(
            rank,
            int(os.environ.get("WORLD_SIZE", "1")),
            int(os.environ.get("LOCAL_RANK", str(rank))),
        )

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes shared files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this rank computes.

        Modulo the visible GPUs: `srun --gpus-per-task 1` numbers the ranks of a machine from 0 and
        shows each of them one GPU.
        """
        if not torch.cuda.is_available():
            return _CPU
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def take_gpu(self) -> None:
        """Make this rank's GPU the current one, for torch, NCCL and DeepSpeed alike.

        DeepSpeed reads LOCAL_RANK for it, so that gets the place among the visible GPUs.
        """
        if torch.cuda.is_available():
            torch.cuda.set_device(self.device)
            os.environ["LOCAL_RANK"] = str(self.device.index)

    def barrier(self) -> None:
        """Wait until every rank is here (the process group's timeout is the deadline)."""
        if self.world > 1:
            torch.distributed.barrier()

    def barrier_after_first(self, event: str, grace: float | None = None) -> None:
        """A barrier to which rank 0 may come late, with files that it alone writes.

        The others wait for it outside of a collective, whose timeout would end them.

        Args:
            event: what rank 0 has done then; another one each time.
            grace: see :func:`memo_dist.cluster.store.await_event`.

        Raises:
            RunError: rank 0 is gone.
            StoppedError: a stop was requested more than ``grace`` seconds ago.
        """
        if self.world == 1:
            return
        store = group_store()
        if self.is_first:
            announce(store, event)
        else:
            await_event(store, event, _UNFINISHED, grace)
        self.barrier()

    def max(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Element-wise the largest of all ranks, in float32: one small all-reduce."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float32, device=device)
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        return list(shared.tolist())

    def any(self, flags: Sequence[bool], device: torch.device) -> list[bool]:
        """Element-wise "on any rank"."""
        return [bool(value) for value in self.max([float(flag) for flag in flags], device)]

    def sum(self, value: float, device: torch.device) -> float:
        """The sum of a number over ranks."""
        if self.world == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return float(total)

    def text_of_first(self, text: str) -> str:
        """Rank 0's text, on every rank.

        As bytes: torch's own broadcast of objects unpickles what comes over the network.
        """
        if self.world == 1:
            return text
        device = self.device if torch.distributed.get_backend() == "nccl" else _CPU
        data = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
        size = torch.tensor([len(data)], device=device)
        torch.distributed.broadcast(size, src=0)
        if not self.is_first:
            data = torch.zeros(int(size), dtype=torch.uint8, device=device)
        torch.distributed.broadcast(data, src=0)
        return bytes(data.tolist()).decode()
