"""Stages: what each one reads decides whether it is done, and its record names its files."""

from __future__ import annotations

import logging
import re
import shutil
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path
from pickle import dumps, loads

import pytest
import torch
from changes_here import write_final
from cli import ENCODE_SECONDS, TINY, memo_dist
from safetensors.torch import load_file

from memo_dist import pipeline
from memo_dist.answering import open_answerer
from memo_dist.cluster.resources import Resources
from memo_dist.config import load_config
from memo_dist.errors import DamagedFileError, UsageError
from memo_dist.evaluation.methods import MemoryAnswerer, memory_identity
from memo_dist.fusion.latent.prepare import connector_job
from memo_dist.fusion.logits.answering import gate_identity
from memo_dist.fusion.logits.gates import FEATURES, LearnedGate
from memo_dist.fusion.logits.stage import fit_run_gate
from memo_dist.io import atomic, generations
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.launch.requeue import progress_mark
from memo_dist.memory.bank import Bank
from memo_dist.memory.manifest import load_manifest
from memo_dist.models.identity import hash_weights
from memo_dist.runs import existing_run, open_run
from memo_dist.stages.records import EXPORT, STAGES, SYNTHESIS, TRAIN
from memo_dist.stages.state import is_done, require, started_stages
from memo_dist.synthesis.finish import check_reflections, finish, finished_summary
from memo_dist.synthesis.generators import generator_factory
from memo_dist.synthesis.partition import run_partition_alone
from memo_dist.synthesis.plan import UNITS, make_plan
from memo_dist.training import bank_work, checkpoint, export
from memo_dist.training.bank_work import BankWork
from memo_dist.training.done import pending_shards
from memo_dist.training.prepare import (
    BUILT_FROM,
    HELD_OUT,
    memory_base,
    prepare_job,
    trained_base,
)
from memo_dist.training.trained_on import FILE, load_record

SMALL = (*TINY, "train.epochs=2", "memory.calibration_facts=4")
FIRST, SECOND = ("company-overview", "manual-hobrand"), ("policy-calibration",)


def documents(folder: Path, names) -> Path:
    folder.mkdir(parents=True)
    source = Path(str(package_files("memo_dist.demo") / "data" / "documents"))
    for name in names:
        shutil.copyfile(source / f"{name}.md", folder / f"{name}.md")
    return folder


def train_here(corpus: Path, root: Path) -> None:
    """A run up to its training, in this process: no Ray, and random weights for trained ones.

    What is tested here is what stages record and compare, not how well they do their work.
    """
    config = load_config([], SMALL)
    for partition in range(config.synthesis.partitions):
        run_partition_alone(root, config, corpus, partition)
    with open_run(root, config, "auto") as run:
        plan = make_plan(run.corpus, config, generator_factory(config)())
        finish(run, plan, config.synthesis)
        base = memory_base(run, config)
        for shard in pending_shards(run, config, base):
            write_final(prepare_job(run, config, shard, base, Resources(1, 0, 2**30)))


def test_shards_prepared_in_other_processes_are_those_prepared_here(tmp_path, monkeypatch):
    config = load_config([], (*SMALL, "corpus.shards=2"))
    corpus = documents(tmp_path / "documents", (*FIRST, "history-company"))
    for partition in range(config.synthesis.partitions):
        run_partition_alone(tmp_path / "run", config, corpus, partition)
    have = Resources(2, 0, 2**30)
    monkeypatch.setattr(bank_work, "on_workers", _pickled)
    with open_run(tmp_path / "run", config, "auto") as run:
        finish(run, make_plan(run.corpus, config, generator_factory(config)()), config.synthesis)
        found = []
        for size in (2**30, 0):
            monkeypatch.setattr(bank_work, "LARGE_BYTES", size)
            work = BankWork()
            jobs = work.jobs(run, config, work.pending(run, config), have)
            files = sorted((run.root / "train").glob("shard-*/*"))
            found.append((jobs, {path: path.read_bytes() for path in files}))
    assert found[0] == found[1]
    assert sorted(found[0][0]) == [0, 1]
    assert len(found[0][1]) == 10


