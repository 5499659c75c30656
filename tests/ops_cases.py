"""Inputs, oracle and engines that the tests of the ops share."""

import functools
import os
from types import SimpleNamespace

import pytest
import torch

from memo_dist.fusion.ops import attention_reference, build, loading, mix_reference

# Lengths around the kernels' own steps: one token, odd, a tile of 1024, several, a ragged end.
SHAPES = [(0, 5), (1, 1), (3, 33), (2, 1000), (1, 1024), (2, 2048), (1, 4101), (5, 3072)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
OPS = (
    "mix_logits",
    "mix_logits_target",
    "mix_logits_topk",
    "mix_logits_sample",
    "mix_logits_features",
    "mix_logits_grad_weights",
    "mix_logits_grad_source",
    "mix_logits_target_grad_source",
    "memory_attention",
    "memory_attention_grad_query",
    "memory_attention_grad_memory",
    "memory_attention_decode",
)


def cpu_kernels():
    """The compiled ops. Without a compiler the test is skipped; a broken build fails it."""
    if build.cxx() is None:
        pytest.skip("no C++ compiler: only the eager reference can be tested")
    os.environ[loading.REQUIRE_ENV] = "1"
    loading.load.cache_clear()
    try:
        assert loading.load("cpu")
    finally:
        del os.environ[loading.REQUIRE_ENV]
    return torch.ops.memo


# Where there is a GPU, the same tests are the check of the real CUDA kernels.
ENGINES = ["kernel", "emulation", "reference", *(["cuda"] if torch.cuda.is_available() else [])]


@functools.cache
def emulated_kernels():
    """The CUDA kernels compiled as C++, as ops on CPU tensors (torch.ops.memo_emulation)."""
    if build.cxx() is None:
        pytest.skip("no C++ compiler: the CUDA kernels cannot be emulated")
    library = torch.library.Library("memo_emulation", "DEF")
    for name in OPS:
        schema = str(getattr(torch.ops.memo, name).default._schema)
        library.define(schema.removeprefix("memo::"))
    torch.ops.load_library(str(build.build(build.EMULATION)))
    return library, torch.ops.memo_emulation


def on_gpu(op):
    """The op with its arguments moved to the GPU, and its results back."""

    def moved(value, device):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        if isinstance(value, (list, tuple)):
            return [moved(part, device) for part in value]
        return value

    return lambda *arguments: moved(op(*moved(arguments, "cuda")), "cpu")


def engine(name):
    """The ops of one implementation, one of :data:`ENGINES`."""
    if name == "reference":
        known = {**vars(mix_reference), **vars(attention_reference)}
        return SimpleNamespace(**{op: known[op] for op in OPS})
    if name == "emulation":
        return emulated_kernels()[1]
    if name == "cuda":
        return SimpleNamespace(**{op: on_gpu(getattr(torch.ops.memo, op)) for op in OPS})
    return cpu_kernels()


def real_of(*tensors):
    wide = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def mixture(rows, vocabulary, dtype, *, sources=2, seed=0, masked=True, scale=4.0):
    """(logits, log_weights, temperatures); some tokens are masked in one or in all sources."""
    chance = torch.Generator().manual_seed(seed)
    logits = [
        torch.randn(rows, vocabulary, generator=chance).mul(scale).to(dtype) for _ in range(sources)
    ]
    if masked and vocabulary > 8:
        logits[0][:, 5] = -torch.inf
        for source in logits:
            source[:, 3] = -torch.inf
    weights = torch.randn(rows, sources, generator=chance, dtype=torch.float64)
    temperatures = [0.7, 1.3, 1.0, 2.0][:sources]
    return logits, torch.log_softmax(weights, -1).to(real_of(*logits)), temperatures


def oracle(logits, log_weights, temperatures):
    """The formula in float64, with nothing of the package in it."""
    parts = [
        log_weights[:, source, None].double() + torch.log_softmax(x.double() / temperature, -1)
        for source, (x, temperature) in enumerate(zip(logits, temperatures, strict=True))
    ]
    return torch.logsumexp(torch.stack(parts), dim=0)


def close(found, wanted, dtype=torch.float32):
    """Compare with the rounding that the dtype of a result allows."""
    tolerance = {
        torch.float64: 1e-12,
        torch.float32: 1e-5,
        torch.float16: 2e-3,
        torch.bfloat16: 1e-2,
    }[dtype]
    torch.testing.assert_close(
        found.double(), wanted.double(), rtol=tolerance, atol=2 * tolerance, equal_nan=True
    )
