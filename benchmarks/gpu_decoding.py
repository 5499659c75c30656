"""What fusion costs a token: backbone alone, by distributions (F1), by hidden states (F2).

    python benchmarks/gpu_decoding.py [--out FILE.json]
    python benchmarks/gpu_decoding.py --device cpu        (tiny models, runs the same code)

A backbone of a 7B shape and a memory of a tenth of it, random weights, bf16, static key-value
caches, one CUDA graph a token for every peer. F1 steps both models and mixes their rows; F2 reads
the memory once for a question and runs the connector's decoding op behind every fourth layer.
Before a graph is timed it must choose the tokens that direct calls choose. Wanted: at most 1.15
times the backbone's own time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_kernels import capture
from machine import machine
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, StaticCache

from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.fusion import ops
from memo_dist.fusion.latent import Attachment, Connector
from memo_dist.fusion.latent.slots import Slots
from memo_dist.fusion.latent.trainee import connector_shape
from memo_dist.fusion.ops import loading
from memo_dist.io import atomic

VOCABULARY = 32_000
BATCHES = (1, 8)
PROMPT, CHECKED, TIMED, SLOTS = 256, 8, 100, 32
"""Tokens of the prompt, tokens compared, tokens timed, slots of a question."""
ROOM = PROMPT + CHECKED + TIMED + 8
"""Places of the caches; the last ones are for the steps that warm a graph up."""

Step = Callable[[Tensor], Tensor]
"""From the last tokens [B, 1] to the next ones [B, 1]."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of the two models."""

    backbone: LlamaConfig
    memory: LlamaConfig
    dtype: torch.dtype


def main() -> None:
    """Check and time every peer at every batch size, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not (torch.cuda.is_available() and loading.load("cuda")):
        raise SystemExit("this needs a GPU and the CUDA kernels: see memo-dist doctor")
    report = measure(shapes(options.device), torch.device(options.device)) | machine()
    if options.device == "cuda":
        report["gpu"] = torch.cuda.get_device_name()
    print(json.dumps(report, indent=1))
    if options.out:
        atomic.write_json(options.out, report)


def shapes(device: str) -> Shapes:
    """The 7B shape and 0.66B on a GPU; toys elsewhere."""
    if device == "cuda":
        return Shapes(_shape(4096, 11_008, 32, 32), _shape(1536, 4096, 20, 12), torch.bfloat16)
    return Shapes(_shape(128, 256, 8, 4), _shape(64, 128, 4, 2), torch.float32)


def _shape(width: int, inner: int, layers: int, heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner,
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=2 * ROOM,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip


def measure(shape: Shapes, device: torch.device) -> dict[str, Any]:
    """Milliseconds a token of each peer, and its ratio to the backbone alone."""
    backbone, memory = (_model(s, shape.dtype, device) for s in (shape.backbone, shape.memory))
    attachment = Attachment(backbone, _connector(backbone, memory))
    rows = [_row(backbone, memory, attachment, batch) for batch in BATCHES]
    sizes = {name: m.num_parameters() for name, m in (("backbone", backbone), ("memory", memory))}
    return {"parameters": sizes, "prompt": PROMPT, "slots": SLOTS, "rows": rows}


def _model(config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> LlamaForCausalLM:
    torch.manual_seed(0)
    with device:
        model: LlamaForCausalLM = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def _connector(backbone: LlamaForCausalLM, memory: LlamaForCausalLM) -> Connector:
    """Random, with open gates, of the shape that ``fuse`` makes by default."""
    connector = Connector(connector_shape(LatentConfig(), backbone, memory))
    connector.to(backbone.device, backbone.dtype).requires_grad_(False)
    for layer in connector.attentions:
        layer.gate.fill_(0.05)
    return connector


@torch.inference_mode()
def _row(
    backbone: LlamaForCausalLM, memory: LlamaForCausalLM, attachment: Attachment, batch: int
) -> dict[str, Any]:
    device = backbone.device
    chance = torch.Generator().manual_seed(batch)
    prompt = torch.randint(VOCABULARY, (batch, PROMPT), generator=chance).to(device)
    thought = memory(input_ids=prompt[:, :SLOTS], output_hidden_states=True).hidden_states
    states = torch.cat([thought[0], thought[-1]], dim=-1)
    slots = Slots(states, torch.ones(batch, SLOTS, dtype=torch.bool, device=device))
    peers = {
        "backbone": ((backbone,), nullcontext()),
        "logits": ((backbone, memory), nullcontext()),
        "latent": ((backbone,), attachment.reading(slots)),
    }
    row: dict[str, Any] = {"batch": batch}
    for name, (models, reading) in peers.items():
        with reading:
            row[name] = 1e3 * _seconds_a_token(models, prompt)
    for name in ("logits", "latent"):
        row[f"{name}_over_backbone"] = row[name] / row["backbone"]
    print(json.dumps(row), flush=True)
    return row


def _seconds_a_token(models: tuple[LlamaForCausalLM, ...], prompt: Tensor) -> float:
    caches = [StaticCache(config=model.config, max_cache_len=ROOM) for model in models]
    step = _stepper(models, caches, len(prompt))
    tokens = step(prompt)

    def advance() -> None:
        tokens.copy_(step(tokens))

    def from_the_prompt(move: Callable[[], object]) -> Tensor:
        for cache in caches:
            cache.reset()
        tokens.copy_(step(prompt))
        found = []
        for _ in range(CHECKED):
            move()
            found.append(tokens.clone())
        return torch.cat(found, dim=1)

    eager = from_the_prompt(advance)
    move = capture(advance)[0].replay if prompt.is_cuda else advance
    if not torch.equal(eager, from_the_prompt(move)):
        raise SystemExit("a captured step chose other tokens than a direct one")
    return _median_seconds(move, prompt.device)


def _stepper(models: tuple[LlamaForCausalLM, ...], caches: list[StaticCache], batch: int) -> Step:
    def step(ids: Tensor) -> Tensor:
        rows = [
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            for model, cache in zip(models, caches, strict=True)
        ]
        best = ops.mix_logits_argmax([row[:, -1] for row in rows], weights)
        return best.tokens[:, None]

    count = len(models)
    weights = torch.full((batch, count), 1 / count, device=models[0].device).log()
    return step


def _median_seconds(advance: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(TIMED):
        started = time.perf_counter()
        advance()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
