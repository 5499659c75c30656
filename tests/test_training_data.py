"""Examples, masks, held-out wordings, packing order and the packed loss."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.schema import ScratchConfig, TrainConfig
from memo_dist.errors import UsageError
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.synthesis.types import Reflection
from memo_dist.training import attention, loss
from memo_dist.training.batch import full_row, pack_row
from memo_dist.training.chunked import TargetRule, linear_loss
from memo_dist.training.continued import replayed
from memo_dist.training.examples import Examples, split_held_out, tokenize
from memo_dist.training.flops import flops_per_token
from memo_dist.training.model import load_rank_model
from memo_dist.training.packing import pack, plan_training
from memo_dist.training.schedule import Pace, TimeCap, learning_rate, passes, peak_lr


def reflection(question, answer, kind="direct", parent=None):
    return Reflection(question, answer, kind, ("d",), ("d:0-9",), 0, "g", "1", "r", parent)


@pytest.fixture
def chat(tmp_path):
    train_tokenizer(["What is the code of item 12? code 345"] * 9, 300, tmp_path)
    return ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path))


def plain_chat():
    """Of a tokenizer without marks for turns."""
    model = ByteLevelBPETokenizer()
    text = ["Question: What is the code of item 12?\nAnswer: code 345<|end|>"] * 9
    model.train_from_iterator(text, vocab_size=400, special_tokens=["<|end|>"])
    return ChatFormat.from_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=model._tokenizer, eos_token="<|end|>")
    )


def facts(count):
    rows = []
    for i in range(count):
        first = reflection(f"What is the code of item {i}?", f"code {i * 37}")
        rows += [first] + [
            reflection(text.format(i), first.answer, "paraphrase", first.id)
            for text in ("Tell me the code of item {}.", "Item {} has which code?")
        ]
    return rows


def test_exactly_the_answer_and_its_end_are_trained(chat):
    rows = facts(3)
    examples, _ = tokenize(rows, chat, 512)
    for index, row in enumerate(rows):
        tokens = examples.tokens(index).tolist()
        prompt = int(examples.prompts[index])
        assert tokens[:prompt] == chat.prompt_ids(row.question)
        assert tokens[prompt:] == chat.answer_ids(row.answer)
        packed = pack_row(examples, [index])
        assert packed.targets.tolist() == tokens[prompt:]
        assert packed.inputs[0, packed.keep[0]] == tokens[prompt - 1]


@pytest.mark.parametrize("plain", [False, True])
def test_the_question_is_trained_too_where_that_is_asked(chat, plain):
    """Plain turns too: their last space is joined with the question's first word."""
    chosen = plain_chat() if plain else chat
    rows = facts(2)
    examples, _ = tokenize(rows, chosen, 512, questions=True)
    for index, row in enumerate(rows):
        tokens, first = examples.tokens(index).tolist(), int(examples.untrained[index])
        assert 1 <= first < int(examples.prompts[index])
        assert pack_row(examples, [index]).targets.tolist() == tokens[first:]
        assert chosen.decode(tokens[first:]).startswith(row.question)
    answers = examples.answers_only()
    assert np.array_equal(answers.trained, tokenize(rows, chosen, 512)[0].trained)


def test_a_questions_token_counts_what_it_is_to(chat):
    examples, _ = tokenize(facts(2), chat, 512, questions=True)
    both = np.arange(2)
    row = pack_row(examples, both, question_weight=0.25)
    parts = []
    for index in both:
        first, prompt = int(examples.untrained[index]), int(examples.prompts[index])
        parts += [0.25] * (prompt - first) + [1.0] * (int(examples.lengths[index]) - prompt)
    assert row.counts is not None
    assert row.counts.tolist() == parts
    assert examples.counted(both, 0.25) == pytest.approx(sum(parts))
    assert pack_row(examples, both).counts is None
    assert pack_row(tokenize(facts(2), chat, 512)[0], both, question_weight=0.25).counts is None
    assert examples.counted(both, 1.0) == int(examples.trained[both].sum())


