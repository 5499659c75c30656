"""What one document that comes, goes or changes costs: requests of a revision, of all requests.

    python benchmarks/revision_cost.py [--places 4] [--out FILE] [KEY=VALUE]...

500 short documents, all steps, the real command line, a server that counts. Each revision starts
from the first synthesis, at documents spread over the corpus; ``fraction`` is the requests that the
server received, over those of the first synthesis; ``again`` those of them that were answered
before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from request_toy import server
from revisions import DOCUMENTS, REVISIONS, AskedRun, people

from memo_dist.io import atomic
from memo_dist.runs import library_versions


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--places", type=int, default=4, help="documents that are revised in turn")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with server("--log", str(root / "log")) as url:
            report = _measure(AskedRun(root / "first", url, root / "log"), options)
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, {**report, "versions": library_versions()})


def _measure(first: AskedRun, options: argparse.Namespace) -> dict[str, Any]:
    first.root.mkdir()
    first.write(people())
    _run(first.arguments(*options.overrides))
    before = set(first.asked())
    report: dict[str, Any] = {"documents": DOCUMENTS, "requests": len(before)}
    places = [DOCUMENTS * (2 * i + 1) // (2 * options.places) for i in range(options.places)]
    for change, revise in REVISIONS.items():
        rows = []
        for index in places:
            revised = AskedRun(first.root.with_name(f"{change}-{index}"), first.url, first.log)
            shutil.copytree(first.root, revised.root)
            revised.write(revise(people(), index))
            seen = len(first.asked())
            _run(revised.arguments("--revise", *options.overrides))
            rows.append(_row(index, first.asked()[seen:], before))
            shutil.rmtree(revised.root)
        report[change] = {"worst": max(row["fraction"] for row in rows), "places": rows}
    return report


def _row(index: int, asked: list[str], before: set[str]) -> dict[str, Any]:
    again = len(asked) - len(set(asked) - before)
    return {
        "document": index,
        "requests": len(asked),
        "fraction": round(len(asked) / len(before), 4),
        "again": again,
    }


def _run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "memo_dist", *arguments], check=True)


if __name__ == "__main__":
    main()
