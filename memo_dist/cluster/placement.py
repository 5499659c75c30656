"""Where a bank's trainings run: ranks a shard, shards side by side, and room with a deadline."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from memo_dist.cluster.resources import Resources
from memo_dist.config.schema import Config
from memo_dist.errors import RunError, UsageError


@dataclass(frozen=True, slots=True)
class Placement:
    """What each shard's training gets, the same for every shard of the bank.

    It follows from the configuration and the cluster alone, never from how many shards are
    still to be trained: a resumed shard finds the ranks that its checkpoint was written by.

    Attributes:
        ranks: training ranks of one shard.
        gpu: whether a rank holds a GPU.
        threads: cores of a rank (intra-op threads on a CPU).
        at_once: shards that train side by side.
    """

    ranks: int
    gpu: bool
    threads: int
    at_once: int

    @property
    def rank_resources(self) -> dict[str, float]:
        """What Ray reserves for one rank."""
        return {"GPU": 1.0, "CPU": 1.0} if self.gpu else {"CPU": float(self.threads)}

    def __str__(self) -> str:
        unit = "1 GPU" if self.gpu else f"{self.threads} core(s)"
        return f"{self.at_once} shard(s) at once, {self.ranks} rank(s) each of {unit}"


def plan_placement(config: Config, have: Resources) -> Placement:
    """Pack the bank's K trainings onto a cluster.

    Args:
        config: ``cluster.workers``, ``cluster.threads``, ``cluster.shards_at_once``,
            ``corpus.shards`` and the rows of a step decide.
        have: what the cluster offers.

    Raises:
        UsageError: one shard's ranks do not fit; says have and want.
    """
    shards = config.corpus.shards
    ranks = config.cluster.workers or _ranks(config, have.gpus, shards)
    _check_fits(config, have, ranks)
    threads = config.cluster.threads
    room = have.gpus // ranks if have.gpus else have.cores // (ranks * max(1, threads))
    limits = (shards, room, config.cluster.shards_at_once)
    at_once = min(limit for limit in limits if limit)
    threads = threads or max(1, have.cores // (ranks * at_once))
    return Placement(ranks, bool(have.gpus), threads, at_once)


def _ranks(config: Config, gpus: int, shards: int) -> int:
    """All GPUs for a bank of one; else each shard's share, as far as it divides a step's rows."""
    share = max(1, gpus // shards)
    if shards == 1 or not gpus:
        return share
    rows = max(1, config.train.batch_tokens // config.train.micro_batch_tokens)
    return max(ranks for ranks in range(1, share + 1) if rows % ranks == 0)


def _check_fits(config: Config, have: Resources, ranks: int) -> None:
    threads = 1 if have.gpus else max(1, config.cluster.threads)
    there = have.gpus or have.cores
    if ranks * threads <= there:
        return
    unit = "GPUs" if have.gpus else "cores"
    threaded = f" of cluster.threads={threads}" if threads > 1 else ""
    raise UsageError(
        f"cluster.workers={ranks}{threaded} needs {ranks * threads} {unit}, this cluster has"
        f" {there}: lower cluster.workers{' or cluster.threads' if threaded else ''} or add nodes"
    )


class Room:
    """A shard's place on the cluster, asked for and polled; the deadline says have and want.

    Ray Train makes its own placement group and waits for it in silence. This one is asked for
    first: once it is there, the place is known to exist, and it is given back for the ranks.
    """

    def __init__(self, placement: Placement, timeout: float, label: str) -> None:
        """Ask for the place of one shard; ``timeout`` in seconds (``cluster.start_timeout``)."""
        self._placement, self._timeout, self._label = placement, timeout, label
        self._deadline = time.monotonic() + timeout
        bundles = [placement.rank_resources] * placement.ranks
        self._group: Any = placement_group(bundles, strategy="PACK")
        self._ready = self._group.ready()

    def is_there(self) -> bool:
        """Whether the place was found; then it is free for the ranks.

        Raises:
            RunError: not before the deadline.
        """
        if ray.wait([self._ready], timeout=0)[0]:
            self.close()
            return True
        if time.monotonic() >= self._deadline:
            self.close()
            raise RunError(
                f"{self._label}: no room within {self._timeout:.0f} s (cluster.start_timeout):"
                f" want {self._placement.ranks} rank(s) of {self._placement.rank_resources} each,"
                f" have free {_free()}"
            )
        return False

    def close(self) -> None:
        """Give the place back."""
        remove_placement_group(self._group)


def _free() -> dict[str, float]:
    offered = ray.available_resources()
    return {key: offered.get(key, 0.0) for key in ("CPU", "GPU") if key in offered} or {"CPU": 0.0}