def _pickled(function, jobs, doing):
    """What reaches a worker and comes back has been pickled."""
    return [loads(dumps(loads(dumps(function))(loads(dumps(job))))) for job in jobs]


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A run over the first documents; tests change copies of it."""
    root = tmp_path_factory.mktemp("first")
    train_here(documents(root / "documents", FIRST), root / "run")
    run = RunFolder(root / "run")
    pipeline.run_export(run, config_of(run))
    return run.root


@pytest.fixture
def run(first, tmp_path) -> RunFolder:
    """A copy that a test may change."""
    return RunFolder(Path(shutil.copytree(first, tmp_path / "run")))


def config_of(run: RunFolder):
    return existing_run(run.root)[1]


def listed(run: RunFolder) -> list[str]:
    (shard,) = load_manifest(run.memory).shards
    return [document.id for document in shard.documents]


def synthesise_other(run: RunFolder) -> None:
    """The run's synthesis, as if it had been done again with one reflection less."""
    rows = list(atomic.read_jsonl(run.reflections))[1:]
    atomic.write_jsonl(run.reflections, rows)
    marker = run.synth / "manifest.json"
    manifest = atomic.read_json(marker)
    manifest["summary"]["fingerprint"] = hash_file(run.reflections)
    atomic.write_json(marker, manifest)


