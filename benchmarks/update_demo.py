"""The demo's documents get second versions: new and old values, neighbours, and the dry run.

    python benchmarks/update_demo.py [--others 43] [--shards 4] [--ray] [--folder KEPT]
        [--out FILE] [KEY=VALUE]...

The 8 documents that change and OTHERS that do not are encoded; `memo-dist update` brings the memory
to the second versions. Asked before and after: people's questions (examples/), and the questions
that were taught, where the answer changed and where it stayed. The dry run's tokens and minutes are
compared with those of the trainings that follow. A scratch memory, by the verbs without Ray
(here.py), which has rules only; --ray runs the installed command, for language models and recorded
replies. With --folder a second start continues.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from here import SCRATCH, succeed
from machine import machine
from technical_documentation import DATA, Row, ask, compared, questions, timed

from memo_dist.change.forecast import Forecast, forecast
from memo_dist.change.request import Request
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.runs import existing_run
from memo_dist.training import checkpoint

SAMPLE = 100
"""Taught questions of a kind."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--others", type=int, default=43)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(prefix="memo-demo-") as name:
        report = _measure(options.folder or Path(name), options)
    kept = {
        "others": options.others,
        "shards": options.shards,
        "ray": options.ray,
        "settings": options.settings,
    }
    report |= {"options": kept, **machine()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    changed = sorted(path.name for path in (DATA / "documents_v2").iterdir())
    others = sorted({path.name for path in (DATA / "documents").iterdir()} - set(changed))
    random.Random(1).shuffle(others)
    names = [*changed, *others[: options.others]]
    first = _copied(folder / "first", names)
    second = _copied(folder / "second", names)
    shutil.copytree(DATA / "documents_v2", second, dirs_exist_ok=True)
    settings = (*SCRATCH, f"corpus.shards={options.shards}", *options.settings)
    verb = _command if options.ray else succeed
    run = RunFolder(folder / "run")
    verb("encode", first, "--run", run.root, *settings)
    promised = forecast(run, existing_run(run.root)[1], Request(second))
    new = RunFolder(folder / "updated")
    if not new.root.exists():
        shutil.copytree(run.root, new.root)
    endpoint = [word for word in options.settings if word.startswith("generator.")]
    seconds = timed(verb, "update", new.root, second, *endpoint)
    kinds = {**_of_people(names), **_taught(run, new, promised)}
    found = compared(ask(run.root, kinds), ask(new.root, kinds), kinds)
    return {
        "documents": len(names),
        "seconds of update": seconds,
        "dry run": _promise(promised, run, new),
        "questions": found,
    }


def _command(*arguments: str | Path) -> str:
    """Standard output of the installed command, which has to succeed."""
    words = [sys.executable, "-m", "memo_dist", *map(str, arguments)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def _copied(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(DATA / "documents" / name, folder)
    return folder


def _of_people(names: Sequence[str]) -> dict[str, list[Row]]:
    """People's questions about the documents that are there."""
    there = {Path(name).stem for name in names}
    return {
        kind: [row for row in rows if there.issuperset(row["about"])]
        for kind, rows in questions().items()
    }


def _taught(run: RunFolder, new: RunFolder, promised: Forecast) -> dict[str, list[Row]]:
    """Taught questions of both generations: with another answer, and with the same one."""
    before, after = (_answers(one) for one in (run, new))
    both = sorted(before.keys() & after.keys())
    again = set(promised.shards)
    same = [q for q in both if before[q] == after[q]]
    chosen = {
        "changed, taught": [q for q in both if before[q][1] != after[q][1]],
        "same, taught, shards trained again": [q for q in same if before[q][0] in again],
        "same, taught, other shards": [q for q in same if before[q][0] not in again],
    }
    return {
        kind: [
            {"question": q, "old": [before[q][1]], "new": [after[q][1]]}
            for q in random.Random(1).sample(asked, min(SAMPLE, len(asked)))
        ]
        for kind, asked in chosen.items()
        if asked
    }


def _answers(run: RunFolder) -> dict[str, tuple[int, str]]:
    """{question: (shard, answer)} of those that have one answer."""
    found: dict[str, tuple[int, str]] = {}
    twice = set()
    for row in atomic.read_jsonl(run.reflections):
        if row["kind"] != "abstain":
            twice |= {row["question"]} & found.keys()
            found[row["question"]] = row["shard"], row["answer"]
    return {question: told for question, told in found.items() if question not in twice}


def _promise(promised: Forecast, run: RunFolder, new: RunFolder) -> dict[str, Mapping[str, Any]]:
    """What the dry run said, and what was trained."""
    states = {
        shard: [checkpoint.read_state(one.train(shard) / "final") for one in (run, new)]
        for shard in range(promised.of)
    }
    again = {k: pair[1] for k, pair in states.items() if pair[0].job != pair[1].job}
    tokens = sum(state.consumed_tokens for state in again.values())
    minutes = sum(state.seconds for state in again.values()) / 60
    shown = {k: v for k, v in asdict(promised).items() if k not in ("difference", "steps")}
    return {
        "promised": shown,
        "then": {"shards": sorted(again), "tokens": tokens, "minutes": minutes},
        "off by": {
            "tokens": promised.tokens / tokens - 1,
            "minutes": promised.minutes / minutes - 1,
        },
    }


if __name__ == "__main__":
    main()
