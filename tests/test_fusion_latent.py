"""F2: a frozen backbone attends to the hidden states of memories, through a trained connector."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from cli import memo_dist, start, wait_until
from protocol_cases import FACTS, OUTSIDE
from safetensors.torch import load_file
from trained_bank import train_shards, write_bank
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from memo_dist.cli.main import run as run_cli
from memo_dist.config import Config, to_yaml
from memo_dist.corpus.types import Chunk
from memo_dist.errors import UsageError
from memo_dist.fusion.backbone import Backbone, Prompt
from memo_dist.fusion.latent import (
    Connector,
    ConnectorShape,
    prepare,
)
from memo_dist.fusion.latent.connector import GATE_PACE
from memo_dist.fusion.latent.fusion import LatentFusion
from memo_dist.fusion.latent.prepare import connector_job
from memo_dist.fusion.latent.slots import MemoryText
from memo_dist.fusion.latent.store import load_connector
from memo_dist.fusion.types import Belief, Request, Settings
from memo_dist.io import atomic
from memo_dist.io.marker import mark_complete
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.loading import Voice
from memo_dist.models.identity import identify
from memo_dist.training import checkpoint
from memo_dist.training.ledger import lineage

KNOWN = next(iter(FACTS[0]))


# -- with trained memories -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two shard memories, and a backbone of the same vocabulary with other weights."""
    root = tmp_path_factory.mktemp("latent")
    shards = train_shards(root, FACTS, OUTSIDE)
    model = AutoModelForCausalLM.from_pretrained(shards[0])
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(root / "backbone")
    AutoTokenizer.from_pretrained(shards[0]).save_pretrained(root / "backbone")
    return root, shards, root / "backbone"


def fusion(folders, gates=(0.9, 0.9)):
    _, shards, place = folders
    loaded = Backbone.load(identify("backbone", place))
    width = loaded.model.config.hidden_size
    shape = ConnectorShape((0, 1), width, width, 2, 16, (0, -1))
    connector = Connector(shape, seed=1)
    with torch.no_grad():
        for layer, gate in zip(connector.attentions, gates, strict=True):
            layer.gate.fill_(gate / GATE_PACE)
    voices = [Voice(ShardMemory.load(shard), None) for shard in shards]
    return LatentFusion(loaded, Prompt(loaded, ""), connector, voices)


def request(question, silent=(False, False)):
    beliefs = (Belief(question, 0.5, silent[0], "Ida"), Belief(question, 0.5, silent[1], "Jo"))
    return Request(question, beliefs)


def digest(model):
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


QUESTIONS = [*FACTS[0], *FACTS[1], *OUTSIDE]


def test_cached_writing_equals_whole_forwards(folders):
    fused = fusion(folders)
    model = fused.attachment.connector  # loaded together
    assert not model.closed
    asked = request(QUESTIONS[0])
    (text,) = fused.generate([asked], Settings(8))
    prompt = fused._source.prompt(asked.question)
    for token in text.tokens:
        with torch.no_grad(), fused.attachment.reading(fused.slots([asked])):
            row = fused._source.model.model(torch.tensor([prompt])).logits[0, -1]
        assert int(row.argmax()) == token
        prompt = [*prompt, token]


@pytest.mark.parametrize("sample", [False, True])
def test_a_batch_changes_nothing(folders, sample):
    fused, settings = fusion(folders), Settings(10, sample=sample, seed=3)
    asked = [request(q, (i % 3 == 0, i % 2 == 0)) for i, q in enumerate(QUESTIONS)]
    together = fused.generate(asked, settings, batch_size=16)
    alone = [fused.generate([one], settings)[0] for one in asked]
    assert [text.tokens for text in together] == [text.tokens for text in alone]


def test_a_silent_bank_leaves_the_backbones_own_text(folders):
    fused, closed = fusion(folders), fusion(folders, (0.0, 0.0))
    for question in QUESTIONS:
        own = closed.alone(request(question), Settings(10))
        silent = fused.generate([request(question, (True, True))], Settings(10))[0]
        assert silent.tokens == own.tokens
        assert silent.log_probs == own.log_probs