def change_weights(folder: Path) -> None:
    """Other weights in files of the same size."""
    (path,) = folder.glob("model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


# -- true exports ----------------------------------------------------------------------------------


def test_a_stale_export_is_rebuilt(run, tmp_path):
    """Encode A, remove all but its memory, encode B: the bank is B's in list and weights."""
    before, identity = hash_weights(run.memory_shard(0)), memory_identity(run.memory)
    for folder in (run.corpus, run.synth, run.root / "train"):
        shutil.rmtree(folder)
    run.reflections.unlink()
    corpus = documents(tmp_path / "second", SECOND)
    train_here(corpus, run.root)
    done = memo_dist("encode", corpus, "--run", run.root, *SMALL, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert listed(run) == list(SECOND)
    (shard,) = load_manifest(run.memory, verify=True).shards
    assert shard.weights_hash != before
    exported = load_file(run.memory_shard(0) / "model.safetensors")
    trained = load_file(run.train(0) / "final" / "model.safetensors")
    assert all(torch.equal(exported[name], trained[name]) for name in trained)
    assert memory_identity(run.memory) != identity  # no answer of A's memory is used again


def test_other_documents_over_a_trained_memory_are_refused(run, tmp_path):
    """The same, but the training stays: nothing is trained, and the message says what to do."""
    shutil.rmtree(run.corpus)
    config = config_of(run)
    pipeline.run_corpus(run, config, documents(tmp_path / "second", SECOND))
    with pytest.raises(UsageError, match="fingerprint of the corpus was"):
        pipeline.run_synthesis(run, config)
    with pytest.raises(UsageError, match=r"documents.jsonl: \w{16} then, \w{16} now"):
        pending_shards(run, config, trained_base(run, config))
    pipeline.run_export(run, config)  # what was trained is A's, whatever corpus stands beside it
    assert listed(run) == sorted(FIRST)


def test_training_over_other_reflections_is_not_done(run):
    config = config_of(run)
    base = memory_base(run, config)
    assert not pending_shards(run, config, base)
    synthesise_other(run)
    with pytest.raises(UsageError, match=r"(?s)shard 0 .*reflections: .* then.*remove .*shard-0 "):
        pending_shards(run, config, base)
    with pytest.raises(UsageError, match=r"(?s)built from other .*remove .*train to train anew"):
        pipeline.run_training(run, config)
    shutil.rmtree(run.train(0))
    again = memory_base(run, config)
    assert atomic.read_json(again.path / BUILT_FROM)["reflections"] == hash_file(run.reflections)
    assert list(pending_shards(run, config, again)) == [0]


def test_reflections_changed_by_hand_are_refused(run):
    config = config_of(run)
    rows = list(atomic.read_jsonl(run.reflections))
    atomic.write_jsonl(run.reflections, rows[1:])
    with pytest.raises(UsageError, match=r"reflections\.jsonl: \w{16} then"):
        pending_shards(run, config, trained_base(run, config))


def test_another_base_under_the_same_name_is_refused(run):
    config = config_of(run)
    folder = run.root / "train" / "base"
    change_weights(folder)
    checkpoint.mark_complete(folder)
    with pytest.raises(UsageError, match=r"(?s)weights of memory\.base: \w{16} then"):
        pending_shards(run, config, memory_base(run, config))
    with pytest.raises(UsageError, match=r"memory\.base=scratch has weights .*bring that base"):
        pipeline.run_export(run, config)


def test_weights_of_another_training_are_refused(run):
    config = config_of(run)
    _, record = load_record(run.train(0))
    record.save(run.train(0), "0" * 64)
    with pytest.raises(UsageError, match="the record beside them is of 0000"):
        pipeline.run_export(run, config)


def test_an_export_follows_its_held_out_set_and_is_else_left_alone(run, monkeypatch):
    config = config_of(run)
    weights = run.memory_shard(0) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    pipeline.run_export(run, config)
    assert weights.stat().st_mtime_ns == before
    held = run.train(0) / HELD_OUT
    rows = list(atomic.read_jsonl(held))
    assert rows
    atomic.write_jsonl(held, rows[:-1])
    with monkeypatch.context() as patched:
        patched.setattr(generations, "switch", lambda *_: pytest.fail("as if killed here"))
        with pytest.raises(pytest.fail.Exception):
            pipeline.run_export(run, config)
    assert run.memory_shard(0) / weights.name == weights  # the old bank holds until then
    assert Bank.load(run.memory, verify=True).answer(["Who?"])
    pipeline.run_export(run, config)
    assert run.memory.name == "gen-1"
    assert not run.memory_shard(0).samefile(weights.parent)
    record = atomic.read_json(run.memory_shard(0) / export.EXPORT_RECORD)
    assert set(record["read"]) == set(EXPORT.reads)
    assert record["read"]["held-out questions"] == hash_file(held)


def test_ray_starts_only_where_something_is_to_be_computed(run, first, monkeypatch):
    (run.memory / "bank.json").unlink()

    @contextmanager
    def refused(_):
        pytest.fail("Ray was started")
        yield

    monkeypatch.setattr(pipeline, "ray_session", refused)
    pipeline.encode(run, config_of(run), first.parent / "documents")
    assert listed(run) == sorted(FIRST)


def test_nothing_is_fitted_on_other_reflections_than_the_memory_knows(run):
    config = config_of(run)
    base = trained_base(run, config)
    synthesise_other(run)
    with pytest.raises(UsageError, match=r"trained on reflections .*memo-dist export"):
        connector_job(run, config, base, 1)
    with pytest.raises(UsageError, match=r"trained on reflections .*memo-dist export"):
        fit_run_gate(run, config)


def test_a_connector_is_for_its_passages_and_calibrations(run):
    config = config_of(run)
    base = trained_base(run, config)
    before = connector_job(run, config, base, 1)
    path = run.memory_shard(0) / "calibration.json"
    atomic.write_json(path, {**atomic.read_json(path), "threshold": 0.9})
    calibrated = connector_job(run, config, base, 1)
    with (run.corpus / "chunks.jsonl").open("ab") as stream:
        stream.write(b"\n")
    passages = connector_job(run, config, base, 1)
    assert len({before.identity, calibrated.identity, passages.identity}) == 3
    # A connector of an earlier version has recorded neither; it stays usable.
    assert before.earlier == calibrated.earlier == passages.earlier


def test_a_gate_is_for_one_calibration(run, tmp_path):
    base, manifest = trained_base(run, config_of(run)), load_manifest(run.memory)
    fitted = gate_identity(base, manifest, run.memory)
    gate = LearnedGate(torch.zeros(len(FEATURES)), 0.0)
    gate.save(tmp_path / "now", fitted)
    gate.save(tmp_path / "earlier", {k: v for k, v in fitted.items() if k != "calibration"})
    LearnedGate.load(tmp_path / "now", fitted)
    path = run.memory_shard(0) / "calibration.json"
    atomic.write_json(path, {**atomic.read_json(path), "threshold": 0.9})
    now = gate_identity(base, manifest, run.memory)
    with pytest.raises(UsageError, match=r"fitted for calibration .*fuse again"):
        LearnedGate.load(tmp_path / "now", now)
    LearnedGate.load(tmp_path / "earlier", now)


def test_answers_cite_only_what_the_memory_was_trained_on(run, caplog):
    rows = [row for row in atomic.read_jsonl(run.reflections) if row["kind"] == "direct"]
    bank = Bank.load(run.memory, run.reflections)
    assert bank.shards[0].sources.find(rows[-1]["question"], rows[-1]["answer"])
    synthesise_other(run)
    with caplog.at_level(logging.WARNING):
        bank = Bank.load(run.memory, run.reflections)
    assert bank.shards[0].sources.find(rows[-1]["question"], rows[-1]["answer"]) == ()
    assert "trained on other reflections" in caplog.text


def test_reflections_without_their_corpus_are_refused(run):
    (run.corpus / "documents.jsonl").unlink()
    with pytest.raises(UsageError, match=r"documents\.jsonl: \w+ then, missing now"):
        check_reflections(run)


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_damaged_reflections_are_refused_by_training_and_written_anew(run, caplog, kept):
    """Half of the lines, too: at the border of a line nothing is torn."""
    data = run.reflections.read_bytes()
    lines = data.splitlines(keepends=True)
    run.reflections.write_bytes(b"".join(lines[: int(kept * len(lines))]))
    with pytest.raises(DamagedFileError, match=r"is damaged or .*run `memo-dist synthesize`"):
        BankWork().pending(run, config_of(run))
    config = config_of(run)
    plan = make_plan(run.corpus, config, generator_factory(config)())
    assert finished_summary(run, plan) is None
    finish(run, plan, config.synthesis)
    assert "written anew from the finished steps" in caplog.text
    assert run.reflections.read_bytes() == data


def test_answers_of_another_length_are_not_used_again(run):
    identities = set()
    for limit in (8, 48):
        config = load_config([run.config], [f"memory.max_answer_tokens={limit}"])
        with open_answerer(run, config, "direct") as answerer:
            identities.add(MemoryAnswerer(answerer, run.memory).identity)
    assert len(identities) == 2


# -- runs of the version before --------------------------------------------------------------------


@pytest.fixture
def old(run) -> RunFolder:
    """The run as 1f7257c would have left it: no records, a generator called ``embedded``."""
    (run.train(0) / FILE).unlink()
    base = run.root / "train" / "base"
    (base / BUILT_FROM).unlink()
    checkpoint.mark_complete(base)
    job = "ab" * 32  # the configuration's hash was another one
    for path, key in ((run.train(0) / "job.json", "identity"),
                      (run.train(0) / "final" / "state.json", "job")):  # fmt: skip
        atomic.write_json(path, {**atomic.read_json(path), key: job})
    checkpoint.mark_complete(run.train(0) / "final")
    atomic.write_json(run.memory_shard(0) / "export.json", {"recipe": "cd" * 32})
    checkpoint.mark_complete(run.memory_shard(0))
    for path in (run.synth / "manifest.json", *run.synth.glob("*/manifest.json")):
        text = path.read_text().replace('"rules 1"', '"embedded 1"')
        path.write_text(re.sub(r'("generator.kind": ?)"rules"', r'\1"embedded"', text))
        manifest = atomic.read_json(path)
        del manifest["settings"][UNITS]  # its units were windows over the sorted documents
        atomic.write_json(path, manifest)
    text = run.config.read_text().partition("\n")[2]  # nor did it keep hashes
    run.config.write_text(text.replace("kind: rules", "kind: embedded"))
    bank = atomic.read_json(run.memory / "bank.json")
    kept = {key: value for key, value in bank.items() if key not in ("check", "sha256")}
    atomic.write_json(run.memory / "bank.json", kept)
    assert "embedded" in run.config.read_text() + (run.synth / "manifest.json").read_text()
    return run


def test_an_old_run_is_recognised_as_done(old, first, monkeypatch):
    weights = hash_weights(old.memory_shard(0))
    Bank.load(old.memory, old.reflections).answer(["Who?"])
    monkeypatch.setattr(pipeline, "ray_session", lambda _: pytest.fail("Ray was started"))
    pipeline.encode(old, config_of(old), first.parent / "documents")
    assert hash_weights(old.memory_shard(0)) == weights
    assert listed(old) == sorted(FIRST)
    job, record = load_record(old.train(0))
    assert job == "ab" * 32
    assert sorted(record.documents) == sorted(FIRST)


def test_an_old_run_that_has_changed_is_refused(old):
    config = config_of(old)
    (old.memory / "bank.json").unlink()  # so nothing names the base that it was trained from
    with pytest.raises(UsageError, match=r"earlier version of memo-dist.*remove .*train"):
        pipeline.run_training(old, config)
    assert not (old.train(0) / FILE).exists()


def test_an_old_run_with_other_reflections_is_refused(old):
    config = config_of(old)
    synthesise_other(old)
    with pytest.raises(UsageError, match=r"earlier version of memo-dist.*remove .*train"):
        pipeline.run_training(old, config)


# -- records ---------------------------------------------------------------------------------------


def test_records_say_what_has_begun_what_is_done_and_what_progressed(run, tmp_path):
    assert started_stages(run) == ["corpus", "synthesis", "train", "export"]
    assert started_stages(RunFolder(tmp_path / "new")) == []
    _, record = load_record(run.train(0))
    assert set(TRAIN.reads) <= set(vars(record))
    mark = progress_mark(run)
    (run.logs / "more.log").write_text("nothing gained")
    assert progress_mark(run) == mark
    for stage in (EXPORT, TRAIN, SYNTHESIS):
        assert is_done(run, stage)
        (path,) = run.root.glob(stage.done[0])
        path.unlink()
        assert progress_mark(run) != mark
        with pytest.raises(UsageError, match="memo-dist"):
            require(run, stage)
        mark = progress_mark(run)


def test_needs_name_stages_that_come_before():
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    for place, stage in enumerate(STAGES):
        assert set(stage.needs) <= set(names[:place])
