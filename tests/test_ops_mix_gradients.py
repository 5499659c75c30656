"""Gradients of mix_logits, and its life under torch.compile, autocast and opcheck."""

import ops_cases as cases
import pytest
import torch

from memo_dist.fusion import ops

ENGINES = cases.ENGINES
TEMPERATURES = [0.7, 1.3]


@pytest.fixture(params=ENGINES)
def op(request):
    dtype = getattr(request.node, "callspec", None) and request.node.callspec.params.get("dtype")
    if request.param in ("emulation", "cuda") and dtype == torch.float64:
        pytest.skip("float64 is for the CPU only")
    return cases.engine(request.param)


def composition(logits, log_weights, temperatures):
    """The formula in PyTorch, whose autograd is the oracle; no token masked in all sources."""
    parts = [
        log_weights[:, source, None] + torch.log_softmax(x.to(log_weights.dtype) / temperature, -1)
        for source, (x, temperature) in enumerate(zip(logits, temperatures, strict=True))
    ]
    return torch.logsumexp(torch.stack(parts), dim=0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (2, 1030)])
def test_gradcheck_in_float64(shape):
    cases.cpu_kernels()
    logits, weights, _ = cases.mixture(*shape, torch.float64, masked=False, scale=1.0)
    logits = [x.requires_grad_() for x in logits]
    weights.requires_grad_()
    targets = torch.tensor([0, shape[1] - 1, -100])[: shape[0]]
    fast = shape[1] > 100

    def full(backbone, memory, w):
        return ops.mix_logits([backbone, memory], w, TEMPERATURES)

    def target(backbone, memory, w):
        return ops.mix_logits_target([backbone, memory], w, targets, TEMPERATURES)

    for function in (full, target):
        assert torch.autograd.gradcheck(function, (*logits, weights), fast_mode=fast)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_backward_ops_equal_autograd_of_the_composition(op, dtype, shape, sources):
    logits, weights, temperatures = cases.mixture(*shape, dtype, sources=sources, masked=False)
    wide = [x.double().requires_grad_() for x in logits]
    wide_weights = weights.double().requires_grad_()
    grad = torch.randn(shape, dtype=weights.dtype, generator=torch.Generator().manual_seed(2))
    *wanted, wanted_weights = torch.autograd.grad(
        composition(wide, wide_weights, temperatures), (*wide, wide_weights), grad.double()
    )
    case = (logits, weights, temperatures)
    _, normalisers = op.mix_logits(*case, weights.dtype)
    found = op.mix_logits_grad_weights(grad, *case, normalisers)
    scale = 1 + shape[1] ** 0.5
    torch.testing.assert_close(found.double(), wanted_weights, rtol=1e-5, atol=1e-5 * scale)
    for source, gradient in enumerate(wanted):
        got = op.mix_logits_grad_source(grad, found, *case, normalisers, source)
        assert got.dtype == dtype
        cases.close(got, gradient, dtype)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES)
def test_target_s_backward_equals_autograd_of_the_composition(op, dtype, shape):
    logits, weights, temperatures = cases.mixture(*shape, dtype, masked=False)
    wide = [x.double().requires_grad_() for x in logits]
    targets = torch.arange(shape[0]) % shape[1]
    grad = torch.randn(shape[0], dtype=weights.dtype)
    log_probs = composition(wide, weights.double(), temperatures)
    chosen = log_probs.gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad(chosen, wide, grad.double())
    case = (logits, weights, temperatures)
    _, posterior, normalisers = op.mix_logits_target(*case, targets)
    for source, gradient in enumerate(wanted):
        got = op.mix_logits_target_grad_source(
            grad[:, None] * posterior, *case, targets, normalisers, source
        )
        cases.close(got, gradient, dtype)


def test_masked_tokens_and_unread_sources_have_gradient_zero(op):
    """Where PyTorch's composition gives NaN: token 3 is -inf in both sources."""
    logits, weights, temperatures = cases.mixture(2, 1100, torch.float32)
    weights[1] = torch.tensor([0.0, -torch.inf])
    logits[1][1] = torch.nan
    grad = torch.randn(2, 1100)
    case = (logits, weights, temperatures)
    _, normalisers = op.mix_logits(*case, torch.float32)
    found = op.mix_logits_grad_weights(grad, *case, normalisers)
    assert found.isfinite().all()
    assert found[1, 1] == 0
    for source in (0, 1):
        got = op.mix_logits_grad_source(grad, found, *case, normalisers, source)
        assert got.isfinite().all()
        assert (got[:, 3] == 0).all()
    assert (got[1] == 0).all()