def test_examples_survive_the_disk(chat, tmp_path):
    examples, _ = tokenize(facts(2), chat, 512)
    examples.save(tmp_path / "e.safetensors")
    loaded = Examples.load(tmp_path / "e.safetensors")
    assert all(np.array_equal(getattr(examples, k), getattr(loaded, k)) for k in vars(examples))


def test_too_long_examples_are_returned_not_dropped_silently(chat):
    long = reflection("What is it? " * 40, "code 1")
    examples, too_long = tokenize([*facts(1), long], chat, 64)
    assert too_long == [long]
    assert len(examples) == 3
    with pytest.raises(UsageError, match=r"micro_batch_tokens=64"):
        tokenize([long], chat, 64)


def test_an_example_without_trained_tokens_is_an_error(chat, monkeypatch):
    monkeypatch.setattr(chat, "answers_ids", lambda answers: [[] for _ in answers])
    with pytest.raises(UsageError, match="no trained token"):
        tokenize(facts(1), chat, 64)


def test_the_learning_rate_falls_with_the_size_unless_it_is_given():
    train = TrainConfig()
    rates = [peak_lr(train, n) for n in (5_000_000, 135_000_000, 1_500_000_000)]
    assert rates == [2.0e-3, 3e-4, 7.4e-5]
    assert peak_lr(replace(train, method="lora"), 135_000_000) == pytest.approx(3e-3)
    assert peak_lr(replace(train, lr=1e-5, method="lora"), 5_000_000) == 1e-5


def test_a_scratch_base_takes_more_passes_unless_they_are_given():
    assert (passes(TrainConfig(), scratch=False), passes(TrainConfig(), scratch=True)) == (3, 40)
    assert passes(TrainConfig(epochs=2), scratch=True) == 2


def test_held_out_wordings_leave_their_fact_trained():
    rows = facts(50) + [reflection(f"Who is {i}?", ABSTAIN_ANSWER, "abstain") for i in range(15)]
    trained, held = split_held_out(rows, 8, seed=1)
    assert {r.id for r in trained} | {r.id for r in held} == {r.id for r in rows}
    wordings = [r for r in held if r.kind != "abstain"]
    assert len(wordings) == 8
    trained_facts = [r.fact for r in trained]
    assert all(trained_facts.count(r.fact) == 2 for r in wordings)
    assert all(r.parent is not None for r in wordings), "the first wording stays"
    assert sum(r.kind == "abstain" for r in held) == 4  # of 15: few, so what a calibration needs
    assert split_held_out(rows, 8, seed=1)[1] == held
    assert split_held_out(rows, 8, seed=2)[1] != held


@pytest.mark.parametrize(("questions", "held_out"), [(3, 1), (8, 4), (40, 10), (400, 64)])
def test_most_abstention_questions_are_trained(questions: int, held_out: int):
    rows = [reflection(f"Who is {i}?", ABSTAIN_ANSWER, "abstain") for i in range(questions)]
    trained, held = split_held_out(rows, 64, seed=1)
    assert (len(trained), len(held)) == (questions - held_out, held_out)


def test_every_epoch_holds_every_example_once_and_ranks_share_the_step():
    lengths = np.random.default_rng(0).integers(5, 60, 333)
    plan = plan_training(lengths, 128, rows_per_step=4, epochs=3, seed=5)
    start = 0
    for end in plan.epoch_ends:
        used = sorted(i for index in range(start, end) for i in plan.row(index))
        assert used == list(range(333))
        start = end
    assert all(lengths[plan.row(index)].sum() <= 128 for index in range(plan.rows))
    for step in range(plan.steps):
        dealt = [plan.rank_rows(step, rank, 2) for rank in range(2)]
        assert len(dealt[0]) == len(dealt[1]) == 2
        both = sorted(index for rows in dealt for row in rows for index in row)
        assert both == sorted(plan.step_examples(step))
    again, other = (plan_training(lengths, 128, 4, 3, seed) for seed in (5, 6))
    assert np.array_equal(plan.order, again.order)
    assert not np.array_equal(plan.order, other.order)
    assert plan.epoch(0) == 0
    assert plan.epoch(plan.steps - 1) == 2


