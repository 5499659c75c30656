"""A bank of several shards through the real command line: side by side, each for itself."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import psutil
import pytest
from cli import ENCODE_SECONDS, TINY, memo_dist, start, wait_until

from memo_dist.cluster.placement import Placement, plan_placement
from memo_dist.cluster.resources import Resources, usable_cores
from memo_dist.config import load_config
from memo_dist.corpus.manifest import shard_of
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank

SHARDS = 3
SETTINGS = (*TINY, f"corpus.shards={SHARDS}", "train.max_failures=0")
VICTIM = 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Two documents of the demo for each shard."""
    folder = tmp_path_factory.mktemp("corpus")
    counts = dict.fromkeys(range(SHARDS), 0)
    source = Path(str(files("memo_dist.demo") / "data" / "documents"))
    for document in sorted(source.glob("*.md")):
        shard = shard_of(document.name, SHARDS)
        if counts[shard] < 2:
            shutil.copyfile(document, folder / document.name)
            counts[shard] += 1
    return folder


@pytest.fixture(scope="module")
def broken(corpus, tmp_path_factory):
    """A training in which the rank of one shard was killed and not replaced."""
    run = tmp_path_factory.mktemp("bank") / "run"
    done = memo_dist("synthesize", corpus, "--run", run, *SETTINGS, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    log = run.parent / "log"
    driver = start("train", run, "train.epochs=40", log=log)
    stepped = run / "train" / f"shard-{VICTIM}" / "metrics.jsonl"
    wait_until(stepped.exists, ENCODE_SECONDS, "the first step of the victim", driver)
    rank = wait_until(lambda: _rank_of(run, VICTIM), ENCODE_SECONDS, "the rank", driver)
    rank.kill()
    code = driver.wait(ENCODE_SECONDS)
    return run, code, log.read_text()


def test_one_shard_fails_and_the_others_finish(broken):
    run, code, log = broken
    assert code == 1, log
    assert f"1 of {SHARDS} shard(s) failed" in log
    assert f"shard {VICTIM}: train shard {VICTIM}: rank 0 failed" in log
    assert "Traceback" not in log
    trained = {shard for shard in range(SHARDS) if _final(run, shard).exists()}
    assert trained == set(range(SHARDS)) - {VICTIM}
    state = json.loads(memo_dist("status", run, "--json").stdout)
    assert state["bank"] == {"done": SHARDS - 1, "failed": 1, "shards": SHARDS, "state": "failed"}
    assert state[f"train shard-{VICTIM}"]["state"] == "failed"
    assert "rank 0 failed" in state[f"train shard-{VICTIM}"]["error"]
    if usable_cores() > 1:
        times = {shard: _times(run, shard) for shard in (0, VICTIM)}
        assert min(times[VICTIM]) < max(times[0]), "the first shards trained side by side"
    refused = memo_dist("export", run)
    assert refused.returncode == 2
    assert f"shard {VICTIM}" in refused.stderr


def test_the_same_command_continues_that_shard_alone(broken):
    run, _, _ = broken
    before = {shard: _stamp(run, shard) for shard in range(SHARDS) if shard != VICTIM}
    done = memo_dist("train", run, "track.to=[tensorboard]", seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert _final(run, VICTIM).exists()
    folder = run / "train" / f"shard-{VICTIM}"
    sent = atomic.read_json(folder / "trackers.json")["tensorboard"]["step"]
    assert sent == list(atomic.read_jsonl(folder / "metrics.jsonl"))[-1]["step"]
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert {shard: _stamp(run, shard) for shard in before} == before
    assert "train shard 0" not in done.stderr
    state = json.loads(memo_dist("status", run, "--json").stdout)
    assert state["bank"]["state"] == "done"


def test_a_bank_of_several_shards_answers(broken):
    run, _, _ = broken
    done = memo_dist("export", run, seconds=ENCODE_SECONDS, new=True)
    assert done.returncode == 0, done.stderr
    bank = atomic.read_json(run / "memory" / "bank.json")
    assert [row["id"] for row in bank["shards"]] == list(range(SHARDS))
    assert bank["composition"] == "question_likelihood"
    documents = [d["id"] for row in bank["shards"] for d in row["documents"]]
    assert len(documents) == len(set(documents)) == 2 * SHARDS
    direct = [
        row for row in atomic.read_jsonl(run / "reflections.jsonl") if row["kind"] == "direct"
    ]
    votes = Bank.load(run / "memory").votes([row["question"] for row in direct])
    own = [vote[0].shard.id == row["shard"] for vote, row in zip(votes, direct, strict=True)]
    assert sum(own) >= 0.9 * len(own), "questions go to the shard that was taught them"
    reflection = next(row for row in direct if row["shard"] == 2)
    answers = [_ask(run, reflection["question"], limit) for limit in (0, 1e-6)]
    for answer in answers:
        del answer["seconds"]
        assert sorted(answer["shards"]) == list(range(SHARDS))
    assert answers[0] == answers[1], "streamed shards answer like loaded ones"


def test_a_bank_whose_questions_were_not_trained_is_composed_by_confidence(broken):
    """Not what the configuration says by now counts, but how a shard was trained."""
    run, _, _ = broken
    job = run / "train" / "shard-0" / "job.json"
    values = atomic.read_json(job)
    del values["train"]["question_loss"]  # as of a version that did not know the key
    atomic.write_json(job, values)
    done = memo_dist("export", run, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert atomic.read_json(RunFolder(run).memory / "bank.json")["composition"] == "confidence"


def have(cores: int, gpus: int) -> Resources:
    return Resources(cores, gpus, 2**34)


@pytest.mark.parametrize(
    ("settings", "resources", "expected"),
    [
        ((), have(2, 0), Placement(1, False, 2, 1)),
        (("corpus.shards=4",), have(2, 0), Placement(1, False, 1, 2)),
        (("corpus.shards=4", "cluster.shards_at_once=1"), have(2, 0), Placement(1, False, 2, 1)),
        (("corpus.shards=4", "cluster.threads=2"), have(4, 0), Placement(1, False, 2, 2)),
        ((), have(16, 4), Placement(4, True, 4, 1)),
        (("corpus.shards=4",), have(16, 8), Placement(2, True, 2, 4)),
        (("corpus.shards=3",), have(16, 8), Placement(2, True, 2, 3)),
        (("corpus.shards=8",), have(16, 4), Placement(1, True, 4, 4)),
        (("corpus.shards=8", "cluster.workers=4"), have(16, 8), Placement(4, True, 2, 2)),
    ],
)
def test_shards_are_packed_onto_what_there_is(settings, resources, expected):
    assert plan_placement(load_config([], settings), resources) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["cluster.workers=4"], "cluster.workers=4 needs 4 cores, this cluster has 2"),
        (["cluster.threads=4"], "cluster.workers=1 of cluster.threads=4 needs 4 cores"),
    ],
)
def test_too_few_cores_are_told_with_have_and_want(settings, message):
    with pytest.raises(UsageError, match=message):
        plan_placement(load_config([], settings), have(2, 0))


def _ask(run: Path, question: str, loaded_gb: float) -> dict[str, object]:
    asked = memo_dist("ask", run, question, "--json", f"memory.loaded_gb={loaded_gb}")
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def _final(run: Path, shard: int) -> Path:
    return run / "train" / f"shard-{shard}" / "final" / "COMPLETE"


def _times(run: Path, shard: int) -> list[float]:
    rows = atomic.read_jsonl(run / "train" / f"shard-{shard}" / "metrics.jsonl")
    return [row["time"] for row in rows]


def _stamp(run: Path, shard: int) -> int:
    return _final(run, shard).stat().st_mtime_ns


def _rank_of(run: Path, shard: int) -> psutil.Process | None:
    """The process that holds a shard's lock: its rank 0."""
    lock = str(run / "train" / f"shard-{shard}" / ".lock")
    for process in psutil.process_iter():
        try:
            if lock in [file.path for file in process.open_files()]:
                return process
        except psutil.Error:
            continue
    return None
