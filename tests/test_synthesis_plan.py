"""The plan: units of one shard, stable ids, partitions; and the journal's own promises."""

import random
from dataclasses import replace

import pytest
from llm_cases import pair
from synthesis_toy import ToyGenerator, make_config, make_run

from memo_dist.cluster.resources import Resources
from memo_dist.corpus.manifest import load_chunks, load_documents, shard_of
from memo_dist.errors import UsageError
from memo_dist.io.atomic import jsonl_offsets, write_jsonl
from memo_dist.io.checked_lines import from_line, to_line
from memo_dist.synthesis import group_units
from memo_dist.synthesis.buckets import hash_buckets
from memo_dist.synthesis.journal import Journal, JournalTail, Record
from memo_dist.synthesis.plan import StepUnits, UnitReader, UnitSpec, check_settings, make_plan
from memo_dist.synthesis.pool import Share, worker_share
from memo_dist.synthesis.worker import part_path


@pytest.fixture
def corpus(tmp_path):
    return make_run(tmp_path, make_config()).corpus


@pytest.fixture
def generator(tmp_path):
    return ToyGenerator(str(tmp_path / "marks"), 0)


def test_units_cover_the_corpus_once_and_stay_inside_their_shard(corpus, generator):
    plan = make_plan(corpus, make_config(), generator)
    with UnitReader(corpus, 17) as reader:
        units = [reader.read(spec) for spec in plan.units]
    documents = [document for unit in units for document in unit.documents]
    chunks = [chunk for unit in units for chunk in unit.chunks]
    assert sorted(document.id for document in documents) == [f"doc{i:02}" for i in range(24)]
    assert {document.id: document for document in documents} == {
        document.id: document for document in load_documents(corpus)
    }
    assert sorted(chunks, key=lambda chunk: chunk.id) == sorted(
        load_chunks(corpus), key=lambda chunk: chunk.id
    )
    for unit in units:
        assert len(unit.documents) <= 2
        assert {shard_of(document.id, 2) for document in unit.documents} == {unit.shard}
        assert {chunk.document for chunk in unit.chunks} == {item.id for item in unit.documents}
    assert len({unit.seed for unit in units}) == len(units)
    dealt = [unit for index in range(3) for unit in StepUnits(plan.units, 3).partition(index)]
    assert sorted(unit.id for unit in dealt) == sorted(unit.id for unit in plan.units)


def test_a_changed_document_changes_only_its_own_unit(tmp_path, generator):
    plans = []
    for name, odd in (("old", {}), ("new", {5: "Item 5 is gone."})):
        corpus = make_run(tmp_path / name, make_config(), odd).corpus
        plans.append(make_plan(corpus, make_config(), generator))
    old, new = ({unit.id for unit in plan.units} for plan in plans)
    assert len(old - new) == len(new - old) == 1
    assert plans[0].hash != plans[1].hash


@pytest.mark.parametrize("change", ["insert", "remove"])
def test_a_document_that_comes_or_goes_changes_only_its_own_bucket(change):
    names = [f"doc{i:04}" for i in range(1000)]
    chance = random.Random(2)
    for _ in range(30):
        if change == "insert":
            other = sorted([*names, f"doc{chance.random()}"])
        else:
            other = sorted(set(names) - {chance.choice(names)})
        before, after = cut(names), cut(other)
        assert max(map(len, after)) <= 8
        assert sorted(name for bucket in after for name in bucket) == other
        # Its bucket changes, splits in two, or joins the one beside it.
        assert before != after
        assert len(before - after) <= 2
        assert len(after - before) <= 2


def cut(names: list[str]) -> set[tuple[str, ...]]:
    buckets = hash_buckets(names, str, lambda some: len(some) <= 8)
    return {tuple(bucket) for bucket in buckets}


def test_the_same_key_is_never_separated():
    assert list(hash_buckets(["a", "a", "a"], str, lambda some: len(some) < 2)) == [["a"] * 3]


def test_few_units_may_leave_partitions_empty():
    unit = UnitSpec("00000000000000ff", 0, (), ())
    units = StepUnits((unit,), 2)
    assert [units.partition(index) for index in range(2)] == [(), (unit,)]


def test_the_gate_is_no_part_of_the_plan_but_the_seed_is(corpus, generator):
    plan, config = make_plan(corpus, make_config(), generator), make_config()
    config.synthesis.max_rejected_fraction = 0.9
    assert make_plan(corpus, config, generator).hash == plan.hash
    config.run.seed = 99
    other = make_plan(corpus, config, generator)
    assert other.hash != plan.hash
    with pytest.raises(UsageError, match=r"run\.seed was 17, is now 99"):
        check_settings(plan.settings, other.settings, corpus)


