"""Ray Train's ranks, met as those of every other launcher: see :mod:`memo_dist.cluster.store`.

Ray's own way opens torch's store on all interfaces of the first rank's machine, even for one rank.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend


@dataclass
class MetRanks(TorchConfig):  # type: ignore[misc]
    """Ray Train's settings for torch, with another way to meet."""

    @property
    def backend_cls(self) -> type[Any]:
        """What starts and ends the process group."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    """Ray Train's own, except for how the ranks meet."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Make the process group on all ranks of a new group."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_set_torch_distributed_env_vars)
        backend, seconds = backend_config.backend, backend_config.timeout_s
        ray.get(worker_group.execute_async(_join, address, port, backend, seconds))


def _join(address: str, port: int, backend: str, seconds: int) -> None:
    """Of one rank: join the others."""
    from memo_dist.training.deepspeed_seam import init_distributed

    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    init_distributed(backend, seconds, timedelta(seconds=seconds))
