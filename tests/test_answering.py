"""Every mode of answering, opened once and asked by many threads; streams; transcripts."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch
from fused_models import train_models
from protocol_cases import CHOIR, CLOCKS, FACTS, OUTSIDE, RIVER, SCRIPT, executive, settings
from safetensors.torch import save_file
from trained_bank import write_bank

from memo_dist.answering import MODES, Options, open_answerer
from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.fusion.backbone import find_backbone, folder_name
from memo_dist.fusion.latent.connector import GATE_PACE, Connector, ConnectorShape
from memo_dist.fusion.latent.job import CONNECTOR_FOLDER
from memo_dist.fusion.latent.store import WEIGHTS, connector_identity, save_card
from memo_dist.fusion.streaming import written_apart
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.manifest import load_manifest
from memo_dist.protocol.transcript import read_transcript

THREADS = 16
PLAIN = [*FACTS[0], *FACTS[1], *OUTSIDE]
HOPS = [RIVER, CLOCKS, CHOIR, *list(FACTS[0])[:2]]
ROWS = [*SCRIPT, *({"question": q, "steps": [{"question": q}]} for q in HOPS[3:])]
"""Of the executive: some questions take several turns, the plain facts one."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return train_models(tmp_path_factory.mktemp("answering"))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with executive(tmp_path_factory.mktemp("executive"), rows=ROWS) as place:
        yield place


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """A run with a bank of two shards, and a connector (open gates) from it to the backbone."""
    _, shards, backbone = folders
    run = RunFolder(tmp_path_factory.mktemp("run") / "run")
    write_bank(run.memory, shards, FACTS)
    config = Config()
    config.fusion.backbone = str(backbone)
    base = find_backbone(config, run.memory)
    folder = run.fusion(folder_name(base)) / CONNECTOR_FOLDER
    shape = ConnectorShape((0, 1), 64, 64, 2, 16, (0, -1))
    connector = Connector(shape, seed=1)
    with torch.no_grad():
        for layer in connector.attentions:
            layer.gate.fill_(0.9 / GATE_PACE)
    names = {"backbone_name": base.name, "memory_base": "tiny"}
    counts = dict.fromkeys(("inside", "outside", "held_out_inside", "held_out_outside"), 0)
    card = {**names, **connector_identity(base, load_manifest(run.memory)), "examples": counts}
    save_card(folder, card, shape, LatentConfig(), {})
    save_file(connector.state_dict(), folder / WEIGHTS)
    return run


@pytest.fixture(scope="module")
def config(folders, url):
    return settings(url, f"fusion.backbone={folders[2]}", "memory.max_answer_tokens=12")


def told(answered):
    """All that an answer says, without the time it took; confidence apart (it is rounded)."""
    answer = asdict(replace(answered.answer, seconds=0.0, confidence=0.0))
    return answer, dict(answered.details), pytest.approx(answered.answer.confidence, abs=1e-5)


def same(answered, expected):
    answer, details, confidence = expected
    assert told(answered)[:2] == (answer, details)
    assert answered.answer.confidence == confidence


@pytest.mark.parametrize("mode", MODES)
def test_sixteen_threads_get_the_answers_of_one(mode, run, config, tmp_path):
    questions = HOPS if MODES[mode].executive else PLAIN
    with open_answerer(run, config, mode, Options(transcripts=tmp_path)) as answerer:
        alone = {q: told(answerer.answer([q])[0]) for q in questions}
        texts = {answer["text"] for answer, _, _ in alone.values()}
        assert len(texts) >= 2, "the questions have different answers"
        together = threading.Barrier(THREADS)

        def ask(number):
            mine = [questions[(number + i) % len(questions)] for i in range(2)]
            together.wait(30)
            return mine, [answered for q in mine for answered in answerer.answer([q])]

        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(ask, range(THREADS)))
    for mine, answers in found:
        for question, answered in zip(mine, answers, strict=True):
            same(answered, alone[question])


def test_modes_that_share_a_bank_may_answer_at_once(run, config):
    modes = ("direct", "logits", "latent")
    options = Options(bank=Bank.of_run(run, config))
    opened = {mode: open_answerer(run, config, mode, options) for mode in modes}
    alone = {mode: [told(a) for a in opened[mode].answer(PLAIN)] for mode in modes}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda mode: (mode, opened[mode].answer(PLAIN)), modes * 4))
    for mode, answers in found:
        for answered, expected in zip(answers, alone[mode], strict=True):
            same(answered, expected)


