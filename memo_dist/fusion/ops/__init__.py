"""Ops that fuse a memory with a frozen backbone: ``torch.ops.memo.*`` and functions over them.

They import without a compiler and without a GPU. Sources of the compiled kernels are in
``kernels/``; see docs/kernels.md.
"""

from memo_dist.fusion.ops.attention import memory_attention, memory_attention_decode
from memo_dist.fusion.ops.mix import (
    MAX_SOURCES,
    GateFeatures,
    Tokens,
    gate_log_weights,
    mix_logits,
    mix_logits_argmax,
    mix_logits_features,
    mix_logits_sample,
    mix_logits_target,
    mix_logits_topk,
)

__all__ = [
    "MAX_SOURCES",
    "GateFeatures",
    "Tokens",
    "gate_log_weights",
    "memory_attention",
    "memory_attention_decode",
    "mix_logits",
    "mix_logits_argmax",
    "mix_logits_features",
    "mix_logits_sample",
    "mix_logits_target",
    "mix_logits_topk",
]
