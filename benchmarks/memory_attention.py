"""memory_attention and its decoding form against the composition of PyTorch's own parts.

    python benchmarks/memory_attention.py [--device cpu] [--seconds 0.5] [--out FILE]

Every peer runs in the same process, in turns. On a CPU numbers are medians of the thread's CPU
time, one thread, float32; on a GPU medians over replays of CUDA graphs, bf16.

- ``train``: forward and backward for T = 64 tokens, 8 heads of 64, against
  ``scaled_dot_product_attention`` with a mask, times tanh(gate);
- ``decode``: one token, width 576 (CPU) or 4096 (GPU), 8 heads of 64, against norm, query
  projection, SDPA over ready keys and values, gate, output projection and residual.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from memo_dist.fusion import ops
from memo_dist.fusion.ops import loading
from memo_dist.io import atomic

BATCHES, SLOTS = (1, 8), (16, 64, 128, 512)
HEADS, WIDTH, TOKENS = 8, 64, 64

Peers = dict[str, Callable[[], object]]


def main() -> None:
    """Measure every shape and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="per race")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not loading.load(options.device):
        raise SystemExit("the kernels are not built: see memo-dist doctor")
    rows = []
    for name, peers in (("train", training_peers), ("decode", decoding_peers)):
        for batch in BATCHES:
            for slots in SLOTS:
                seconds = race(peers(batch, slots, options.device), options)
                ratio = seconds["composition"] / seconds["kernel"]
                row = {"what": name, "batch": batch, "slots": slots, "over_composition": ratio}
                rows.append(row | {key: 1e6 * value for key, value in seconds.items()})
                print(json.dumps(rows[-1]), flush=True)
    report: dict[str, Any] = {"device": options.device, "microseconds": rows, **machine()}
    if options.device == "cuda":
        report["gpu"] = torch.cuda.get_device_name()
    if options.out:
        atomic.write_json(options.out, report)


def training_peers(batch: int, slots: int, device: str) -> Peers:
    """Forward and backward, kernel and composition."""
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    made = {"device": device, "dtype": kind}
    query = torch.randn(batch, HEADS, TOKENS, WIDTH, **made).requires_grad_()
    key, value = (
        torch.randn(batch, HEADS, slots, WIDTH, **made).requires_grad_() for _ in range(2)
    )
    gate = torch.randn(HEADS, device=device).requires_grad_()
    mask = torch.rand(batch, slots, device=device) > 0.2
    leaves = (query, key, value, gate)
    push = torch.randn_like(query)

    def composition() -> object:
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        gated = gate.tanh()[:, None, None].to(kind) * mixed
        return torch.autograd.grad(gated, leaves, push)

    def kernel() -> object:
        return torch.autograd.grad(ops.memory_attention(*leaves, mask), leaves, push)

    return {"kernel": kernel, "composition": composition}


def decoding_peers(batch: int, slots: int, device: str) -> Peers:
    """One token of a layer, kernel and composition."""
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    width = 4096 if device == "cuda" else 576
    made = {"device": device, "dtype": kind}
    x = torch.randn(batch, 1, width, **made)
    norm, gate = torch.ones(width, **made), torch.randn(HEADS, device=device)
    to_query = torch.randn(HEADS * WIDTH, width, **made) / width**0.5
    output = torch.randn(width, HEADS * WIDTH, **made) / width**0.5
    key, value = (torch.randn(batch, HEADS, slots, WIDTH, **made) for _ in range(2))
    mask = torch.rand(batch, slots, device=device) > 0.2
    by_head = to_query.view(HEADS, WIDTH, width) * WIDTH**-0.5
    keys = torch.einsum("bhmd,hdc->bhmc", key, by_head)
    values = torch.einsum("bhmd,hdc->bhmc", value, output.t().reshape(HEADS, WIDTH, width))

    def composition() -> Tensor:
        query = linear(rms_norm(x, (width,), norm, 1e-6), to_query)
        query = query.view(batch, 1, HEADS, WIDTH).transpose(1, 2)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        mixed = gate.tanh()[:, None, None].to(kind) * mixed
        return x + linear(mixed.transpose(1, 2).flatten(2), output)

    def kernel() -> Tensor:
        return ops.memory_attention_decode(x, keys, values, gate, mask)

    torch.testing.assert_close(kernel(), composition(), atol=0.1, rtol=0.05)
    return {"kernel": kernel, "composition": composition}


def race(peers: Peers, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of every peer, in turns."""
    if options.device == "cuda":
        from gpu_kernels import replay_seconds

        return {name: replay_seconds(peer, 1) for name, peer in peers.items()}
    taken: dict[str, list[float]] = {name: [] for name in peers}
    for peer in peers.values():
        peer()
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        for name, peer in peers.items():
            started = time.thread_time()
            peer()
            taken[name].append(time.thread_time() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


if __name__ == "__main__":
    main()
