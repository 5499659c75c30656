"""The engine on a real Ray and a real HTTP server that plays a model."""

import json
import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from request_toy import (
    factory,
    log_rows,
    make_config,
    make_run,
    server,
)

from memo_dist.cluster.ray_local import ray_session
from memo_dist.config.schema import ClusterConfig
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.io.atomic import read_json, read_jsonl
from memo_dist.io.checked_lines import LineTail
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.status import read_status
from memo_dist.synthesis.engine import synthesize

HERE = Path(__file__).parent
KEY = "sk-planted-0123456789abcdef"
KEY_NAME = "MEMO_TEST_PLANTED_KEY"


@pytest.fixture(scope="module", autouse=True)
def session():
    os.environ[KEY_NAME] = KEY  # before Ray starts: workers take the driver's environment
    with ray_session(ClusterConfig(), cores=2, env={"PYTHONPATH": str(HERE)}) as resources:
        yield resources
    del os.environ[KEY_NAME]


def results(run: RunFolder) -> dict[str, bytes]:
    """Every file that must not depend on what happened on the way."""
    paths = [run.reflections, run.synth / "manifest.json", run.synth / "dataset" / "README.md"]
    paths += [path for path in run.synth.glob("*/**/*.json*") if path.parent.name != "journal"]
    return {str(path.relative_to(run.root)): path.read_bytes() for path in paths}


def journaled(run: RunFolder, step: str = "*") -> list[dict]:
    paths = sorted(run.synth.glob(f"{step}/journal/requests-*.jsonl"))
    return [row for path in paths for row in LineTail(path).new_rows()]


