"""Registers, spills and stack of the CUDA kernels, as ptxas reports them.

    python tests/kernel_resources.py    # rewrite tests/kernel_resources.json after a change

Needs nvcc, no GPU. The committed table is what ``test_ops_cuda.py`` compares with.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from memo_dist.fusion.ops import build

ARCHITECTURES = ("80", "90a", "100f")
TABLE = Path(__file__).with_suffix(".json")
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


def measured():
    """{architecture: {kernel: {registers, stack, spills}}} of a build for all architectures."""
    library = build.build(build.cuda_target(ARCHITECTURES))
    table, current = {}, {}
    for line in library.with_suffix(".log").read_text(encoding="utf-8").splitlines():
        if entry := _ENTRY.search(line):
            current = table.setdefault(entry[2], {}).setdefault(readable(entry[1]), {})
        elif stack := _STACK.search(line):
            current |= {"stack": int(stack[1]), "spills": int(stack[2]) + int(stack[3])}
        elif registers := _REGISTERS.search(line):
            current["registers"] = int(registers[1])
    return {name: dict(sorted(kernels.items())) for name, kernels in sorted(table.items())}


def readable(symbol):
    """``kernel<Argument>`` of a mangled name."""
    full = subprocess.run(
        [shutil.which("c++filt") or "c++filt", symbol], capture_output=True, text=True, check=True
    ).stdout
    name = full.strip().removeprefix("void ").replace("memo::cuda::", "")
    return name.split("(memo::")[0]


def compiler():
    """The release of nvcc: registers are its choice."""
    return re.search(r"release ([\d.]+)", build.run([build.nvcc(), "--version"]))[1]


if __name__ == "__main__":
    content = {"nvcc": compiler(), "kernels": measured()}
    TABLE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
