"""Export as a verified step: what was written is reloaded and compared with what was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from memo_dist.errors import RunError
from memo_dist.models.identity import quiet_loading
from memo_dist.models.weight_files import NamedTensor, StoredWeights
from memo_dist.training.lora import ADAPTER_WEIGHTS

PROBE = "probe.safetensors"
TOLERANCE = 1e-3
"""Largest allowed difference of a probe's float32 logits after the reload. The weights are equal,
so only the order of sums (other thread counts, other kernels) may differ."""
HALF_TOLERANCE = 0.15
"""The same for half precision: root mean square of the differences over the logits' standard
deviation. Rounding moves single logits of an equal model by 0.4 and more (two bfloat16 attentions
over the same weights), the whole by 0.01 to 0.03; a wrong tensor moves it by about 1."""
_ATTRIBUTES = ("missing_keys", "unexpected_keys", "mismatched_keys")


def verify_model(trained: Path, weights: Iterable[NamedTensor], exported: Path) -> None:
    """Compare an exported model folder with what was trained.

    Args:
        trained: ``final/``, for the probes that the trainer recorded.
        weights: what should be in the files, one tensor at a time.
        exported: the folder.

    Raises:
        RunError: names the first difference in names, shapes, values, ties or logits.
    """
    _compare_files(weights, StoredWeights(exported))
    model = _reload(exported)
    tied = bool(model.config.tie_word_embeddings)
    output = model.get_output_embeddings()
    shared = output is not None and model.get_input_embeddings().weight is output.weight
    if tied != shared:
        raise RunError(f"export: tied embeddings are {shared}, the configuration says {tied}")
    compare_logits(trained, model, model.dtype)


def verify_adapter(trained: Path, base: Path, exported: Path) -> None:
    """Compare an exported PEFT folder, loaded on its base, with what was trained.

    Raises:
        RunError: names the first difference in names, shapes, values or logits.
    """
    from peft import PeftModel

    _compare_files(load_file(trained / ADAPTER_WEIGHTS).items(), StoredWeights(exported))
    with quiet_loading():
        model: Any = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True, dtype="auto")
    dtype = model.dtype
    compare_logits(trained, PeftModel.from_pretrained(model, exported).eval(), dtype)


def compare_logits(trained: Path, model: Callable[..., Any], dtype: torch.dtype) -> None:
    """Compare a reloaded model's logits with those that the trainer recorded.

    Raises:
        RunError: a probe differs by more than :data:`TOLERANCE`, or :data:`HALF_TOLERANCE`.
    """
    probe = load_file(trained / PROBE)
    for index in range(len(probe) // 2):
        with torch.no_grad():
            output = model(input_ids=probe[f"ids.{index}"][None], logits_to_keep=1)
        recorded, found = probe[f"logits.{index}"], output.logits[0, 0].float()
        allowed = TOLERANCE
        difference = (found - recorded).abs().max()
        if dtype != torch.float32:
            allowed = HALF_TOLERANCE
            difference = (found - recorded).square().mean().sqrt() / recorded.std()
        if not difference <= allowed:
            raise RunError(
                f"export: probe {index}: logits differ by {difference:.3g} (allowed {allowed})"
            )


def _reload(folder: Path) -> Any:
    """Load as a user would; every name must be one of the model class, and none missing."""
    with quiet_loading():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    for attribute in _ATTRIBUTES:
        names = sorted(str(name) for name in report[attribute])
        if names:
            problem = attribute.removesuffix("_keys")
            raise RunError(f"export: {problem} weights after the reload: {', '.join(names[:3])}")
    return model.eval()


def _compare_files(expected: Iterable[NamedTensor], written: StoredWeights) -> None:
    unknown = set(written.names)
    for name, value in expected:
        if name not in unknown:
            raise RunError(f"export: weights missing or unknown: {name}")
        unknown.remove(name)
        if written.shape(name) != tuple(value.shape) or value.numel() == 0:
            raise RunError(
                f"export: {name} has shape {written.shape(name)}, trained {tuple(value.shape)}"
            )
        tensor = written[name]
        if not torch.equal(value.to(tensor.dtype), tensor):
            raise RunError(f"export: {name} differs from the trained weights")
    if unknown:
        raise RunError(f"export: weights missing or unknown: {', '.join(sorted(unknown)[:3])}")
