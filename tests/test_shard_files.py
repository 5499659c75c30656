"""A shard's reflections in a file of its own: the bytes that one process makes of all of them."""

import random
from collections import Counter
from pathlib import Path

import pytest
from synthesis_toy import factory, make_config, make_run

from memo_dist.cluster.ray_local import ray_session
from memo_dist.errors import DamagedFileError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.marker import damage
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.sorted_lines import first_line, lines_between
from memo_dist.memory.provenance import reflections_hash
from memo_dist.synthesis import merging
from memo_dist.synthesis.clean import Candidate, clean
from memo_dist.synthesis.engine import never
from memo_dist.synthesis.finish import finish
from memo_dist.synthesis.finish_remote import finish_remotely
from memo_dist.synthesis.journal import Journal, Record
from memo_dist.synthesis.partition import synthesize_partition
from memo_dist.synthesis.plan import document_places, make_plan
from memo_dist.synthesis.shard_clean import shard_rows
from memo_dist.synthesis.shard_files import marker_path, shard_files, shard_path, shard_reflections
from memo_dist.synthesis.source_texts import SourceTexts
from memo_dist.synthesis.stages import write_planned
from memo_dist.synthesis.tally import Tally
from memo_dist.synthesis.types import Reflection
from memo_dist.synthesis.worker import journal_path, part_path
from memo_dist.training.prepare import shard_reflections as trained_reflections

