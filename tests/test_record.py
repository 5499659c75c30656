"""What ``synthesize --record`` writes into a recording that is there already."""

from memo_dist.config import load_config
from memo_dist.io.atomic import write_json
from memo_dist.io.checked_lines import LineFile
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.recordings import Header, read_replies, write_recording
from memo_dist.llm.records import Attempt
from memo_dist.synthesis.record import record

CONFIG = load_config(
    (), ["generator.kind=transformers", "generator.model=m", "synthesis.steps=[direct]"]
)


def finished_run(root, *attempts):
    """A run whose step ``direct`` settled these requests."""
    run = RunFolder(root)
    write_json(run.run_json, {"launches": [{"time": "2026-01-02T03:04:05"}]})
    write_json(run.synth / "manifest.json", {"settings": {"version of step direct": "direct-1"}})
    journal = run.step("direct") / "journal" / "requests-0.jsonl"
    journal.parent.mkdir(parents=True)
    with LineFile(journal) as lines:
        for attempt in attempts:
            lines.append(attempt.to_row())
    return run


def test_a_recording_keeps_its_replies_and_only_failures_are_replaced(tmp_path):
    out = tmp_path / "replies.jsonl"
    old = [
        {"key": "a", "text": "old", "finish_reason": "stop"},
        {"key": "b", "text": "old", "finish_reason": "stop"},
        {"key": "c", "outcome": "invalid", "reason": "old"},
        {"key": "d", "outcome": "invalid", "reason": "old"},
        {"key": "e", "outcome": "invalid", "reason": "old"},
    ]
    write_recording(out, Header("m", CONFIG.run.seed, "2026-01-01", "CC0"), old)
    run = finished_run(
        tmp_path / "run",
        Attempt("a", 0, "ok", True, text="new", finish_reason="stop"),
        Attempt("b", 0, "refused", True, reason="new"),
        Attempt("c", 0, "ok", True, text="new", finish_reason="stop"),
        Attempt("d", 0, "refused", True, reason="new"),
        Attempt("f", 0, "ok", True, text="new", finish_reason="stop"),
    )
    assert record(run, CONFIG, out, "") == 6
    told = {row["key"]: row.get("text") or row["reason"] for row in read_replies(out)}
    assert told == {"a": "old", "b": "old", "c": "new", "d": "new", "e": "old", "f": "new"}
