"""The memory need against the memory there is: refused with the keys to change, before it runs."""

from __future__ import annotations

import torch

from memo_dist.cluster.placement import Placement
from memo_dist.cluster.rendezvous import started_as_rank
from memo_dist.cluster.resources import (
    RAY_ADDRESSES,
    Resources,
    address_limit,
    used_addresses,
)
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.models.base import SCRATCH_NAME, find_base
from memo_dist.models.scratch import scratch_model_config
from memo_dist.training.memory_need import (
    DRIVER_BYTES,
    GIB,
    RANK_ADDRESSES,
    RAY_BYTES,
    MemoryNeed,
    ModelShape,
    training_need,
)
from memo_dist.training.model import use_bf16

_THREAD_ADDRESSES = GIB // 2
"""Address space that the threads of a training reserve: stacks, arenas, buffers of Gloo."""


def planned_need(config: Config, ranks: int, gpu: bool) -> MemoryNeed | None:
    """The need of one rank; None where the base is not on this machine (nothing is downloaded).

    Args:
        config: base and training.
        ranks: ranks of one shard.
        gpu: whether they hold GPUs; ``train.precision=auto`` is counted as bf16 on GPUs of
            another machine.
    """
    shape = _base_shape(config)
    if shape is None:
        return None
    bf16 = _bf16(config.train.precision, shape.hidden, gpu)
    rank = config.train.lora_rank if config.train.method == "lora" else 0
    return training_need(shape, config.train, ranks, bf16=bf16, gpu=gpu, adapter_rank=rank)


def shards_in_memory(
    config: Config, need: MemoryNeed, placement: Placement, have: Resources
) -> int:
    """How many shards of the bank can train side by side in this machine's memory.

    Raises:
        UsageError: not even one; says have, want, and the keys to change.
    """
    check_addresses(config, need, placement.gpu)
    ranks = placement.ranks
    host = ranks * (need.host_bytes if placement.gpu else need.device_bytes)
    if placement.gpu:
        device = torch.cuda.get_device_properties(0).total_memory
        if need.device_bytes > device:
            raise UsageError(_too_large(config, need, f"a GPU here has {device / GIB:.1f} GiB"))
    beside = beside_ranks(config)
    if host + beside > have.memory_bytes:
        text = f"{ranks} rank(s) take {host / GIB:.1f} GiB"
        text += f", driver and Ray {beside / GIB:.1f} GiB" if beside else ""
        have_text = f"this machine has {have.memory_bytes / GIB:.1f} GiB"
        raise UsageError(_too_large(config, need, f"{text}, {have_text}"))
    return (have.memory_bytes - beside) // host if host else placement.at_once


def check_addresses(config: Config, need: MemoryNeed, gpu: bool) -> None:
    """Refuse a limit of the address space that one rank will reach.

    What fails there fails anywhere: a thread that cannot start makes its starter wait for ever.
    On GPUs nothing is known of the need: CUDA reserves addresses for all memory there is.

    Raises:
        UsageError: names the limit.
    """
    # https://github.com/python/cpython/issues/140746
    limit = None if gpu or config.cluster.address else address_limit()
    beyond = RAY_ADDRESSES if _by_ray(config) else _beyond_here()
    if limit is not None and limit < need.device_bytes + beyond:
        raise UsageError(
            f"ulimit -v gives each process {limit / GIB:.2f} GiB of address space, a rank takes"
            f" {(need.device_bytes + beyond) / GIB:.2f} GiB: {need}, and {beyond / GIB:.1f} GiB"
            " that is reserved only. Change: `ulimit -v unlimited` in the shell or job that starts"
            f" it, or train.micro_batch_tokens below {config.train.micro_batch_tokens}"
            + (", or cluster.launcher=process" if _by_ray(config) else "")
        )


def _beyond_here() -> int:
    """Address space of a rank in this process beyond its memory; some CPUs map more libraries."""
    return max(RANK_ADDRESSES, used_addresses() + _THREAD_ADDRESSES)


def beside_ranks(config: Config) -> int:
    """Bytes on this machine beside the ranks: the driver, and Ray where it starts them here."""
    return DRIVER_BYTES + RAY_BYTES if _by_ray(config) and not config.cluster.address else 0


def _by_ray(config: Config) -> bool:
    return config.cluster.launcher in ("auto", "ray") and not started_as_rank()


def _too_large(config: Config, need: MemoryNeed, why: str) -> str:
    train = config.train
    keys = [f"a smaller memory.base than {config.memory.base}"]
    if not train.gradient_checkpointing:
        keys.append("train.gradient_checkpointing=true")
    keys.append(f"train.micro_batch_tokens below {train.micro_batch_tokens}")
    keys.append("train.trained_layers")
    keys.append("train.zero_stage with more cluster.workers, or offload in train.deepspeed")
    return f"the training does not fit: {why}; need {need}. Change: {', '.join(keys)}"


def _base_shape(config: Config) -> ModelShape | None:
    scratch = config.memory.scratch
    if config.memory.base == SCRATCH_NAME:
        return ModelShape.of(scratch_model_config(scratch, scratch.vocabulary))
    try:
        return ModelShape.of_folder(find_base(config.memory.base, allow_download=False))
    except UsageError:
        return None


def _bf16(precision: str, width: int, gpu: bool) -> bool:
    """Whether ranks train in bf16; on GPUs that this machine cannot ask ``auto`` counts as bf16."""
    if precision == "bf16" or (gpu and not torch.cuda.is_available()):
        return precision != "fp32"
    return use_bf16(precision, width)
