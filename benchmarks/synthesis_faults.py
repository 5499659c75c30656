"""Kill driver, workers and server of a synthesis at random moments; compare with an unbroken run.

    python benchmarks/synthesis_faults.py [--kills 20] [--seed 1] [--out FILE]

The server that plays the model answers 30 % of the attempts malformed and 10 % truncated. At the
end the result files must be byte-identical, no request whose valid answer was in the journal may
have been sent again, re-sends must not exceed what was in flight, and everything that failed must
be in quarantine. The seed draws the moments and the victims.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from request_kills import Setting, killed_run
from test_requests_engine import results

from memo_dist.io import atomic
from memo_dist.runs import library_versions


def main() -> None:
    """Run both; exit 1 if anything that must hold does not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="memo-faults-") as name:
        report = _compare(Path(name), options)
    report |= {
        "seed": options.seed,
        "documents": options.documents,
        "seconds": round(time.time() - began, 1),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": library_versions(),
    }
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["holds"] else 1)


def _compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    same = {"documents": options.documents, "seed": options.seed, "in_flight": options.in_flight}
    calm = Setting(folder / "unbroken", kills=0, latency=0.02, **same)
    unbroken = killed_run(calm)
    killed = killed_run(
        Setting(folder / "killed", kills=options.kills, latency=options.latency, **same)
    )
    for name, outcome in (("unbroken", unbroken), ("killed", killed)):
        if outcome["code"]:
            log = (folder / name / "driver.log").read_text(errors="replace")
            raise SystemExit(f"the {name} run ended with {outcome['code']}:\n{log[-3000:]}")
    equal = results(killed.pop("run")) == results(unbroken.pop("run"))
    for kill in killed["kills"]:
        kill["answered"] = len(kill["answered"])
    holds = (
        equal
        and killed["code"] == 0
        and len(killed["kills"]) >= options.kills
        and killed["resends"] <= killed["in_flight_at_kills"]
        and killed["answered_and_sent_again"] == 0
        and killed["failed_not_in_quarantine"] == 0
    )
    return {"holds": holds, "equal": equal, "killed": killed, "unbroken": unbroken}


if __name__ == "__main__":
    main()