def test_hybrid_asks_the_nearest_trained_question(run, config):
    trained, text = next(iter(FACTS[0].items()))
    other = f"{trained.rstrip('?')}, as far as anybody around here remembers?"
    with open_answerer(run, config, "hybrid") as answerer:
        (known,) = answerer.answer([trained])
        (asked,) = answerer.answer([other])
    assert asked.answer.text == known.answer.text == text


def test_hybrid_is_refused_without_the_trained_questions(run, config, tmp_path):
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(run.memory, copy.memory)
    with pytest.raises(UsageError, match=r"mode 'hybrid' looks up .* use --mode direct"):
        open_answerer(copy, config, "hybrid")
    with open_answerer(copy, config, "direct") as answerer:
        assert answerer.answer(list(FACTS[0])[:1])[0].answer.text


@pytest.mark.parametrize("mode", [name for name in MODES if MODES[name].streams])
def test_streams_of_many_threads_are_the_texts(mode, run, config):
    known = list(FACTS[0])
    with open_answerer(run, config, mode) as answerer:
        whole = {q: "".join(answerer.stream(q)) for q in known}
        for question, answered in zip(known, answerer.answer(known), strict=True):
            assert whole[question] == answered.answer.text or answered.answer.abstained
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda q: (q, "".join(answerer.stream(q))), known * 4))
    assert all(whole[question] == text for question, text in found)


@pytest.mark.parametrize("mode", ["logits", "latent"])
def test_a_slow_or_lost_reader_of_a_stream_keeps_nobody_waiting(mode, run, config):
    question = next(iter(FACTS[0]))
    with open_answerer(run, config, mode) as answerer, ThreadPoolExecutor(1) as other:
        pieces = answerer.stream(question)
        first = next(pieces)
        (answered,) = other.submit(answerer.answer, [question]).result(30)
        assert answered.answer.text.startswith(first) or answered.answer.abstained
        pieces.close()
        assert other.submit(answerer.answer, [question]).result(30)
        assert not torch.is_inference_mode_enabled()


def test_a_stream_raises_what_its_writer_raised_after_the_pieces_before():
    def write():
        yield "a"
        raise UsageError("too long")

    pieces = written_apart(write)
    assert next(pieces) == "a"
    with pytest.raises(UsageError, match="too long"):
        next(pieces)


def test_a_reader_that_leaves_ends_the_writing():
    written, ended, goes_on = [], threading.Event(), threading.Event()

    def write():
        try:
            for number in range(1000):
                written.append(number)
                yield str(number)
                goes_on.wait(10)
        finally:
            ended.set()

    pieces = written_apart(write)
    assert next(pieces) == "0"
    closing = threading.Thread(target=pieces.close)
    closing.start()
    goes_on.set()
    closing.join(10)
    assert ended.wait(10)
    assert len(written) < 1000


@pytest.mark.parametrize("mode", ["direct", "protocol"])
def test_a_mode_without_a_stream_says_so(mode, run, config, tmp_path):
    options = Options(transcripts=tmp_path)
    with (
        open_answerer(run, config, mode, options) as answerer,
        pytest.raises(UsageError, match="only as a whole"),
    ):
        answerer.stream("Who?")


def test_an_unknown_mode_lists_those_that_exist(run, config):
    with pytest.raises(UsageError, match=r"did you mean 'latent'.*direct, hybrid, logits, latent"):
        open_answerer(run, config, "latnt")
    with pytest.raises(UsageError, match=r"executive\.kind is 'none'"):
        open_answerer(run, Config(), "protocol-full")


def test_transcripts_go_where_they_are_sent(run, config, tmp_path):
    for options, folder in ((Options(transcripts=tmp_path), tmp_path), (Options(), run.ask(""))):
        with open_answerer(run, config, "protocol", options) as answerer:
            (answered,) = answerer.answer([RIVER])
        place = RunFolder(run.root).root / answered.details["transcript"]
        assert place == folder or place.parent == folder
        assert list(read_transcript(place))[-1]["answer"] == answered.answer.text
    again = open_answerer(run, config, "protocol")
    again.close()
    again.close()
    assert len(list(run.ask("").iterdir())) == 2, "each opening has a folder of its own"
