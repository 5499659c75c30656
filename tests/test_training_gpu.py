"""Kernels that exist on GPUs only, against plain PyTorch; skipped without a GPU."""

import pytest
import torch

from memo_dist.training import attention, loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LENGTHS = [5, 70, 33, 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 16])
def test_packed_attention_equals_attention_by_example(dtype, window):
    torch.manual_seed(0)
    tokens = sum(LENGTHS)
    query = torch.randn(1, 8, tokens, 64, dtype=dtype, requires_grad=True)
    key, value = (torch.randn(1, 2, tokens, 64, dtype=dtype, requires_grad=True) for _ in "kv")

    def run(device):
        parts = [part.detach().to(device).requires_grad_() for part in (query, key, value)]
        where = attention.borders(LENGTHS, torch.device(device))
        out, _ = attention.packed_attention(
            torch.nn.Identity(), *parts, None, sliding_window=window, **where
        )
        out.float().square().sum().backward()
        return [out.detach().cpu().float(), *(part.grad.cpu().float() for part in parts)]

    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    for found, wanted in zip(run("cuda"), run("cpu"), strict=True):
        assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("vocabulary", [1000, 151_936])
def test_fused_loss_equals_plain_loss(vocabulary):
    torch.manual_seed(0)
    hidden = torch.randn(300, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(vocabulary, 128, device="cuda") / 11).bfloat16().requires_grad_()
    targets = torch.randint(vocabulary, (300,), device="cuda")
    got = loss.linear_cross_entropy(hidden, weight, targets)
    logits = hidden.float() @ weight.float().t()
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    assert float(got) == pytest.approx(float(wanted), rel=1e-2)
    found, expected = (torch.autograd.grad(x, (hidden, weight)) for x in (got, wanted))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 5e-2 * other.abs().max()
