"""Requests generated from the server's own OpenAPI description; none may end with status 500.

    pip install schemathesis
    python benchmarks/serve_contract.py [--requests 2000] [--seed 0] [--out FILE]

The server runs as a process of its own over a scratch memory. Generated data are valid and invalid.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import httpx
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from served import ANSWER, KNOWN, make_run, serving

from memo_dist.io.locks import file_lock

KEYS = ("serve.requests_per_minute=0", "serve.max_pending=100000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-contract-") as name:
        run = make_run(Path(name))
        (run.root / "serve").mkdir()
        # As another server of this run: no request starts a training.
        with (
            file_lock(run.root / "serve" / ".lock", 0, RuntimeError),
            serving(run, Path(name) / "log", *KEYS) as server,
        ):
            found = generated(server.url, options.requests, options.seed)
            reply = httpx.post(f"{server.url}/v1/ask", json={"question": KNOWN}, timeout=60)
            found["still answers"] = reply.json()["answer"] == ANSWER
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found["failed"] or not found["still answers"] else 0)


def generated(url: str, requests: int, number: int) -> dict[str, object]:
    """Counts by status, and the first requests that ended with status 500."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    each = -(-requests // len(operations))
    statuses: Counter[int] = Counter()
    failed: list[str] = []
    for operation in operations:

        @seed(number)
        @settings(max_examples=each, deadline=None, database=None, print_blob=False,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def send(case: schemathesis.Case) -> None:
            reply = case.call(timeout=120)
            statuses[reply.status_code] += 1
            if reply.status_code == 500:
                failed.append(f"{case.method} {case.path}: {case.as_curl_command()[:500]}")

        send()
    counts = {str(status): count for status, count in sorted(statuses.items())}
    return {"operations": len(operations), "requests": sum(statuses.values()),
            "by status": counts, "failed": failed[:10]}  # fmt: skip


if __name__ == "__main__":
    main()
