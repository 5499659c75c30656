"""Loading of frozen causal language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import quiet_loading


def load_frozen(folder: Path, device: str) -> Any:
    """A causal LM to answer with: float32 on a CPU, the stored dtype on a GPU; no code of its own.

    Raises:
        OSError, ValueError, KeyError: the folder holds no such model.
    """
    where = answering_device(device)
    dtype: Any = torch.float32 if where.type == "cpu" else "auto"
    with quiet_loading():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    return model.to(where)


def answering_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    best = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(best if device == "auto" else device)


def greedy_generation(chat: ChatFormat, max_new_tokens: int) -> GenerationConfig:
    """How a memory answers: greedily, up to a token that ends an answer."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(chat.stop_ids),
        pad_token_id=chat.pad_id,
    )
