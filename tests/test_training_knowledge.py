"""Soft labels, the anchor at the base, replay and people's questions: each against a plain form."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import launch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.cli.main import run as run_cli
from memo_dist.cluster.ranks import Ranks
from memo_dist.config import load_config, origin
from memo_dist.config.schema import Config, ScratchConfig, TrainConfig
from memo_dist.corpus.manifest import CHUNKS, DOCUMENTS
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import identify
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.synthesis.types import Reflection
from memo_dist.training import loss, replay
from memo_dist.training.batch import full_row, pack_row
from memo_dist.training.chunked import AnchorRule, Soft, linear_loss
from memo_dist.training.enriched import _questions, enriched
from memo_dist.training.examples import Examples, tokenize
from memo_dist.training.extras import Extras, SoftLabels
from memo_dist.training.job import STOP_REQUEST, TrainJob
from memo_dist.training.model import load_rank_model
from memo_dist.training.recall import HELD_OUT, PEOPLES, load_meter
from memo_dist.training.teacher import Teacher, check_vocabulary, lessons, make_soft_labels

TRAIN = {"epochs": 2, "lr": 3e-3, "batch_tokens": 256, "micro_batch_tokens": 64}
PASSAGE = "Item {} of the store is kept in room {}."


def facts(count=12):
    return [
        Reflection(f"Where is item {i}?", f"room {i * 7 % 10}", "direct", ("d",), (f"d:{i}-9",), 0,
                   "g", "1", "r")
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny base model; its tokenizer knows the marks of turns."""
    folder = tmp_path_factory.mktemp("base")
    texts = [f"{r.question} {r.answer} {PASSAGE}" for r in facts()]
    size = train_tokenizer(texts, 320, folder)
    shape = ScratchConfig(size, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, size), seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat(base):
    return ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(base))


@pytest.fixture(scope="module")
def taught(base, chat):
    """Examples, and lessons with the passage of each."""
    rows = facts()
    examples, _ = tokenize(rows, chat, 64)
    passages = {f"d:{i}-9": PASSAGE.format(i % 3, i) for i in range(11)}  # the last has none
    return examples, lessons(rows, examples.answers(), passages, chat)


