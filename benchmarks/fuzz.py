"""Mutated documents, configurations, journals, banks, questions and replies: none may end in a
traceback, hang, or write outside of its folder.

    python benchmarks/fuzz.py --cases 100000 --json benchmarks/results/fuzz.json

The cases follow from the seed. Faults are printed with their input and kept in the JSON file; the
exit code is 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fuzzing import TARGETS, Watch, alarms, cases, run_case

from memo_dist.corpus.language import load_identifier

_SHOWN = 300
_MEMORY = 4 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop then; 0: never")
    parser.add_argument("--kind", choices=[*TARGETS], action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    load_identifier()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    counts: Counter[str] = Counter()
    faults: list[dict[str, str]] = []
    slowest, watch, begin = 0.0, Watch(), time.process_time()
    end = time.monotonic() + 60 * options.minutes
    with alarms():
        for name, target, data in cases(options.kind or [*TARGETS], options.cases, options.seed):
            started = time.process_time()
            fault = run_case(target, data, watch)
            slowest = max(slowest, time.process_time() - started)
            counts[name + target[2]] += 1
            if fault:
                faults.append({"kind": name + target[2], "fault": fault, "data": repr(data)})
                print(f"{name}{target[2]}: {fault}\n  {data[:_SHOWN]!r}", flush=True)
            if options.minutes and time.monotonic() > end:
                break
    result = {
        "cases": counts.total(),
        "by_kind": dict(sorted(counts.items())),
        "faults": faults[:100],
        "seed": options.seed,
        "cpu_seconds": round(time.process_time() - begin, 1),
        "slowest_cpu_seconds": round(slowest, 2),
    }
    print(json.dumps({**result, "faults": len(faults)}))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
