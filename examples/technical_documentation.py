"""Technical documentation that changes: the memory follows it, and old values are not given.

    python examples/technical_documentation.py RUN [--documents DIR] [KEY=VALUE]...

Without --documents: the demo's 51 documents are encoded and asked; 8 of them get a second version,
`memo-dist update` brings the memory to it, and the same questions are asked again. With
--documents: DIR is encoded, and its size and the seconds are printed. KEY=VALUE are configuration
keys, as for `memo-dist encode`. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from memo_dist import Bank
from memo_dist.answers.text import contains

DATA = Path(str(files("memo_dist.demo") / "data"))
TWO_HOP = Path(__file__).with_name("two_hop.jsonl")
Verb = Callable[..., Any]
Row = dict[str, Any]


def main(words: Sequence[str]) -> None:
    """Encode, ask, update, ask; or encode alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--documents", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args(words)
    if options.documents:
        report = sizes(options.run, options.documents, options.settings)
    else:
        report = follow(options.run, options.settings)
    print(json.dumps(report, indent=2, ensure_ascii=False))


def verb(*arguments: str | Path) -> None:
    """Run `memo-dist ARGUMENTS`; its messages are shown."""
    command = [sys.executable, "-m", "memo_dist", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def sizes(run: Path, documents: Path, settings: Sequence[str], verb: Verb = verb) -> Row:
    """What encoding a folder of the user's takes."""
    seconds = timed(verb, "encode", documents, "--run", run, *settings)
    manifest = json.loads((run / "corpus" / "manifest.json").read_text(encoding="utf-8"))
    counts = {key: manifest[key] for key in ("documents", "characters") if key in manifest}
    return {**counts, "seconds": seconds}


def follow(run: Path, settings: Sequence[str], verb: Verb = verb) -> Row:
    """The demo's documents, and their second versions."""
    corpus = run.with_name(f"{run.name}-documents")
    shutil.copytree(DATA / "documents", corpus, dirs_exist_ok=True)
    encoding = timed(verb, "encode", corpus, "--run", run, *settings)
    before = ask(run)
    shutil.copytree(DATA / "documents_v2", corpus, dirs_exist_ok=True)
    updating = timed(verb, "update", run, corpus)
    after = ask(run)
    return {"seconds": {"encode": encoding, "update": updating}, **compared(before, after)}


def timed(verb: Verb, *arguments: str | Path) -> float:
    """Seconds that a command takes."""
    began = time.monotonic()
    verb(*arguments)
    return round(time.monotonic() - began, 1)


def rows(path: Path) -> list[Row]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def questions() -> dict[str, list[Row]]:
    """Of each kind: about changed facts, following from them, and about what stays.

    Each has ``question``, ``old`` and ``new`` (lists of right answers at each time), and ``about``
    (ids of documents).
    """
    changed = rows(DATA / "changes.jsonl")
    outdated: dict[str, list[str]] = {}
    for row in changed:
        outdated.setdefault(row["document"], []).append(row["old_answer"].casefold())
    kinds: dict[str, list[Row]] = {
        "changed": [_pair(row) for row in changed],
        "two hops": [_pair(row) for row in rows(TWO_HOP)],
        "same in changed documents": [],
        "other documents": [],
    }
    for row in rows(DATA / "questions.jsonl"):
        about = outdated.keys() & set(row["supporting_ids"])
        answer = row["answer"].casefold()
        if not row["answerable"] or any(
            old in answer or answer in old for name in about for old in outdated[name]
        ):
            continue
        right = [row["answer"], *row["aliases"]]
        kind = "same in changed documents" if about else "other documents"
        kinds[kind].append(
            {
                "question": row["question"],
                "old": right,
                "new": right,
                "about": row["supporting_ids"],
            }
        )
    return kinds


def _pair(row: Row) -> Row:
    return {
        "question": row["question"],
        "old": [row["old_answer"]],
        "new": [row["new_answer"]],
        "about": row.get("documents") or [row["document"]],
    }


def ask(run: Path, kinds: Mapping[str, Sequence[Row]] | None = None) -> dict[str, list[str]]:
    """What the memory writes to each question, also where it is not sure enough to answer."""
    with Bank(run) as bank:
        return {
            kind: [one.text or one.refused for one in bank.answer([r["question"] for r in asked])]
            for kind, asked in (kinds or questions()).items()
        }


def compared(
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    kinds: Mapping[str, Sequence[Row]] | None = None,
) -> Row:
    """Counts of old and new values before and after, and of equal answers, by kind."""
    report = {}
    for kind, asked in (kinds or questions()).items():
        told = list(zip(asked, before[kind], after[kind], strict=True))
        report[kind] = {
            "n": len(told),
            "old value before": _count(contains(a, row["old"]) for row, a, _ in told),
            "new value before": _count(contains(a, row["new"]) for row, a, _ in told),
            "old value after": _count(contains(b, row["old"]) for row, _, b in told),
            "new value after": _count(contains(b, row["new"]) for row, _, b in told),
            "the same answer": _count(a == b for _, a, b in told),
        }
    return report


def _count(hits: Iterable[float | bool]) -> int:
    return sum(map(bool, hits))


if __name__ == "__main__":
    main(sys.argv[1:])