def test_slots_begin_where_the_answer_does(folders):
    """At the place that says its first token; what was read before is in them, and no slot."""
    fused = fusion(folders)
    asked = [request(QUESTIONS[0]), request(QUESTIONS[1], (True, False))]
    chat = fused._memories[0].voice.memory.chat
    question, draft = chat.prompt_ids(QUESTIONS[0]), chat.answer_ids("Ida")
    (text, silent) = fused.memory_texts(asked)[0]
    assert text == MemoryText((*question, *draft), len(question) - 1)
    assert silent == MemoryText()
    found = fused._memories[0].read([text, silent])
    assert found.present.tolist() == [[True] * (len(draft) + 1), [False] * (len(draft) + 1)]
    whole = fused._memories[0].read([MemoryText(text.ids)])
    torch.testing.assert_close(found.states[0], whole.states[0, len(question) - 1 :])


def test_streamed_pieces_are_the_text(folders):
    fused = fusion(folders)
    (text,) = fused.generate([request(KNOWN)], Settings(10))
    assert "".join(fused.stream(request(KNOWN), Settings(10))) == text.text


def test_all_models_stay_as_they_were(folders):
    fused = fusion(folders)
    models = [fused._source.model.model, *(mind.voice.memory.model for mind in fused._memories)]
    before = [digest(model) for model in models]
    fused.generate([request(q) for q in QUESTIONS], Settings(6))
    assert [digest(model) for model in models] == before


# -- through the command line ----------------------------------------------------------------------

LATENT = (
    "fusion.latent.held_out=0.3",
    "fusion.latent.batch=4",
    "fusion.latent.micro_batch=2",
    "fusion.latent.epochs=20",
    "fusion.latent.every=1",
    "fusion.latent.lr=0.004",
    "cluster.threads=1",
)


def make_run(root, folders):
    run = RunFolder(root / "run")
    write_bank(run.memory, folders[1], FACTS)
    run.corpus.mkdir()
    chunk = Chunk("doc-0", 0, 30, "Ida Brandt founded Tarn Works.")
    atomic.write_jsonl(run.corpus / "chunks.jsonl", [chunk.to_json()])
    config = Config()
    config.evaluate.baselines = []
    atomic.write_text(run.config, to_yaml(config))
    return run


def fuse(run, folders, *more, **options):
    arguments = ("fuse", run.root, "--mode", "latent", "--backbone", folders[2], *LATENT, *more)
    return memo_dist(*arguments, **options)


def folder_of(run):
    (found,) = run.root.glob("fusion/*/latent")
    return found


@pytest.fixture(scope="module")
def fused(folders, tmp_path_factory):
    """A run whose connector was trained by two ranks under Ray, and what was said."""
    run = make_run(tmp_path_factory.mktemp("fused"), folders)
    before = {path: path.read_bytes() for path in run.memory.rglob("*.safetensors")}
    done = fuse(run, folders, "cluster.workers=2", "train.zero_stage=2")
    assert done.returncode == 0, done.stderr
    assert before == {path: path.read_bytes() for path in run.memory.rglob("*.safetensors")}
    return run, done.stdout


def test_the_connector_learns_and_says_how_well(fused):
    run, said = fused
    card = atomic.read_json(folder_of(run) / "connector.json")
    nats = card["nats_per_token"]
    assert nats["before"]["inside"]["fused"] == nats["before"]["inside"]["backbone"]
    losses = [row["loss"] for row in atomic.read_jsonl(training_of(run) / "metrics.jsonl")]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    assert "held-out loss (nats/token)" in said
    assert "gated cross-attention behind layers" in (folder_of(run) / "README.md").read_text()


def test_status_tells_how_the_connector_is(fused, capsys):
    run, _ = fused
    assert run_cli(["status", str(run.root), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)[f"fuse {folder_of(run).parent.name}"]
    assert (state["state"], state["step"]) == ("done", state["steps"])


def test_a_connector_of_another_format_is_refused_and_would_be_trained_again(
    fused, tmp_path, monkeypatch
):
    run, _ = fused
    folder = tmp_path / "latent"
    shutil.copytree(folder_of(run), folder)
    card = atomic.read_json(folder / "connector.json")
    atomic.write_json(folder / "connector.json", card | {"schema_version": 1})
    mark_complete(folder)
    with pytest.raises(UsageError, match="of format 1, not 2; run memo-dist fuse"):
        load_connector(folder, {})
    config, base = Config(), SimpleNamespace(weights_hash="a", path="b", name="c")
    now = connector_job(run, config, base, 1).identity
    monkeypatch.setattr(prepare, "FORMAT", 3)
    assert connector_job(run, config, base, 1).identity != now


def training_of(run):
    return folder_of(run).parent / "latent-training"


def test_one_rank_and_two_train_the_same_connector(fused, folders, tmp_path):
    """To 1e-4: the sums of a step are added in another order."""
    alone = make_run(tmp_path, folders)
    done = fuse(alone, folders, "cluster.launcher=process", new=True)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(folder_of(run) / "connector.safetensors") for run in (alone, fused[0]))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-4)


