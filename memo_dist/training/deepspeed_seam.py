"""The one module that imports DeepSpeed.

Everything the loop needs of it is :class:`Engine`: forward and backward, a step at a given
learning rate, collective saves and loads, and the full weights at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from memo_dist.config.schema import TrainConfig
from memo_dist.config.shipped import configs_folder
from memo_dist.errors import UsageError

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
    return _merged(config, read_deepspeed_file(train.deepspeed))


def init_distributed(backend: str) -> None:
    """Join DeepSpeed to the process group that the launcher made (or make one from the rank
    environment).

    DeepSpeed's CPU backend would compile a shared-memory op at this point (108 s measured on two
    cores), and a kill during it leaves a lock on which every later start hangs; gloo's own
    collectives are used instead.
    """
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


class Engine:
    """A DeepSpeed engine around a causal LM.

    Attributes:
        grad_norm: gradient norm of the last optimizer step, before clipping.
    """

    def __init__(self, model: torch.nn.Module, train: TrainConfig, config: dict[str, Any]) -> None:
        import deepspeed

        trained = [p for p in model.parameters() if p.requires_grad]
        self._engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=trained,
            optimizer=_optimizer(trained, train, config),
            config=config,
        )
        self._trained = trained
        self._partitioned = config["zero_optimization"].get("stage", 0) == 3
        self.grad_norm: float | None = None

    @property
    def module(self) -> torch.nn.Module:
        """The callable to run forward passes with."""
        return self._engine  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self._engine.device  # type: ignore[no-any-return]

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients; the loss is already divided, so no further scaling."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float) -> None:
        """Count one micro-batch; at the last of a step, update the weights at ``lr``."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return
        local = self._local_norm()  # before step(), which clips and then drops the gradients
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        self.grad_norm = float(local if norm is None else norm)

    def _local_norm(self) -> torch.Tensor:
        """Norm of the reduced gradients: DeepSpeed keeps none of its own in fp32 without ZeRO."""
        grads = [p.grad for p in self._trained if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())

    def save(self, folder: Path, tag: str) -> None:
        """Write a checkpoint; collective: every rank must call it."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        """Read a checkpoint written by this project; collective."""
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed could not load {folder / tag}")

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every weight and persistent buffer by its name in the state dict, one at a time.

        In full on rank 0 (on the CPU); on other ranks an empty tensor where ZeRO 3 partitions
        it. Collective under ZeRO 3: every rank reads to the end, none holds more than one.
        """
        import deepspeed

        module = self._engine.module
        parameters = dict(module.named_parameters(remove_duplicate=False))
        rank_zero = not self._partitioned or torch.distributed.get_rank() == 0
        for name, value in module.state_dict().items():
            if not self._partitioned or name not in parameters:
                yield name, value.detach().cpu()
                continue
            parameter = parameters[name]
            with deepspeed.zero.GatheredParameters([parameter]):
                full = parameter.detach().cpu().clone() if rank_zero else torch.empty(0)
            yield name, full


def _optimizer(
    parameters: Iterable[torch.nn.Parameter], train: TrainConfig, config: dict[str, Any]
) -> torch.optim.Optimizer:
    """AdamW: DeepSpeed's CPU Adam for optimizer state offloaded from a GPU, else torch's own.

    On a CPU-only machine torch's is used throughout: CPU Adam would have to be compiled.
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
    fused = torch.cuda.is_available()
    return torch.optim.AdamW(parameters, fused=fused, foreach=not fused, **settings)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
