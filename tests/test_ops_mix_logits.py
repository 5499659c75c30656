"""mix_logits: compiled kernels and eager reference against the formula in float64."""

import ops_cases as cases
import pytest
import torch

from memo_dist.fusion import ops
from memo_dist.fusion.ops import noise

ENGINES = cases.ENGINES


@pytest.fixture(params=ENGINES)
def op(request):
    dtype = getattr(request.node, "callspec", None) and request.node.callspec.params.get("dtype")
    if request.param in ("emulation", "cuda") and dtype == torch.float64:
        pytest.skip("float64 is for the CPU only")
    return cases.engine(request.param)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_log_probs_follow_the_formula(op, dtype, shape, sources):
    case = cases.mixture(*shape, dtype, sources=sources)
    wanted = cases.oracle(*case)
    for out in {dtype, cases.real_of(*case[0])}:
        found, _ = op.mix_logits(*case, out)
        assert found.dtype == out
        cases.close(found, wanted, out)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES)
def test_target_has_the_log_prob_of_its_token(op, dtype, shape):
    case = cases.mixture(*shape, dtype)
    rows, vocabulary = shape
    targets = torch.arange(rows) % vocabulary
    targets[-1:] = -100
    found, posterior, _ = op.mix_logits_target(*case, targets)
    wanted = cases.oracle(*case).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    cases.close(found[:-1], wanted[:-1], case[1].dtype)
    assert (found[-1:] == 0).all()
    assert (posterior[-1:] == 0).all()
    cases.close(posterior[:-1].sum(1), (wanted[:-1] > -torch.inf).float())  # 0: masked in all


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES[1:])
@pytest.mark.parametrize("sources", [2, 4])
def test_topk_is_the_head_of_the_sorted_log_probs(op, dtype, shape, sources):
    case = cases.mixture(*shape, dtype, sources=sources)
    k = min(50, shape[1])
    found, tokens = op.mix_logits_topk(*case, k)
    log_probs, _ = op.mix_logits(*case, case[1].dtype)
    values, order = log_probs.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(tokens, order[:, :k])
    cases.close(found, values[:, :k], case[1].dtype)


def test_topk_orders_equal_tokens_by_index(op):
    """Flat rows are the worst case: no tile's bound excludes it."""
    logits = [torch.zeros(2, 3000), torch.zeros(2, 3000)]
    logits[1][1, 2500] = 1.0
    weights = torch.full((2, 2), 0.5).log()
    _, tokens = op.mix_logits_topk(logits, weights, [1.0, 1.0], 4)
    assert tokens.tolist() == [[0, 1, 2, 3], [2500, 0, 1, 2]]


def test_topk_over_the_whole_vocabulary_ends_with_the_masked(op):
    case = cases.mixture(1, 1500, torch.float32)
    found, tokens = op.mix_logits_topk(*case, 1500)
    assert sorted(tokens[0].tolist()) == list(range(1500))
    assert tokens[0, -1] == 3
    assert found[0, -1] == -torch.inf


