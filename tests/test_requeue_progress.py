"""What every verb saves moves the mark by which a Slurm job is requeued; logs do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from memo_dist.change.receipt import FOLDER as RECEIPTS
from memo_dist.compare.comparing import JUDGED
from memo_dist.compare.task import CACHE, REQUESTS, Task
from memo_dist.config import Config
from memo_dist.errors import RunError
from memo_dist.fusion.latent.job import TRAINING_FOLDER
from memo_dist.fusion.latent.prepare import PREPARED
from memo_dist.fusion.logits.gates import GATE_CARD
from memo_dist.io.marker import COMPLETE
from memo_dist.io.runfolder import RunFolder
from memo_dist.launch.requeue import check_progress, progress_mark
from memo_dist.protocol.session import REQUESTS_FILE
from memo_dist.scaling.cells import RESULT
from memo_dist.stages.records import STAGES, TRAIN
from memo_dist.stages.state import has_begun, progress_files
from memo_dist.synthesis.worker import journal_path, part_path, requests_path
from memo_dist.training.checkpoint import tag
from memo_dist.training.enriched import BLOCKS
from memo_dist.verbs import VERBS


def synthesis(run):
    return [journal_path(run, "direct", 0), requests_path(run, "direct", 0),
            part_path(run, "direct", 0), run.reflections]  # fmt: skip


def training(run):
    shard = run.train(3)
    return [shard / BLOCKS / "0a.safetensors", shard / "checkpoints" / tag(7) / COMPLETE,
            shard / "final" / COMPLETE]  # fmt: skip


def export(run):
    return [run.memory_shard(0) / COMPLETE, run.generations / "gen-1" / "bank.json"]


def forget(run):
    return [*renewed(run), run.generations / RECEIPTS / "0001.json"]


def renewed(run):
    return [*synthesis(run), *training(run), *export(run)]


def fuse(run):
    folder = run.fusion("tiny-01234567")
    latent = folder / TRAINING_FOLDER
    return [latent / PREPARED, latent / "checkpoints" / tag(7) / COMPLETE, folder / GATE_CARD]


def evaluate(run):
    folder = run.eval("questions")
    return [folder / "predictions-direct.jsonl", folder / "protocol" / REQUESTS_FILE]


def compare(run):
    folder = run.compare("questions")
    task = Task(run, Config(), (), folder, "lora", None, 0, None, "key")
    cached = folder.parent / CACHE / "lora-0123"
    return [task.replies, folder / REQUESTS, folder / JUDGED, cached / "cost.json",
            cached / "training" / "checkpoints" / tag(7) / COMPLETE]  # fmt: skip


SAVED = {
    "demo": renewed, "encode": renewed, "synthesize": synthesis, "train": training,
    "export": export, "update": renewed, "forget": forget, "rebalance": renewed, "fuse": fuse,
    "evaluate": evaluate, "compare": compare,
    "scale": lambda run: [run.root / "cells" / "a" / RESULT],
}  # fmt: skip


def test_the_cases_are_the_verbs_that_save_and_can_be_launched():
    assert set(SAVED) == {name for name, verb in VERBS.items() if verb.saves and verb.launches}


def grow(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write("more\n")


@pytest.mark.parametrize("verb", SAVED)
def test_what_a_verb_saves_is_progress(verb, tmp_path):
    run = RunFolder(tmp_path)
    marks = [progress_mark(run)]
    for path in SAVED[verb](run):
        for _ in range(2):  # it appears, and it grows
            grow(path)
            marks.append(progress_mark(run))
    assert len(set(marks)) == len(marks)
    grow(run.logs / "memo-dist.log")
    grow(run.train(3) / "STATUS.json")
    assert progress_mark(run) == marks[-1]


def test_a_comparison_that_goes_on_is_requeued(tmp_path):
    run = RunFolder(tmp_path)
    replies = SAVED["compare"](run)[0]
    for life in range(4):
        grow(replies)
        assert "0 without progress" in check_progress(run, "7", life, 1)
    assert "1 without progress" in check_progress(run, "7", 4, 1)
    with pytest.raises(RunError, match="2 lives in a row"):
        check_progress(run, "7", 5, 1)


@pytest.mark.parametrize("name", [".ranks/7-0-0/0.json", ".meeting"])
def test_a_meeting_of_ranks_begins_no_training(name, tmp_path):
    """Else the first `train` after a synthesis could not set a key of the training."""
    run = RunFolder(tmp_path)
    grow(tmp_path / "train" / name)
    assert not has_begun(run, TRAIN)
    grow(run.train(0) / "job.json")
    assert has_begun(run, TRAIN)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_declares_its_progress_and_its_end_is_some(stage, tmp_path):
    run = RunFolder(tmp_path)
    assert stage.progress
    for pattern in stage.done:
        path = tmp_path / pattern.replace("**/", "").replace("*", "0")
        grow(path)
        assert path in progress_files(run), pattern
