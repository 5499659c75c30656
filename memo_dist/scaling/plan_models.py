"""The models of a plan: the memory's shape and shards, and the backbone at inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, LlamaConfig

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.models.base import SCRATCH_NAME, find_base
from memo_dist.models.smollm2 import SMOLLM2_NAME
from memo_dist.scaling.ladder import Shape, choose_shape
from memo_dist.scaling.laws import Interval
from memo_dist.training.memory_need import ModelShape

HALF_BYTES = 2
"""A number in bf16."""
LEAST_LAYERS = 2
"""Of a proposed memory, where no law says: one layer finds no fact by a name of several tokens."""
_GROWTH = 1.1
_SMALLEST_TRIES = 60


@dataclass(frozen=True)
class Model:
    """A causal LM as a plan counts it.

    Attributes:
        shape: sizes.
        cache_bytes: of keys and values of one token, in bf16.
        name: for people.
    """

    shape: ModelShape
    cache_bytes: int
    name: str


@dataclass(frozen=True)
class MemoryChoice:
    """The memory that a plan proposes.

    Attributes:
        model: of one shard.
        shards: of the bank.
        verdict: one sentence.
        overrides: ``key=value``, ready to paste.
    """

    model: Model
    shards: int
    verdict: str
    overrides: list[str]


def choose_memory(
    parameters: Interval, config: Config, least_layers: int = LEAST_LAYERS
) -> MemoryChoice:
    """The shape (scratch) or the number of shards (another base) for a number of parameters.

    Args:
        parameters: over all shards.
        config: ``memory`` and ``corpus.shards``.
        least_layers: of a memory from scratch.

    Raises:
        UsageError: the base is not on this machine, or no shape exists.
    """
    if config.memory.base == SCRATCH_NAME:
        return _scratch(parameters.value, config, least_layers)
    model = _model(config.memory.base, "memory.base")
    size = model.shape.parameters
    counts = Interval(*(max(1, math.ceil(p / size)) for p in parameters.to_json()))
    needed = int(counts.value)
    shards = max(needed, config.corpus.shards)
    verdict = f"{model.name} has {size:,} parameters: " + (
        "one is enough"
        if needed == 1
        else f"not enough, {needed} shards (interval {counts.low:g} to {counts.high:g})"
    )
    return MemoryChoice(
        model, shards, verdict, [f"memory.base={config.memory.base}", f"corpus.shards={shards}"]
    )


def backbone(config: Config) -> tuple[int, int, str]:
    """Parameters, cache bytes of a token, and a description of the frozen LLM beside the memory.

    Raises:
        UsageError: ``fusion.backbone`` is neither a folder nor a possible hub id.
    """
    name, assumed = config.fusion.backbone, config.plan.backbone_parameters
    if name:
        try:
            model = _model(name, "fusion.backbone")
        except UsageError:
            if "/" not in name or name.startswith((".", "/", "~")):
                raise
        else:
            return model.shape.parameters, model.cache_bytes, model.name
    return (
        int(assumed),
        _cache(32, 8, 128),
        f"assumed: {assumed:.3g} parameters, 32 layers, 8 x 128",
    )


def _scratch(parameters: float, config: Config, least_layers: int) -> MemoryChoice:
    vocabulary, shards = config.memory.scratch.vocabulary, config.corpus.shards
    shape = _nearest_shape(max(1, math.ceil(parameters / shards)), vocabulary, least_layers)
    verdict = (
        f"scratch of {shape.parameters:,} parameters ({shape.embedding_parameters:,} of them"
        f" embeddings), {shards} shard(s)"
    )
    if shape.parameters * shards > 1.05 * parameters:
        verdict += f"; the smallest shape of a vocabulary of {vocabulary:,}, more than is needed"
    overrides = [
        "memory.base=scratch",
        f"corpus.shards={shards}",
        f"memory.scratch.vocabulary={vocabulary}",
        f"memory.scratch.hidden_size={shape.hidden}",
        f"memory.scratch.layers={shape.layers}",
        f"memory.scratch.heads={shape.heads}",
        f"memory.scratch.intermediate_size={shape.intermediate}",
    ]
    return MemoryChoice(_counted(shape.config(), "scratch"), shards, verdict, overrides)


def _nearest_shape(parameters: int, vocabulary: int, least_layers: int) -> Shape:
    """The ladder's shape, or the smallest above it that exists for the vocabulary."""
    target = float(max(parameters, 16 * vocabulary))
    for _ in range(_SMALLEST_TRIES):
        try:
            return choose_shape(int(target), vocabulary, least_layers)
        except UsageError:
            target *= _GROWTH
    return choose_shape(parameters, vocabulary, least_layers)


def _model(name: str, key: str) -> Model:
    if name == SMOLLM2_NAME:  # known without its wheel
        return _counted(_smollm2(), name)
    folder = find_base(name, allow_download=False, key=key)
    return _counted(AutoConfig.from_pretrained(folder, trust_remote_code=False), name)


def _smollm2() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


def _counted(config: Any, name: str) -> Model:
    shape = ModelShape.of(config)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Model(shape, _cache(shape.layers, heads, width), name)


def _cache(layers: int, heads: int, width: int) -> int:
    return 2 * HALF_BYTES * layers * heads * width