@pytest.mark.parametrize("vocabulary", [3, 2600])
def test_samples_have_the_mixture_s_frequencies(op, vocabulary):
    logits, weights, temperatures = cases.mixture(1, vocabulary, torch.float32, scale=2.0)
    rows = 1500
    logits = [x.expand(rows, -1) for x in logits]
    weights = weights.expand(rows, -1)
    found, tokens = op.mix_logits_sample(logits, weights, temperatures, torch.arange(rows))
    probs = cases.oracle(logits[:1] + logits[1:], weights, temperatures)[0].exp()
    cases.close(found.exp(), probs[tokens])
    likely = probs * rows >= 8
    expected = torch.cat([probs[likely], probs[~likely].sum()[None]]) * rows
    counts = torch.bincount(tokens, minlength=vocabulary)
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]])
    chi_square = ((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum()
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5 + 8


def test_all_engines_draw_the_same_tokens():
    case = cases.mixture(64, 5000, torch.float32, sources=3)
    seeds = torch.randint(-(2**63), 2**63 - 1, (64,), generator=torch.Generator().manual_seed(1))
    drawn = [cases.engine(name).mix_logits_sample(*case, seeds)[1] for name in ENGINES]
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    assert len(drawn[0].unique()) > 20


def test_a_row_s_sample_depends_on_its_seed_alone(op):
    logits, weights, temperatures = cases.mixture(6, 3000, torch.float32, scale=0.5)
    seeds = torch.arange(6)
    together = op.mix_logits_sample(logits, weights, temperatures, seeds)[1]
    for row in range(6):
        alone = [x[row : row + 1] for x in (*logits, weights, seeds)]
        token = op.mix_logits_sample(alone[:2], alone[2], temperatures, alone[3])[1]
        assert token == together[row]


def test_philox_is_the_published_generator():
    """Known answer of Random123 (kat_vectors): counter and key of zeros."""
    zero = torch.zeros(1, dtype=torch.int64)
    assert noise.philox(zero, zero, 0).item() == 0x6627E8D5


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_features_are_entropies_confidences_and_divergence(op, dtype, shape, sources):
    logits, weights, temperatures = cases.mixture(*shape, dtype, sources=sources)
    found = op.mix_logits_features(logits, weights, temperatures)
    entropies, largest, argmaxes, divergence = found
    mixed = cases.oracle(logits, weights, temperatures)
    total = entropy_of(mixed)
    for source, temperature in enumerate(temperatures):
        log_probs = torch.log_softmax(logits[source].double() / temperature, -1)
        cases.close(entropies[:, source], entropy_of(log_probs), weights.dtype)
        cases.close(largest[:, source], log_probs.amax(-1), weights.dtype)
        assert torch.equal(argmaxes[:, source], logits[source].argmax(-1))
        total = total - weights[:, source].double().exp() * entropy_of(log_probs)
    cases.close(divergence, total.clamp(min=0), weights.dtype)


def entropy_of(log_probs):
    return -torch.special.xlogy(log_probs.exp(), log_probs.exp()).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_strides_offsets_and_mixed_dtypes(op, dtype):
    """Column slices at odd offsets, transposed matrices, rows that overlap, sources that differ."""
    storage = torch.randn(4000).to(dtype)
    sliced = storage[3:2403].view(2, 1200)[:, 5:1103]
    transposed = torch.randn(1098, 2).t()
    overlapping = storage.as_strided((2, 1098), (7, 2))
    repeated = torch.randn(1, 1098, dtype=torch.float16).expand(2, -1)
    logits = [sliced, transposed, overlapping, repeated]
    weights = torch.log_softmax(torch.randn(2, 4), -1)
    found, _ = op.mix_logits(logits, weights, [1.0, 0.5, 2.0, 1.0], torch.float32)
    cases.close(found, cases.oracle(logits, weights, [1.0, 0.5, 2.0, 1.0]))


def test_a_source_without_weight_is_not_read(op):
    """Its NaNs do not count, and the row is that of the other source alone."""
    logits, _, _ = cases.mixture(2, 1500, torch.float32, masked=False)
    logits[1][0] = torch.nan
    weights = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    found, _ = op.mix_logits(logits, weights, [1.0, 1.0], torch.float32)
    alone = torch.stack([logits[0][0], logits[1][1]]).log_softmax(-1)
    torch.testing.assert_close(found, alone, rtol=0, atol=2e-5)
    _, tokens = op.mix_logits_topk(logits, weights, [1.0, 1.0], 1)
    assert torch.equal(tokens[:, 0], alone.argmax(-1))


@pytest.mark.parametrize("bad", ["nan", "inf", "all masked", "nan weight"])
def test_nan_reaches_every_result_of_its_row_and_no_other(op, bad):
    logits, weights, temperatures = cases.mixture(3, 2100, torch.float32)
    if bad == "all masked":
        logits[1][1] = -torch.inf
    elif bad == "nan weight":
        weights[1, 0] = torch.nan
    else:
        logits[1][1, 2050] = float(bad)
    targets, seeds = torch.tensor([1, 1, 1]), torch.arange(3)
    case = (logits, weights, temperatures)
    results = [
        op.mix_logits(*case, torch.float32)[0],
        op.mix_logits_target(*case, targets)[0],
        *op.mix_logits_topk(*case, 3),
        *op.mix_logits_sample(*case, seeds),
        op.mix_logits_features(*case)[3],
    ]
    for result in results:
        row = result[1]
        assert (row == -1).all() if result.dtype == torch.int64 else row.isnan().all()
        for other in (result[0], result[2]):
            assert not other.isnan().any()
            assert not (other == -1).any()


@pytest.mark.parametrize("magnitude", [1e4, 1e30, 3e38])
def test_huge_logits_stay_finite(op, magnitude):
    """fp32's largest numbers; -3e38 is how many models mask."""
    chance = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 1100, generator=chance) for _ in range(2)]
    logits[0][:, ::2] = -magnitude
    logits[1] += magnitude if magnitude < 1e5 else 0
    logits[1][:, 0] = magnitude
    weights = torch.full((2, 2), 0.5).log()
    found, _ = op.mix_logits(logits, weights, [1.0, 1.0], torch.float32)
    wanted = cases.oracle(logits, weights, [1.0, 1.0])
    assert not found.isnan().any()
    likely = wanted > -1e4
    cases.close(found[likely], wanted[likely])
    assert (found[~likely] < -9e3).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_and_repetition_do_not_change_a_bit(engine):
    op = cases.engine(engine)
    case = cases.mixture(3, 40_001, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5) if engine == "kernel" else (1, 1):
            torch.set_num_threads(threads)
            results.append(
                [
                    *op.mix_logits(*case, torch.float32),
                    *op.mix_logits_sample(*case, torch.arange(3)),
                    *op.mix_logits_features(*case),
                ]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_public_functions_take_leading_dimensions_and_padded_heads():
    """A padded row of a head is huge here, so that reading it would show."""
    backbone, memory = torch.randn(2, 3, 1100), torch.randn(2, 3, 1060)
    backbone[..., 1050:], memory[..., 1050:] = 99.0, 77.0
    logits, weights = [backbone, memory], torch.tensor([0.3, 0.7]).log()
    flat = [x[..., :1050].reshape(6, 1050) for x in logits]
    wanted = cases.oracle(flat, weights.expand(6, 2), [1.0, 1.0]).view(2, 3, 1050)
    targets = torch.randint(0, 1050, (2, 3))
    found = ops.mix_logits(logits, weights, vocabulary=1050)
    cases.close(found, wanted)
    by_target = ops.mix_logits_target(logits, weights, targets, vocabulary=1050)
    cases.close(by_target, wanted.gather(-1, targets[..., None])[..., 0])
    best = ops.mix_logits_argmax(logits, weights, vocabulary=1050)
    assert torch.equal(best.tokens, wanted.argmax(-1))
    assert ops.mix_logits_topk(logits, weights, 5, vocabulary=1050).tokens.shape == (2, 3, 5)
    drawn = ops.mix_logits_sample(logits, weights, targets, vocabulary=1050)
    assert drawn.tokens.shape == (2, 3)
    features = ops.mix_logits_features(logits, weights, vocabulary=1050)
    assert features.entropies.shape == (2, 3, 2)
    assert features.divergence.shape == (2, 3)


BAD_CALLS = {
    "0 sources": lambda x, w: ops.mix_logits([], w),
    "33 sources": lambda x, w: ops.mix_logits([x] * 33, w),
    "widths [16, 15]": lambda x, w: ops.mix_logits([x, x[:, :15]], w),
    "vocabulary is 17": lambda x, w: ops.mix_logits([x, x], w, vocabulary=17),
    "leading shapes": lambda x, w: ops.mix_logits([x, x[:1]], w),
    "log_weights has shape": lambda x, w: ops.mix_logits([x, x], w[:, :1]),
    "temperatures are": lambda x, w: ops.mix_logits([x, x], w, 0.0),
    "positive numbers": lambda x, w: ops.mix_logits([x, x], w, [1.0, 1.0, 1.0]),
    "k is 17": lambda x, w: ops.mix_logits_topk([x, x], w, 17),
    "targets is torch.float32": lambda x, w: ops.mix_logits_target([x, x], w, torch.ones(2)),
    "seeds is torch.int64 (3,)": lambda x, w: ops.mix_logits_sample(
        [x, x], w, torch.ones(3, dtype=torch.int64)
    ),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_wrong_arguments_are_refused_with_their_value(message):
    x, w = torch.zeros(2, 16), torch.zeros(2, 2)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked)
        BAD_CALLS[message](x, w)
    assert message in str(caught.value)


def test_the_compiled_op_refuses_what_it_cannot_read():
    op = cases.cpu_kernels()
    x, w = torch.zeros(2, 16), torch.zeros(2, 2)
    with pytest.raises(RuntimeError, match="one shape"):
        op.mix_logits([x, x[:, :8]], w, [1.0, 1.0], torch.float32)
    with pytest.raises(RuntimeError, match="dtype must be"):
        op.mix_logits([x, x.int()], w, [1.0, 1.0], torch.float32)