def test_expanded_gradients_are_read_in_place(op):
    """``log_probs.sum()`` hands a gradient with strides of 0."""
    logits, weights, temperatures = cases.mixture(2, 1100, torch.float32, masked=False)
    case = (logits, weights, temperatures)
    _, normalisers = op.mix_logits(*case, torch.float32)
    ones = torch.ones(1, 1).expand(2, 1100)
    found = op.mix_logits_grad_weights(ones, *case, normalisers)
    wanted = op.mix_logits_grad_weights(torch.ones(2, 1100), *case, normalisers)
    assert torch.equal(found, wanted)


def test_only_what_is_asked_for_gets_a_gradient():
    cases.cpu_kernels()
    logits, _, _ = cases.mixture(4, 300, torch.float32, masked=False)
    gate = torch.randn(4, requires_grad=True)
    loss = ops.mix_logits_target(logits, ops.gate_log_weights(gate), torch.arange(4)).sum()
    loss.backward()
    wide = gate.detach().double().requires_grad_()
    weights = torch.stack([torch.sigmoid(-wide), torch.sigmoid(wide)], -1).log()
    plain = composition(logits, weights, [1.0, 1.0]).gather(1, torch.arange(4)[:, None])
    (wanted,) = torch.autograd.grad(plain.sum(), wide)
    cases.close(gate.grad, wanted)
    assert all(x.grad is None for x in logits)


def test_extreme_gates_keep_finite_gradients():
    cases.cpu_kernels()
    logits, _, _ = cases.mixture(2, 300, torch.float32, masked=False)
    gate = torch.tensor([-1e4, 1e4], requires_grad=True)
    ops.mix_logits(logits, ops.gate_log_weights(gate)).sum().backward()
    assert gate.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_opcheck(dtype):
    """Schema, fake kernels, autograd registration and AOT dispatch of every op."""
    op = cases.cpu_kernels()
    logits, weights, temperatures = cases.mixture(3, 70, dtype, masked=False)
    case = (logits, weights, temperatures)
    real = weights.dtype
    grad, targets = torch.randn(3, 70, dtype=real), torch.tensor([1, 2, -100])
    _, normalisers = op.mix_logits(*case, real)
    grad_weights = op.mix_logits_grad_weights(grad, *case, normalisers)
    calls = {
        op.mix_logits: (*case, dtype),
        op.mix_logits_target: (*case, targets),
        op.mix_logits_topk: (*case, 3),
        op.mix_logits_sample: (*case, targets),
        op.mix_logits_features: case,
        op.mix_logits_grad_weights: (grad, *case, normalisers),
        op.mix_logits_grad_source: (grad, grad_weights, *case, normalisers, 1),
        op.mix_logits_target_grad_source: (grad_weights, *case, targets, normalisers, 0),
    }
    for packet, arguments in calls.items():
        torch.library.opcheck(packet.default, arguments)


@pytest.mark.parametrize("name", ["mix_logits", "mix_logits_target"])
def test_opcheck_with_gradients(name):
    op = getattr(cases.cpu_kernels(), name).default
    logits, weights, temperatures = cases.mixture(3, 70, torch.float32, masked=False)
    logits = [x.requires_grad_() for x in logits]
    last = torch.float32 if name == "mix_logits" else torch.tensor([1, 2, 3])
    torch.library.opcheck(op, (logits, weights.requires_grad_(), temperatures, last))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_graphs_hold_the_ops_and_their_gradients(dynamic):
    cases.cpu_kernels()

    def loss(backbone, memory, features, targets):
        weights = ops.gate_log_weights(features.mean(-1))
        mixed = ops.mix_logits_target([backbone * 1.0, memory + 0.0], weights, targets, 1.1)
        return mixed.sum() + ops.mix_logits_argmax([backbone, memory], weights).log_probs.sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    for rows in (4, 6):
        (backbone, memory), _, _ = cases.mixture(rows, 512, torch.float32, masked=False)
        targets = torch.arange(rows)
        gradients = []
        for function in (loss, compiled):
            inputs = [backbone, memory.clone().requires_grad_(), torch.ones(rows, 8)]
            inputs[2].requires_grad_()
            value = function(*inputs, targets)
            gradients.append((value, *torch.autograd.grad(value, inputs[1:])))
        for eager, traced in zip(*gradients, strict=True):
            torch.testing.assert_close(eager, traced)


def test_autocast_changes_nothing():
    cases.cpu_kernels()
    logits, weights, _ = cases.mixture(2, 300, torch.bfloat16)
    outside = ops.mix_logits(logits, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ops.mix_logits(logits, weights.bfloat16().float())
        again = ops.mix_logits(logits, weights)
    assert inside.dtype == again.dtype == torch.float32
    assert torch.equal(outside, again)