def test_operations_count_the_output_layer_where_it_runs(tmp_path):
    shape = ScratchConfig(300, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, 300), seed=3).save_pretrained(tmp_path)
    model = load_rank_model(tmp_path, TrainConfig())
    every = flops_per_token(model.rows, model.config, 10.0)
    quarter = flops_per_token(model.rows, model.config, 10.0, model.rows.head, 0.25)
    assert every - quarter == pytest.approx(6 * 0.75 * 300 * 32)


def test_packed_loss_and_gradients_equal_separate_ones(chat, tmp_path):
    examples, _ = tokenize(facts(4), chat, 512)
    shape = ScratchConfig(300, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, 300), seed=3).save_pretrained(tmp_path)
    trainee = load_rank_model(tmp_path, TrainConfig())
    model = trainee.rows

    def loss(indices):
        row = pack_row(examples, indices)
        return model(row.inputs, row.position_ids, row.lengths, row.keep, row.targets)

    def gradients(rows):
        model.zero_grad()
        total = sum(loss(row) for row in rows)
        total.backward()
        return float(total.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])

    separate, grad = gradients([[i] for i in range(len(examples))])
    packed, packed_grad = gradients([list(range(len(examples)))])
    assert packed == pytest.approx(separate, rel=1e-5)
    assert torch.allclose(packed_grad, grad, rtol=1e-3, atol=1e-4)
    assert float(loss([])) == 0.0
    # and both equal what transformers itself makes of separate examples
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    wanted = 0.0
    for index in range(len(examples)):
        ids = torch.from_numpy(examples.tokens(index).astype(np.int64))[None]
        labels = ids.clone()
        labels[:, : examples.prompts[index]] = -100
        wanted += float(plain(ids, labels=labels).loss) * int(examples.trained[index])
    assert packed == pytest.approx(wanted, rel=1e-5)


def test_learning_rate_schedules():
    train = TrainConfig(lr=1.0, warmup_fraction=0.1)
    assert [learning_rate(train, s, 20) for s in (0, 1, 2, 19)] == [0.5, 1.0, 1.0, 1.0]
    train.schedule = "linear"
    assert learning_rate(train, 11, 20) == pytest.approx(0.5)
    train.schedule = "cosine"
    assert learning_rate(train, 11, 20) == pytest.approx(0.5)
    assert learning_rate(train, 19, 20) < 0.05
    assert learning_rate(train, 2, 20, spent=0.5) == pytest.approx(0.5)
    assert learning_rate(train, 2, 20, spent=1.2) == pytest.approx(0.0)
    train.schedule = "constant"
    assert learning_rate(train, 2, 20, spent=0.5) == 1.0


def looks(cap, pace_of, known, steps=range(1, 100)):
    """What a cap says after each of 100 steps that take ``pace_of(step)`` seconds."""
    seconds = 5.0  # frozen layers
    for step in range(1, steps.stop):
        seconds += pace_of(step)
        if step in steps and seconds < 60:
            known = cap.look(known, step, 100, seconds)
            yield known


@pytest.mark.parametrize(
    ("pace", "cuts"), [(1.0, True), (0.5, False), (0.56, False), (0.6, True), (0.05, False)]
)
def test_a_cap_is_seen_to_cut(pace, cuts):
    """A minute, of which 5 s are spent before the first step."""
    told = list(looks(TimeCap(1.0), lambda _: pace, Pace()))
    assert told[0] == Pace(1, 5 + pace)
    assert {one.spent for one in told[:4]} == {0.0}
    assert (told[-1].spent > 0) is cuts
    spent = [one.spent for one in told]
    assert spent == sorted(spent)
    if cuts:
        assert spent[-1] > 0.9
        first = next(one for one in spent if one)
        assert first < 0.3, "no jump from the peak to nothing"


