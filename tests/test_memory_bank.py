"""Shard memories that answer, and banks of them, on tiny models trained here in seconds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trained_bank import train_shards, write_bank
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.answers.rewording import rewordings
from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.errors import RunError, UsageError
from memo_dist.fusion.bank_beliefs import requests_of
from memo_dist.memory import question_likelihood
from memo_dist.memory.answering import FEATURES, ShardMemory
from memo_dist.memory.bank import Bank
from memo_dist.memory.calibration import default_calibration, fit_calibration
from memo_dist.memory.familiarity import Familiarity
from memo_dist.memory.manifest import (
    load_manifest,
)
from memo_dist.models.chat_format import ChatFormat

FACTS = [
    {
        "When did the Tarn plant open?": "in 2019",
        "Who runs Tarn?": "Ida Brandt",
        "What does the Tarn plant make for the regulator of the northern region?": "pumps",
    },
    {"When did Oder open?": "in 1987", "Who runs Oder?": "Jo Falk", "What is made at Oder?": "ice"},
]
OUTSIDE = ["Who won the cup?", "What is the price of tea in the harbour?"]
QUESTIONS = [*FACTS[0], *FACTS[1], *OUTSIDE]


@pytest.fixture(scope="module")
def shard_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("shards")
    return train_shards(root, FACTS, OUTSIDE)


@pytest.fixture
def memory_folder(shard_folders: list[Path], tmp_path: Path) -> Path:
    """A bank of two shards with bank.json, calibrations, and reflections beside it."""
    return write_bank(tmp_path / "memory", shard_folders, FACTS)


def test_memory_recalls_what_it_was_trained_on(shard_folders: list[Path]) -> None:
    answers = ShardMemory.load(shard_folders[0]).answer(QUESTIONS)
    expected = [*FACTS[0].values(), *[ABSTAIN_ANSWER] * 5]
    assert [a.text for a in answers] == expected
    mean, least, total, first, entropy, margin, abstain, agreement = range(len(FEATURES))
    for answer in answers:
        f = answer.features
        assert f[total] <= f[least] <= f[mean] <= 0
        assert f[least] <= f[first] <= 0 <= f[entropy]
        assert f[margin] >= 0
        assert f[abstain] <= f[first]
        assert f[agreement] == 1
    assert answers[-1].features[abstain] == answers[-1].features[first]


def test_batches_do_not_change_answers(shard_folders: list[Path]) -> None:
    memory = ShardMemory.load(shard_folders[1])
    questions = [*QUESTIONS, "Ice?", "An unseen question about the plant at Tarn and its pumps"]
    together = memory.answer(questions, batch_size=8)
    alone = memory.answer(questions, batch_size=1)
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.features == pytest.approx(other.features, abs=1e-3)
    assert memory.answer([]) == []


def test_features_are_those_of_a_plain_forward_pass(shard_folders: list[Path]) -> None:
    question, text = next(iter(FACTS[0].items()))
    answer = ShardMemory.load(shard_folders[0]).answer([question, "Who?"])[0]
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(shard_folders[0]))
    model = AutoModelForCausalLM.from_pretrained(shard_folders[0]).eval()
    prompt, target = chat.prompt_ids(question), chat.answer_ids(text)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    chosen = logprobs[torch.arange(len(target)), torch.tensor(target)]
    entropy = -(logprobs[0].exp() * logprobs[0]).sum()
    expected = [chosen.mean(), chosen.min(), chosen.sum(), chosen[0], entropy]
    assert answer.features[:5] == pytest.approx([float(v) for v in expected], abs=1e-3)
    assert answer.tokens == len(prompt) + len(target)


def test_folder_settings_do_not_change_decoding(shard_folders: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shard_folders[0], folder)
    wild = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "num_beams": 3}
    (folder / "generation_config.json").write_text(json.dumps(wild))
    answers = ShardMemory.load(folder).answer(list(FACTS[0]))
    assert [a.text for a in answers] == list(FACTS[0].values())


def test_answers_are_cut_and_long_questions_refused(shard_folders: list[Path]) -> None:
    memory = ShardMemory.load(shard_folders[0], max_answer_tokens=2)
    answer = memory.answer([QUESTIONS[0]])[0]
    assert 0 < len(answer.text) < len("in 2019")
    with pytest.raises(UsageError, match="max_answer_tokens=2"):
        memory.answer(["Tarn " * 3000])


def test_folder_without_a_model_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be loaded as a memory"):
        ShardMemory.load(tmp_path)


def test_bank_takes_the_confident_shard_and_names_sources(memory_folder: Path) -> None:
    bank = Bank.load(memory_folder, memory_folder.parent / "reflections.jsonl", verify=True)
    answers = bank.answer(QUESTIONS)
    expected = [*FACTS[0].values(), *FACTS[1].values()]
    assert [a.text for a in answers] == [*expected, "", ""]
    assert [a.abstained for a in answers] == [False] * 6 + [True] * 2
    assert [a.sources for a in answers] == [("doc-0",)] * 3 + [("doc-1",)] * 3 + [()] * 2
    assert [a.shards for a in answers[:6]] == [(0, 1)] * 3 + [(1, 0)] * 3
    assert all(sorted(a.shards) == [0, 1] for a in answers)
    assert min(a.confidence for a in answers[:6]) > max(a.confidence for a in answers[6:])
    single = ShardMemory.load(memory_folder / "shard-0").answer(QUESTIONS)
    assert all(a.tokens > s.tokens for a, s in zip(answers, single, strict=True))


def test_bank_by_question_likelihood_asks_the_shard_that_finds_it_likeliest(
    memory_folder: Path,
) -> None:
    change(memory_folder, lambda row: row.update(composition="question_likelihood"))
    bank = Bank.load(memory_folder)
    votes = bank.votes(QUESTIONS)
    assert all(vote.verdict.abstained for row in votes for vote in row[1:])
    for request, row in zip(requests_of(bank, QUESTIONS, votes), votes, strict=True):
        speaking = [not belief.silent for belief in request.spoken().beliefs]
        assert speaking == [shard.id == row[0].shard.id for shard in bank.shards]
    answers = bank.answer(QUESTIONS)
    folders = [memory_folder / f"shard-{shard}" for shard in (0, 1)]
    for question, answer, row in zip(QUESTIONS, answers, votes, strict=True):
        scores = [question_logprob(folder, question) for folder in folders]
        likelier = scores.index(max(scores))
        assert answer.shards == (likelier, 1 - likelier)
        found = {vote.shard.id: vote.question_logprob for vote in row}
        assert [found[0], found[1]] == pytest.approx(scores, abs=1e-4)
        gold = FACTS[likelier].get(question)
        assert (answer.text, answer.abstained) == (gold or "", gold is None)


@pytest.fixture
def likely_folder(memory_folder: Path) -> Path:
    """The bank, composed by the question's likelihood."""
    change(memory_folder, lambda row: row.update(composition="question_likelihood"))
    return memory_folder


