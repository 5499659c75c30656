"""The synthesis engine on a real Ray: results, kills, resumes, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from synthesis_toy import factory, make_config, make_run

from memo_dist.cluster.ray_local import ray_session
from memo_dist.config.schema import ClusterConfig
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.io.atomic import read_json, read_jsonl, write_json
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.status import read_status
from memo_dist.synthesis.engine import synthesize
from memo_dist.synthesis.step_run import MAX_DEATHS

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def session():
    with ray_session(ClusterConfig(), cores=2, env={"PYTHONPATH": str(HERE)}) as resources:
        yield resources


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(run, its result files by relative path) of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("unbroken")
    run = make_run(root, make_config())
    synthesize(run, make_config(), factory(root / "marks"))
    return run, results(run)


def results(run: RunFolder) -> dict[str, bytes]:
    """Every file that must not depend on what happened on the way."""
    paths = [run.reflections, run.synth / "manifest.json", run.synth / "dataset" / "README.md"]
    paths += [run.synth / "quarantine.jsonl"]
    paths += [path for path in run.synth.glob("*/**/*.json*") if path.parent.name != "journal"]
    return {str(path.relative_to(run.root)): path.read_bytes() for path in paths}


def ran(marks: Path) -> Counter:
    """How often each (step, unit) was run to its end."""
    return Counter(tuple(path.name.split("-")[1:3]) for path in marks.glob("ran-*"))


def test_reflections_are_complete_sorted_and_traceable(unbroken):
    run, _ = unbroken
    rows = list(read_jsonl(run.reflections))
    documents = {row["id"] for row in read_jsonl(run.corpus / "documents.jsonl")}
    # 24 documents x 2 facts, as direct and paraphrase, and one fixed question a shard
    assert Counter(row["kind"] for row in rows) == {"direct": 48, "paraphrase": 48, "abstain": 2}
    assert rows == sorted(rows, key=lambda row: (row["id"], row["shard"]))
    assert {source for row in rows for source in row["sources"]} == documents
    ids = {row["id"] for row in rows}
    assert all(row["parent"] in ids for row in rows if row["kind"] == "paraphrase")
    summary = read_json(run.synth / "manifest.json")["summary"]
    assert summary["fingerprint"] == hash_file(run.reflections)
    assert summary["rejected"] == {"question": 24}
    assert summary["dropped"] == {"duplicate": 14}  # the fixed question of 16 units
    assert summary["without_reflections"] == []
    assert read_status(run.synth)["state"] == "done"
    assert "It reads only sentences" in (run.synth / "dataset" / "README.md").read_text()


def test_a_finished_synthesis_returns_without_work(unbroken, tmp_path):
    run, before = unbroken
    summary = synthesize(run, make_config(), factory(tmp_path / "marks"))
    assert summary.reflections == 98
    assert not ran(tmp_path / "marks")
    assert results(run) == before


def test_damaged_reflections_are_written_anew_from_the_finished_steps_without_ray(
    unbroken, tmp_path, monkeypatch, caplog
):
    run, before = unbroken
    data = run.reflections.read_bytes()
    run.reflections.write_bytes(data[: len(data) // 2])
    refuse = "memo_dist.synthesis.engine.ray_session"
    monkeypatch.setattr(refuse, lambda *_: pytest.fail("Ray was started"))
    synthesize(run, make_config(), factory(tmp_path / "marks"))
    assert not ran(tmp_path / "marks")
    assert results(run) == before
    assert "written anew from the finished steps" in caplog.text


def test_a_killed_worker_changes_nothing(unbroken, tmp_path):
    run, marks = make_run(tmp_path, make_config()), tmp_path / "marks"
    killed = []

    def kill_one_worker() -> None:
        deadline = time.monotonic() + 180
        while not killed and time.monotonic() < deadline:
            pids = [int(path.name[4:]) for path in marks.glob("pid-*")]
            if pids and len(list(marks.glob("ran-*"))) >= 3:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one_worker)
    killer.start()
    synthesize(run, make_config(), factory(marks, delay=0.1))
    killer.join()
    assert killed
    assert len(list(marks.glob("pid-*"))) > 2  # another worker took over
    assert results(run) == unbroken[1]


def test_a_killed_driver_resumes_to_the_same_bytes(unbroken, tmp_path):
    run, marks = make_run(tmp_path, make_config()), tmp_path / "marks"
    command = [sys.executable, str(HERE / "synthesis_toy.py"), str(run.root), str(marks), "0.3"]
    driver = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for(lambda: sum(ran(marks).values()) >= 5)
    finally:
        driver.kill()
        driver.wait()
    assert not run.reflections.exists()
    # At once: the dying workers of the killed driver may still append to the journals.
    synthesize(run, make_config(), factory(marks))
    assert results(run) == unbroken[1]
    repeated = [unit for unit, times in ran(marks).items() if times > 1]
    assert len(repeated) <= 4  # at most what two workers had in hand, twice


def test_a_stop_request_keeps_what_was_done(unbroken, tmp_path):
    run, marks = make_run(tmp_path, make_config()), tmp_path / "marks"
    with pytest.raises(StoppedError, match="run the same command again"):
        synthesize(run, make_config(), factory(marks, delay=0.1), lambda: len(ran(marks)) >= 4)
    assert read_status(run.synth)["state"] == "stopped"
    done = len(list(read_jsonl_lines(run)))
    assert done >= 3
    synthesize(run, make_config(), factory(marks))
    assert sum(ran(marks).values()) <= 3 * 16 + 4
    assert results(run) == unbroken[1]


def test_torn_and_mangled_journal_lines_are_redone(unbroken, tmp_path):
    run = reopened(unbroken[0], tmp_path)
    journal = run.step("direct") / "journal" / "part-0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    lines[1] = lines[1].replace(b"thing", b"think")
    journal.write_bytes(b"".join(lines)[:-20])
    marks = tmp_path / "marks"
    synthesize(run, make_config(), factory(marks))
    assert len(ran(marks)) == 2
    assert results(run) == unbroken[1]


def test_a_damaged_part_file_is_made_again_from_the_journal(unbroken, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(unbroken[0].root, run.root)
    (run.step("paraphrase") / "part-1.jsonl").write_text("")
    run.reflections.unlink()
    synthesize(run, make_config(), factory(tmp_path / "marks"))
    assert not ran(tmp_path / "marks")
    assert results(run) == unbroken[1]


def test_another_partition_count_is_refused(unbroken):
    run, before = unbroken
    config = make_config()
    config.synthesis.partitions = 5
    with pytest.raises(UsageError, match=r"synthesis\.partitions was 3, is now 5"):
        synthesize(run, config, factory(run.root))
    assert results(run) == before


def test_other_settings_are_refused_before_anything_is_complete(unbroken, tmp_path):
    run = reopened(unbroken[0], tmp_path)
    config = make_config()
    config.run.seed = 18
    with pytest.raises(UsageError, match=r"run\.seed was 17, is now 18"):
        synthesize(run, config, factory(tmp_path / "marks"))


def test_a_step_that_the_generator_lacks_is_refused(unbroken, tmp_path):
    config = make_config()
    config.synthesis.steps = ["direct", "verify"]
    with pytest.raises(UsageError, match="names verify, which generator toy does not have"):
        synthesize(unbroken[0], config, factory(tmp_path / "marks"))


def test_a_unit_that_raises_is_quarantined_and_tried_again_by_the_next_launch(unbroken, tmp_path):
    config, marks = make_config(), tmp_path / "marks"
    text = (unbroken[0].root.parent / "source" / "doc03.txt").read_text()
    run = make_run(tmp_path, config, {3: f"{text} BOOM is odd."})
    config.synthesis.max_rejected_fraction = 0.05
    with pytest.raises(RunError, match=r"1 of 16 units failed.*ValueError: cannot read this"):
        synthesize(run, config, factory(marks))
    config.synthesis.max_rejected_fraction = 0.2  # the gate may move on resume
    summary = synthesize(run, config, factory(marks))
    assert summary.failed_units == 3
    assert "doc03" in summary.without_reflections
    assert len(summary.without_reflections) == 2  # the two documents of the unit
    rows = [row for path in run.synth.glob("direct/quarantine/*.jsonl") for row in read_jsonl(path)]
    failed = [row for row in rows if row["reason"].startswith("failed")]
    assert len(failed) == 1
    assert "Traceback" in failed[0]["raw"]
    assert "doc03" in failed[0]["sources"]


def test_a_transient_failure_heals_on_resume(tmp_path):
    config, marks = make_config(), tmp_path / "marks"
    run = make_run(tmp_path, config, {3: "BOOM is odd. Rain is wet"})
    config.synthesis.max_rejected_fraction = 0.0
    with pytest.raises(RunError, match="1 of 16 units failed"):
        synthesize(run, config, factory(marks))
    assert read_status(run.synth)["state"] == "failed"
    (marks / "mended").touch()
    summary = synthesize(run, config, factory(marks))
    assert summary.failed_units == 0
    assert summary.documents["doc03"] == 4


def test_a_unit_that_kills_its_workers_ends_the_run_and_is_named(tmp_path):
    config = make_config()
    run = make_run(tmp_path, config, {7: "DIE is fatal."})
    with pytest.raises(RunError, match=r"next documents .*doc07.*worker died 4 times; first: "):
        synthesize(run, config, factory(tmp_path / "marks"))


def test_worker_deaths_with_progress_between_them_do_not_add_up(tmp_path):
    config, marks = make_config(), tmp_path / "marks"
    config.synthesis.partitions = config.cluster.synthesis_workers = 1
    config.synthesis.steps = ["direct"]
    texts = {index: f"Item {index} is thing {index}. FALL is once." for index in (0, 4, 6, 10, 14)}
    run = make_run(tmp_path, config, texts)
    summary = synthesize(run, config, factory(marks))
    assert len(list(marks.glob("died-*"))) > MAX_DEATHS + 1
    assert len(summary.documents) == 24


def test_a_reflection_of_another_shard_is_an_error(tmp_path):
    config = make_config()
    run = make_run(tmp_path, config, {7: "LEAK is bad."})
    with pytest.raises(RunError, match=r"outside the unit: \['elsewhere'\]"):
        synthesize(run, config, factory(tmp_path / "marks"))


def test_worker_and_partition_order_do_not_change_the_reflections(unbroken, tmp_path):
    config = make_config()
    config.cluster.synthesis_workers = 1
    run = make_run(tmp_path, config)
    synthesize(run, config, factory(tmp_path / "marks"))
    assert results(run) == unbroken[1]


def reopened(run: RunFolder, folder: Path) -> RunFolder:
    """A copy of a finished run as a crash in its last second might have left it."""
    copy = RunFolder(folder / "run")
    shutil.copytree(run.root, copy.root)
    copy.reflections.unlink()
    (copy.synth / "manifest.json").unlink()
    for path in copy.synth.glob("*/manifest.json"):
        manifest = read_json(path)
        del manifest["counts"], manifest["parts"]
        write_json(path, {**manifest, "state": "planned"})
    return copy


def read_jsonl_lines(run: RunFolder):
    for path in run.synth.glob("*/journal/*.jsonl"):
        yield from (json.loads(line) for line in path.read_bytes().splitlines())


def wait_for(condition, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
