"""Plant bugs in the CUDA kernels, one at a time, and see that the emulated tests fail.

    python benchmarks/planted_kernel_bugs.py [--only NAME] [--out FILE.json]

Each bug is built as emulation from a copy of ``kernels/`` and runs a part of the tests in three
orders of threads. Exit 1 if a bug survives, or if the tests fail without one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from memo_dist.fusion.ops import build
from memo_dist.io import atomic

ROOT = Path(__file__).parents[1]
SELECTED = (
    "emulation and (shape4 or shape6 or shape7 or topk or nan or strides or without or masked)"
)

BUGS: dict[str, tuple[str, str, str]] = {
    "none": ("mix_tile.h", "", ""),
    "tail of the vocabulary read": ("mix_tile.h", "token_of(i) < count", "token_of(i) <= count"),
    "alignment not checked": (
        "mix_tile.h",
        "return reinterpret_cast<uintptr_t>(start) % 16 == 0;",
        "return start != nullptr;",
    ),
    "runs of a lane overlap": ("mix_tile.h", "(kRun * kWarp - kRun + 1)", "(kRun * kWarp - kRun)"),
    "row ends one warp early": (
        "mix_row.h",
        "shuffle(before, 0) + 1 !=",
        "shuffle(before, 0) + 2 !=",
    ),
    "counter not reset": ("mix_row.h", "if (lane() == 0) *arrived = 0;", ""),
    "no barrier before normalisers are read": (
        "mix_logits.cu",
        "combine(in, row, s);\n  sync_warp();",
        "combine(in, row, s);",
    ),
    "half a warp reduced": (
        "device.h",
        "for (int mask = kWarp / 2; mask; mask /= 2) value +=",
        "for (int mask = kWarp / 4; mask; mask /= 2) value +=",
    ),
    "bound of a tile without its margin's sign": (
        "mix_logits.cu",
        "bound + 4e-6f * (1 + fabsf(bound))",
        "bound - 4e-2f * (1 + fabsf(bound))",
    ),
    "masked tile not centred": (
        "mix_logits.cu",
        "max == kMinusInfinity ? 0.f : max;  // a fully",
        "max;  // a fully",
    ),
    "divergent barrier": (
        "mix_logits.cu",
        "  sync_warp();\n  finish(in, row);",
        "  if (lane() < 5) sync_warp();\n  finish(in, row);",
    ),
    "posterior without the masked token": (
        "mix_logits_backward.cu",
        "mixed == kMinusInfinity ? 0.f : ",
        "",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=BUGS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = [options.only] if options.only else list(BUGS)
    caught = {name: try_bug(name) for name in names}
    if options.out:
        atomic.write_json(options.out, caught)
    print(json.dumps(caught, indent=2))
    survivors = [name for name, order in caught.items() if (order is None) != (name == "none")]
    sys.exit(f"wrong: {survivors}" if survivors else 0)


def try_bug(name: str) -> int | None:
    """The first order of threads in which the tests fail; None if they pass in all three."""
    with tempfile.TemporaryDirectory(prefix="memo-bugs-") as folder:
        sources = Path(folder) / "kernels"
        shutil.copytree(build.sources_folder(), sources)
        file, old, new = BUGS[name]
        path = sources / "cuda" / file
        text = path.read_text(encoding="utf-8")
        if text.count(old) < 1:
            raise SystemExit(f"{name}: {file} does not hold {old!r} any more")
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        found = next((order for order in (0, 1, 2) if fails(sources, order, folder)), None)
    print(f"{name}: fails in order {found}", file=sys.stderr, flush=True)
    return found


def fails(sources: Path, order: int, cache: str) -> bool:
    code = (
        "import sys, pathlib, pytest; from memo_dist.fusion.ops import build;"
        "build.sources_folder = lambda: pathlib.Path(sys.argv[1]);"
        "sys.exit(pytest.main(sys.argv[2:]))"
    )
    tests = [str(ROOT / "tests" / f"test_ops_mix_{part}.py") for part in ("logits", "gradients")]
    command = [sys.executable, "-c", code, str(sources), *tests, "-q", "-x", "-k", SELECTED]
    environment = {
        **os.environ,
        "MEMO_EMULATION_ORDER": str(order),
        "MEMO_DIST_CACHE": cache,
        "MEMO_TESTS_LONG": "1",  # all points
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    ran = any(word in done.stdout for word in (" passed", " failed")) or done.returncode < 0
    if not ran:
        raise SystemExit(f"the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode != 0


if __name__ == "__main__":
    main()