def test_only_the_likeliest_shard_writes_unless_all_are_to(
    likely_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = ShardMemory.load.__func__
    monkeypatch.setattr(
        ShardMemory,
        "load",
        classmethod(lambda cls, path, *more: loads.append(path.name) or load(cls, path, *more)),
    )
    kept, streamed = (Bank.load(likely_folder, loaded_gb=gb) for gb in (0.0, 1e-6))
    assert loads == ["shard-0", "shard-1"]
    question = "Who runs Oder?"
    scores = [question_logprob(likely_folder / f"shard-{shard}", question) for shard in (0, 1)]
    likelier = scores.index(max(scores))
    (heard, silent), (again, other) = (bank.votes([question])[0] for bank in (kept, streamed))
    assert loads[2:] == ["shard-0", "shard-1", f"shard-{likelier}"], "both read, one writes"
    alone, unheard = (
        ShardMemory.load(likely_folder / f"shard-{shard}").answer([question])[0]
        for shard in (likelier, 1 - likelier)
    )
    prompt = silent.raw.tokens
    assert (heard.shard.id, heard.raw.text, heard.heard) == (likelier, alone.text, True)
    assert heard.raw.tokens == alone.tokens + prompt, "read once, then answered"
    assert (silent.raw.text, silent.verdict.abstained, silent.heard) == ("", True, False)
    assert silent.raw.asked == question
    assert 0 < prompt < alone.tokens
    assert (again.raw, other.raw) == (heard.raw, silent.raw)
    spoken, measured = kept.votes([question], all_write=True)[0]
    assert spoken.raw == heard.raw
    assert (measured.raw.text, measured.raw.tokens) == (unheard.text, unheard.tokens + prompt)
    assert (measured.verdict.abstained, measured.heard) == (True, False)


def test_of_equal_shards_the_lower_id_writes(likely_folder: Path) -> None:
    shutil.rmtree(likely_folder / "shard-1")
    shutil.copytree(likely_folder / "shard-0", likely_folder / "shard-1")
    bank = Bank.load(likely_folder, verify=False)  # bank.json names the other weights
    for row in bank.votes([*QUESTIONS, *QUESTIONS[:2]], batch_size=3):
        assert [vote.shard.id for vote in row] == [0, 1]
        assert [vote.heard for vote in row] == [True, False]
    assert Bank.load(likely_folder, verify=False, loaded_gb=1e-6).votes([]) == []


def test_a_reworded_question_is_read_in_all_its_wordings(likely_folder: Path) -> None:
    for shard in (0, 1):
        folder = likely_folder / f"shard-{shard}"
        replace(default_calibration(), wordings=2).save(folder)
    question = "What does the Tarn plant make for the regulator of the northern region?"
    texts = rewordings(question, 2)
    assert len(texts) == 2
    votes = Bank.load(likely_folder).votes([question])[0]
    for vote in votes:
        folder = likely_folder / f"shard-{vote.shard.id}"
        liked = [question_logprob(folder, text) for text in texts]
        assert liked[0] != pytest.approx(liked[1], abs=1e-2)
        assert vote.question_logprob == pytest.approx(sum(liked) / 2, abs=1e-4)


def test_one_long_question_does_not_part_the_others(shard_folders: list[Path]) -> None:
    memory = ShardMemory.load(shard_folders[0])
    rows: list[int] = []
    hook = memory.model.register_forward_pre_hook(
        lambda _, args, named: rows.append(len(named["input_ids"])), with_kwargs=True
    )
    with hook, pytest.MonkeyPatch.context() as patch:
        room = 64 * 100 * memory.model.config.vocab_size
        patch.setattr(question_likelihood, "_MOST_LOGITS", room)
        questions = ["Where is it? " * 12, *["Where?"] * 40]
        prompts = [memory.chat.prompt_ids(question) for question in questions]
        question_likelihood.question_log_probs(memory.model, memory.chat, prompts, 16)
    assert rows[0] < 41
    assert sum(rows) == 41
    assert max(rows) <= 16
    assert len(rows) <= 5


def test_question_likelihood_is_that_of_a_plain_forward_pass_in_any_batch(
    shard_folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = ShardMemory.load(shard_folders[0])
    for size, room in ((1, 1 << 27), (8, 1 << 27), (8, 30_000)):
        monkeypatch.setattr(question_likelihood, "_MOST_LOGITS", room)  # 30,000: a few rows at once
        assert [found.logprob for found in memory.read(QUESTIONS, size)] == pytest.approx(
            [question_logprob(shard_folders[0], question) for question in QUESTIONS], abs=1e-4
        )


def question_logprob(folder: Path, question: str) -> float:
    """Mean log-probability of the question's tokens and of those between it and the answer."""
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = chat.prompt_ids(question)
    with torch.inference_mode():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = chat.question_start(ids)
    return sum(float(log_probs[i - 1, ids[i]]) for i in range(start, len(ids))) / (len(ids) - start)


def test_one_shard_and_no_reflections_is_enough(memory_folder: Path) -> None:
    manifest = load_manifest(memory_folder)
    replace(manifest, shards=manifest.shards[1:]).save(memory_folder)
    (answer,) = Bank.load(memory_folder).answer(["Who runs Oder?"])
    assert (answer.text, answer.sources, answer.shards) == ("Jo Falk", (), (1,))


def test_calibration_of_a_shard_is_used(memory_folder: Path) -> None:
    memory = ShardMemory.load(memory_folder / "shard-0")
    calibration = fit_calibration(memory.answer(QUESTIONS), [*FACTS[0].values(), *[None] * 5])
    replace(calibration, threshold=1.0).save(memory_folder / "shard-0")
    answers = Bank.load(memory_folder).answer(QUESTIONS)
    assert [a.abstained for a in answers] == [True] * 3 + [False] * 3 + [True] * 2


def test_confidence_falls_for_questions_unlike_the_trained_ones(memory_folder: Path) -> None:
    folders = [memory_folder / f"shard-{shard}" for shard in (0, 1)]
    for known, folder in zip(FACTS, folders, strict=True):
        Familiarity.of(known.items()).save(folder)
        by_support = {"features": ("support",), "weights": (1.0,), "mean": (0.5,), "std": (0.1,)}
        replace(default_calibration(), bias=0.0, **by_support).save(folder)
    known, unlike = "Who runs Tarn?", "Who runs the harbour?"
    bank = Bank.load(memory_folder)
    sure, unsure = (bank.votes([question])[0] for question in (known, unlike))
    assert sure[0].shard.id == 0
    assert sure[0].verdict.confidence > 0.99
    assert bank.answer([known])[0].text == "Ida Brandt"
    assert max(vote.verdict.confidence for vote in unsure) < 0.5
    shutil.rmtree(folders[1] / "familiarity")
    with pytest.raises(UsageError, match=r"missing.*export.familiarity=false"):
        Bank.load(memory_folder)


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    row = json.loads((folder / "bank.json").read_text())
    row.pop("check", None)  # as another program writes it
    edit(row)
    (folder / "bank.json").write_text(json.dumps(row))


@pytest.mark.parametrize(
    "path", ["../outside", "/etc", "shard-0/../../x", "C:\\x", "a\\..\\b", "link"]
)
def test_paths_outside_the_bank_are_refused(memory_folder: Path, path: str) -> None:
    shutil.copytree(memory_folder / "shard-0", memory_folder.parent / "outside")
    (memory_folder / "link").symlink_to(memory_folder.parent / "outside")
    change(memory_folder, lambda row: row["shards"][0].update(path=path))
    with pytest.raises(UsageError, match="leaves the bank's folder"):
        Bank.load(memory_folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda row: row.update(schema_version=99), "schema_version is 99"),
        (lambda row: row.update(composition="vote"), "'vote' is none of"),
        (lambda row: row.update(composition="mixture"), "inside fusion"),
        (lambda row: row.update(shards=[]), "no shards"),
        (lambda row: row["shards"][1].update(id=0), "shard id twice"),
        (lambda row: row["shards"][1].update(path="shard-9"), "no folder 'shard-9'"),
        (lambda row: row["shards"][0].update(extra=1), "not a bank that this version reads"),
        (lambda row: row.pop("base"), "has no field .base."),
        (
            lambda row: row["shards"][1].update(documents=2 * row["shards"][1]["documents"]),
            "shard 1 lists a document twice",
        ),
    ],
)
def test_malformed_banks_are_refused(
    memory_folder: Path, edit: Callable[[dict], object], message: str
) -> None:
    change(memory_folder, edit)
    with pytest.raises(UsageError, match=message):
        Bank.load(memory_folder)


def test_missing_and_changed_weights_are_found(memory_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encode first"):
        Bank.load(tmp_path / "nothing")
    weights = memory_folder / "shard-1" / "model.safetensors"
    with weights.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x55")
    load_manifest(memory_folder)
    with pytest.raises(RunError, match="weights of shard 1"):
        load_manifest(memory_folder, verify=True)
    weights.unlink()
    with pytest.raises(UsageError, match="no model weights"):
        load_manifest(memory_folder)


def test_bank_file_is_deterministic_and_holds_no_absolute_path(memory_folder: Path) -> None:
    before = (memory_folder / "bank.json").read_bytes()
    load_manifest(memory_folder).save(memory_folder)
    assert (memory_folder / "bank.json").read_bytes() == before
    assert str(memory_folder).encode() not in before
