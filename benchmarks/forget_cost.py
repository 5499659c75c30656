"""What forgetting one document of many shards costs: trained tokens, and requests to a generator.

    python benchmarks/forget_cost.py [--shards 32] [--each 4] [--count 2] [--out FILE]

A scratch memory over generated documents, the same number in each shard; the reflections are
written by a server that counts requests, one document a unit, so that only cross-document groups
can be asked again. Verbs and trainings run in this process,
without Ray Train; ``tokens`` are those that the training read. ``bound`` is 1/shards + 1 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from changes_here import train_here
from changing_corpus import SETTINGS
from machine import machine
from request_toy import server
from revisions import AskedRun, person

from memo_dist.cli.main import run as run_command
from memo_dist.corpus.manifest import shard_of
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.training import checkpoint, start


def main() -> None:
    """Print the costs; exit 1 if one is over the bound, or an answered request is sent again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--each", type=int, default=4, help="documents of a shard")
    parser.add_argument("--count", type=int, default=2, help="documents, each forgotten alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="memo-cost-") as name,
        pytest.MonkeyPatch.context() as patch,
        server("--log", str(Path(name) / "log")) as url,
    ):
        patch.setattr(start, "train_by_ray", train_here)
        report = _measure(AskedRun(Path(name), url, Path(name) / "log"), options)
    report |= {"shards": options.shards, "documents": options.shards * options.each, **machine()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    kept = all(
        row["share of tokens"] <= report["bound"] and not row["asked before"]
        for row in report["forgotten"]
    )
    sys.exit(0 if kept else 1)


def _measure(asked: AskedRun, options: argparse.Namespace) -> dict[str, Any]:
    rows = list(_documents(options.shards, options.each))
    asked.write(rows)
    words = asked.arguments("synthesis.documents_per_unit=1", "synthesis.partitions=4")[2:]
    more = (*SETTINGS, f"corpus.shards={options.shards}", *words)
    _succeed("encode", str(asked.corpus), *more)
    run, first = RunFolder(asked.run), asked.asked()
    whole = _tokens(run, options.shards)
    report: dict[str, Any] = {
        "bound": 1 / options.shards + 0.01,
        "requests of the encode": len(first),
        "tokens of the encode": sum(whole),
        "forgotten": [],
    }
    for row in rows[:: len(rows) // options.count][: options.count]:
        copy = RunFolder(Path(shutil.copytree(run.root, asked.root / "copy")))
        seen, shard = len(asked.asked()), shard_of(row["id"], options.shards)
        _succeed("forget", str(copy.root), row["id"], f"generator.urls=[{asked.url}]")
        new = asked.asked()[seen:]
        again = [k for k in range(options.shards) if _job(copy, k) != _job(run, k)]
        tokens = sum(_tokens(copy, options.shards)[k] for k in again)
        report["forgotten"].append(
            {
                "document": row["id"],
                "shard": shard,
                "shards trained": again,
                "tokens": tokens,
                "share of tokens": tokens / sum(whole),
                "requests": len(new),
                "share of requests": len(new) / len(first),
                "asked before": len(set(new) & set(first)),
                "groups that died": _dead_groups(run, row["id"]),
            }
        )
        shutil.rmtree(copy.root)
    return report


def _documents(shards: int, each: int) -> Iterator[dict[str, Any]]:
    """People, ``each`` of them in every shard."""
    found: Counter[int] = Counter()
    index = 0
    while sum(found.values()) < shards * each:
        row = person(index)
        shard = shard_of(row["id"], shards)
        if found[shard] < each:
            found[shard] += 1
            yield row
        index += 1


def _succeed(*arguments: str) -> None:
    if run_command(list(arguments)):
        raise SystemExit(f"memo-dist {' '.join(arguments)} failed")


def _tokens(run: RunFolder, shards: int) -> list[int]:
    states = [checkpoint.read_state(run.train(k) / "final") for k in range(shards)]
    return [state.consumed_tokens for state in states]


def _job(run: RunFolder, shard: int) -> str:
    return checkpoint.read_state(run.train(shard) / "final").job


def _dead_groups(run: RunFolder, name: str) -> int:
    """Groups of documents, in all steps that group, of which the document was a part."""
    manifests = [atomic.read_json(path) for path in run.synth.glob("*/manifest.json")]
    groups = [group for one in manifests for group in one.get("groups", {}).values()]
    return sum(name in group for group in groups)


if __name__ == "__main__":
    main()
