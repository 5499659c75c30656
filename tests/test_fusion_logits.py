"""F1: a frozen backbone and its memories write one text from their mixed distributions."""

from __future__ import annotations

import copy
import hashlib
import json
import math

import pytest
import torch
from fused_models import GATES, QUESTIONS, fusion, models, request, sources, train_models
from peft import LoraConfig, get_peft_model
from protocol_cases import CHOIR, FACTS, OUTSIDE
from trained_bank import write_bank
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

from memo_dist.cli.main import run as run_cli
from memo_dist.config import Config, to_yaml
from memo_dist.fusion import ops
from memo_dist.fusion.logits import (
    CachedModel,
    ConstantGate,
    LogitFusion,
    Settings,
    Source,
    TokenMap,
)
from memo_dist.fusion.logits.fitting import Example, fit_gate
from memo_dist.fusion.logits.token_map import token_bytes
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import train_tokenizer

KNOWN = next(iter(FACTS[0]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return train_models(tmp_path_factory.mktemp("fusion"))


@pytest.fixture(scope="module")
def tokenizer(folders):
    return AutoTokenizer.from_pretrained(folders[2])


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


@pytest.fixture(scope="module")
def other(folders):
    """A tokenizer of another vocabulary."""
    root = folders[0]
    texts = [*FACTS[0], *FACTS[1], *OUTSIDE, *FACTS[0].values(), *FACTS[1].values()]
    train_tokenizer([*texts[::2], "Zebras jazz quiz fjord vexed \u00e9\u00fc"], 340, root / "other")
    return AutoTokenizer.from_pretrained(root / "other")


def test_every_token_is_read_by_the_other_vocabulary(tokenizer, other):
    tokens = TokenMap(other, tokenizer, len(other) + 6)
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
    tokens = TokenMap(other, tokenizer, len(other) + 6)
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
    mapped = Source(
        second.model, second.prompt, None, TokenMap(tokenizer, tokenizer, len(tokenizer))
    )
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
    assert "loss (nats/token)" in capsys.readouterr().out
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
