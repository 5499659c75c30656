"""Loading of frozen causal language models: one rule for dtype and safety.

float32 on a CPU, the stored dtype on a GPU. Weights are safetensors (unpickling runs code), and no
code that a folder carries is ever run.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from memo_dist.errors import UsageError
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import quiet_loading, weight_files


class LanguageModel(NamedTuple):
    """A loaded causal language model, in evaluation mode, and its tokenizer."""

    model: Any
    tokenizer: Any


def load_language_model(
    folder: Path, failure: str, advice: str, device: str = "auto"
) -> LanguageModel:
    """Load the model and the tokenizer of a Hugging Face folder.

    Args:
        folder: holds both.
        failure, advice: see :func:`refusing`.
        device: a torch device; ``auto``: the GPU where there is one.

    Raises:
        UsageError: the folder holds no such model, only pickles, or needs code of its own.
    """
    with refusing(failure, advice):
        tokenizer = load_tokenizer(folder)
        return LanguageModel(load_frozen(folder, device), tokenizer)


def load_frozen(folder: Path, device: str = "auto") -> Any:
    """The model of :func:`load_language_model` without its tokenizer.

    Raises:
        UsageError: the folder holds no safetensors weights.
        OSError, ValueError, KeyError, RuntimeError: it holds no such model.
    """
    weight_files(folder, "")
    where = answering_device(device)
    dtype: Any = torch.float32 if where.type == "cpu" else "auto"
    with quiet_loading():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    return model.to(where).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder.

    Raises:
        OSError, ValueError, KeyError: there is none that loads without code of its own.
    """
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_memory_tokenizer(folder: Path) -> Any:
    """The tokenizer of an exported memory.

    Raises:
        UsageError: it does not load, for example because it is damaged.
    """
    with refusing(f"'{folder}' cannot be loaded as a memory", "export it again"):
        return load_tokenizer(folder)


@contextmanager
def refusing(failure: str, advice: str) -> Iterator[None]:
    """Turn the errors of a folder that does not load into one message.

    Args:
        failure: what failed, with the configuration key and value behind it:
            ``fusion.backbone='x' cannot be loaded``.
        advice: what to change.

    Raises:
        UsageError: ``failure: reason; advice``.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # of a right folder
        raise
    except (UsageError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error)
        if "trust_remote_code" in reason:  # an option that cannot be set here
            reason = "it needs code that its folder carries (auto_map), which is never run"
        raise UsageError(f"{failure}: {reason}; {advice}") from error


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX).

    Without it a bfloat16 product is emulated, many times slower than float32.
    """
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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


def release_gpu() -> None:
    """Give the GPU memory of dropped models back, which PyTorch keeps, to the ranks that follow."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