def test_a_step_has_to_exist(corpus, generator):
    config = make_config()
    config.synthesis.steps = ["direct", "cross"]
    with pytest.raises(UsageError, match="it has direct, paraphrase, abstain"):
        make_plan(corpus, config, generator)


class Grouping:
    """A step that keeps what it is given of each shard, and forms no group."""

    name = "cross"

    def __init__(self):
        self.given = {}

    def groups(self, shard, reflections):
        self.given[shard] = list(reflections)
        return []


def test_the_groups_of_a_shard_are_found_without_the_rows_of_others(
    tmp_path, generator, monkeypatch
):
    run = make_run(tmp_path, make_config())
    plan = make_plan(run.corpus, make_config(), generator)
    rows = {
        (step, part, shard): replace(pair(f"{step} {part} {shard}?", "x"), shard=shard)
        for step in ("direct", "paraphrase")
        for part in range(plan.partitions)
        for shard in (0, 1)
    }
    for step in ("direct", "paraphrase"):
        for part in range(plan.partitions):
            told = [rows[step, part, shard].to_json() for shard in (0, 1)]
            run.step(step).mkdir(parents=True, exist_ok=True)
            write_jsonl(part_path(run, step, part), told)
    whole = []

    def offsets(path):
        whole.append(path)
        return jsonl_offsets(path)

    monkeypatch.setattr(group_units, "jsonl_offsets", offsets)
    step = Grouping()
    units = group_units.grouped_units(run, plan, step, ["direct", "paraphrase"])
    assert units.units == ()
    for shard in (0, 1):
        assert step.given[shard] == [row for key, row in rows.items() if key[2] == shard]
    assert len(whole) == 2 * plan.partitions


RECORD = Record("u1", "k1", False, [{"question": "é?"}], [])


def test_a_journal_gives_back_what_was_appended(tmp_path):
    path = tmp_path / "journal" / "part-0.jsonl"
    other = replace(RECORD, unit="u2", reflections=[])
    with Journal(path) as journal:
        assert journal.get("u1", "k1") is None
        journal.append(RECORD)
        journal.append(other)
        assert journal.get("u1", "k1") == RECORD
    with Journal(path) as journal:
        assert journal.get("u2", "k1") == other
        assert journal.get("u1", "another key") is None


def test_every_cut_of_the_last_line_is_survived(tmp_path):
    path = tmp_path / "part-0.jsonl"
    other = replace(RECORD, unit="u2")
    first = to_line(RECORD.to_row())
    whole = first + to_line(other.to_row())
    for length in range(len(first) + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        with Journal(path) as journal:
            assert journal.get("u1", "k1") == RECORD
            assert journal.get("u2", "k1") is None
            journal.append(other)
        with Journal(path) as journal:
            assert journal.get("u2", "k1") == other


def test_a_changed_byte_is_noticed():
    line = to_line(RECORD.to_row())
    row = from_line(line)
    assert row is not None
    assert Record.from_row(row) == RECORD
    assert from_line(line.replace(b"question", b"Question")) is None
    assert from_line(b"[1]\n") is None


def test_two_writers_lose_nothing(tmp_path):
    path = tmp_path / "part-0.jsonl"
    with Journal(path) as one, Journal(path) as two:
        one.append(RECORD)
        two.append(replace(RECORD, unit="u2"))
        one.append(replace(RECORD, unit="u3"))
        assert one.get("u3", "k1") == replace(RECORD, unit="u3")
    tail = JournalTail(path)
    assert [record.unit for record in tail.new_records()] == ["u1", "u2", "u3"]
    assert list(tail.new_records()) == []


@pytest.mark.parametrize(
    ("kind", "offered", "share", "workers"),
    [
        ("rules", Resources(8, 2, 0), Share(1.0, 0.0), 8),
        ("openai", Resources(8, 2, 0), Share(0.25, 0.0), 32),
        ("transformers", Resources(8, 2, 0), Share(1.0, 1.0), 2),
        ("writer", Resources(8, 2, 0), Share(1.0, 1.0), 2),
        ("writer", Resources(8, 0, 0), Share(1.0, 0.0), 8),
    ],
)
def test_a_generator_with_a_model_has_a_gpu_of_its_own(kind, offered, share, workers):
    assert worker_share(kind, offered) == (share, workers)
