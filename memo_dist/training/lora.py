"""A trained LoRA adapter as files: told apart, folded into its base tensor by tensor.

LoRA (arXiv 2106.09685): W' = W + (alpha / r) B A, with A [r, in] and B [out, r]; rank-stabilised
LoRA (arXiv 2312.03732) divides by sqrt(r) instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from memo_dist.errors import RunError
from memo_dist.io import atomic
from memo_dist.models.weight_files import NamedTensor, StoredWeights

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_UNFOLDABLE = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def folded_weights(base: Path, adapter: Path) -> Iterator[NamedTensor]:
    """The base's tensors with the adapter's updates added, one at a time, in the base's dtype.

    The sum is taken in float32 and rounded once.

    Raises:
        RunError: the adapter is of a kind that is more than W + scale * B A, or updates a
            weight that the base does not have.
    """
    config = atomic.read_json(adapter / ADAPTER_CONFIG)
    _check_foldable(config)
    updates = load_file(adapter / ADAPTER_WEIGHTS)
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    for name, weight in StoredWeights(base):
        module = f"{_PREFIX}{name.removesuffix('.weight')}"
        down = updates.pop(f"{module}.lora_A.weight", None)
        up = updates.pop(f"{module}.lora_B.weight", None)
        if down is not None and up is not None:
            delta = scale * (up.float() @ down.float())
            weight = (weight.float() + delta).to(weight.dtype)
        yield name, weight
    if updates:
        raise RunError(
            f"export: the adapter updates {sorted(updates)[0]}, which the base in '{base}' does"
            " not have; use export.adapter=kept"
        )


def _check_foldable(config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise RunError(f"export: an adapter of type {kind} cannot be folded; only LoRA can")
    for key in _UNFOLDABLE:
        if config.get(key):
            raise RunError(
                f"export: an adapter with {key}={config[key]} cannot be folded;"
                " use export.adapter=kept"
            )
