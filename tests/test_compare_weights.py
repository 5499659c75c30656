"""Methods that train the backbone: each trains, answers, resumes, and says what was forgotten."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from memo_dist.compare import doc_to_lora, weights
from memo_dist.compare.forgetting import (
    Ability,
    ability,
    forgotten,
    unrelated_questions,
    untouched,
)
from memo_dist.compare.method import Corpus, NotRunError, Setting
from memo_dist.config import load_config
from memo_dist.config.schema import ScratchConfig
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import RunError, StoppedError
from memo_dist.evaluation.questions import Question
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.identity import hash_weights
from memo_dist.models.reader import Generation
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.synthesis.types import Reflection

TEXT = "Item {} of the store is kept in room {}."
TRAIN = ["train.epochs=100", "train.lr=5e-3", "train.batch_tokens=64",
         "train.micro_batch_tokens=64", "memory.max_answer_tokens=6"]  # fmt: skip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    texts = [f"Where is item {i}? {TEXT.format(i, i)}" for i in range(9)] * 3
    size = train_tokenizer(texts, 320, folder)
    shape = ScratchConfig(size, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, size), seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus_texts():
    texts = [TEXT.format(i, i + 1) for i in range(6)]
    documents = [Document(f"d{i}", f"Item {i}", text) for i, text in enumerate(texts)]
    return documents, [Chunk(d.id, 0, len(d.text), d.text) for d in documents]


@pytest.fixture
def place(backbone, corpus_texts, tmp_path, monkeypatch):
    """(setting, corpus); few unrelated questions."""
    documents, chunks = corpus_texts
    rows = [
        Reflection(f"Where is item {i}?", f"room {i + 1}", "direct", (d.id,), (c.id,), 0, "g", "1",
                   "r")
        for i, (d, c) in enumerate(zip(documents, chunks, strict=True))
    ]  # fmt: skip
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    atomic.write_jsonl(run.reflections, (row.to_json() for row in rows))
    config = load_config([], TRAIN)
    setting = Setting(run, config, None, str(backbone))
    few = [Question(str(i), f"Is item {i} here?", "room") for i in range(3)]
    monkeypatch.setattr(weights, "unrelated_questions", lambda: few)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return setting, Corpus(documents, chunks, tmp_path / "cache")


@pytest.mark.parametrize("make", ["sft", "sft_documents", "lora", "lora_documents",
                                  "distilled_lora"])  # fmt: skip
def test_a_backbone_is_trained_once_and_answers(make, place, backbone, monkeypatch):
    setting, corpus = place
    before = hash_weights(backbone)
    method = getattr(weights, make)(setting)
    cost = method.prepare(corpus)
    assert cost.trained_tokens > 0
    assert cost.stored_bytes > 0
    assert (cost.forgetting.n, hash_weights(backbone)) == (3, before)
    replies = method.answer(["Where is item 2?", "Where is item 4?"])
    assert all(reply.calls == 1 and reply.tokens_in > 0 for reply in replies)
    if make == "sft":
        assert [reply.text for reply in replies] == ["room 3", "room 5"]
    again = getattr(weights, make)(setting)
    assert again.identity == method.identity
    monkeypatch.setattr(weights.TrainedBackbone, "_run", None)
    assert again.prepare(corpus) == cost
    assert again.answer(["Where is item 2?"])[0].text == replies[0].text


@pytest.mark.parametrize(
    ("run", "rates"),
    [("full", {"sft": 1e-3, "lora": 1e-2}), ("lora", {"sft": 1e-4, "lora": 1e-3})],
)
def test_the_rate_is_that_of_the_runs_method(run, rates, place, backbone):
    setting, _ = place
    train = replace(setting.config.train, method=run, lr=1e-3)
    given = replace(setting, config=replace(setting.config, train=train))
    for make, rate in rates.items():
        assert getattr(weights, make)(given)._train.lr == pytest.approx(rate)


@pytest.mark.parametrize(("make", "text"), [("sft", "room 3"), ("sft_documents", "Ada ⇒ room 3")])
def test_a_bridge_is_no_part_of_the_answer(make, text, place):
    class Written:
        def generate(self, prompts, most, size):
            return [Generation(text, 5, 4) for text in ("Ada ⇒ room 3", "Ada ⇒ I don't know.")]

    method = getattr(weights, make)(place[0])
    method._reader = Written()
    first, second = method.answer(["Where is item 2?", "Who?"])
    assert (first.text, first.tokens_out) == (text, 4)
    assert second.text == ("" if make == "sft" else "Ada ⇒ I don't know.")


def test_a_stopped_training_goes_on(place):
    setting, corpus = place
    stopping = Setting(setting.run, setting.config, None, setting.reader_name,
                       should_stop=lambda: True)  # fmt: skip
    with pytest.raises(StoppedError, match="sft is saved"):
        weights.sft(stopping).prepare(corpus)
    assert any((corpus.folder / "training" / "checkpoints").iterdir())
    method = weights.sft(setting)
    method.prepare(corpus)
    assert method.answer(["Where is item 2?"])[0].text == "room 3"


class ToyHypernetwork:
    """Adapters of rank 1 that depend on the text."""

    identity = "toy"

    def __init__(self, folder):
        self._config = AutoConfig.from_pretrained(folder)

    def adapter(self, text):
        torch.manual_seed(len(text))
        width = self._config.hidden_size
        return {"model.layers.1.self_attn.q_proj": (torch.randn(1, width), torch.randn(width, 1))}


def test_the_adapters_of_all_passages_are_joined(place, backbone, monkeypatch):
    setting, corpus = place
    with pytest.raises(NotRunError, match="no hypernetwork"):
        doc_to_lora.doc_to_lora(setting)
    point = EntryPoint("toy", "test_compare_weights:ToyHypernetwork", doc_to_lora.GROUP)
    monkeypatch.setattr(doc_to_lora, "entry_points", lambda group: [point])
    monkeypatch.setattr(doc_to_lora, "unrelated_questions", weights.unrelated_questions)
    setting.config.compare.lora_hypernetwork = "toy"
    method = doc_to_lora.doc_to_lora(setting)
    cost = method.prepare(corpus)
    assert cost.stored_bytes == len(corpus.chunks) * 2 * 32 * 4
    assert cost.forgetting.n == 3
    assert len(method.answer(["Where is item 2?"])) == 1
    layer = "model.layers.1.self_attn.q_proj"
    made = [ToyHypernetwork(backbone).adapter(chunk.text)[layer] for chunk in corpus.chunks]
    joined = torch.cat([up for _, up in made], 1) @ torch.cat([down for down, _ in made])
    wanted = AutoModelForCausalLM.from_pretrained(backbone).get_submodule(layer).weight + joined
    assert torch.allclose(method._reader._model.get_submodule(layer).weight, wanted, atol=1e-4)


def test_an_adapter_of_another_backbone_is_said(backbone):
    model = AutoModelForCausalLM.from_pretrained(backbone)
    pair = torch.zeros(1, 5), torch.zeros(7, 1)
    for name, said in (("model.layers.9.x", "does not have"), ("lm_head", r"is \(7, 5\)")):
        with pytest.raises(NotRunError, match=said):
            doc_to_lora.add_adapters(model, [{name: pair}])


def test_an_endpoint_has_no_weights_to_train(place):
    setting = Setting(place[0].run, place[0].config, None, "executive")
    with pytest.raises(NotRunError, match="an endpoint"):
        weights.lora(setting)


def test_ability_counts_right_answers_and_nats(backbone):
    model = AutoModelForCausalLM.from_pretrained(backbone).eval()
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    found = ability(model, tokenizer, [Question("a", "Where is item 1?", "no such answer")])
    assert found.right == 0
    assert 0 < found.nats < 20
    row = forgotten(Ability(40, 1.0), Ability(30, 1.5), 100)
    assert (row.right_before, row.right_after, row.n) == (40, 30, 100)
    assert "1.00 nats a token before and 1.50 after" in row.detail


def test_bytes_prove_that_nothing_is_forgotten(backbone, place):
    setting = replace(place[0], reader_identity=hash_weights(backbone))
    same = untouched(setting)
    assert (same.right_before, same.right_after) == (0, 0)
    assert setting.reader_identity[:16] in same.detail
    with pytest.raises(RunError, match="have changed"):
        untouched(replace(setting, reader_identity="other"))
    assert "endpoint" in untouched(replace(setting, reader_name="executive")).detail


def test_the_unrelated_questions_are_a_hundred_different_ones():
    questions = unrelated_questions()
    assert len({question.question for question in questions}) == len(questions) == 100