def test_slow_first_steps_do_not_cut():
    told = list(looks(TimeCap(1.0), lambda step: 0.6 if step < 12 else 0.3, Pace()))
    assert told[-1].spent == 0


def test_a_cap_is_seen_over_many_short_launches():
    """Every launch has two steps of 1 s; the state is all that it knows of the others."""
    known = Pace()
    for first in range(1, 50, 2):
        *_, known = looks(TimeCap(1.0), lambda _: 1.0, known, range(first, first + 2))
    assert known.spent > 0.8
    assert TimeCap(0.0).look(Pace(), 50, 100, 1e9) == Pace()


def test_a_rate_in_the_warm_up_falls_where_the_time_ends_first():
    train = TrainConfig(lr=1.0, warmup_fraction=0.5, schedule="linear")
    assert learning_rate(train, 4, 20) == 0.5
    assert learning_rate(train, 4, 20, spent=0.3) == 0.5
    assert learning_rate(train, 4, 20, spent=0.9) == pytest.approx(0.1)


@pytest.mark.parametrize("row_tokens", [128, 512, 2048])
def test_rows_are_full_and_a_random_sample(row_tokens):
    chance = np.random.default_rng(3)
    lengths = np.clip(chance.normal(40, 15, 20_000), 8, 120).astype(np.int64)
    order, counts = pack(lengths, row_tokens, np.random.default_rng(1))
    assert sorted(order) == list(range(len(lengths)))
    assert lengths.sum() / (len(counts) * row_tokens) > 0.98
    ends = np.cumsum(counts)
    means = [lengths[order[end - n : end]].mean() for n, end in zip(counts, ends, strict=True)]
    # Rows sorted by length would have means spread as widely as the lengths themselves.
    assert np.std(means) < 1.5 * lengths.std() / np.sqrt(counts.mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_chunked_loss_equals_pytorchs_own(monkeypatch, weighted):
    monkeypatch.setattr(loss, "_CHUNK_FLOATS", 1)  # 64 positions a chunk, the fewest
    torch.manual_seed(0)
    hidden = torch.randn(150, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(97, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(97, (150,))
    counts = torch.rand(150) if weighted else None
    nats = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    wanted = (nats if counts is None else nats * counts).sum()
    wanted_grads = torch.autograd.grad(3 * wanted, (hidden, weight))
    got = loss.linear_cross_entropy(hidden, weight, targets, counts)
    grads = torch.autograd.grad(3 * got, (hidden, weight))
    assert float(got) == pytest.approx(float(wanted), rel=1e-5)
    for found, want in zip(grads, wanted_grads, strict=True):
        assert torch.allclose(found, want, rtol=1e-3, atol=1e-5)


def test_models_with_logits_of_their_own_weigh_positions_too(chat):
    logits, targets, counts = torch.randn(9, 7), torch.randint(7, (9,)), torch.rand(9)
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    found = [float(loss._from_logits(logits, targets, "loss", c)) for c in (None, counts)]
    assert found == pytest.approx([float(nats.sum()), float((nats * counts).sum())], rel=1e-6)


def test_a_dry_row_has_the_loss_of_real_ones(chat):
    """What is tried before the run is the code that runs: weights choose another kernel."""
    examples, _ = tokenize(facts(2), chat, 512, questions=True)
    for weight in (1.0, 0.25):
        real = pack_row(examples, [0, 1], question_weight=weight)
        assert (full_row(64, real).counts is None) == (real.counts is None)


def test_chunks_of_a_gpus_size_give_the_same_loss_and_gradients():
    torch.manual_seed(0)
    hidden = torch.randn(2500, 24, requires_grad=True)
    weight = torch.randn(311, 24, requires_grad=True)
    rule = TargetRule(torch.randint(311, (2500,)))
    found = []
    for rows in (loss.chunk_rows(151_936), loss.chunk_rows(151_936, gpu=True)):
        nats = linear_loss(hidden, weight, rule, rows)
        found.append((nats.detach(), *torch.autograd.grad(nats, (hidden, weight))))
    for small, large in zip(*found, strict=True):
        assert float((small - large).norm() / small.norm()) < 1e-5


@pytest.mark.parametrize(("vocabulary", "width"), [(151_936, 1536), (49_152, 576), (128_256, 4096)])
@pytest.mark.parametrize("positions", [1, 900, 1024, 4096, 5000, 16_384])
def test_ligers_chunks_are_no_smaller_than_ours(positions, vocabulary, width):
    """Its rule, as in fused_linear_cross_entropy_forward of liger-kernel 0.8.5."""
    budget = loss.liger_budget(positions, vocabulary, width)
    parts = -(-vocabulary // (budget * width))
    rows = min(positions, 2 ** (-(-positions // parts) - 1).bit_length())
    assert min(positions, loss.GPU_ROWS) <= rows
    assert rows <= 2 * loss.GPU_ROWS  # at these shapes; more where few tokens meet a large width


def test_the_output_layers_gradient_moves_few_bytes_on_a_gpu():
    """Read and written in fp32 once a chunk: 1.5B of Qwen2.5, a row of 4,096 positions."""
    moved = []
    for gpu in (False, True):
        chunks = []

        def rule(logits, rows, wants_slope, seen=chunks):
            seen.append(rows)
            return logits.sum(1, keepdim=True), None

        hidden, weight = torch.zeros(4096, 1), torch.zeros(7, 1)
        linear_loss(hidden, weight, rule, loss.chunk_rows(151_936, gpu))
        moved.append(2 * 151_936 * 1536 * 4 * len(chunks))
    assert moved[0] > 119e9
    assert moved[1] < 7.5e9


def test_liger_takes_the_size_of_its_chunks():
    functional = pytest.importorskip("liger_kernel.transformers.functional")
    function = functional.liger_fused_linear_cross_entropy
    names = inspect.signature(function).parameters
    assert {"reduction", "accum_dtype", "chunk_mem_const"} <= names.keys()
    assert list(names)[:3] == ["input", "weight", "target"]


def test_no_more_than_a_chunk_of_logits_exists():
    """[tokens, vocabulary] floats would be 32 times a chunk here."""
    vocabulary, positions = 50_000, 64 * 32
    hidden = torch.zeros(positions, 4, requires_grad=True)
    weight = torch.zeros(vocabulary, 4)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss.linear_cross_entropy(hidden, weight, torch.zeros(positions, dtype=torch.int64))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 4 * loss.chunk_rows(vocabulary) * vocabulary + 2**20


def test_sliding_windows_end_where_the_model_says():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 12, 4) for _ in range(3))
    where = attention.borders([5, 7], torch.device("cpu"))
    windowed, _ = attention.packed_attention(
        torch.nn.Identity(), query, key, value, None, sliding_window=3, **where
    )
    position = torch.arange(12)
    example = torch.tensor([0] * 5 + [1] * 7)
    distance = position[:, None] - position
    seen = (example[:, None] == example) & (distance >= 0) & (distance < 3)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    assert torch.allclose(windowed, wanted.transpose(1, 2), atol=1e-6)


def test_a_continued_training_replays_a_seeded_sample_of_what_is_known():
    rows = [Reflection(f"q{i}", f"a{i}", "direct", ("d",), (), 0, "t", "1", "0") for i in range(40)]
    known = {row.id for row in rows[:32]}
    chosen = replayed(rows, known, 0.25, seed=17)
    assert [row for row in chosen if row.id not in known] == rows[32:]
    assert len([row for row in chosen if row.id in known]) == 8
    assert chosen == [row for row in rows if row in chosen]  # in the file's order
    assert replayed(rows, known, 0.25, seed=18) != chosen
    assert replayed(rows, known, 1.0, seed=17) == rows
    assert replayed(rows, known, 0.0, seed=17) == rows[32:]
