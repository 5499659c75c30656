"""The model that a rank trains: loaded, adapted or partly frozen, and wrapped for packed rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError
from memo_dist.models.loading import native_bfloat16
from memo_dist.training.adapters import add_adapters, plain_name
from memo_dist.training.frozen import FrozenLayers, split_frozen
from memo_dist.training.loss import RowModel, TrainedHead
from memo_dist.training.rows import run_row, set_packed_attention, states_of

_log = logging.getLogger(__name__)
_PROBE_TOKENS = 8
_WIDE = 512


@dataclass
class RankModel:
    """The model of a shard's memory as a rank trains it.

    Attributes:
        rows: the trained part, as a function from packed rows to losses.
        frozen: the lowest layers, where their activations are computed once and kept.
        dtype: of the forward pass.
    """

    rows: RowModel
    frozen: FrozenLayers | None
    dtype: torch.dtype

    @property
    def config(self) -> Any:
        """The Hugging Face configuration of the trained part."""
        return self.rows.model.config

    def base_name(self, name: str) -> str:
        """The base model's name of one of ``rows``' parameters."""
        plain = plain_name(name.removeprefix("model."))
        return plain if self.frozen is None else self.frozen.whole_name(plain)


def use_bf16(precision: str, width: int = 0, key: str = "train.precision") -> bool:
    """Whether to train in bf16: ``auto`` means where the hardware multiplies it.

    Args:
        precision: ``train.precision``.
        width: of the model's residual stream, if known. On a CPU ``auto`` takes bf16 from
            512 on: there it halves the time of a step (SmolLM2-135M); for small models from
            scratch no gain was looked for.
        key: of the precision, for the message.

    Raises:
        UsageError: bf16 was asked for on a machine without a GPU or CPU that has it: on AVX2
            cores no step finished within 240 s against 7 s in fp32.
    """
    # PyTorch counts emulation as support, and its attention then refuses the GPU.
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not gpu and not native_bfloat16():
        raise UsageError(
            f"{key}=bf16 needs a GPU or a CPU that multiplies bfloat16 itself (AVX512-BF16, AMX);"
            " use fp32 or auto"
        )
    fast = gpu or (not torch.cuda.is_available() and width >= _WIDE and native_bfloat16())
    return precision == "bf16" or (precision == "auto" and fast)


def model_width(folder: Path) -> int:
    """Width of the residual stream of the model in a folder."""
    config: Any = AutoConfig.from_pretrained(folder)
    return int(config.hidden_size)


def load_rank_model(folder: Path, train: TrainConfig, keep_activations: bool = False) -> RankModel:
    """Load a causal LM (safetensors only) for training, in train mode.

    Args:
        folder: of the base model.
        train: the train group.
        keep_activations: cut off the frozen lowest layers (``train.trained_layers``), to compute
            their activations once.

    Raises:
        UsageError: ``train.trained_layers`` is more than the model has, rows are longer than
            its positions, or nothing would be trained.
    """
    bf16 = use_bf16(train.precision, model_width(folder))
    dtype = torch.bfloat16 if bf16 else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    model.eval()
    packed = set_packed_attention(model)
    _check_positions(model, train)
    if train.trained_layers:
        freeze_below(model, train.trained_layers)
    own_head = _install_head(model, packed)
    frozen = split_frozen(model, decoder_layers(model), train, packed) if keep_activations else None
    if train.method == "lora":
        model = _adapted(model, train, None if frozen else len(decoder_layers(model)))
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if train.compile:
        for layer in decoder_layers(model):
            layer.compile(dynamic=True)
    model.train()
    return RankModel(RowModel(model, own_head, packed), frozen, dtype)


def _check_positions(model: Any, train: TrainConfig) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and train.micro_batch_tokens > positions:
        raise UsageError(
            f"train.micro_batch_tokens={train.micro_batch_tokens} is longer than the"
            f" {positions} positions of the base model"
        )


def _adapted(model: Any, train: TrainConfig, layers: int | None) -> Any:
    """LoRA on all layers, or on the upper ``train.trained_layers`` of ``layers``."""
    adapted = add_adapters(model, train)
    if layers is not None and train.trained_layers:
        for block in decoder_layers(adapted)[: layers - train.trained_layers]:
            block.requires_grad_(False)
    return adapted


def _install_head(model: Any, packed: bool) -> bool:
    """Put a :class:`TrainedHead` in place if the model's logits are plain products.

    Compared on a few tokens, because models scale, cap or shift their logits in many ways.
    """
    head: Any = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None
    if not plain:
        return False
    places = torch.arange(_PROBE_TOKENS)[None]
    row = (places % head.out_features, places, [_PROBE_TOKENS], packed)
    with torch.no_grad():
        expected = run_row(lambda **values: model(**values).logits, *row)
        hidden = run_row(states_of(model.get_decoder()), *row)
        plain = torch.allclose(head(hidden), expected, rtol=1e-2, atol=1e-3)
    if plain:
        model.set_output_embeddings(TrainedHead.of(head))
    else:
        _log.warning("logits of %s are scaled: the whole row's logits are kept", type(model))
    return plain


def freeze_below(model: torch.nn.Module, layers: int) -> None:
    """Leave only the last ``layers`` decoder layers trainable.

    Freezing the lower part saves its half of the backward pass: gradients stop at the lowest
    trained layer.

    Raises:
        UsageError: more layers than the model has.
    """
    blocks = decoder_layers(model)
    if layers > len(blocks):
        raise UsageError(f"train.trained_layers={layers}, but the base has {len(blocks)} layers")
    model.requires_grad_(False)
    for block in blocks[-layers:]:
        block.requires_grad_(True)


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers of a Hugging Face causal LM, lowest first.

    Raises:
        UsageError: no list of ``num_hidden_layers`` modules is found.
    """
    config: Any = model.config
    count = config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    raise UsageError(f"no list of {count} decoder layers found in {type(model).__name__}")
