"""Attention inside each packed example: no mask, and no work across the borders.

A packed row is cut at its borders. On CPUs each example goes through PyTorch's own causal
attention: a dense block mask over the row costs five times as much at 35 tokens an example and
475 a row (docs/training.md). On GPUs one variable-length FlashAttention kernel takes the whole
row: the ``flash-attn`` package's where it is installed, else the one inside PyTorch. What it does
not take (fp32, odd heads, GPUs before Ampere) goes example by example there too.

Registered with transformers under :data:`NAME`; the borders reach it as the keyword arguments
that transformers reserves for variable-length attention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "memo_packed"
_WIDEST_HEAD = 256
"""Of FlashAttention 2, in its package and in PyTorch."""

Kernel = Callable[..., torch.Tensor]
_SHORT = 384
"""Up to so many tokens an example, PyTorch's CPU kernel (2.13) is faster in fp32 than in bf16,
whose backward pass it does not tile for so few: forward and backward of 15 examples of 35 tokens
3.8 against 15.5 ms on one core with AMX, two of 256 tokens 10.1 against 12.1, one of 512 16 against
12."""


def borders(lengths: list[int], device: torch.device) -> dict[str, Any]:
    """Keyword arguments for a model's forward that tell where packed examples end.

    Args:
        lengths: tokens of each example of the row, in order.
        device: of the row.
    """
    longest = max(lengths)
    named: dict[str, Any] = {"max_length_q": longest, "max_length_k": longest}
    if device.type == "cuda":
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        ends = ends.to(device, non_blocking=True)
        return {**named, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
    return {**named, "cu_seq_lens_q": lengths, "cu_seq_lens_k": lengths}


def packed_attention(  # noqa: PLR0913 (transformers' interface)
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **borders: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of one packed row.

    Args:
        module: the attention layer.
        query: [1, heads, tokens, width of a head].
        key, value: [1, key-value heads, tokens, width of a head].
        attention_mask: unused; borders say it all.
        scaling: of the scores; None: 1 / sqrt(width of a head).
        sliding_window: tokens that a token sees, itself included; None: all before it.
        borders: see :func:`borders`.

    Returns:
        ([1, tokens, heads, width of a head], None).
    """
    ends, longest = borders["cu_seq_lens_q"], borders["max_length_q"]
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    if query.device.type == "cuda":
        return _on_gpu(query, key, value, ends, longest, scaling, window), None
    return _by_example(query, key, value, ends, scaling, window), None


def _on_gpu(  # noqa: PLR0913
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One kernel for the row, or example by example what FlashAttention refuses."""
    if not _suits_kernel(query):
        return _by_example(query, key, value, ends.diff().tolist(), scaling, window)
    rows = (part[0].transpose(0, 1) for part in (query, key, value))
    return _gpu_kernel()(*rows, ends, longest, scaling, window)[None]


def _suits_kernel(query: torch.Tensor) -> bool:
    """Whether FlashAttention takes it: half precision, heads of width 8 to 256, and Ampere."""
    width = query.shape[-1]
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half and width % 8 == 0 and width <= _WIDEST_HEAD and _is_ampere(query.device)


@functools.cache
def _is_ampere(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def _by_example(  # noqa: PLR0913
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    dtype = query.dtype
    if max(lengths) <= _SHORT:
        query, key, value = query.float(), key.float(), value.float()
    parts = (torch.split(part, lengths, 2) for part in (query, key, value))
    outputs = [
        scaled_dot_product_attention(
            q, k, v, attn_mask=_band(q, window), is_causal=window is None, scale=scaling,
            enable_gqa=True,
        )
        for q, k, v in zip(*parts, strict=True)
    ]  # fmt: skip
    return torch.cat(outputs, 2).transpose(1, 2).to(dtype)


def _band(query: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """bool [tokens, tokens], true where a token may look; None where plain causality holds."""
    if window is None:
        return None
    positions = torch.arange(query.shape[2], device=query.device)
    distance = positions[:, None] - positions[None]
    return (distance >= 0) & (distance < window)


@functools.cache
def _gpu_kernel() -> Kernel:
    """The variable-length kernel that is there; not run without a GPU."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return _torch_varlen

    def flash(*rows: Any) -> Any:
        q, k, v, ends, longest, scaling, window = rows
        left = -1 if window is None else window - 1
        return flash_attn_varlen_func(
            q, k, v, ends, ends, longest, longest, softmax_scale=scaling, causal=True,
            window_size=(left, 0),
        )  # fmt: skip

    return flash


def _torch_varlen(  # noqa: PLR0913
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """PyTorch's own kernel."""
    from torch.nn.attention.varlen import varlen_attn

    # https://github.com/pytorch/pytorch/pull/179468
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:  # grouped queries are newer than the oldest torch that is supported
        key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    left = -1 if window is None else window - 1
    out = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(left, 0)
    )
    assert isinstance(out, torch.Tensor)
    return out


AttentionInterface.register(NAME, packed_attention)
