"""The one module that imports DeepSpeed.

Everything the loop needs of it is :class:`Engine`: forward and backward, a step at a given
learning rate, this rank's part of the state for checkpoints, and the whole weights at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import Store

from memo_dist.cluster.address import interface_towards
from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.store import LOOPBACK, rank_store
from memo_dist.config.schema import TrainConfig
from memo_dist.config.shipped import configs_folder
from memo_dist.errors import UsageError
from memo_dist.training.fragments import (
    MOMENTS,
    WEIGHT,
    Fragment,
    local_fragments,
    prepare_state,
)

_TIMEOUT = timedelta(minutes=30)
"""torch's own."""
PARTITIONED_GRADIENTS = 2
BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default of ``reduce_bucket_size``, which it allocates whatever the model's size."""
"""The ZeRO stage from which on each rank keeps a part of the gradients."""
_NAMES_OF_FP32 = ("torch.float32", "fp32", "float32", "float")
"""As ``data_types.grad_accum_dtype`` may name it."""
# Keys of a DeepSpeed file that the framework itself decides.
_OWNED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)


def read_deepspeed_file(path: str) -> dict[str, Any]:
    """Read ``train.deepspeed``; an empty path gives an empty dict.

    Raises:
        UsageError: not readable, not a JSON object, or it sets a key that another group owns.
    """
    if not path:
        return {}
    try:
        content = json.loads(_find(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"train.deepspeed={path}: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"train.deepspeed={path} must hold a JSON object")
    owned = [key for key in _OWNED if key in content]
    if owned:
        raise UsageError(
            f"train.deepspeed={path} sets {', '.join(owned)}: use train.batch_tokens,"
            " train.micro_batch_tokens, train.clip, train.lr, train.schedule and train.precision"
        )
    return content


def _find(path: str) -> Path:
    """The file as given; a shipped one (``configs/deepspeed/...``) from any working directory."""
    given = Path(path).expanduser()
    if given.exists() or given.parts[:1] != ("configs",):
        return given
    return configs_folder().joinpath(*given.parts[1:])


def zero_stage(train: TrainConfig) -> int:
    """The ZeRO stage in effect: the DeepSpeed file's, else ``train.zero_stage``.

    Raises:
        UsageError: both are set and differ.
    """
    stage = read_deepspeed_file(train.deepspeed).get("zero_optimization", {}).get("stage")
    if stage is None:
        return train.zero_stage
    if train.zero_stage not in (0, stage):
        raise UsageError(
            f"train.zero_stage={train.zero_stage} but {train.deepspeed} says stage {stage};"
            " set only one"
        )
    return int(stage)


def accumulates_in_fp32(train: TrainConfig, bf16: bool, rows_per_rank: int) -> bool:
    """Whether a rank sums the gradients of a step's rows in fp32 beside bf16 weights.

    In bf16 a row's gradient is lost where it is below 1/256 of the sum so far. One row has nothing
    to sum, and would need the memory. ``data_types.grad_accum_dtype`` of the DeepSpeed file
    overrides that. Only from ZeRO stage 2 on: at stage 1 DeepSpeed (0.19) changes to an optimizer
    that loses rows of this loop (``tests/test_training_precision.py``).

    Args:
        train: DeepSpeed's file.
        bf16: whether weights are bf16.
        rows_per_rank: rows of a step that one rank computes one after the other.

    Raises:
        UsageError: the file says fp32 at a lower stage.
    """
    file = read_deepspeed_file(train.deepspeed)
    given = file.get("data_types", {}).get("grad_accum_dtype")
    if not bf16:
        return False
    partitioned = zero_stage(train) >= PARTITIONED_GRADIENTS
    if given is None:
        return partitioned and rows_per_rank > 1
    if given in _NAMES_OF_FP32 and not partitioned:
        raise UsageError(
            f"train.deepspeed={train.deepspeed}: data_types.grad_accum_dtype={given} with bf16"
            " needs ZeRO stage 2 or 3 (zero_optimization.stage or train.zero_stage)"
        )
    return given in _NAMES_OF_FP32


def engine_config(train: TrainConfig, bf16: bool, rows_per_rank: int) -> dict[str, Any]:
    """The DeepSpeed configuration: the generated one with the user's file merged over it."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": rows_per_rank,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": bf16},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": train.zero_stage},
    }
    if not bf16:
        config["communication_data_type"] = "fp32"
    if accumulates_in_fp32(train, bf16, rows_per_rank):
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    merged = _merged(config, read_deepspeed_file(train.deepspeed))
    if bf16 and merged["zero_optimization"].get("stage", 0) == 0:
        # Without ZeRO DeepSpeed would keep no fp32 weights beside bf16 ones, and lr 2e-5 is
        # below bf16's resolution.
        merged["zero_optimization"]["stage"] = 1
    return merged


def init_distributed(backend: str, seconds: float, timeout: timedelta = _TIMEOUT) -> Store | None:
    """Make the process group of the rank environment, and join DeepSpeed to it.

    Args:
        backend: ``nccl`` or ``gloo``.
        seconds: how long to wait for the other ranks.
        timeout: of a collective.

    Returns:
        The store in which the ranks met; None where they had joined before.

    Raises:
        RunError: ranks did not come; says have and want.
        StoppedError: a stop was requested meanwhile.

    DeepSpeed's CPU backend would compile a shared-memory op at this point (108 s measured on two
    cores), and a kill during it leaves a lock on which every later start hangs; gloo's own
    collectives are used instead.
    """
    import deepspeed
    import deepspeed.ops

    # https://github.com/pytorch/pytorch/issues/189245
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    store = None
    if not torch.distributed.is_initialized():
        _choose_interface()
        ranks = Ranks.from_environment()
        ranks.take_gpu()
        store = rank_store(timeout, seconds)
        torch.distributed.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=timeout
        )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return store


def _choose_interface() -> None:
    """Tell Gloo where to listen; by itself it takes the address of this machine's name."""
    master = os.environ.get("MASTER_ADDR", LOOPBACK)
    alone = master == LOOPBACK and Path("/sys/class/net/lo").exists()
    name = "lo" if alone else interface_towards(master)
    if name and "MASTER_ADDR" in os.environ:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class Engine:
    """A DeepSpeed engine around a module whose forward returns a loss.

    Attributes:
        grad_norm: gradient norm of the last optimizer step, before clipping.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        train: TrainConfig,
        config: dict[str, Any],
        base_name: Callable[[str], str],
    ) -> None:
        import deepspeed

        named = {p: base_name(n) for n, p in module.named_parameters() if p.requires_grad}
        if not named:
            raise UsageError("nothing would be trained: change train.trained_layers or method")
        elements = sum(parameter.numel() for parameter in named)
        config["zero_optimization"].setdefault("reduce_bucket_size", min(BUCKET_ELEMENTS, elements))
        self._engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=list(named),
            optimizer=_optimizer(named, train, config),
            config=config,
        )
        self._names = named
        self._base_name = base_name
        self._stage = int(config["zero_optimization"].get("stage", 0))
        self.grad_norm: float | None = None

    @property
    def module(self) -> torch.nn.Module:
        """The callable to run forward passes with."""
        return self._engine  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self._engine.device  # type: ignore[no-any-return]

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Accumulate gradients; the loss is already divided, so no further scaling.

        Args:
            loss: of one row.
            last: whether :meth:`step` follows.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float) -> None:
        """Update the weights at ``lr``."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        norm = self._local_norm() if self._stage == 0 else None
        self._engine.step()
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        self.grad_norm = float(norm)

    def _local_norm(self) -> torch.Tensor:
        """Norm of the reduced gradients: DeepSpeed keeps none of its own without ZeRO.

        Read before the step, which clips the gradients and drops them.
        """
        # https://github.com/deepspeedai/DeepSpeed/issues/7255
        grads = [p.grad for p in self._names if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())

    # -- state ---------------------------------------------------------------------------------

    def fragments(self) -> dict[str, tuple[int, dict[str, torch.Tensor]]]:
        """This rank's part of the trained weights and of their optimizer state.

        Returns:
            {parameter: (offset in the flattened parameter, {weight, exp_avg, exp_avg_sq: fp32
            [elements], views})}. Empty on ranks whose part another one has as well.
        """
        if self._stage == 0 and torch.distributed.get_rank() != 0:
            return {}
        optimizer = self._inner_optimizer()
        return {
            f.name: (f.start, {key: f.view(key, optimizer) for key in (WEIGHT, *MOMENTS)})
            for f in self._fragments()
        }

    def load(self, read: Callable[[str, str, int, int], torch.Tensor], step: int) -> None:
        """Take over optimizer state and fp32 weights after ``step`` optimizer steps.

        The module's own weights must have been set before the engine was built.

        Args:
            read: (parameter, weight | exp_avg | exp_avg_sq, start, elements) -> fp32 values.
            step: optimizer steps done.
        """
        optimizer = self._inner_optimizer()
        fragments = list(self._fragments())
        for flat in {f.flat: None for f in fragments}:
            prepare_state(optimizer, flat, step)
        for fragment in fragments:
            for key in (WEIGHT, *MOMENTS):
                values = read(fragment.name, key, fragment.start, fragment.numel)
                fragment.view(key, optimizer).copy_(values)
        if self._stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def set_weights(self, read: Callable[[str, str, int, int], torch.Tensor]) -> None:
        """Replace all trained weights of the forward pass, to be exported; collective.

        Training cannot go on from here: ZeRO's own fp32 copies stay as they were.
        """
        for parameter, name in self._names.items():
            with self._gathered([parameter], writes=True):
                if self._stage != 3 or torch.distributed.get_rank() == 0:
                    values = read(name, WEIGHT, 0, parameter.numel())
                    parameter.data.copy_(values.view_as(parameter))

    def _fragments(self) -> Iterator[Fragment]:
        rank = torch.distributed.get_rank()
        return local_fragments(self._engine, self._stage, self._names, rank)

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        return optimizer if self._stage == 0 else optimizer.optimizer  # type: ignore[no-any-return]

    def weights(self, trained_only: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """(base model's name, whole weight), one at a time; tied ones once.

        A tensor holds its values until the next one is asked for. Collective under ZeRO 3, so
        that no rank holds more than one weight beside its own part.
        """
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad or not trained_only:
                with self._gathered([parameter]):
                    yield self._base_name(name), parameter.detach()

    def _gathered(self, parameters: list[torch.nn.Parameter], writes: bool = False) -> Any:
        if self._stage != 3:
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if writes else None)


def _optimizer(
    parameters: Iterable[torch.nn.Parameter], train: TrainConfig, config: dict[str, Any]
) -> torch.optim.Optimizer:
    """AdamW: DeepSpeed's CPU Adam for optimizer state offloaded from a GPU, else torch's own.

    On a CPU-only machine torch's fused one is used throughout: CPU Adam would have to be
    compiled, and both are bound by memory.
    """
    offload = config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    settings: dict[str, Any] = {
        "lr": train.lr,
        "betas": (train.betas[0], train.betas[1]),
        "weight_decay": train.weight_decay,
    }
    if offload != "none" and torch.cuda.is_available():
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(parameters, **settings)  # type: ignore[no-any-return]
    return torch.optim.AdamW(parameters, fused=True, **settings)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
