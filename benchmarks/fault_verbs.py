"""The verbs of the fault matrix (``faults.py``): what each is given, and what its result is."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from os import kill
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cli import TINY, tiny_corpus, tiny_questions

from memo_dist.config import load_config
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.pipeline import fingerprint
from memo_dist.runs import open_run
from memo_dist.synthesis.finish import finish
from memo_dist.synthesis.generators import generator_factory
from memo_dist.synthesis.partition import run_partition_alone
from memo_dist.synthesis.plan import make_plan

QUESTION = "What does Hobrand make?"
CHANGED, FORGOTTEN = "manual-hobrand", "policy-calibration"
FINAL, SHARD = "train/shard-0/final", "memory/shard-0"
PORT = 18_321
START_SECONDS = 120.0
Harm = Callable[[Path], None]


@dataclass(frozen=True)
class Verb:
    """A command on a run, and what its result is.

    Attributes:
        name: in the table.
        arguments: of the command line, from the run and the work folder.
        result: what must be equal without and with the fault, from the run and the output.
        prepare: brings the run to the state before the verb.
        client: talks to the process that the command is, and ends it; returns what it was told.
    """

    name: str
    arguments: Callable[[Path, Path], list[str]]
    result: Callable[[Path, str], object]
    prepare: Harm = lambda run: None
    client: Callable[[int], str] | None = None


def _hash_of(*names: str) -> Callable[[Path, str], object]:
    return lambda run, out: [hash_file(run / name) for name in names]


def _scores(run: Path, out: str) -> object:
    scores = json.loads((run / "eval" / "faults" / "scores.json").read_text())
    return [scores["direct"][name] for name in ("em", "f1", "n")]


def _bank(run: Path, out: str) -> object:
    """Hashes of reflections and weights of the bank that answers."""
    return fingerprint(RunFolder(run).pin())


def _receipts(run: Path, out: str) -> object:
    receipts = sorted((run / "memory" / "receipts").glob("*.json"))
    return [_bank(run, out), len(receipts), (run / "memory" / "forgetting.json").exists()]


def _without(*names: str) -> Harm:
    def harm(run: Path) -> None:
        for name in names:
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return harm


def _served(pid: int) -> str:
    """Ask a server until it answers or has ended, then end it."""
    body = json.dumps({"question": QUESTION}).encode()
    call = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/ask", body, {"Content-Type": "application/json"}
    )
    deadline, told = time.monotonic() + START_SECONDS, ""
    while not told and time.monotonic() < deadline and not _ended(pid):
        with suppress(OSError), urllib.request.urlopen(call, timeout=60) as answer:
            told = json.loads(answer.read())["answer"]
        time.sleep(0.2)
    with suppress(ProcessLookupError):
        kill(pid, signal.SIGTERM)
    return told


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


VERBS = [
    Verb(
        "corpus", lambda run, work: ["synthesize", str(work / "corpus"), "--run", str(run)],
        _hash_of("corpus/documents.jsonl", "corpus/chunks.jsonl"),
    ),
    Verb(
        "synthesize", lambda run, work: ["synthesize", str(work / "corpus"), "--run", str(run)],
        _hash_of("reflections.jsonl"), _without("synth", "reflections.jsonl", "train", "memory"),
    ),
    Verb(
        "train", lambda run, work: ["train", str(run), "cluster.launcher=process"],
        _hash_of(f"{FINAL}/model.safetensors"), _without(FINAL, "memory"),
    ),
    Verb(
        "export", lambda run, work: ["export", str(run)],
        _hash_of(f"{SHARD}/model.safetensors", f"{SHARD}/calibration.json"), _without("memory"),
    ),
    Verb(
        "evaluate",
        lambda run, work: [
            "evaluate", str(run), "--questions", str(work / "questions.jsonl"), "--name", "faults",
            "evaluate.methods=[direct]",
        ],
        _scores,
    ),
    Verb("ask", lambda run, work: ["ask", str(run), QUESTION], lambda run, out: out),
    Verb(
        "update", lambda run, work: ["update", str(run), str(work / "changed")], _bank,
    ),
    Verb("forget", lambda run, work: ["forget", str(run), FORGOTTEN], _receipts),
    Verb(
        "serve", lambda run, work: ["serve", str(run), f"serve.port={PORT}"],
        lambda run, out: out.splitlines()[-1:], client=_served,
    ),
]  # fmt: skip


def prepare(work: Path) -> None:
    """Corpus, changed corpus, questions and finished run, where they are missing."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "corpus").exists():
        tiny_corpus(work / "corpus")
        tiny_questions(work / "questions.jsonl")
    if not (work / "changed").exists():
        shutil.copytree(work / "corpus", work / "changed")
        document = work / "changed" / f"{CHANGED}.md"
        text = document.read_text(encoding="utf-8")
        atomic.write_text(document, f"{text}\n\nThe Hobrand 7 was built in Orlund in 2019.\n")
    if not (work / "run" / "memory" / "bank.json").exists():
        _make_run(work / "corpus", work / "run")


def _make_run(corpus: Path, root: Path) -> None:
    """What ``memo-dist encode`` makes, without Ray: a busy machine may not start it in time."""
    config = load_config([], TINY)
    for partition in range(config.synthesis.partitions):
        run_partition_alone(root, config, corpus, partition)
    with open_run(root, config, "auto") as run:
        plan = make_plan(run.corpus, config, generator_factory(config)())
        finish(run, plan, config.synthesis)
    for words in (["train", str(root), "cluster.launcher=process"], ["export", str(root)]):
        subprocess.run([sys.executable, "-m", "memo_dist", *words], check=True)