def received(log: Path) -> list[tuple[str, int]]:
    return [(r["key"], r["attempt"]) for r in log_rows(log) if r["event"] == "received"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(run, log) of a run that nothing disturbed, with 30 % malformed and 10 % truncated."""
    root = tmp_path_factory.mktemp("unbroken")
    log = root / "log"
    faults = ("--fault", "malformed=0.3", "--fault", "truncated=0.1")
    with server("--log", str(log), *faults) as url:
        config = make_config(url)
        run = make_run(root, config)
        synthesize(run, config, factory())
    return run, log


def test_groups_become_units_of_their_own_and_stay_in_their_shard(unbroken):
    run, _ = unbroken
    rows = [row for row in read_jsonl(run.reflections) if row["kind"] == "cross"]
    documents = {row["id"] for row in read_jsonl(run.corpus / "documents.jsonl")}
    assert len(documents) == 24
    groups = read_json(run.step("cross") / "manifest.json")["groups"]
    assert 10 <= len(groups) <= 12
    assert rows
    assert all(len(row["sources"]) == 2 for row in rows)
    assert {tuple(row["sources"]) for row in rows} <= {tuple(group) for group in groups.values()}


def test_identical_requests_of_different_partitions_are_asked_once(unbroken):
    run, log = unbroken
    asked = received(log)
    assert len(asked) == len(set(asked))
    first_sentences = {row["key"] for row in journaled(run, "indirect")}
    assert len(first_sentences) == 12  # of 24 documents, two of which begin alike
    rows = [r for p in run.step("indirect").glob("part-*.jsonl") for r in read_jsonl(p)]
    assert {row["sources"][0] for row in rows} | quarantined(run) >= {
        row["id"] for row in read_jsonl(run.corpus / "documents.jsonl")
    }


def quarantined(run: RunFolder) -> set[str]:
    rows = [r for p in run.step("indirect").glob("quarantine/*.jsonl") for r in read_jsonl(p)]
    return {source for row in rows for source in row["sources"]}


def test_what_no_attempt_satisfied_is_in_quarantine_with_reason_and_raw_text(unbroken):
    run, _ = unbroken
    rows = journaled(run)
    failed = {row["key"]: row for row in rows if row["final"] and row["outcome"] != "ok"}
    kept = [r for p in run.synth.glob("*/quarantine/*.jsonl") for r in read_jsonl(p)]
    assert {row["request"] for row in kept} == set(failed)
    for row in kept:
        assert row["reason"].startswith(("request: truncated", "request: not JSON"))
        assert row["raw"]
        assert row["attempts"] == 4
    # cut JSON is never believed, also where it parses
    assert all(row["outcome"] == "invalid" for row in rows if row["finish_reason"] == "length")


def test_a_repair_turn_shows_the_model_what_was_wrong(unbroken):
    rows = journaled(unbroken[0])
    bad = [r for r in rows if r["attempt"] == 0 and r["reason"].startswith("not JSON")]
    mended = {r["key"] for r in rows if r["attempt"] == 1 and r["outcome"] == "ok"}
    assert bad
    assert mended & {row["key"] for row in bad}


def test_costs_are_counted_from_the_journals(unbroken):
    run, _ = unbroken
    costs = read_json(run.synth / "cost.json")
    for step in ("direct", "cross", "indirect"):
        rows = journaled(run, step)
        assert costs[step]["attempts"] == len(rows)
        assert costs[step]["completion"] == sum(row["usage"][2] for row in rows)
    status = read_status(run.synth)
    assert status["state"] == "done"


def test_other_workers_partitions_and_rates_give_the_same_reflections(unbroken, tmp_path):
    faults = ("--fault", "malformed=0.3", "--fault", "truncated=0.1", "--fault", "slow=0.1")
    with server(*faults) as url:
        config = make_config(url, "cluster.synthesis_workers=1", "generator.max_in_flight=3")
        run = make_run(tmp_path, config)
        synthesize(run, config, factory())
    assert results(run) == results(unbroken[0])


def test_a_finished_run_resumed_without_its_result_asks_nothing(unbroken, tmp_path):
    import shutil

    run = RunFolder(tmp_path / "run")
    shutil.copytree(unbroken[0].root, run.root)
    run.reflections.unlink()
    for step in ("direct", "cross", "indirect"):
        for path in run.step(step).glob("journal/part-*.jsonl"):
            path.unlink()
        manifest = read_json(run.step(step) / "manifest.json")
        (run.step(step) / "manifest.json").write_text(json.dumps({**manifest, "state": "planned"}))
    config = make_config("http://127.0.0.1:9/v1", "generator.patience=5")  # nobody listens there
    synthesize(run, config, factory())
    assert results(run) == results(unbroken[0])


def test_budget_stops_cleanly_and_a_higher_one_goes_on(tmp_path):
    log = tmp_path / "log"
    prices = ("generator.price_prompt=1", "generator.price_completion=4")
    with server("--latency", "0.1", "--log", str(log)) as url:
        few = ("generator.max_in_flight=2", *prices)
        config = make_config(url, *few, "generator.budget_money=0.002")
        run = make_run(tmp_path, config)
        with pytest.raises(
            StoppedError, match=r"budget_money=0.002 is spent.*same command"
        ) as stop:
            synthesize(run, config, factory())
        assert stop.value.exit_code == 75
        assert read_status(run.synth)["state"] == "stopped"
        spent = sum(r["usage"][0] + 4 * r["usage"][2] for r in journaled(run)) / 1e6
        assert 0.002 <= spent < 0.008
        sent = received(log)
        assert len(sent) == len(journaled(run))  # what was in flight was waited for
        with pytest.raises(StoppedError, match="budget_money"):
            synthesize(run, config, factory())
        assert received(log) == sent
        synthesize(run, make_config(url, *few, "generator.budget_money=1"), factory())
        assert len(received(log)) == len(set(received(log)))


@pytest.mark.alone
def test_requests_in_flight_adapt_to_429s(tmp_path):
    log = tmp_path / "log"
    arguments = ("--latency", "0.05", "--capacity", "4", "--retry-after", "0.2")
    with server(*arguments, "--log", str(log)) as url:
        config = make_config(url, "generator.max_in_flight=64", "cluster.synthesis_workers=1")
        run = make_run(tmp_path, config, documents=60)
        summary = synthesize(run, config, factory(1))
    rows = [row for row in log_rows(log) if row["event"] == "done"]
    assert summary.rejected == {}
    assert all(row["outcome"] == "ok" for row in journaled(run))  # a 429 is not an attempt
    half = len(rows) // 2
    refused = [row["fault"] == "429" for row in rows]
    assert sum(refused[:half]) > sum(refused[half:])
    assert sum(refused[half:]) < 0.5 * half


@pytest.mark.alone
def test_server_errors_are_retried_and_a_dead_endpoint_is_left_alone(tmp_path):
    faults = ("--fault", "500=0.2", "--fault", "reset=0.0", "--fault", "schema=0.1")
    with server(*faults) as url:
        config = make_config("http://127.0.0.1:9/v1, " + url)
        run = make_run(tmp_path, config)
        began = time.monotonic()
        summary = synthesize(run, config, factory(1))
    assert summary.rejected.get("request", 0) <= 2
    assert {row["outcome"] for row in journaled(run)} >= {"ok", "fault", "invalid"}
    assert time.monotonic() - began < 60


def test_no_endpoint_ends_the_run_within_its_patience_and_it_resumes(tmp_path):
    config = make_config("http://127.0.0.1:9/v1", "generator.patience=2")
    run = make_run(tmp_path, config)
    with pytest.raises(RunError, match=r"no answer from any of 1 endpoints .*patience=2 s; last"):
        synthesize(run, config, factory())
    assert journaled(run) == []
    with server() as url:
        assert synthesize(run, make_config(url), factory()).rejected == {}


def test_a_step_ends_when_too_many_requests_fail(tmp_path):
    with server("--fault", "schema=0.9") as url:
        config = make_config(url, "generator.attempts=1")
        run = make_run(tmp_path, config, documents=80)
        with pytest.raises(
            RunError, match=r"got no valid answer.*max_failed_fraction=0\.2.*schema"
        ):
            synthesize(run, config, factory(1))


def test_a_missing_key_is_named_before_anything_is_written(tmp_path):
    config = make_config("http://127.0.0.1:9/v1", "generator.api_key_env=MEMO_TEST_NO_SUCH_KEY")
    run = make_run(tmp_path, config)
    with pytest.raises(UsageError, match="MEMO_TEST_NO_SUCH_KEY is not set"):
        synthesize(run, config, factory())
    assert not run.synth.exists()


@pytest.mark.parametrize("right", [True, False])
def test_a_planted_key_is_nowhere(tmp_path, right, capfd):
    """Not in the run folder, the output, nor any process' arguments; also where it is refused."""
    seen: list[str] = []
    done = threading.Event()

    def look_at_processes() -> None:
        while not done.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                seen.extend(word for word in process.info["cmdline"] or [] if KEY in word)

    wanted = {"MEMO_TEST_SERVER_KEY": KEY if right else "another"}
    with server("--key-env", "MEMO_TEST_SERVER_KEY", env=wanted) as url:
        config = make_config(url, f"generator.api_key_env={KEY_NAME}")
        run = make_run(tmp_path, config)
        watcher = threading.Thread(target=look_at_processes)
        watcher.start()
        try:
            if right:
                synthesize(run, config, factory(1))
            else:
                with pytest.raises(RunError, match=r"HTTP 401: Incorrect API key provided: \[hid"):
                    synthesize(run, config, factory(1))
        finally:
            done.set()
            watcher.join()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    out, err = capfd.readouterr()
    assert KEY not in out + err
    assert seen == []


def test_ctrl_c_waits_for_what_is_in_flight(tmp_path):
    log = tmp_path / "log"
    with server("--latency", "0.3", "--log", str(log)) as url:
        config = make_config(url, "generator.max_in_flight=4")
        run = make_run(tmp_path, config)
        with pytest.raises(StoppedError):
            synthesize(run, config, factory(), lambda: len(journaled(run)) >= 4)
        assert len(received(log)) == len(journaled(run))
        synthesize(run, config, factory())
    assert len(received(log)) == len(set(received(log)))
