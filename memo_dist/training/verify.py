"""Export as a verified step: what was written is reloaded and compared with what was trained."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from memo_dist.errors import RunError
from memo_dist.models.identity import quiet_loading
from memo_dist.models.weight_files import NamedTensor, StoredWeights
from memo_dist.training.lora import ADAPTER_WEIGHTS

PROBE = "probe.safetensors"
PROBE_DTYPE = "dtype"
"""Key of its metadata: the precision in which the trainer computed the logits."""
TOLERANCE = 1e-3
"""Largest allowed difference of a probe's float32 logits after the reload. The weights are equal,
so only the order of sums (other thread counts, other kernels) may differ."""
HALF_TOLERANCE = 0.15
"""The same where either side has half precision, of the median probe: root mean square of the
differences over the logits' standard deviation. Rounding moves single logits of an equal model by
0.4 and more (two bfloat16 attentions over the same weights), the whole by 0.01 to 0.09, at a rare
token by 0.9; a wrong tensor moves all by about 1."""
_PRECISIONS = ("float32", "bfloat16", "float16")
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
        RunError: a probe differs by more than :data:`TOLERANCE`, or the median one by more than
            :data:`HALF_TOLERANCE`.
    """
    probe = load_file(trained / PROBE)
    halved = {dtype, _probe_dtype(trained / PROBE, dtype)} != {torch.float32}
    differences = []
    for index in range(len(probe) // 2):
        with torch.no_grad():
            output = model(input_ids=probe[f"ids.{index}"][None], logits_to_keep=1)
        recorded, found = probe[f"logits.{index}"], output.logits[0, 0].float()
        error = found - recorded
        # A NaN must not hide in a median.
        size = error.square().mean().sqrt() / recorded.std() if halved else error.abs().max()
        differences.append(math.inf if size.isnan() else float(size))
    allowed = HALF_TOLERANCE if halved else TOLERANCE
    difference = statistics.median(differences) if halved else max(differences)
    if difference > allowed or math.inf in differences:
        raise RunError(
            f"export: logits of {len(differences)} probes differ by {difference:.3g}"
            f" (allowed {allowed})"
        )


def _probe_dtype(probe: Path, otherwise: torch.dtype) -> torch.dtype:
    """What the trainer computed in; ``otherwise`` where an earlier version did not record it."""
    with safe_open(probe, "pt") as file:
        name = (file.metadata() or {}).get(PROBE_DTYPE)
    return getattr(torch, name) if name in _PRECISIONS else otherwise


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
