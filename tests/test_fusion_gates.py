"""F1's gates: what they see, how they are fitted, saved, and what weights they give."""

from __future__ import annotations

import pytest
import torch
from fused_models import GATES, QUESTIONS, fusion, models, request, train_models
from protocol_cases import FACTS, OUTSIDE
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.errors import UsageError
from memo_dist.fusion.logits import Belief, ConstantGate, LearnedGate, Request, Settings
from memo_dist.fusion.logits.familiarity import Familiarity, Reader
from memo_dist.fusion.logits.fitting import Example, _Data, _Row, fit_gate
from memo_dist.fusion.logits.gates import FEATURES, LARGEST
from memo_dist.fusion.logits.stage import chosen_examples
from memo_dist.models.chat_format import ChatFormat


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return train_models(tmp_path_factory.mktemp("fusion"))


@pytest.fixture(scope="module")
def tokenizer(folders):
    return AutoTokenizer.from_pretrained(folders[2])


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
    with pytest.raises(UsageError, match="is not a gate"):
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
