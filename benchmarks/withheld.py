"""From the command `forget` to clean weights: what is answered meanwhile, and how soon no more.

    python benchmarks/withheld.py [--documents 8] [--epochs 30] [--out FILE]

A scratch memory over generated documents. The taught questions of one document are asked while
`memo-dist forget` runs: of a bank that was loaded before (as a server holds it), by `memo-dist ask`
and `memo-dist evaluate`, and over HTTP of a server that was started before. A leak is an answer
that names the document as a source, or gives the taught answer. Times are seconds since the
command began. Modes that join the memory with another model are refused meanwhile
(tests/test_memory_tombstones.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import httpx
from changing_corpus import SETTINGS, sites, write
from here import Forked, encode, memo_dist, start
from machine import machine
from served import serving

from memo_dist.answers.text import contains
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank

GONE = "site-3"
Reply = tuple[str, Sequence[str]]
"""An answer and its sources."""


def main() -> None:
    """Print what was answered; exit 1 if anything leaked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-withheld-") as name:
        report = _measure(Path(name), options)
    report |= machine()
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(1 if any(way["leaks"] for way in report["while it runs"].values()) else 0)


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    corpus = write(folder / "corpus", sites(options.documents))
    run = encode(corpus, folder / "run", *SETTINGS, f"train.epochs={options.epochs}")
    rows = [r for r in atomic.read_jsonl(run.reflections) if r["kind"] != "abstain"]
    taught = [(r["question"], r["answer"]) for r in rows if r["sources"] == [GONE]]
    bank = Bank.load(run.memory, run.trained_reflections)
    told = _of_bank(bank, [question for question, _ in taught])
    pairs = zip(taught, told, strict=True)
    known = {q: a for (q, a), (text, _) in pairs if contains(text, [a])}
    with serving(run, folder / "serve.log") as server, httpx.Client(base_url=server.url) as client:
        ways: dict[str, Callable[[], list[Reply]]] = {
            "a loaded bank": lambda: _of_bank(bank, list(known)),
            "serve": lambda: [_of_server(client, question) for question in known],
            "ask": lambda: [_of_command(run, question) for question in list(known)[:1]],
            "evaluate": lambda: _of_evaluation(run, folder, known),
        }
        before = {name: _leaks(way(), known) for name, way in ways.items()}
        began = time.monotonic()
        process = start("forget", run.root, GONE, log=folder / "log")
        while not (run.generations / "tombstones.json").exists():
            time.sleep(0.005)
        withheld = time.monotonic() - began
        meanwhile = _while_it_runs(process, ways, known)
        clean = time.monotonic() - began
        after = {name: _leaks(way(), known) for name, way in ways.items()}
    return {
        "taught questions that the memory answered": len(known),
        "answered before": before,
        "seconds until answers are withheld": round(withheld, 3),
        "seconds until the command ended": round(clean, 1),
        "while it runs": meanwhile,
        "leaks after it": after,
    }


def _while_it_runs(
    process: Forked, ways: Mapping[str, Callable[[], list[Reply]]], known: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Ask in all ways in turn until the command has ended."""
    asked, leaks, slowest = Counter[str](), Counter[str](), dict.fromkeys(ways, 0.0)
    while True:
        for name, way in ways.items():
            began = time.monotonic()
            replies = way()
            slowest[name] = max(slowest[name], time.monotonic() - began)
            asked[name] += len(replies)
            leaks[name] += _leaks(replies, known)
            try:
                code = process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            if code:
                raise SystemExit("forget failed")
            return {n: {"answers": asked[n], "leaks": leaks[n], "slowest seconds":
                        round(slowest[n], 2)} for n in ways}  # fmt: skip


def _leaks(replies: Sequence[Reply], known: Mapping[str, str]) -> int:
    golds = list(known.values())[: len(replies)]
    return sum(
        GONE in sources or bool(contains(text, [gold]))
        for (text, sources), gold in zip(replies, golds, strict=True)
    )


def _of_bank(bank: Bank, questions: Sequence[str]) -> list[Reply]:
    return [(answer.text, answer.sources) for answer in bank.answer(questions)]


def _of_server(client: httpx.Client, question: str) -> Reply:
    reply = client.post("/v1/ask", json={"question": question}, timeout=120)
    row = reply.raise_for_status().json()
    return row["answer"], row["sources"]


def _of_command(run: RunFolder, question: str) -> Reply:
    row = json.loads(memo_dist("ask", run.root, question, "--json").stdout)
    return row["answer"], row["sources"]


def _of_evaluation(run: RunFolder, folder: Path, known: Mapping[str, str]) -> list[Reply]:
    path = folder / "questions.jsonl"
    rows = [{"id": str(i), "question": q, "answer": a} for i, (q, a) in enumerate(known.items())]
    atomic.write_jsonl(path, rows)
    memo_dist("evaluate", run.root, "--questions", path, "--name", f"e-{time.time_ns()}",
              "evaluate.baselines=[]")  # fmt: skip
    written = max(run.root.glob("eval/e-*/predictions-*.jsonl"), default=None)
    if written is None:  # `forget` had removed it
        return []
    found = {row["id"]: row for row in atomic.read_jsonl(written)}
    return [(found[row["id"]]["text"], found[row["id"]]["sources"]) for row in rows]


if __name__ == "__main__":
    main()
