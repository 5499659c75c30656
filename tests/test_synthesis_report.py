"""``synthesize --report`` through the real command line: coverage, its file, and the data set."""

import json

import datasets
from cli import memo_dist, tiny_corpus


def test_the_report_tells_what_no_reflection_covers(tmp_path):
    corpus = tiny_corpus(tmp_path / "documents")
    (corpus / "odd.txt").write_text("Who would ever polish seventeen zebra lanterns?\n")
    run = tmp_path / "run"
    command = ["synthesize", corpus, "--run", run, "--report", "synthesis.partitions=1"]
    done = memo_dist(*command)
    assert done.returncode == 0, done.stderr
    assert "are covered by a reflection" in done.stdout
    rows = [json.loads(line) for line in (run / "synth" / "coverage.jsonl").open()]
    summary = json.loads((run / "synth" / "coverage.json").read_text())
    assert summary["sentences"] == sum(row["sentences"] for row in rows)
    assert summary["covered"] == sum(row["covered"] for row in rows) > 0
    gaps = [gap["text"] for row in rows for gap in row["gaps"]]
    assert any(text.startswith("Who would ever") for text in gaps)
    assert "Who would ever" in done.stdout
    reflections = (run / "reflections.jsonl").read_text().splitlines()
    loaded = datasets.load_dataset(
        str(run / "synth" / "dataset"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["id"] == [json.loads(line)["id"] for line in reflections]
    before = (run / "synth" / "coverage.json").stat().st_mtime_ns
    assert "are covered" in memo_dist(*command).stdout
    assert (run / "synth" / "coverage.json").stat().st_mtime_ns == before