def soft_targets(positions, vocabulary, kept, weight):
    """Random teachers' distributions: (Soft, dense fp64 [positions, vocabulary], m [positions])."""
    chances = torch.rand(positions, vocabulary).softmax(1)
    best = chances.topk(kept, 1)
    share = best.values / best.values.sum(1, keepdim=True)
    mass = torch.where(torch.arange(positions) % 3 == 0, 0.0, weight)
    soft = Soft(1 - mass, best.indices, share * mass[:, None])
    dense = torch.zeros_like(chances, dtype=torch.float64).scatter(1, best.indices, share.double())
    return soft, dense, mass


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("own_head", [False, True])
def test_soft_labels_are_cross_entropy_and_forward_divergence(monkeypatch, weighted, own_head):
    monkeypatch.setattr(loss, "_CHUNK_FLOATS", 1)  # 64 positions a chunk, the fewest
    torch.manual_seed(0)
    hidden = torch.randn(150, 16, requires_grad=True)
    weight = torch.randn(97, 16, requires_grad=True)
    targets, counts = torch.randint(97, (150,)), torch.rand(150) if weighted else None
    soft, dense, mass = soft_targets(150, 97, 5, 0.7)
    logits = (hidden @ weight.t()).double()
    hard = cross_entropy(logits, targets, reduction="none")
    apart = kl_div(logits.log_softmax(1), dense, reduction="none").sum(1)
    nats = (1 - mass) * hard + mass * apart
    wanted = (nats if counts is None else nats * counts).sum()
    if own_head:
        got = loss.linear_cross_entropy(hidden, weight, targets, counts, soft)
    else:
        got = loss._from_logits(hidden @ weight.t(), targets, "loss", counts, soft)
    assert float(got) == pytest.approx(float(wanted), rel=1e-5)
    wanted_grads = torch.autograd.grad(2 * wanted, (hidden, weight), retain_graph=True)
    for found, want in zip(torch.autograd.grad(2 * got, (hidden, weight)), wanted_grads,
                           strict=True):  # fmt: skip
        assert torch.allclose(found, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_a_pupil_that_has_the_teachers_probabilities_has_no_loss():
    chances = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    soft = Soft(torch.zeros(2), torch.arange(3).expand(2, 3), chances)
    got = loss.linear_cross_entropy(chances.log(), torch.eye(3), torch.zeros(2).long(), None, soft)
    assert float(got) == pytest.approx(0.0, abs=1e-6)


def test_the_anchor_is_the_forward_divergence_over_the_whole_vocabulary():
    torch.manual_seed(0)
    hidden, weight = torch.randn(150, 16, requires_grad=True), torch.randn(97, 16)
    weight.requires_grad_()
    base_hidden, base_weight = torch.randn(150, 16), torch.randn(97, 16)
    base = (base_hidden @ base_weight.t()).log_softmax(1)
    log_q = (hidden @ weight.t()).log_softmax(1)
    wanted = kl_div(log_q, base, reduction="sum", log_target=True)
    got = linear_loss(hidden, weight, AnchorRule(base_hidden, base_weight), 64)
    assert float(got) == pytest.approx(float(wanted), rel=1e-5)
    wanted_grads = torch.autograd.grad(wanted, (hidden, weight))
    for found, want in zip(torch.autograd.grad(got, (hidden, weight)), wanted_grads, strict=True):
        assert torch.allclose(found, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_questions_read_together_are_labelled_as_each_alone(base, taught):
    """One passage is read once for several questions; the reference reads it for each."""
    given = sorted(filter(None, taught[1]), key=lambda lesson: lesson.prompt)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    teacher = Teacher(model, model.config.vocab_size, 5)
    read = []
    forward = model.forward
    model.forward = lambda **row: read.append(row["input_ids"].shape[1]) or forward(**row)
    found = teacher.labels(given)
    assert sum(read[2:]) < sum(len(one.prompt) + len(one.answer) for one in given)
    for lesson, (tokens, log_probs) in zip(given, found, strict=True):
        with torch.no_grad():
            logits = forward(input_ids=torch.tensor([[*lesson.prompt, *lesson.answer]])).logits[0]
        best = logits[len(lesson.prompt) - 1 : -1].log_softmax(1).topk(5)
        assert np.array_equal(tokens, best.indices)
        assert np.allclose(log_probs, best.values, atol=1e-5)


@pytest.mark.parametrize(("noise", "agree"), [(0.05, True), (1.0, False)])
def test_a_teacher_in_half_precision_may_round_and_not_mix(noise, agree):
    config = SimpleNamespace(max_position_embeddings=64)
    teacher = Teacher(SimpleNamespace(dtype=torch.bfloat16, config=config), 100, 5)
    generator = torch.Generator().manual_seed(1)
    single, error = torch.randn(2, 6, 100, generator=generator)
    joint = single + noise * error
    joint[0] += torch.randn(100, generator=generator)  # one token where rounding decides
    assert teacher._agree(single, joint) is agree


def test_finished_blocks_are_not_made_again(base, taught, tmp_path, monkeypatch):
    found = identify("base", base)
    first = make_soft_labels(taught[1], found, 4, tmp_path)
    assert first.counts[-1] == 0, "no passage, no labels"
    assert np.array_equal(first.counts[:-1], taught[0].trained[:-1])
    monkeypatch.setattr(Teacher, "load", None)
    again = make_soft_labels(taught[1], found, 4, tmp_path)
    assert all(np.array_equal(getattr(first, k), getattr(again, k)) for k in vars(first))
    with pytest.raises(TypeError):
        make_soft_labels(taught[1], found, 3, tmp_path)


def test_labels_stand_at_the_tokens_of_their_answer(base, taught):
    examples, given = taught
    labels = make_soft_labels(given, identify("base", base), 4, base / "soft")
    row = pack_row(examples, [3, 11, 0], extras=Extras(labels, 0.25, 99, 0, None))
    own = [0.75] * examples.trained[3] + [1.0] * examples.trained[11] + [0.75] * examples.trained[0]
    assert row.soft.own.tolist() == own
    assert torch.allclose(row.soft.own + row.soft.weights.sum(1), torch.ones(len(own)))
    first = labels.tokens[labels.starts[3] : labels.starts[4]]
    assert np.array_equal(row.soft.ids[: len(first)], first)
    assert pack_row(examples, [11], extras=Extras(labels, 0.25, 99, 0, None)).soft is None
    assert full_row(32, row).soft.ids.shape == (31, 4)


def test_another_tokenizer_is_refused(base, tmp_path, capsys):
    other = tmp_path / "other"
    size = train_tokenizer(["Quite other words."] * 9, 270, other)
    shape = ScratchConfig(size, hidden_size=32, layers=1, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, size), seed=1).save_pretrained(other)
    with pytest.raises(UsageError, match=r"train\.teacher=.* has another tokenizer"):
        check_vocabulary("t", identify("t", other).vocabulary_hash, identify("b", base))
    check_vocabulary("t", identify("t", base).vocabulary_hash, identify("b", base))
    (tmp_path / "note.txt").write_text("The Tarn plant opened in 2019.")
    command = ["encode", str(tmp_path / "note.txt"), "--run", str(tmp_path / "run")]
    wrong = [f"memory.base={base}", f"train.teacher={other}"]
    assert run_cli([*command, *wrong]) == 2
    assert "has another tokenizer" in capsys.readouterr().err
    assert run_cli([*command, "memory.base=scratch", f"train.teacher={other}"]) == 2
    assert "makes a new one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_base_writes_the_same_once(base, tmp_path, monkeypatch):
    weights = identify("base", base).weights_hash
    made = replay.written_by_base(base, weights, 300, 64, 7, tmp_path)
    assert 300 <= made.trained.sum() < 306
    assert made.lengths.max() <= 64
    monkeypatch.setattr(replay, "load_language_model", None)
    again = replay.written_by_base(base, weights, 300, 64, 7, tmp_path)
    assert all(np.array_equal(getattr(made, k), getattr(again, k)) for k in vars(made))
    with pytest.raises(TypeError):  # another seed: the base would have to write again
        replay.written_by_base(base, weights, 300, 64, 8, tmp_path)
    monkeypatch.undo()
    afresh = replay.written_by_base(base, weights, 300, 64, 7, tmp_path / "other")
    assert np.array_equal(made.ids, afresh.ids)


def test_general_text_fills_its_share(base, tmp_path):
    file = tmp_path / "general.txt"
    file.write_text("\n\n".join(f"Paragraph {i} is about the weather." for i in range(50)))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = replay.replayed_tokens(900, 0.1)
    assert tokens == 100
    made = replay.from_text(file, tokens, 64, tokenizer, 3)
    assert tokens <= made.trained.sum() < tokens + 64
    other = replay.from_text(file, tokens, 64, tokenizer, 4)
    assert made.ids.tolist() != other.ids.tolist()
    with pytest.raises(UsageError, match=r"train\.replay_text"):
        replay.from_text(tmp_path / "none.txt", 5, 64, tokenizer, 3)


def test_peoples_questions_take_the_place_of_held_out_wordings(base, tmp_path, taught):
    file = tmp_path / "people.jsonl"
    atomic.write_jsonl(file, [
        {"question": "Which room has item 2?", "answer": "room 4"},
        {"question": "Who owns it?", "answer": "", "answerable": False},
    ])  # fmt: skip
    rows = _questions(file)
    assert [(row.question, row.answer) for row in rows] == [("Which room has item 2?", "room 4")]
    atomic.write_jsonl(tmp_path / PEOPLES, (row.to_json() for row in rows))
    atomic.write_jsonl(tmp_path / HELD_OUT, (row.to_json() for row in facts(3)))
    model = load_rank_model(base, TrainConfig(micro_batch_tokens=64)).rows
    for questions, count in (("", 3), ("people.jsonl", 1)):
        train = TrainConfig(eval_steps=1, micro_batch_tokens=64, held_out_questions=questions)
        meter = load_meter(tmp_path, base, taught[0], train, 1, Ranks(0, 1, 0))
        assert len(meter._examples["held_out"]) == count
        meter.prepare(None, torch.device("cpu"))
        assert meter.measure(model, torch.device("cpu")).held_out == 0.0
    line = json.dumps({"question": "Q?", "answer": "a\u2028b"}, ensure_ascii=False)
    file.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert [row.answer for row in _questions(file)] == ["a\u2028b"]
    file.write_text('{"question": "What?"}\n')
    with pytest.raises(UsageError, match=r"train\.held_out_questions"):
        _questions(file)


def test_a_shard_gets_what_the_keys_switch_on(base, chat, tmp_path):
    documents = [Document(f"d{i}", f"Item {i}", PASSAGE.format(i, i)) for i in range(12)]
    run = RunFolder(tmp_path / "run")
    atomic.write_jsonl(run.corpus / DOCUMENTS, (document.to_json() for document in documents))
    chunks = [Chunk(d.id, 0, len(d.text), d.text) for d in documents]
    atomic.write_jsonl(run.corpus / CHUNKS, (chunk.to_json() for chunk in chunks))
    rows = [replace(row, chunks=(c.id,)) for row, c in zip(facts(), chunks, strict=True)]
    examples, _ = tokenize(rows, chat, 64)
    found = identify("base", base)
    begins = base, found.weights_hash
    off = enriched(run, Config(), 0, found, begins, examples, rows)
    assert (off.examples is examples, off.replayed, off.soft, off.hashes) == (True, 0, None, [])
    keys = [f"memory.base={base}", f"train.teacher={base}", "train.replay=0.25",
            "train.micro_batch_tokens=64", "train.batch_tokens=64"]  # fmt: skip
    config = load_config([], keys)
    made = enriched(run, config, 0, found, begins, examples, rows)
    replayed = made.examples.part(len(examples), len(made.examples)).trained.sum()
    assert made.replayed == len(made.examples) - len(examples) > 0
    assert replayed / made.examples.trained.sum() == pytest.approx(0.25, abs=0.02)
    assert np.array_equal(SoftLabels.load(made.soft).counts, examples.trained)
    first = made.hashes
    assert enriched(run, config, 0, found, begins, examples, rows).hashes == first
    fewer = load_config([], [*keys, "train.teacher_top=3"])
    assert enriched(run, fewer, 0, found, begins, examples, rows).hashes != first


def test_a_runs_own_file_cannot_name_texts_to_read(base, tmp_path, monkeypatch):
    """A run folder of somebody else would pull a private file into weights."""
    monkeypatch.setattr(origin, "_foreign", {})
    monkeypatch.setattr(origin, "_own", set())
    run = RunFolder(tmp_path)
    keys = {"train": {"replay": 0.1, "replay_text": "/home/me/private.txt"}}
    run.config.write_text(json.dumps(keys))
    config = load_config(stored=run.config)
    with pytest.raises(UsageError, match=r"train\.replay_text: /home/me/private\.txt"):
        enriched(run, config, 0, identify("base", base), (base, ""), None, [])


# -- through the loop ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(base, taught, tmp_path_factory):
    """Examples with replay, and the labels of a teacher."""
    folder = tmp_path_factory.mktemp("inputs")
    weights = identify("base", base).weights_hash
    other = replay.written_by_base(base, weights, 200, 64, 7, folder)
    taught[0].followed_by(other).save(folder / "examples.safetensors")
    labels = make_soft_labels(taught[1], identify("base", base), 4, folder / "soft")
    labels.save(folder / "soft.safetensors")
    return folder, len(other)


def make_job(base, inputs, folder, **train):
    folder.mkdir(exist_ok=True)
    job = TrainJob(
        folder=str(folder), base=str(base), examples=str(inputs[0] / "examples.safetensors"),
        probe=((5, 6, 7),), train=TrainConfig(**{**TRAIN, "anchor_kl": 0.5, **train}), seed=3,
        identity="job", threads=1, replayed=inputs[1], soft=str(inputs[0] / "soft.safetensors"),
    )  # fmt: skip
    atomic.write_json(folder / "job.json", job.to_json())
    return job


def train(base, inputs, folder, world=1, **settings):
    job = make_job(base, inputs, folder, **settings)
    codes, output = launch(job.path, world)
    assert codes == [0] * world, output
    losses = [row["loss"] for row in atomic.read_jsonl(job.path / "metrics.jsonl")]
    return losses, load_file(job.final / "model.safetensors")


def test_all_of_it_is_trained_alike_by_one_and_two_ranks_and_after_a_stop(base, inputs, tmp_path):
    """Labels, replay and anchor: two ranks at ZeRO 3, and a resume that is equal to the bit."""
    losses, weights = train(base, inputs, tmp_path / "one", epochs=6)
    half = len(losses) // 2  # steps differ in their share of replay: means of three epochs each
    assert np.mean(losses[half:]) < 0.95 * np.mean(losses[:half])
    two = train(base, inputs, tmp_path / "two", 2, zero_stage=3, epochs=6)
    assert two[0] == pytest.approx(losses, rel=1e-3)
    for name, value in weights.items():
        assert torch.allclose(two[1][name], value, atol=2e-4), name
    job = make_job(base, inputs, tmp_path / "stopped", checkpoint_steps=2, epochs=6)
    (job.path / STOP_REQUEST).touch()
    assert launch(job.path)[0] == [0]
    assert (job.path / "anchor.npy").exists()
    (job.path / STOP_REQUEST).unlink()
    resumed = train(base, inputs, job.path, checkpoint_steps=2, epochs=6)
    assert resumed[0] == losses
    assert all(torch.equal(resumed[1][name], value) for name, value in weights.items())
    assert not (job.path / "anchor.npy").exists()


def test_the_anchor_holds_the_upper_layers_near_the_base(base, inputs, tmp_path):
    """With a large weight the memory's distributions of other text stay the base's."""
    examples = Examples.load(inputs[0] / "examples.safetensors")
    row = pack_row(examples, [len(examples) - 1])

    def drift(weights):
        logits = []
        for state in ({}, weights):
            model = load_rank_model(base, TrainConfig(micro_batch_tokens=64)).rows.eval()
            model.model.load_state_dict(state, strict=False)
            with torch.no_grad():
                logits.append(model(*row.loss_inputs, want="logits").log_softmax(1))
        return float(kl_div(logits[1], logits[0], reduction="batchmean", log_target=True))

    free, held = (
        drift(train(base, inputs, tmp_path / name, anchor_kl=weight, trained_layers=1, epochs=6)[1])
        for name, weight in (("free", 0.0), ("held", 20.0))
    )
    assert held < 0.5 * free


def test_an_anchor_needs_plain_logits(base):
    rows = load_rank_model(base, TrainConfig(micro_batch_tokens=64)).rows
    rows._own_head = False
    with pytest.raises(UsageError, match=r"train\.anchor_kl=1 needs"):
        rows.hold_to_base(1.0)


def test_without_labels_and_anchor_a_row_is_what_it_was(taught):
    examples = taught[0]
    row = pack_row(examples, [0, 1])
    assert (row.soft, row.anchor) == (None, None)
    empty = SoftLabels(np.zeros(13, np.int64), np.zeros((0, 4), np.int32),
                       np.zeros((0, 4), np.float32))  # fmt: skip
    bare = pack_row(examples, [0, 1], extras=Extras(empty, 0.5, 99, 0, None))
    assert bare.soft is None
    assert replace(examples.part(0, 12)).ids.tolist() == examples.ids.tolist()
