"""Trainings that continue old weights: what these know, and kills while they are begun."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from memo_dist.config import load_config
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.identity import BaseModel
from memo_dist.synthesis.types import Reflection
from memo_dist.training import continued, renew
from memo_dist.training.continued import FILE, begin, load_start, settle, take_up
from memo_dist.training.examples import split_held_out
from memo_dist.training.recall import HELD_OUT
from memo_dist.training.trained_on import EXPORT_RECORD, TrainedOn

CONTINUE = load_config([], ["update.policy=continue", "memory.base=smollm2-135m"])
RETRAIN = load_config([], ["memory.base=smollm2-135m"])


def rows(count: int, name: str = "q") -> list[Reflection]:
    """Facts in four wordings each, and as many abstention questions as a quarter of the facts."""
    made = []
    for i in range(count):
        head = Reflection(f"{name}{i}", f"a{i}", "direct", (f"d{i}",), (), 0, "g", "v", "r")
        texts = [f"{name}{i} w{w}" for w in range(3)]
        made.append(head)
        made += [Reflection(t, f"a{i}", "paraphrase", head.sources, (), 0, "g", "v", "r",
                            parent=head.id) for t in texts]  # fmt: skip
        if i % 4 == 0:
            made.append(Reflection(f"u {name}{i}", "I don't know.", "abstain", head.sources, (), 0,
                                   "g", "v", "r"))  # fmt: skip
    return sorted(made, key=lambda row: row.id)


OLD = rows(200)
TRAINED, HELD = split_held_out(OLD, 16, 0)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A bank of one shard and its training; no weights of a model."""
    run = RunFolder(tmp_path / "run")
    memory, folder = run.memory_shard(0), run.train(0)
    lines = [{**row.to_json(), "shard": 0} for row in OLD]
    atomic.write_jsonl(run.reflections, lines)
    atomic.write_jsonl(run.memory / "reflections.jsonl", lines)
    atomic.write_jsonl(folder / HELD_OUT, (row.to_json() for row in HELD))
    memory.mkdir(parents=True)
    save_file({"w": np.zeros(2, np.float32)}, memory / "model.safetensors")
    read = {"held-out questions": hash_file(folder / HELD_OUT)}
    atomic.write_json(memory / EXPORT_RECORD, {"recipe": "x", "read": read})
    of("old").save(folder, "job")
    return run


def of(reflections: str) -> TrainedOn:
    return TrainedOn({}, "base", {}, reflections, {}, "corpus", "g", [])


def ids(reflections) -> set[str]:
    return {row.id for row in reflections}


def test_what_old_weights_were_trained_on_is_not_held_out():
    left = [row for row in OLD if int(row.sources[0][1:]) >= 40]
    new = sorted([*left, *rows(30, "n")], key=lambda row: row.id)
    assert ids(split_held_out(new, 16, 0)[1]) & ids(TRAINED), "else nothing is tested"
    trained, held = split_held_out(new, 16, 0, ids(TRAINED))
    assert not ids(held) & ids(TRAINED)
    assert ids(trained) | ids(held) == ids(new)
    kinds = [row.kind for row in held]
    assert kinds.count("abstain") >= 4
    assert len(held) - kinds.count("abstain") >= 12, "the old held-out wordings serve again"
    assert split_held_out(new, 16, 0, set()) == split_held_out(new, 16, 0)


def test_the_start_names_what_was_held_out(run):
    begin(run, CONTINUE, 0)
    assert load_start(run.train(0)) is None, "the training before is still there"
    take_up(run, 0)
    start = load_start(run.train(0))
    assert set(start.held_out) == ids(HELD)
    assert start.known(run, 0) == ids(TRAINED)
    # Another training in the folder, which began at the same weights: its held-out set is new.
    atomic.write_jsonl(run.train(0) / HELD_OUT, [])
    begin(run, CONTINUE, 0)
    take_up(run, 0)
    assert load_start(run.train(0)) == start
    # A training from the base in between: what was held out is not known any more.
    (run.train(0) / FILE).unlink()
    begin(run, CONTINUE, 0)
    take_up(run, 0)
    assert load_start(run.train(0)).known(run, 0) == ids(OLD)


def test_a_start_of_an_earlier_version_takes_all_for_trained(run):
    values = {"folder": "memory/shard-0", "weights": "w", "replay": 0.25}
    atomic.write_json(run.train(0) / FILE, values)
    assert load_start(run.train(0)).known(run, 0) == ids(OLD)
    atomic.write_json(run.train(0) / FILE, {**values, "held_out": 7})
    with pytest.raises(UsageError, match="cannot be read"):
        load_start(run.train(0))


@pytest.fixture
def renewing(run, monkeypatch) -> RunFolder:
    """The run after its reflections have changed."""
    base = BaseModel("b", run.root, "base", "", "")
    monkeypatch.setattr(renew, "memory_base", lambda *_: base)
    monkeypatch.setattr(renew, "current_inputs", lambda *_: [of("new")])
    return run


class Killed(BaseException):
    """The process ends here."""


def killed(*_):
    raise Killed


@pytest.mark.parametrize(
    "place",
    ["memo_dist.training.renew._drop", "shutil.rmtree", "memo_dist.training.renew.take_up",
     "pathlib.Path.replace"],
)  # fmt: skip
def test_a_kill_does_not_turn_a_continued_training_into_one_from_the_base(
    renewing, monkeypatch, place
):
    with monkeypatch.context() as patched:
        patched.setattr(place, killed)
        with pytest.raises(Killed):
            renew.drop_outdated(renewing, CONTINUE)
    assert renew.drop_outdated(renewing, CONTINUE) == [0]
    assert set(load_start(renewing.train(0)).held_out) == ids(HELD)
    assert [path.name for path in (renewing.root / "train").iterdir()] == ["shard-0"]
    assert [path.name for path in renewing.train(0).iterdir()] == [FILE]
    assert renew.drop_outdated(renewing, CONTINUE) == [0]
    assert load_start(renewing.train(0)) is not None


def test_a_note_that_a_kill_left_does_not_outlive_an_exact_update(renewing, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(renew, "take_up", killed)
        with pytest.raises(Killed):
            renew.drop_outdated(renewing, CONTINUE)
    assert renew.drop_outdated(renewing, RETRAIN) == [0]
    assert not any((renewing.root / "train").iterdir())
    settle(renewing, continues=True)
    assert load_start(renewing.train(0)) is None
    assert continued._waiting(renewing, 0).parent == renewing.root / "train"
