"""Floating-point operations of a training step, and the share of the GPU's peak they make up."""

from __future__ import annotations

from typing import Any

import torch

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 FLOP/s by a part of the device's name (vendors' data sheets)."""


def flops_per_token(
    model: torch.nn.Module,
    config: Any,
    mean_length: float,
    head: torch.nn.Parameter | None = None,
    head_share: float = 1.0,
) -> float:
    """Of one trained step, by the usual convention: 6 N + attention when everything is trained.

    A weight costs 2 operations forward, 2 for the gradient of its input (from the lowest
    trained weight upward) and 2 for its own gradient if it is trained. Causal attention over
    examples of n tokens costs 2 n width a layer forward and twice that backward. The output
    layer runs only where there is loss.

    Args:
        model: of :class:`memo_dist.training.loss.RowModel`'s kind; input embeddings that are
            not the output layer too are left out.
        config: its Hugging Face configuration.
        mean_length: mean tokens that a token's example has.
        head: the output layer's weight; None: it counts for every token.
        head_share: fraction of the tokens at which it runs.
    """
    forward, below, trained, seen = 0.0, 0.0, 0.0, False
    for name, parameter in model.named_parameters():
        numel = float(getattr(parameter, "ds_numel", parameter.numel()))
        if "embed" in name and not getattr(config, "tie_word_embeddings", False):
            continue
        numel *= head_share if parameter is head else 1.0
        forward += numel
        seen = seen or parameter.requires_grad
        below += 0.0 if seen else numel
        trained += numel if parameter.requires_grad else 0.0
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 3 * 2 * config.num_hidden_layers * width * mean_length
    return float(2 * forward + 2 * (forward - below) + 2 * trained + attention)


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak; None where it is not known (CPUs)."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """The dense bf16 peak of the device of this name; None where it is not known (CPUs)."""
    return next((peak for part, peak in PEAK.items() if part in name), None)
