"""Training low-rank adapters (LoRA, arXiv 2106.09685) through the peft library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError
from memo_dist.training.lora import ADAPTER_WEIGHTS

ADAPTER = "default"
_PEFT_PREFIX = "base_model.model."


def add_adapters(model: Any, train: TrainConfig) -> Any:
    """Freeze a causal LM and put adapters on its linear layers.

    Args:
        model: a Hugging Face causal LM.
        train: rank, alpha, and the names of the layers (``all-linear``: every one but the
            output layer).

    Returns:
        The adapted model; only adapters have ``requires_grad``.

    Raises:
        UsageError: no layer of the names in ``train.lora_targets`` exists.
    """
    from peft import LoraConfig, get_peft_model

    targets: Any = train.lora_targets
    settings = LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        lora_dropout=0.0,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise UsageError(
            f"train.lora_targets={targets} names no linear layer of the base model; write"
            " [all-linear] for all of them"
        ) from error
    return adapted


def plain_name(name: str) -> str:
    """A parameter's name without what peft adds to it; adapters keep ``lora_A.default``."""
    return name.removeprefix(_PEFT_PREFIX).replace(".base_layer.", ".")


def save_adapter(folder: Path, settings: Any, weights: dict[str, torch.Tensor], base: str) -> None:
    """Write a PEFT folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        folder: where to.
        settings: the adapted model's ``LoraConfig``.
        weights: adapter weights by :func:`plain_name`.
        base: folder or name of the base model, for peft to find it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings.base_model_name_or_path = base
    settings.inference_mode = True
    settings.save_pretrained(folder)
    stored = {
        _PEFT_PREFIX + name.replace(f".{ADAPTER}.", "."): value.contiguous()
        for name, value in weights.items()
    }
    save_file(stored, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
