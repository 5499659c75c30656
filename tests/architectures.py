"""Tiny causal language models of many architectures, with random weights."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_TINY: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MORE: dict[str, dict[str, Any]] = {
    "falcon-alibi": {"alibi": True},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}
_NO_HEAD_DIM = ("falcon", "falcon-alibi", "mamba")

PACKED = (
    "apertus", "arcee", "biogpt", "bitnet", "cohere", "cohere2", "diffllama", "ernie4_5", "exaone4",
    "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite",
    "helium", "hunyuan_v1_dense", "llama", "mistral", "mixtral", "olmo", "olmo2", "opt",
    "persimmon", "phi", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2",
)  # fmt: skip
"""Keep the examples of a packed row apart."""
APART = (
    "bloom", "falcon", "falcon-alibi", "gpt_oss", "jamba", "lfm2", "mamba", "minimax", "mpt",
    "nemotron", "recurrent_gemma", "rwkv", "stablelm", "xglm",
)  # fmt: skip
"""Mix them, drop attention sinks or fail with the attention for packed rows."""


def tiny(name: str) -> Any:
    """A causal LM of an architecture in eval mode, the same at every call."""
    values = {**_TINY, **_MORE.get(name, {})}
    if name in _NO_HEAD_DIM:
        del values["head_dim"]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.partition("-")[0], **values)
    return AutoModelForCausalLM.from_config(config).float().eval()