def test_a_stopped_training_goes_on_to_the_same_bytes(fused, folders, tmp_path):
    runs = [make_run(tmp_path / name, folders) for name in ("stopped", "unbroken")]
    short = ("cluster.launcher=process", "fusion.latent.epochs=60")
    arguments = ("fuse", runs[0].root, "--mode", "latent", "--backbone", folders[2], *LATENT)
    log = tmp_path / "log"
    process = start(*arguments, *short, log=log)
    metrics = runs[0].root / "fusion"
    wait_until(lambda: list(metrics.glob("*/latent-training/metrics.jsonl")), 60, "steps", process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, log.read_text()
    assert not list(metrics.glob("*/latent"))
    for run in runs:
        done = fuse(run, folders, *short)
        assert done.returncode == 0, done.stderr
    stopped, unbroken = (folder_of(run) / "connector.safetensors" for run in runs)
    assert stopped.read_bytes() == unbroken.read_bytes()
    lines = (training_of(runs[0]) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, len(steps) + 1))
    cards = [atomic.read_json(folder_of(run) / "connector.json") for run in runs]
    assert cards[0]["nats_per_token"] == cards[1]["nats_per_token"], "before: of the new connector"
    state = checkpoint.read_state(folder_of(runs[0]))
    read = lineage(training_of(runs[0]), state.job)
    assert read.positions == state.position == 4 * len(steps)
    assert len(read.commits) > 1, "the checkpoint of the stop, and the end"


def test_ask_and_evaluate(fused, tmp_path, capsys):
    run, _ = fused
    assert run_cli(["ask", str(run.root), KNOWN, "--mode", "latent", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mode"] == "latent"
    assert told["backbone_forwards"] > 0
    assert run_cli(["ask", str(run.root), KNOWN, "--mode", "latent", "--stream"]) == 0
    streamed = capsys.readouterr().out.strip()
    assert streamed == told["answer"] or told["abstained"]
    questions = tmp_path / "questions.jsonl"
    atomic.write_jsonl(questions, [{"id": "1", "question": KNOWN, "answer": FACTS[0][KNOWN]}])
    arguments = ["evaluate", str(run.root), "--questions", str(questions), "--name", "q"]
    assert run_cli([*arguments, "--modes", "direct,latent"]) == 0
    scores = atomic.read_json(run.eval("q") / "scores.json")
    assert scores["latent"]["n"] == 1
    assert scores["latent"]["calls_per_query"] > scores["direct"]["calls_per_query"]


def test_the_same_command_again_trains_nothing(fused, folders):
    run, said = fused
    before = (folder_of(run) / "connector.safetensors").stat().st_mtime_ns
    done = fuse(run, folders, "cluster.workers=2", "train.zero_stage=2")
    assert (done.returncode, done.stdout) == (0, said)
    assert (folder_of(run) / "connector.safetensors").stat().st_mtime_ns == before


def test_another_backbone_or_family_is_refused(fused, folders, capsys):
    run, _ = fused
    other = f"fusion.backbone={folders[1][1]}"
    assert run_cli(["ask", str(run.root), KNOWN, "--mode", "latent", other]) == 2
    assert "run memo-dist fuse RUN --mode latent" in capsys.readouterr().err
    card = folder_of(run) / "connector.json"
    kept = card.read_text()
    atomic.write_json(card, {**json.loads(kept), "memory_family": "0" * 64})
    mark_complete(card.parent)
    assert run_cli(["ask", str(run.root), KNOWN, "--mode", "latent"]) == 2
    error = capsys.readouterr().err
    assert "joins memory_family 0000" in error
    assert "Traceback" not in error
    atomic.write_text(card, kept)
    mark_complete(card.parent)


def test_examples_that_ranks_cannot_share_are_refused(folders, tmp_path):
    run = make_run(tmp_path, folders)
    done = fuse(run, folders, "cluster.launcher=process", "fusion.latent.micro_batch=3")
    assert done.returncode == 2
    assert "fusion.latent.batch=4" in done.stderr
    done = fuse(run, folders, "cluster.launcher=process", "fusion.latent.memory_layers=[0,7]")
    assert done.returncode == 2
    assert "the memory has hidden layers 0 to 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(run.root.glob("fusion/*/latent"))