WRITTEN = ("reflections.jsonl", "synth/quarantine.jsonl", "synth/dataset/README.md")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A synthesis whose parts are written, not yet merged; some of its pairs go in the cleaning."""
    folder = tmp_path_factory.mktemp("toy")
    config = make_config()
    config.corpus.shards = 4
    odd = {n: f"The home of {n - 1} is town {n}. Item {n} is. It is thing {n}." for n in (3, 7, 8)}
    run = make_run(folder, config, odd)
    generator = factory(folder / "marks")()
    plan = make_plan(run.corpus, config, generator)
    write_planned(run, plan)
    for partition in range(plan.partitions):
        synthesize_partition(run, config, generator, partition, never)
    return run, plan, config.synthesis


def by_one_process(run, plan, limits) -> tuple[list[dict], list[dict]]:
    """All candidates in memory, cleaned shard by shard, then sorted: (kept, dropped) lines."""
    shards: dict[int, list[Candidate]] = {}
    for index, (name, _) in enumerate(plan.steps):
        for partition in range(plan.partitions):
            for line in atomic.read_jsonl(part_path(run, name, partition)):
                row = Reflection.from_json(line)
                shards.setdefault(row.shard, []).append(Candidate(index, row))
    offsets = {place.id: place.offset for place in document_places(run.corpus)}
    with SourceTexts(run.corpus, offsets) as ground:
        cleaned = [clean(rows, limits, ground) for _, rows in sorted(shards.items())]
    kept = sorted((row for one in cleaned for row in one.kept), key=lambda row: (row.id, row.shard))
    dropped = [row for one in cleaned for row in one.dropped if row.reason != "duplicate"]
    return [row.to_json() for row in kept], [row.to_json() for row in dropped]


@pytest.mark.parametrize("rows_a_part", [10**6, 40, 7])
def test_any_order_of_the_work_gives_the_bytes_of_one_process(toy, rows_a_part, monkeypatch):
    run, plan, limits = toy
    monkeypatch.setattr(merging, "ROWS_A_PART", rows_a_part)
    chance = random.Random(rows_a_part)

    def in_any_order(function, jobs):
        done = {n: function(jobs[n]) for n in chance.sample(range(len(jobs)), len(jobs))}
        return [done[n] for n in range(len(jobs))]

    summary = finish(run, plan, limits, in_any_order)
    kept, dropped = by_one_process(run, plan, limits)
    assert len(dropped) > 1
    assert run.reflections.read_bytes() == b"".join(map(atomic.json_line, kept))
    assert (run.synth / "quarantine.jsonl").read_bytes() == b"".join(map(atomic.json_line, dropped))
    assert summary.fingerprint == hash_file(run.reflections)
    assert summary.by_kind == Counter(row["kind"] for row in kept)
    assert sum(summary.documents.values()) == sum(len(row["sources"]) for row in kept)
    tables = sorted(path.name for path in (run.synth / "dataset" / "data").iterdir())
    parts = -(-len(kept) // rows_a_part)
    assert tables == [f"train-{part:05}-of-{parts:05}.parquet" for part in range(parts)]
    assert not (run.synth / "merging").exists()


def test_the_shards_files_hold_the_lines_of_the_whole_one_and_the_marker_names_them(toy):
    run, plan, limits = toy
    finish(run, plan, limits)
    rows = list(atomic.read_jsonl(run.reflections))
    files = shard_files(run)
    assert set(files) == {row["shard"] for row in rows} == {0, 1, 2, 3}
    for shard, file in files.items():
        mine = [row for row in rows if row["shard"] == shard]
        assert list(atomic.read_jsonl(shard_path(run, shard))) == mine
        assert file.rows == len(mine)
        assert file.kinds == Counter(row["kind"] for row in mine)
        assert file.ids == reflections_hash(map(Reflection.from_json, mine))
    assert not damage(marker_path(run))
    with shard_path(run, 1).open("ab") as stream:
        stream.write(b"\n")
    (line,) = damage(marker_path(run))
    assert "reflections-1.jsonl" in line
    with pytest.raises(DamagedFileError, match="SHA-256"):
        list(shard_reflections(run, 1))


def test_a_file_is_opened_once_for_a_shard(toy, monkeypatch):
    run, plan, limits = toy
    opened = Counter[str]()
    usual = Path.open

    def counted(path, *arguments, **options):
        opened[str(path.relative_to(run.root)) if path.is_relative_to(run.root) else ""] += 1
        return usual(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    finish(run, plan, limits)
    shards = len({unit.shard for unit in plan.units})
    parts = [part_path(run, name, n) for name, _ in plan.steps for n in range(plan.partitions)]
    assert {opened[str(path.relative_to(run.root))] for path in parts} == {shards}
    opened.clear()
    for shard in range(shards):
        assert trained_reflections(run, shard)
        assert opened[str(shard_path(run, shard).relative_to(run.root))] == 1
    assert not opened["reflections.jsonl"]


@pytest.mark.parametrize("change", ["other reflections", "no file", "no field"])
def test_without_files_of_the_present_reflections_the_whole_file_is_read(toy, change):
    run, plan, limits = toy
    finish(run, plan, limits)
    rows = list(atomic.read_jsonl(run.reflections))
    manifest = atomic.read_json(marker_path(run))
    if change == "other reflections":
        rows = rows[1:]
        atomic.write_jsonl(run.reflections, rows)
        manifest["summary"]["fingerprint"] = hash_file(run.reflections)
    elif change == "no file":
        shard_path(run, 2).unlink()
    else:
        del manifest["shards"]
    atomic.write_json(marker_path(run), manifest)
    assert shard_files(run) is None
    for shard in range(4):
        found = [row.to_json() for row in shard_reflections(run, shard)]
        assert found == [row for row in rows if row["shard"] == shard]


def test_parts_whose_shards_are_not_in_order_are_refused(tmp_path):
    def row(shard: int) -> dict:
        return Reflection("Q?", "A", "direct", ("d",), ("d:0-1",), shard, "g", "1", "r").to_json()

    path = tmp_path / "part.jsonl"
    for shards in ([0, 0, 2, 2], [], [1]):
        atomic.write_jsonl(path, map(row, shards))
        for shard in range(4):
            assert [found.shard for found in shard_rows(path, shard)] == [shard] * shards.count(
                shard
            )
    atomic.write_jsonl(path, map(row, [0, 1, 0, 1, 0, 1]))
    with pytest.raises(DamagedFileError, match="stands among those of shard"):
        list(shard_rows(path, 0))


def test_lines_are_found_by_halves(tmp_path):
    chance = random.Random(3)
    for count in (0, 1, 2, 9, 200):
        numbers = sorted(chance.randrange(100) for _ in range(count))
        path = tmp_path / "lines"
        path.write_bytes(b"".join(b"%d%s\n" % (n, b" " * chance.randrange(30)) for n in numbers))
        size = path.stat().st_size
        with path.open("rb") as stream:
            for low in range(-1, 102, 3):
                start = first_line(stream, size, lambda line: int(line) < low)  # noqa: B023
                found = [int(line) for line in lines_between(stream, start, size)]
                assert found == [n for n in numbers if n >= low]


def test_only_the_journals_of_named_partitions_are_read(tmp_path):
    run = RunFolder(tmp_path)
    tally = Tally(run, "direct", 3, ["unit-0", "unit-1", "unit-2"])
    for index in range(3):
        with Journal(journal_path(run, "direct", index)) as journal:
            journal.append(Record(f"unit-{index}", "key", False, [{}] * index, []))
    tally.read([2])
    assert tally.units == 1
    assert tally.numbers()["reflections"] == 2
    tally.read(range(3))
    assert tally.units == 3
    assert tally.numbers()["reflections"] == 3


def test_workers_of_ray_give_the_same_files(toy):
    run, plan, limits = toy
    finish(run, plan, limits)
    before = {name: (run.root / name).read_bytes() for name in WRITTEN}
    marker = marker_path(run).read_bytes()
    config = make_config()
    with ray_session(config.cluster, cores=2):
        finish_remotely(RunFolder(run.root), plan, limits)
    assert {name: (run.root / name).read_bytes() for name in WRITTEN} == before
    assert marker_path(run).read_bytes() == marker


def test_more_shards_than_open_files_can_be_merged(monkeypatch):
    limits = [(64, 4096)]
    monkeypatch.setattr(merging.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(merging.resource, "setrlimit", lambda _, both: limits.append(both))
    merging._allow_files(10)
    assert limits[-1] == (266, 4096)
    merging._allow_files(5)
    assert len(limits) == 2, "enough already"
    merging._allow_files(9000)
    assert limits[-1] == (4096, 4096), "as far as it may"
