"""The question writer: texts after one passage, checks, and reflections by the real model."""

from __future__ import annotations

import json

import pytest
import torch
from cli import memo_dist
from llm_cases import pair
from transformers import LlamaConfig, LlamaForCausalLM

from memo_dist.corpus.types import Document
from memo_dist.models.base import resolve_base
from memo_dist.models.branches import BranchModel
from memo_dist.models.loading import load_tokenizer
from memo_dist.models.sampling import Sampling
from memo_dist.synthesis.words import content
from memo_dist.synthesis.writer import abstain
from memo_dist.synthesis.writer.checks import agree, question_fault
from memo_dist.synthesis.writer.passages import passages

END = "<|im_end|>"
PASSAGE = "The pump stands in the north hall. It was built in 2019 by Arvid Lund.\n"
PROMPTS = ["Question: Who built the pump?", "Question: Where?", "Ask: [2019]"]

GUIDE = """Ferrin 8 guide

The Ferrin 8 is a water pump made by Arvid Lund in Skarby.
Its filter is changed every 14 months.

Weight: 21 kg
"""


@pytest.fixture(scope="module")
def small() -> tuple[LlamaForCausalLM, object]:
    """A random model with grouped heads and the built-in base's tokenizer."""
    torch.manual_seed(3)
    tokenizer = load_tokenizer(resolve_base("smollm2-135m").path)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def test_a_branch_is_what_the_model_writes_after_passage_and_prompt_alone(small):
    model, tokenizer = small
    # An end that this model writes: else a random model's texts would all be given up.
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([encode(tokenizer, PASSAGE) + encode(tokenizer, prompt)])
        with torch.inference_mode():
            for _ in range(8):
                best = model(ids).logits[0, -1].argmax()
                ids = torch.cat([ids, best[None, None]], 1)
        expected.append(ids[0, -8:].tolist())
    end = tokenizer.convert_ids_to_tokens(expected[0][-1])
    assert expected[0][-1] not in expected[0][:-1]
    writer = BranchModel(model, tokenizer, end)
    with writer.reading(PASSAGE):
        together = writer.write(PROMPTS, Sampling(most_tokens=8))
        again = writer.write(PROMPTS[:1], Sampling(most_tokens=8))
    assert together[0] == [tokenizer.decode(expected[0][:-1]).strip()]
    assert again == together[:1]  # what was written before leaves no trace


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("read", "span", "same"),
    [
        ("14 months", "14 months", True),
        ("every 14 months", "14 months", True),
        ("Arvid Lund", "Lund", True),
        ("15 months", "14 months", False),
        ("Not stated", "14 months", False),
        ("the north hall", "the south wing", False),
        ("14 months after it was built by Arvid Lund in Skarby", "14 months", False),
    ],
)
def test_the_readers_answer_agrees_with_the_span(read, span, same):
    assert agree(read, span) is same


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("How often is the filter of the Ferrin 8 changed?", False),
        ("What did he do?", True),
        ("What does this product weigh?", True),
        ("How many of the reviewers like the pump?", False),
        ("What does the author say about the filter?", True),
        ("How often is the filter changed every 14 months?", True),
        ("The filter of the Ferrin 8", True),
    ],
)
def test_questions_that_do_not_stand_alone_are_rejected(question, fault):
    text = "Its filter is changed every 14 months. Reviewers like the pump."
    assert bool(question_fault(question, "14 months", "Ferrin 8 guide", text)) is fault


def test_passages_are_prose_and_know_their_place():
    document = Document("guide", "Ferrin 8 guide", GUIDE)
    (passage,) = passages(document)
    assert "21 kg" not in passage.text
    at = passage.text.index("14 months")
    place = passage.place(at)
    assert document.text[place:].startswith("Its filter is changed every 14 months.")


def test_long_prose_is_cut_between_sentences():
    text = " ".join(f"Valve {n} opens at {n} bar and closes again at once." for n in range(60))
    parts = passages(Document("valves", "Valves", text))
    assert len(parts) > 3
    assert all(part.text.endswith("once.") for part in parts)
    assert " ".join(part.text for part in parts) == text


def test_synthesize_writes_questions_and_the_same_bytes_again(tmp_path):
    corpus = tmp_path / "documents"
    corpus.mkdir()
    (corpus / "guide.md").write_text(GUIDE)
    found = []
    for name in ("one", "two"):
        run = tmp_path / name
        settings = ["generator.kind=writer", "synthesis.partitions=1", "synthesis.phrasings=2"]
        done = memo_dist("synthesize", corpus, "--run", run, *settings)
        assert done.returncode == 0, done.stderr
        found.append((run / "reflections.jsonl").read_bytes())
    assert found[0] == found[1]
    rows = [json.loads(line) for line in found[0].splitlines()]
    written = [row for row in rows if row["generator"] == "writer-1" and row["kind"] != "abstain"]
    assert written
    assert all(row["answer"] in GUIDE and row["question"].endswith("?") for row in written)
    assert all(row["sources"] == ["guide"] or row["sources"] == ["guide.md"] for row in written)
    assert any("21 kg" in row["answer"] and row["generator"] != "writer-1" for row in rows)


def test_the_words_of_a_passage_are_read_once_for_all_questions(monkeypatch):
    read = []

    def words(text):
        read.append(text)
        return content(text)

    documents = [Document(f"d{n}", f"Ferrin {n}", GUIDE.replace("8", str(n))) for n in range(9)]
    asked = [
        pair(f"What is part {part} of the Ferrin {n} made of?", "x", document=documents[n])
        for n in range(9)
        for part in range(3)
    ]
    monkeypatch.setattr(abstain, "content", words)
    monkeypatch.setattr(abstain, "_answered", lambda *given: set())
    assert len(abstain.open_questions(None, documents, asked, 4, 1)) == 4
    known = {f"{p.title} {p.text}" for document in documents for p in passages(document)}
    assert sum(text in known for text in read) == len(known)
