"""memory_attention and its decoding form, against the formula written out in float64."""

from __future__ import annotations

import ops_cases as cases
import pytest
import torch

from memo_dist.fusion import ops

# (batch, heads, groups, tokens, slots, width): one of each, odd widths, grouped heads, many slots.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 4, 2, 5, 7, 12),
    (1, 2, 1, 40, 33, 17),
    (1, 2, 2, 3, 513, 16),
    (2, 3, 3, 33, 1, 8),
    (1, 2, 1, 2, 5, 256),
    (0, 2, 1, 3, 4, 8),
    (2, 2, 1, 0, 4, 8),
    (2, 2, 1, 3, 0, 8),
]
DTYPES = cases.DTYPES


def drawn(shape, dtype, seed=0, absent=True):
    """(query, key, value, gate, present)."""
    batch, heads, groups, tokens, slots, width = shape
    chance = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=chance).to(dtype)

    present = torch.rand(batch, slots, generator=chance) > (0.3 if absent else -1)
    gate = torch.randn(heads, generator=chance).to(cases.real_of(normal(1)))
    query, key = normal(batch, heads, tokens, width), normal(batch, groups, slots, width)
    return query, key, normal(batch, groups, slots, width), gate, present


def formula(query, key, value, gate, present, scale):
    """In float64; absent slots are taken out."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    shared = query.shape[1] // key.shape[1]
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            k = key[b, h // shared, present[b]].double()
            v = value[b, h // shared, present[b]].double()
            if len(k):
                weights = (scale * query[b, h].double() @ k.T).softmax(-1)
                out[b, h] = gate[h].double().tanh() * (weights @ v)
    return out


def engine_for(name, dtype):
    if name in ("emulation", "cuda") and dtype == torch.float64:
        pytest.skip("float64 is for the CPU only")
    return cases.engine(name)


@pytest.mark.sampled
@pytest.mark.parametrize("engine", cases.ENGINES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=[f"shape{i}" for i in range(len(SHAPES))])
def test_forward_and_backward_equal_the_formula(engine, dtype, shape):
    found = engine_for(engine, dtype)
    query, key, value, gate, present = drawn(shape, dtype)
    leaves = [t.double().requires_grad_() for t in (query, key, value, gate)]
    wanted = formula(*leaves, present, 0.3) + 0 * sum(leaf.sum() for leaf in leaves)
    grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = torch.autograd.grad(wanted, leaves, grad.double(), allow_unused=True)
    grads = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]

    read = (query, key, value, gate, present, 0.3)
    mixed, normaliser = found.memory_attention(*read)
    assert (mixed.dtype, normaliser.dtype) == (dtype, gate.dtype)
    grad_query, delta = found.memory_attention_grad_query(grad, *read, normaliser)
    rest = found.memory_attention_grad_memory(grad, *read, normaliser, delta)
    cases.close(mixed, wanted.detach(), dtype)
    for made, true in zip((grad_query, *rest), grads[:3], strict=True):
        assert made.dtype == dtype
        size = max(1.0, float(true.abs().max())) if true.numel() else 1.0
        cases.close(made / size, true / size, dtype)
    by_gate = delta.sum(dim=(0, 2)) * (1 - gate.tanh().square())
    size = max(1.0, float(grads[3].abs().max()))
    cases.close(by_gate / size, grads[3] / size, dtype)


@pytest.mark.sampled
@pytest.mark.parametrize("engine", cases.ENGINES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=[f"shape{i}" for i in range(len(SHAPES))])
def test_decode_equals_the_formula(engine, dtype, shape):
    found = engine_for(engine, dtype)
    batch, heads, _, tokens, slots, width = shape
    x = drawn((batch, 1, 1, tokens, 0, width), dtype)[0][:, 0]
    _, keys, values, _, present = drawn((batch, heads, heads, 0, slots, width), dtype, seed=2)
    gate = drawn(shape, dtype)[3]
    wide = x.double()
    normed = wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    query = normed[:, None].expand(-1, heads, -1, -1)
    wanted = wide + formula(query, keys, values, gate, present, 1.0).sum(dim=1)
    made = found.memory_attention_decode(x, keys, values, gate, present, 1e-3)
    assert made.dtype == dtype
    cases.close(made / heads, wanted / heads, dtype)


@pytest.mark.parametrize("engine", cases.ENGINES)
def test_strided_inputs_give_the_same_bits(engine):
    found = cases.engine(engine)
    query, key, value, gate, present = drawn((2, 4, 2, 5, 7, 12), torch.float32)
    plain = found.memory_attention(query, key, value, gate, present, 0.3)[0]
    odd = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (query, key, value)]
    flipped = torch.empty(2, 2, 7, 25)[..., 1::2]
    flipped.copy_(key)
    assert torch.equal(found.memory_attention(*odd, gate, present, 0.3)[0], plain)
    again = found.memory_attention(query, flipped, value, gate, present, 0.3)[0]
    assert torch.equal(again, plain)
    x = torch.randn(3, 4, 9).transpose(0, 1)
    keys, values = torch.randn(1, 2, 5, 9), torch.randn(1, 2, 5, 9)
    wide = [t.expand(4, -1, -1, -1) for t in (keys, values)]
    there = torch.ones(1, 5, dtype=torch.bool).expand(4, -1)
    strided = found.memory_attention_decode(x, *wide, gate[:2], there, 1e-6)
    dense = [t.contiguous() for t in (x, *wide)]
    assert torch.equal(
        found.memory_attention_decode(*dense, gate[:2], there.contiguous(), 1e-6), strided
    )


@pytest.mark.parametrize("engine", ["emulation", *cases.ENGINES[3:]])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("width", [8, 64, 264])
def test_16_byte_loads_change_no_bit(engine, dtype, width):
    """Dense rows are read 16 bytes at a time, rows with gaps number by number."""
    found = cases.engine(engine)
    query, key, value, gate, present = drawn((2, 4, 2, 35, 70, width), dtype)
    gaps = torch.zeros(2, 2, 70, width, 2, dtype=dtype)[..., 0]

    def everything(key, value):
        read = (query, key, value, gate, present, 0.3)
        mixed, normaliser = found.memory_attention(*read)
        grad_query, delta = found.memory_attention_grad_query(query, *read, normaliser)
        rest = found.memory_attention_grad_memory(query, *read, normaliser, delta)
        x, two = query[:, 0, :3], gate[:2]
        return (
            mixed,
            grad_query,
            *rest,
            found.memory_attention_decode(x, key, value, two, present, 1e-6),
        )

    dense = everything(key, value)
    for a, b in zip(everything(gaps.copy_(key), value), dense, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(everything(key, gaps.copy_(value)), dense, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("engine", cases.ENGINES)
@pytest.mark.parametrize("width", [16, 12])
def test_slots_may_be_wider_numbers_than_the_stream(engine, width):
    """A bf16 backbone with a connector in fp32."""
    found = cases.engine(engine)
    _, keys, values, gate, present = drawn((2, 2, 2, 0, 9, width), torch.float32)
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(3)).bfloat16()
    made = found.memory_attention_decode(x, keys, values, gate, present, 1e-6)
    wide = found.memory_attention_decode(x.float(), keys, values, gate, present, 1e-6)
    assert made.dtype == torch.bfloat16
    cases.close(made, wide, torch.bfloat16)


@pytest.mark.parametrize("engine", cases.ENGINES)
def test_absent_slots_are_not_read_and_rows_without_slots_are_zero(engine):
    found = cases.engine(engine)
    query, key, value, gate, present = drawn((2, 2, 1, 3, 6, 8), torch.float32)
    present[0, 2:], present[1] = False, False
    few = found.memory_attention(
        query[:1], key[:1, :, :2], value[:1, :, :2], gate, present[:1, :2], 0.3
    )[0]
    key[0, :, 2:], value[0, :, 2:], key[1], value[1] = torch.nan, torch.inf, torch.nan, torch.nan
    read = (query, key, value, gate, present, 0.3)
    mixed, normaliser = found.memory_attention(*read)
    cases.close(mixed[:1], few)
    assert mixed[1].abs().max() == 0
    assert (normaliser[1] == -torch.inf).all()
    grad_query, delta = found.memory_attention_grad_query(mixed + 1, *read, normaliser)
    rest = found.memory_attention_grad_memory(mixed + 1, *read, normaliser, delta)
    for part in (grad_query[1], delta[1], rest[0][1], rest[1][1], rest[0][0, :, 2:]):
        assert part.abs().max() == 0
    x = torch.randn(2, 3, 8)
    keys, values = (t.expand(-1, 2, -1, -1) for t in (key, value))
    made = found.memory_attention_decode(x, keys, values, gate, present, 1e-6)
    assert torch.equal(made[1], x[1])
    assert made[0].isfinite().all()


@pytest.mark.parametrize("engine", cases.ENGINES)
def test_huge_scores_and_nans(engine):
    found = cases.engine(engine)
    query, key, value, gate, present = drawn((1, 2, 1, 4, 6, 8), torch.float32, absent=False)
    huge = found.memory_attention(query * 1e15, key * 1e15, value, gate, present, 1.0)[0]
    cases.close(huge, formula(query * 1e15, key * 1e15, value, gate, present, 1.0))
    query[0, 0, 2] = torch.nan
    mixed = found.memory_attention(query, key, value, gate, present, 1.0)[0]
    assert mixed[0, 0, 2].isnan().all()
    mixed[0, 0, 2] = 0
    assert mixed.isfinite().all()


@pytest.mark.parametrize("engine", cases.ENGINES)
def test_a_closed_gate_gives_exact_zeros(engine):
    found = cases.engine(engine)
    query, key, value, gate, present = drawn((2, 4, 2, 5, 7, 12), torch.float32)
    mixed = found.memory_attention(query, key, value, gate * 0, present, 0.3)[0]
    assert mixed.abs().max() == 0
    x, keys = torch.randn(2, 3, 12), torch.randn(2, 4, 7, 12)
    assert torch.equal(found.memory_attention_decode(x, keys, keys, gate * 0, present, 1e-6), x)


def test_threads_and_neighbours_change_no_bit():
    found = cases.cpu_kernels()
    query, key, value, gate, present = drawn((3, 4, 2, 70, 90, 24), torch.float32)
    read = (query, key, value, gate, present, 0.3)

    def everything(read):
        mixed, normaliser = found.memory_attention(*read)
        grad_query, delta = found.memory_attention_grad_query(mixed, *read, normaliser)
        rest = found.memory_attention_grad_memory(mixed, *read, normaliser, delta)
        return mixed, grad_query, *rest

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything(read)
        torch.set_num_threads(4)
        four = everything(read)
    finally:
        torch.set_num_threads(before)
    alone = everything((*(t[1:2] for t in read[:3]), gate, present[1:2], 0.3))
    for a, b, c in zip(one, four, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[1:2], c)


def test_gradients_by_finite_differences_and_the_operators_contract():
    query, key, value, gate, present = drawn((2, 4, 2, 3, 5, 6), torch.float64)
    leaves = [t.requires_grad_() for t in (query, key, value, gate)]
    assert torch.autograd.gradcheck(
        lambda *read: ops.memory_attention(*read, present), leaves, fast_mode=False
    )
    torch.library.opcheck(torch.ops.memo.memory_attention.default, (*leaves, present, 0.3))
    x, keys = torch.randn(2, 3, 6), torch.randn(2, 4, 5, 6)
    given = (x, keys, keys, gate.detach().float(), present, 1e-6)
    torch.library.opcheck(torch.ops.memo.memory_attention_decode.default, given)


def test_one_compiled_graph_with_gradients():
    query, key, value, gate, present = drawn((2, 4, 2, 3, 5, 8), torch.float32)
    leaves = [t.requires_grad_() for t in (query, key, value, gate)]

    def loss(query, key, value, gate):
        return ops.memory_attention(query, key, value, gate, present).square().sum()

    eager = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True)
    for a, b in zip(torch.autograd.grad(compiled(*leaves), leaves), eager, strict=True):
        cases.close(a, b)


def test_under_autocast_sums_stay_wide():
    query, key, value, gate, _ = drawn((1, 2, 1, 3, 5, 8), torch.float32, absent=False)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ops.memory_attention(query, key, value, gate)
    assert mixed.dtype == torch.bfloat16
    narrow = [t.bfloat16() for t in (query, key, value)]
    assert torch.equal(mixed, ops.memory_attention(*narrow, gate))


def test_one_gate_and_one_memory_serve_all():
    query, key, value, gate, _ = drawn((2, 4, 2, 3, 5, 8), torch.float32)
    one = ops.memory_attention(query, key, value, gate[:1])
    assert torch.equal(one, ops.memory_attention(query, key, value, gate[:1].expand(4)))
    x, keys = torch.randn(3, 2, 6), torch.randn(1, 4, 5, 6)
    shared = ops.memory_attention_decode(x, keys, keys, gate)
    assert torch.equal(
        shared,
        ops.memory_attention_decode(
            x, keys.expand(3, -1, -1, -1).clone(), keys.expand(3, -1, -1, -1), gate
        ),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": torch.zeros(1, 3, 5, 8)}, "cannot share 3 groups"),
        ({"value": torch.zeros(1, 2, 4, 8)}, "batch and width must agree"),
        ({"gate": torch.zeros(3)}, r"gate has shape \(3,\)"),
        ({"mask": torch.zeros(1, 5)}, "want bool"),
        ({"mask": torch.zeros(2, 5, dtype=torch.bool)}, "mask has 2 rows"),
        ({"query": torch.zeros(1, 4, 3)}, "must have four dimensions"),
    ],
)
def test_wrong_shapes_are_refused(change, said):
    given = {
        "query": torch.zeros(1, 4, 3, 8),
        "key": torch.zeros(1, 2, 5, 8),
        "value": torch.zeros(1, 2, 5, 8),
        "gate": torch.zeros(4),
    }
    given |= change
    if "key" in change:
        given["value"] = change["key"]
    with pytest.raises(ValueError, match=said):
        ops.memory_attention(**given)
