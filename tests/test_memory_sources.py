"""The documents behind an answer, and the model card."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import bm25s

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.io import atomic
from memo_dist.memory.calibration import default_calibration
from memo_dist.memory.card import MemoryCard, render_card
from memo_dist.memory.provenance import SourceIndex, load_sources
from memo_dist.models.identity import BaseModel
from memo_dist.synthesis.types import Kind, Reflection


def reflection(
    question: str, answer: str, *sources: str, kind: Kind = "direct", shard: int = 0
) -> Reflection:
    return Reflection(question, answer, kind, sources, (), shard, "test-1", "1", "0")


FACTS = [
    reflection("When did the Tarn plant open?", "in 2019", "tarn"),
    reflection("When did the Oder plant open?", "in 2019", "oder"),
    reflection("Who runs the Tarn plant?", "Ida Brandt", "tarn"),
    reflection("Who wrote the pump manual?", "Ida Brandt and Jo Falk", "manual"),
    reflection("Which plants opened in 2019?", "the Tarn and Oder plants", "report", "oder"),
    reflection("Who runs the Elbe plant?", ABSTAIN_ANSWER, "elbe", kind="abstain"),
]


def test_question_decides_between_documents_with_the_same_answer() -> None:
    index = SourceIndex(FACTS)
    assert index.find("What year did the plant at Tarn open?", "2019")[0] == "tarn"
    assert index.find("Opening year of the Oder plant?", "In 2019.")[0] == "oder"


def test_equal_answers_come_before_containing_ones() -> None:
    index = SourceIndex(FACTS)
    assert index.find("Who wrote the pump manual of the Tarn plant?", "Ida Brandt") == ("tarn",)
    assert index.find("Who wrote it?", "Jo Falk") == ("manual",)


def test_all_sources_of_a_reflection_are_named_up_to_the_limit() -> None:
    index = SourceIndex(FACTS)
    found = index.find("Which plants opened in 2019?", "The Tarn and Oder plants")
    assert found == ("report", "oder")
    assert index.find("Which plants opened in 2019?", "Tarn and Oder plants", limit=1) == (
        "report",
    )


def test_nothing_is_cited_without_evidence() -> None:
    assert SourceIndex([]).find("Who?", "Ida") == ()
    assert SourceIndex(FACTS).find("Qui sait ça?", "zzz") == ()
    assert SourceIndex(FACTS[-1:]).find("Who runs the Elbe plant?", ABSTAIN_ANSWER) == ()
    assert SourceIndex([reflection("?", "!", "odd")]).find("Who is it?", "Ida") == ()


def test_each_shard_cites_its_own_reflections(tmp_path: Path) -> None:
    rows = [*FACTS, reflection("Who runs the Tarn plant?", "Ida Brandt", "elsewhere", shard=3)]
    atomic.write_jsonl(tmp_path / "reflections.jsonl", (row.to_json() for row in rows))
    shards = load_sources(tmp_path / "reflections.jsonl")
    assert list(shards) == [0, 3]
    assert shards[0].find("Who runs the Tarn plant?", "Ida Brandt") == ("tarn",)
    assert shards[3].find("Who runs the Tarn plant?", "Ida Brandt") == ("elsewhere",)


CARD = MemoryCard(
    base=BaseModel("smollm2-135m", Path("cache/smollm2-135m-v1"), "a" * 64, "b" * 64, "float32"),
    shard=0,
    shards=2,
    corpus_fingerprint="c" * 64,
    documents=6,
    reflections=120,
    kinds={"paraphrase": 90, "direct": 30},
    generator="rules-1",
    generator_limits=["No cross-document reflections."],
    hyperparameters={"train.lr": 2e-5, "note": "a | b\nc"},
    calibration=default_calibration(),
    parameters=134515008,
    adapter=False,
    final_loss=0.25,
    weights_hash="d" * 64,
    version="0.1.0",
)


def test_card_tells_base_quantisation_counts_and_limits() -> None:
    text = render_card(CARD)
    assert text == render_card(CARD)
    front = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines())
    assert json.loads(front["base_model"]) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert json.loads(front["license"]) == "apache-2.0"
    for part in ("Q4_1", "6 documents", "120 reflections", "134,515,008", "| direct | 30 |"):
        assert part in text
    assert "- No cross-document reflections." in text
    assert "| loss of the last optimizer step (nats a token) | 0.2500 |" in text
    counts = {"right": 9, "wrong": 3, "wrong_answered": 2, "abstain": 8, "abstain_answered": 2}
    scored = render_card(replace(CARD, calibration=replace(default_calibration(), counts=counts)))
    assert "answered rightly | 9 of 12 (75%) |" in scored
    assert "| 6 of 8 |" in scored
    assert "LoRA adapter" in render_card(replace(CARD, adapter=True))
    assert "a \\| b c" in text


def test_card_of_other_bases_claims_no_licence_and_shows_no_path() -> None:
    local = BaseModel("/home/me/models/own", Path("/home/me/models/own"), "a", "b", "bfloat16")
    hub = BaseModel('owner/model"\nx: y', Path("hub/snapshots/0123"), "a", "b", "bfloat16")
    scratch = BaseModel("scratch", Path("run/train/base"), "a", "b", "float32")
    for base in (local, hub, scratch):
        text = render_card(replace(CARD, base=base))
        assert "license:" not in text
        assert "Q4_1" not in text
        assert "/home/me" not in text
        assert "\nx: y" not in text
    assert "random weights" in render_card(replace(CARD, base=scratch))
    assert "base_model" not in render_card(replace(CARD, base=local))


def test_threads_that_look_up_while_the_index_is_built_find_the_same(monkeypatch) -> None:
    index, building, go_on = SourceIndex(FACTS), Event(), Event()
    plain = bm25s.BM25.index

    def slow(self, *given, **named):
        if not building.is_set():
            building.set()
            assert go_on.wait(20)
        return plain(self, *given, **named)

    monkeypatch.setattr(bm25s.BM25, "index", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(index.find, "Who runs the Tarn plant?", "Ida Brandt")
        assert building.wait(20)
        try:
            second = index.find("Who runs the Tarn plant?", "Ida Brandt")
        finally:
            go_on.set()
        assert first.result() == second == ("tarn",)
