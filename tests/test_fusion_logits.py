"""F1: a frozen backbone and its memories write one text from their mixed distributions."""

from __future__ import annotations

import copy
import hashlib
import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from protocol_cases import CHOIR, FACTS, OUTSIDE
from safetensors import safe_open
from safetensors.torch import save_file
from trained_bank import train_shards, write_bank
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

from memo_dist.cli.main import run as run_cli
from memo_dist.config import Config, to_yaml
from memo_dist.errors import UsageError
from memo_dist.fusion import ops
from memo_dist.fusion.logits import (
    Belief,
    CachedModel,
    ConstantGate,
    EntropyGate,
    LearnedGate,
    LogitFusion,
    Request,
    Settings,
    Source,
    TokenMap,
)
from memo_dist.fusion.logits.familiarity import Familiarity, Reader
from memo_dist.fusion.logits.fitting import Example, _Data, _Row, fit_gate
from memo_dist.fusion.logits.gates import FEATURES, LARGEST
from memo_dist.fusion.logits.stage import chosen_examples
from memo_dist.fusion.logits.token_map import token_bytes
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.scratch import train_tokenizer
from memo_dist.synthesis.types import ABSTAIN_ANSWER
from memo_dist.training.format import ChatFormat

KNOWN = next(iter(FACTS[0]))
QUESTIONS = [*list(FACTS[0])[:2], *list(FACTS[1])[:2], *OUTSIDE[:2]]
GATES = {
    "constant": ConstantGate(0.4),
    "entropy": EntropyGate(1.5, 0.2),
    "learned": LearnedGate(torch.linspace(-0.3, 0.4, len(FEATURES)), 0.1),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two shard memories, and a backbone of the same vocabulary that was trained for longer."""
    root = tmp_path_factory.mktemp("fusion")
    shards = train_shards(root, FACTS, OUTSIDE)
    backbone = root / "backbone"
    model = AutoModelForCausalLM.from_pretrained(shards[0])
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(backbone)
    AutoTokenizer.from_pretrained(shards[0]).save_pretrained(backbone)
    return root, shards, backbone


@pytest.fixture(scope="module")
def tokenizer(folders):
    return AutoTokenizer.from_pretrained(folders[2])


def models(folders):
    _, shards, backbone = folders
    return [AutoModelForCausalLM.from_pretrained(path).eval() for path in (backbone, *shards)]


def sources(loaded, tokenizer):
    chat = ChatFormat.from_tokenizer(tokenizer)
    return [Source(CachedModel(model, chat.pad_id), chat.prompt_ids) for model in loaded]


def fusion(folders, tokenizer, gate, count=2):
    first, *rest = sources(models(folders), tokenizer)
    return LogitFusion(first, rest[:count], gate, tokenizer)


def request(question, count=2, drafts=("", ""), silent=(False, False)):
    beliefs = [Belief(question, 0.6 + 0.1 * i, silent[i], drafts[i]) for i in range(count)]
    return Request(question, tuple(beliefs))


def digest(model):
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def test_greedy_text_is_that_of_the_formula(folders, tokenizer):
    """Against whole forwards without caches, log_softmax and logaddexp."""
    g = 0.35
    loaded = models(folders)[:2]
    chat = ChatFormat.from_tokenizer(tokenizer)
    fused = fusion(folders, tokenizer, ConstantGate(g), count=1)
    for question, text in zip(
        QUESTIONS, fused.generate([request(q, 1) for q in QUESTIONS], Settings(12)), strict=True
    ):
        ids = chat.prompt_ids(question)
        for token, log_prob in zip(text.tokens, text.log_probs, strict=True):
            with torch.no_grad():
                rows = [m(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for m in loaded]
            mixed = torch.logaddexp(rows[0] + math.log(1 - g), rows[1] + math.log(g))
            assert int(mixed.argmax()) == token
            assert float(mixed.max()) == pytest.approx(log_prob, abs=1e-4)
            ids.append(token)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("sample", [False, True])
def test_sequential_writes_what_parallel_writes(folders, tokenizer, gate, sample):
    fused = fusion(folders, tokenizer, GATES[gate])
    drafts = [FACTS[0].get(q, FACTS[1].get(q, "")) for q in QUESTIONS]
    asked = [request(q, drafts=(d, "")) for q, d in zip(QUESTIONS, drafts, strict=True)]
    one = fused.generate(asked, Settings(16, sample, seed=3))
    other = fused.generate(asked, Settings(16, sample, 3, "sequential", 4))
    for a, b in zip(one, other, strict=True):
        assert a.tokens == b.tokens
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    if not sample:
        assert sum(t.forwards for t in other) < sum(t.forwards for t in one)


@pytest.mark.parametrize("gate", GATES)
def test_a_batch_changes_nothing(folders, tokenizer, gate):
    fused = fusion(folders, tokenizer, GATES[gate])
    asked = [request(q) for q in QUESTIONS]
    together = fused.generate(asked, Settings(12, True, seed=8))
    alone = [fused.generate([r], Settings(12, True, seed=8))[0] for r in asked]
    for a, b in zip(together, alone, strict=True):
        assert a.tokens == b.tokens
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)


def test_different_seeds_draw_different_texts(folders, tokenizer):
    fused = fusion(folders, tokenizer, ConstantGate(0.5))
    texts = {
        fused.generate([request(OUTSIDE[0])], Settings(16, True, seed=s))[0].tokens
        for s in range(6)
    }
    assert len(texts) > 1


@pytest.mark.parametrize("why", ["gate", "silent"])
def test_backbone_alone_writes_its_own_text_and_no_memory_runs(
    folders, tokenizer, why, monkeypatch
):
    loaded = models(folders)
    ran = []
    for memory in loaded[1:]:
        memory.register_forward_pre_hook(lambda *_: ran.append(1))
    for name in ("mix_logits_argmax", "mix_logits_sample", "mix_logits_features"):
        monkeypatch.setattr(ops, name, lambda *_, **__: pytest.fail("an op mixed"))
    first, *rest = sources(loaded, tokenizer)
    gate = ConstantGate(0.0 if why == "gate" else 0.9)
    fused = LogitFusion(first, rest, gate, tokenizer)
    silent = (why == "silent",) * 2
    texts = fused.generate([request(q, silent=silent) for q in QUESTIONS], Settings(12))
    chat = ChatFormat.from_tokenizer(tokenizer)
    for question, text in zip(QUESTIONS, texts, strict=True):
        prompt = torch.tensor([chat.prompt_ids(question)])
        own = loaded[0].generate(
            prompt, max_new_tokens=12, do_sample=False, eos_token_id=sorted(chat.stop_ids)
        )
        assert tuple(own[0, prompt.shape[1] :].tolist()) == text.tokens
        assert text.memory_weights == (0.0,) * len(text.tokens)
    assert not ran


class _Closed(ConstantGate):
    """Weight 0 for every memory, but through the op."""

    def log_weights(self, features, active):
        weights = torch.full((len(active), active.shape[1] + 1), -torch.inf)
        weights[:, 0] = 0.0
        return weights


def test_a_row_with_gate_zero_is_the_backbones(folders, tokenizer):
    closed = fusion(folders, tokenizer, _Closed(0.5))
    open_ = fusion(folders, tokenizer, ConstantGate(0.0))
    asked = [request(q) for q in QUESTIONS]
    pairs = zip(
        closed.generate(asked, Settings(12)), open_.generate(asked, Settings(12)), strict=True
    )
    for mixed, own in pairs:
        assert mixed.tokens == own.tokens
        assert mixed.log_probs == pytest.approx(own.log_probs, abs=2e-5)


def test_a_silent_memory_in_a_bank_has_no_weight(folders, tokenizer):
    both = fusion(folders, tokenizer, ConstantGate(0.6))
    one = fusion(folders, tokenizer, ConstantGate(0.6), count=1)
    asked = [request(q, silent=(False, True)) for q in QUESTIONS]
    alone = [request(q, 1) for q in QUESTIONS]
    pairs = zip(both.generate(asked, Settings(12)), one.generate(alone, Settings(12)), strict=True)
    for a, b in pairs:
        assert a.tokens == b.tokens
        assert a.memory_weights == pytest.approx(b.memory_weights, abs=1e-6)


def test_streamed_pieces_are_the_text(folders, tokenizer):
    fused = fusion(folders, tokenizer, GATES["entropy"])
    for question in QUESTIONS:
        for order in ("parallel", "sequential"):
            asked = request(question, drafts=(FACTS[0].get(question, "none"), ""))
            settings = Settings(24, order=order)
            pieces = list(fused.stream(asked, settings))
            assert "".join(pieces) == fused.generate([asked], settings)[0].text


def test_all_models_stay_as_they_were(folders, tokenizer):
    loaded = models(folders)
    before = [digest(model) for model in loaded]
    first, *rest = sources(loaded, tokenizer)
    fused = LogitFusion(first, rest, GATES["learned"], tokenizer)
    asked = [request(q) for q in QUESTIONS]
    fused.generate(asked, Settings(8))
    fit_gate(fused, [Example(r, "yes") for r in asked], 8)
    assert [digest(model) for model in loaded] == before


def test_adapters_and_their_base_run_in_one_forward(folders, tokenizer):
    """The same text as with three separate models; one forward a step."""
    base = models(folders)[0]
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(9)
    peft = get_peft_model(copy.deepcopy(base), config, adapter_name="shard-0")
    peft.add_adapter("shard-1", config)
    peft.eval()
    folded = []
    for name in ("shard-0", "shard-1"):
        apart = copy.deepcopy(peft)
        apart.set_adapter(name)
        folded.append(apart.merge_and_unload().eval())
    separate = LogitFusion(
        *_split(sources([base, *folded], tokenizer)), GATES["entropy"], tokenizer
    )
    chat = ChatFormat.from_tokenizer(tokenizer)
    shared = CachedModel(peft, chat.pad_id)
    names = ("__base__", "shard-0", "shard-1")
    rows = [Source(shared, chat.prompt_ids, name) for name in names]
    together = LogitFusion(*_split(rows), GATES["entropy"], tokenizer)
    ran = []
    peft.get_base_model().register_forward_pre_hook(lambda *_: ran.append(1))
    asked = [request(q, drafts=("a", "b")) for q in QUESTIONS]
    for order in ("parallel", "sequential"):
        pairs = zip(
            separate.generate(asked, Settings(10, order=order)),
            together.generate(asked, Settings(10, order=order)),
            strict=True,
        )
        for a, b in pairs:
            assert a.tokens == b.tokens
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    ran.clear()
    (text,) = together.generate(asked[:1], Settings(10))
    assert len(ran) == text.forwards == len(text.tokens)
    ran.clear()
    silent = request(QUESTIONS[0], silent=(True, True))
    (alone,) = together.generate([silent], Settings(10))
    assert alone.tokens == separate.generate([silent], Settings(10))[0].tokens, "no adapter"


def _split(rows):
    return rows[0], rows[1:]


def test_sliding_windows_can_be_rewound(folders, tokenizer):
    """Sequential writing over a model that forgets what left its window."""
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
    )
    loaded = [AutoModelForCausalLM.from_config(config).eval() for _ in range(2)]
    first, second = sources(loaded, tokenizer)
    fused = LogitFusion(first, [second], ConstantGate(0.5), tokenizer)
    asked = [request(q, 1, drafts=("several words of no use",)) for q in QUESTIONS]
    one = fused.generate(asked, Settings(24))
    other = fused.generate(asked, Settings(24, order="sequential"))
    assert [t.tokens for t in one] == [t.tokens for t in other]


def test_a_fitted_gate_beats_backbone_and_entropy_and_repeats(folders, tokenizer):
    fused = fusion(folders, tokenizer, ConstantGate(0.5))
    examples = [Example(request(q), a) for shard in FACTS for q, a in shard.items()]
    examples += [Example(request(q), None) for q in OUTSIDE]
    first, again = (fit_gate(fused, examples, 12) for _ in range(2))
    assert torch.equal(first.gate.weights, again.gate.weights)
    loss = first.loss
    assert loss["learned"] < min(loss["backbone"], loss["entropy"])
    assert first.examples == {"inside": sum(map(len, FACTS)), "outside": len(OUTSIDE)}


def test_a_gate_is_fitted_on_outside_questions_where_a_memory_speaks():
    def asked(name: str, confidence: float, draft: str, silent: bool) -> Request:
        return Request(name, (Belief(name, confidence, silent, draft),))

    rows = [
        asked("sure it knows nothing", 0.9, ABSTAIN_ANSWER, True),
        asked("unsure", 0.2, "Lund", True),
        asked("less unsure", 0.3, "Bergen", True),
        asked("speaks", 0.6, "Oslo", False),
        asked("silent fact", 0.1, "Rome", True),
    ]
    found = chosen_examples(rows, [None, None, None, None, "Riga"], limit=128)
    assert [e.request.question for e in found] == ["silent fact", "speaks", "less unsure", "unsure"]
    assert [e.request.mixed for e in found] == [False, True, True, True]
    assert [e.kind for e in found] == ["inside", "outside", "unsure", "unsure"]
    assert chosen_examples(rows, [None, None, None, None, "Riga"], limit=2) == found[:3]


def test_kinds_of_examples_and_first_tokens_weigh_alike():
    def row(kind, tokens):
        return _Row(torch.zeros(tokens, 2), torch.zeros(tokens, 1, 1), torch.ones(tokens, 1), kind)

    rows = [row("inside", 4), row("outside", 1), row("unsure", 2), row("unsure", 8)]
    data = _Data.of(rows, {"inside": 1, "outside": 1, "unsure": 2})
    parts = [part.tolist() for part in data.weight.split([4, 1, 2, 8])]
    assert [sum(part) for part in parts] == pytest.approx([0.5, 0.25, 0.125, 0.125])
    assert parts[0] == pytest.approx([0.3125, 0.0625, 0.0625, 0.0625])
    only = _Data.of(rows[:2], {"inside": 1, "outside": 1})
    assert [part.sum().item() for part in only.weight.split([4, 1])] == pytest.approx([0.5, 0.5])


def test_familiarity_is_how_much_likelier_a_memory_finds_a_question(folders, tokenizer):
    chat = ChatFormat.from_tokenizer(tokenizer)
    backbone, first, _ = models(folders)
    readers = [Reader(model, chat) for model in (backbone, first)]
    questions = ["Who runs Nordhafen?", "Where?"]

    def nats(model, question):
        ids = torch.tensor([chat.prompt_ids(question)])
        start = chat.question_start(ids[0].tolist())
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return log_probs.gather(1, ids[0, 1:, None])[start - 1 :, 0]

    asked = [request(question) for question in questions]
    for found in Familiarity(readers[0], readers).complete(asked):
        mine, others = nats(backbone, found.question), nats(first, found.question)
        own, other = (belief.familiar for belief in found.beliefs)
        assert own == 0.0
        assert other == pytest.approx(float((others.sum() - mine.sum()) / len(mine)), abs=1e-4)


def test_familiarity_reads_no_memory_that_is_silent(folders, tokenizer):
    chat = ChatFormat.from_tokenizer(tokenizer)
    readers = _readers(folders, chat)
    asked = [
        request("Who runs Nordhafen?", silent=(True, True)),
        request("Where is it?", silent=(True, False)),
    ]
    for all_of_them in (False, True):
        rows = Familiarity(*readers, silent_too=all_of_them).complete(asked)
        read = [[belief.familiar != 0.0 for belief in row.beliefs] for row in rows]
        assert read == ([[True, True]] * 2 if all_of_them else [[False, False], [False, True]])
        assert [row.with_silence([False, False]).mixed for row in rows] == [True, True]


def _readers(folders, chat):
    first, *rest = [Reader(model, chat) for model in models(folders)]
    return first, rest


def test_a_gate_sees_how_familiar_a_question_is(folders, tokenizer):
    fused = fusion(folders, tokenizer, ConstantGate(0.5))
    chat = ChatFormat.from_tokenizer(tokenizer)
    (asked,) = Familiarity(*_readers(folders, chat)).complete([request("Who runs Nordhafen?")])
    _, features = fused.score(asked, chat.answer_ids("Mara"))
    wanted = torch.tensor([belief.familiar for belief in asked.beliefs])
    assert wanted.abs().min() > 0
    assert torch.equal(features[..., FEATURES.index("familiar")], wanted.expand(len(features), -1))


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_a_gate_that_only_follows_the_text_mixes_whole_answers(folders, tokenizer, order):
    """Weight 1 on the text so far: log p(text) = log sum_s w_s p_s(text), w by the bias (Bayes)."""
    weights = torch.zeros(len(FEATURES))
    weights[FEATURES.index("so_far")] = 1.0
    fused = fusion(folders, tokenizer, LearnedGate(weights, -0.5), count=1)
    for question in QUESTIONS:
        asked = request(question, 1, drafts=("Mara Lind",), silent=(False,))
        (text,) = fused.generate([asked], Settings(10, True, 5, order, 3))
        log_probs, features = fused.score(asked, text.tokens)
        ratios = (log_probs[:, 1] - log_probs[:, 0]).tolist()
        wanted = [sum(ratios[:place]) for place in range(len(ratios))]
        assert features[:, 0, FEATURES.index("so_far")].tolist() == pytest.approx(wanted, abs=1e-4)
        assert max(map(abs, wanted)) < LARGEST
        prior = torch.tensor([0.0, -0.5]).log_softmax(0)
        whole = (prior + log_probs.sum(dim=0)).logsumexp(0)
        assert sum(text.log_probs) == pytest.approx(float(whole), abs=1e-3)


def test_a_gate_is_saved_and_refused_elsewhere(tmp_path):
    gate = LearnedGate(torch.linspace(-1, 1, len(FEATURES)), 0.25)
    gate.save(tmp_path, {"backbone": "aa", "memory": "bb"})
    again = LearnedGate.load(tmp_path, {"backbone": "aa", "memory": "bb"})
    features = torch.randn(3, 2, len(FEATURES))
    active = torch.tensor([[True, True], [True, False], [False, False]])
    assert torch.equal(gate.log_weights(features, active), again.log_weights(features, active))
    with safe_open(tmp_path / "gate.safetensors", "pt") as file:
        older = {**file.metadata(), "features": ",".join(FEATURES[:-1])}
    save_file({"weights": gate.weights[:-1], "bias": torch.tensor(0.25)}, tmp_path / "o", older)
    (tmp_path / "old").mkdir()
    (tmp_path / "o").rename(tmp_path / "old" / "gate.safetensors")
    with pytest.raises(UsageError, match=r"another version .* run memo-dist fuse"):
        LearnedGate.load(tmp_path / "old", {"backbone": "aa", "memory": "bb"})
    with pytest.raises(UsageError, match="fitted for backbone aa, this is cc"):
        LearnedGate.load(tmp_path, {"backbone": "cc", "memory": "bb"})
    (tmp_path / "gate.safetensors").write_bytes(b"junk")
    with pytest.raises(UsageError, match="is no gate"):
        LearnedGate.load(tmp_path, {})


@pytest.mark.parametrize("gate", GATES)
def test_weights_sum_to_one_and_silence_has_none(gate):
    features = 3 * torch.randn(5, 3, len(FEATURES))
    features[..., FEATURES.index("abstain")] = -0.1
    active = torch.tensor(
        [[True] * 3, [True, False, True], [False] * 3, [False, True, False], [True] * 3]
    )
    weights = GATES[gate].log_weights(features, active).exp()
    assert torch.allclose(weights.sum(-1), torch.ones(5), atol=1e-6)
    assert (weights[:, 1:][~active] == 0).all()
    assert (weights[:, 1:][active] > 0).all()
    assert weights[2, 0] == 1


@pytest.fixture(scope="module")
def other(folders):
    """A tokenizer of another vocabulary."""
    root = folders[0]
    texts = [*FACTS[0], *FACTS[1], *OUTSIDE, *FACTS[0].values(), *FACTS[1].values()]
    train_tokenizer([*texts[::2], "Zebras jazz quiz fjord vexed \u00e9\u00fc"], 340, root / "other")
    return AutoTokenizer.from_pretrained(root / "other")


def test_every_token_is_read_by_the_other_vocabulary(tokenizer, other):
    tokens = TokenMap(other, tokenizer)
    stops = ChatFormat.from_tokenizer(tokenizer).stop_ids
    read = 0
    known = token_bytes(other)
    for token, written in enumerate(token_bytes(tokenizer)):
        if written is not None and token not in stops:
            assert b"".join(known[i] or b"" for i in tokens.to_source(token)) == written
            read += 1
    assert read > 200
    assert tokens.to_source(min(stops))[-1] == ChatFormat.from_tokenizer(other).answer_ids("x")[-1]


def test_lost_mass_is_counted_and_the_rest_is_exact(tokenizer, other):
    tokens = TokenMap(other, tokenizer)
    logits = torch.randn(4, len(other) + 6)
    logits[:, len(other) :] = -torch.inf
    mapped, lost = tokens.to_backbone(logits)
    probabilities = logits.softmax(-1)
    written, known = token_bytes(tokenizer), token_bytes(other)
    matched = 0
    for token, writes in enumerate(written):
        if writes in known and writes is not None:
            expected = probabilities[:, known.index(writes)].log()
            assert torch.allclose(mapped[:, token], expected, atol=1e-5)
            matched += 1
    assert matched + 1 == tokens.matched, "and the end of an answer"
    assert torch.allclose(lost, 1 - mapped.exp().sum(-1), atol=1e-6)
    assert (lost > 0.01).all(), "random mass lies on tokens that only one of them has"


def test_one_vocabulary_through_the_map_changes_nothing(folders, tokenizer):
    loaded = models(folders)[:2]
    first, second = sources(loaded, tokenizer)
    plain = LogitFusion(first, [second], ConstantGate(0.5), tokenizer)
    mapped = Source(second.model, second.prompt, None, TokenMap(tokenizer, tokenizer))
    through = LogitFusion(first, [mapped], ConstantGate(0.5), tokenizer)
    asked = [request(q, 1) for q in QUESTIONS]
    pairs = zip(
        plain.generate(asked, Settings(12)), through.generate(asked, Settings(12)), strict=True
    )
    for a, b in pairs:
        assert a.tokens == b.tokens
        assert b.lost < 0.05


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """A run folder with both shards in a bank."""
    root = tmp_path_factory.mktemp("run")
    folder = RunFolder(root / "run")
    write_bank(folder.memory, folders[1], FACTS)
    for shard in (0, 1):
        rows = [json.loads(line) for line in folder.reflections.read_text().splitlines()]
        held = [row for row in rows if row["shard"] == shard]
        atomic.write_jsonl(folder.train(shard) / "held-out.jsonl", held)
    config = Config()
    config.evaluate.baselines = []
    atomic.write_text(folder.config, to_yaml(config))
    return folder


def ask(run, capsys, question, *more):
    code = run_cli(["ask", str(run.root), question, "--mode", "logits", *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_ask_fuse_and_evaluate(run, folders, tmp_path, capsys):
    backbone = f"fusion.backbone={folders[2]}"
    code, out, _ = ask(run, capsys, KNOWN, "--json", backbone)
    told = json.loads(out)
    assert code == 0
    assert told["mode"] == "logits"
    assert 0 <= told["memory_weight"] <= 1
    assert told["backbone_forwards"] > 0

    assert run_cli(["fuse", str(run.root), "--backbone", str(folders[2])]) == 0
    assert "nats a token" in capsys.readouterr().out
    code, out, _ = ask(run, capsys, KNOWN, "--json")  # the run remembers its backbone
    told = json.loads(out)
    assert code == 0
    assert told["answer"] == FACTS[0][KNOWN]
    assert told["sources"] == ["doc-0"]

    code, streamed, _ = ask(run, capsys, KNOWN, "--stream")
    assert streamed.strip() == told["answer"]
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"id": "1", "question": KNOWN, "answer": told["answer"]},
        {"id": "2", "question": CHOIR, "answer": "", "answerable": False},
    ]
    atomic.write_jsonl(questions, rows)
    arguments = ["evaluate", str(run.root), "--questions", str(questions), "--name", "q"]
    assert run_cli([*arguments, "--modes", "direct,logits"]) == 0
    scores = atomic.read_json(run.eval("q") / "scores.json")
    assert scores["logits"]["contains"] == 1.0
    assert scores["logits"]["calls_per_query"] > scores["direct"]["calls_per_query"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fusion.gate=learned", "fusion.backbone=B"], "run memo-dist fuse"),
        (["fusion.gate=lerned"], "did you mean 'learned'?"),
        (["fusion.constant=1.5"], "fusion.constant=1.5 must lie between 0 and 1"),
        (["fusion.backbone=/none"], "fusion.backbone='/none' does not exist"),
        (["--json", "--stream"], "--stream goes with --mode logits"),
        (["fusion.backbone=O", "fusion.order=sequential"], "use fusion.order=parallel"),
        (["fusion.backbone=O", "fusion.max_lost=0", "fusion.gate=constant"], "ask --mode latent"),
    ],
)
def test_wrong_use_is_refused(run, folders, other, capsys, arguments, said):
    apart = folders[0] / "apart"
    if not apart.exists():
        model = AutoModelForCausalLM.from_pretrained(folders[2])
        model.resize_token_embeddings(len(other))
        model.save_pretrained(apart)
        other.save_pretrained(apart)
    places = {"fusion.backbone=B": folders[1][1], "fusion.backbone=O": apart}
    given = [f"fusion.backbone={places[a]}" if a in places else a for a in arguments]
    code, _, error = ask(run, capsys, KNOWN, *given)
    assert code == 2
    assert said in error
    assert "Traceback" not in error
