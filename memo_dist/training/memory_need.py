"""What one training rank needs in memory, before anything runs.

Sources of the formulas:

- Model states: ZeRO (arXiv 1910.02054), sections 3.1 and 5. With P parameters, T of them trained,
  N ranks: mixed precision 2P + 2T + 12T (weights, gradients; master copy and Adam's two moments),
  fp32 4P + 4T + 8T. Stage 1 divides the optimizer by N, stage 2 the gradients too, stage 3 the
  weights too. DeepSpeed (0.19) keeps a master copy of its partition from stage 1 on in fp32 too.
  bf16 runs at stage 1 at least. From stage 2 on, where a rank sums the gradients of several rows,
  the sums are fp32: 4T / N in place of 2T / N.
- Activations: the counting of Korthikanti et al. (arXiv 2205.05198, section 4) redone for a
  decoder layer with RMSNorm, gated MLP and attention that keeps no [tokens, tokens] scores: per
  token 11 h + 4 f numbers (residual twice; each norm's normalised and scaled values; q, k, v, the
  attention's output; gate, up, activated gate, product). With checkpointing one h a layer, and
  one whole layer while it is recomputed.
- LoRA (arXiv 2106.09685): T = sum of r (in + out) over the adapted matrices; W itself has neither
  gradient nor optimizer state.
- Logits: three fp32 [tokens, vocabulary] (values, log-softmax, gradient), for rows of which every
  token is trained: an upper bound where prompts are not. On a GPU they are those of one chunk
  (training/loss.py), and beside bf16 weights a trained output layer has an fp32 gradient of its
  own; on a CPU a chunk is small, and the whole row stays as the margin that was measured.
- ``train.anchor_kl``: a copy of the base's output layer where that layer is trained, and a second
  fp32 gradient of it; nothing where it is frozen (``train.trained_layers``, LoRA).
- Optimizer step, on a CPU: torch's foreach AdamW makes one temporary of the size of the trained
  weights (the fused one on GPUs makes none); it lives when activations are gone, so the larger of
  the two counts.
- Loading: safetensors are mapped, so while a base is read its file counts beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memo_dist.config.schema import TrainConfig
from memo_dist.training.deepspeed_seam import (
    BUCKET_ELEMENTS,
    PARTITIONED_GRADIENTS,
    accumulates_in_fp32,
    read_deepspeed_file,
    zero_stage,
)
from memo_dist.training.loss import chunk_rows

GIB = 2**30
CPU_RUNTIME_BYTES = 650 * 2**20
"""Python, torch, transformers and DeepSpeed in one rank on a CPU, measured (Python 3.11, torch
2.13, benchmarks/memory_need.py)."""
DRIVER_BYTES = 500 * 2**20
"""Resident size of the command that starts the ranks, measured as above."""
RAY_BYTES = 750 * 2**20
"""Resident size of a local Ray (2.60): raylet, GCS, two agents, dashboard, log monitor and Ray
Train's controller, measured as above, and the part of the object store that is used."""
RANK_ADDRESSES = 1 * GIB
"""Address space that one process reserves beyond the memory that it uses, without Ray (maps of
libraries, stacks and arenas of threads), measured as above."""
GPU_RUNTIME_BYTES = 1 * GIB
"""CUDA context, NCCL and the allocator's slack; not measured yet."""
_FP32 = 4
_PREFETCH_ELEMENTS = 50_000_000  # and of stage3_prefetch_bucket_size
_LOGIT_CHANGES = (
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
)
"""Keys by which transformers' models cap or scale their logits; training itself compares values
(training/model.py), for which it needs the weights."""
_LARGEST_SHOWN = 0.01  # GiB; smaller parts are left out of the text


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a causal LM that decide its memory.

    Attributes:
        parameters: all weights, tied ones once.
        layer_parameters: weights of one decoder layer.
        layers, hidden, intermediate, vocabulary: as in the model's configuration.
        linears: (in, out) of each linear map of one decoder layer.
        chunked_logits: the logits are plain products of the last states, so that no more of them
            exist than a chunk has.
    """

    parameters: int
    layer_parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    linears: tuple[tuple[int, int], ...]
    chunked_logits: bool = True

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """Count the weights of a transformers configuration on the meta device: no memory.

        Args:
            config: of a causal language model.
        """
        from transformers import AutoModelForCausalLM

        from memo_dist.training.model import decoder_layers

        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        layer = decoder_layers(model)[0]
        linears = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            layer_parameters=sum(p.numel() for p in layer.parameters()),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            vocabulary=config.vocab_size,
            linears=tuple((m.in_features, m.out_features) for m in linears),
            chunked_logits=not any(
                getattr(config, key, None) not in (None, 1) for key in _LOGIT_CHANGES
            ),
        )

    @classmethod
    def of_folder(cls, folder: Path) -> ModelShape:
        """The shape of a model folder; reads its configuration only."""
        from transformers import AutoConfig

        return cls.of(AutoConfig.from_pretrained(folder, trust_remote_code=False))


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of one rank, by what they hold.

    Attributes:
        device: parts on the device that computes (the host, on a CPU).
        host: parts on the host that were offloaded from a GPU; empty otherwise.
        label: precision, ZeRO stage and ranks, for the text.
    """

    device: Mapping[str, int]
    host: Mapping[str, int]
    label: str

    @property
    def device_bytes(self) -> int:
        """The peak on the device."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """What is offloaded to the host."""
        return sum(self.host.values())

    def __str__(self) -> str:
        text = f"{self.device_bytes / GIB:.2f} GiB per rank ({self.label}): {_parts(self.device)}"
        if self.host:
            text += f"; offloaded to the host {self.host_bytes / GIB:.2f} GiB: {_parts(self.host)}"
        return text


def training_need(  # noqa: PLR0913 - each is a fact of the machine or the training
    shape: ModelShape,
    train: TrainConfig,
    ranks: int,
    *,
    bf16: bool,
    gpu: bool,
    adapter_rank: int = 0,
) -> MemoryNeed:
    """The peak of one rank (see the module's text for the formulas).

    Args:
        shape: of the base.
        train: ZeRO stage, offload (``train.deepspeed``), rows, checkpointing, trained layers.
        ranks: N.
        bf16: mixed precision, else fp32.
        gpu: whether the device is a GPU.
        adapter_rank: LoRA's r on every linear map of every layer; 0: full fine-tuning.
    """
    zero = read_deepspeed_file(train.deepspeed).get("zero_optimization", {})
    stage = max(zero_stage(train), 1) if bf16 else zero_stage(train)  # see engine_config
    trained = _trained(shape, train, adapter_rank)
    extra = trained if adapter_rank else 0
    rows = max(1, train.batch_tokens // train.micro_batch_tokens // ranks)
    wide = accumulates_in_fp32(train, bf16, rows)
    states = _states(shape.parameters + extra, trained, ranks, stage, bf16=bf16, wide=wide)
    states |= _buffers(shape, zero, stage, trained, bf16=bf16) if gpu or stage == 3 else {}
    states |= _anchor(shape, train, bf16=bf16, frozen_head=bool(adapter_rank))
    work = _activations(shape, train, bf16=bf16)
    work |= _logits(shape, train, gpu=gpu, wide=bf16 and trained == shape.parameters)
    step = {} if gpu else {"optimizer step": _FP32 * trained // (ranks if stage else 1)}
    peak = max((work, step), key=lambda parts: sum(parts.values()))
    runtime = {"runtime": GPU_RUNTIME_BYTES if gpu else CPU_RUNTIME_BYTES}
    device, host = _offloaded({**states, **peak, **runtime}, zero) if gpu else (states, {})
    if not gpu:
        device = _with_loading({**states, **peak}, shape) | runtime
    precision = "bf16" if bf16 else "fp32"
    return MemoryNeed(device, host, f"{precision}, ZeRO {stage}, {ranks} rank(s)")


def _trained(shape: ModelShape, train: TrainConfig, adapter_rank: int) -> int:
    if adapter_rank:
        return shape.layers * sum(adapter_rank * (i + o) for i, o in shape.linears)
    if train.trained_layers:
        return min(train.trained_layers, shape.layers) * shape.layer_parameters
    return shape.parameters


def _states(  # noqa: PLR0913 - each decides the size of one of the states
    all_: int, trained: int, ranks: int, stage: int, *, bf16: bool, wide: bool
) -> dict[str, int]:
    """Weights, gradients and optimizer of one rank, in bytes.

    ``wide``: bf16 gradients are summed in fp32.
    """
    weight = 2 if bf16 else _FP32
    optimizer = 2 * _FP32 + (_FP32 if bf16 or stage else 0)
    gradient = _FP32 if wide else weight
    return {
        "parameters": weight * all_ // (ranks if stage == 3 else 1),
        "gradients": gradient * trained // (ranks if stage >= PARTITIONED_GRADIENTS else 1),
        "optimizer": optimizer * trained // (ranks if stage >= 1 else 1),
    }


def _anchor(
    shape: ModelShape, train: TrainConfig, *, bf16: bool, frozen_head: bool
) -> dict[str, int]:
    """What holding the memory to its base takes beside the activations."""
    if not train.anchor_kl or train.trained_layers or frozen_head:
        return {}
    weight = 2 if bf16 else _FP32
    return {"anchor": (weight + _FP32) * shape.vocabulary * shape.hidden}


def _buffers(
    shape: ModelShape, zero: Mapping[str, Any], stage: int, trained: int, *, bf16: bool
) -> dict[str, int]:
    """DeepSpeed's buckets, allocated whole (two below stage 3 with ``overlap_comm``).

    Under stage 3 also the layer that is gathered and the one prefetched.
    """
    width = 2 if bf16 else _FP32
    if stage == 0:
        return {}
    bucket = _elements(zero, "reduce_bucket_size", min(BUCKET_ELEMENTS, trained))
    twice = bool(zero.get("overlap_comm")) and stage < 3
    elements = bucket * (2 if twice else 1)
    if stage == 3:
        prefetch = _elements(zero, "stage3_prefetch_bucket_size", _PREFETCH_ELEMENTS)
        embedding = shape.vocabulary * shape.hidden
        elements += max(shape.layer_parameters, embedding) + min(prefetch, shape.parameters)
    return {"buffers": width * elements}


def _elements(zero: Mapping[str, Any], key: str, default: int) -> int:
    value = zero.get(key, default)
    return default if value == "auto" else int(value)


def _activations(shape: ModelShape, train: TrainConfig, *, bf16: bool) -> dict[str, int]:
    """What the backward pass of one row needs."""
    width, tokens = 2 if bf16 else _FP32, train.micro_batch_tokens
    layers = min(train.trained_layers, shape.layers) if train.trained_layers else shape.layers
    layer = tokens * width * (11 * shape.hidden + 4 * shape.intermediate)
    if train.gradient_checkpointing:
        activations = layers * tokens * width * shape.hidden + layer
    else:
        activations = layers * layer
    return {"activations": activations}


def _logits(shape: ModelShape, train: TrainConfig, *, gpu: bool, wide: bool) -> dict[str, int]:
    """The logits that exist at once; ``wide``: the output layer has an fp32 gradient besides."""
    tokens = train.micro_batch_tokens
    if not (gpu and shape.chunked_logits):
        return {"logits": 3 * _FP32 * tokens * shape.vocabulary}
    chunk = min(tokens, chunk_rows(shape.vocabulary, gpu))
    gradient = _FP32 * shape.hidden if wide else 0
    return {"logits": (3 * _FP32 * chunk + gradient) * shape.vocabulary}


def _offloaded(
    parts: dict[str, int], zero: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, int]]:
    """Move what DeepSpeed's file offloads from the GPU to the host."""
    host: dict[str, int] = {}
    if _offloads(zero, "offload_optimizer"):
        host["optimizer"] = parts.pop("optimizer", 0)
        host["gradients"] = parts["gradients"]
    if _offloads(zero, "offload_param"):
        host["parameters"] = parts.pop("parameters", 0)
    return parts, host


def _offloads(zero: Mapping[str, Any], key: str) -> bool:
    return str(zero.get(key, {}).get("device", "none")) != "none"


def _with_loading(parts: dict[str, int], shape: ModelShape) -> dict[str, int]:
    """On a CPU: reading the base (weights and its mapped file) may be more than the training."""
    loading = 2 * _FP32 * shape.parameters
    if loading <= sum(parts.values()):
        return parts
    return {"parameters": loading // 2, "reading the base": loading // 2}


def _parts(parts: Mapping[str, int]) -> str:
    shown = {name: size / GIB for name, size in parts.items() if size / GIB >= _LARGEST_SHOWN}
    return ", ".join(f"{name} {size:.2f}" for name, size in shown.items())
