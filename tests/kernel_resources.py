"""What a GPU's multiprocessor gives and gets of each CUDA kernel, found without a GPU.

    python tests/kernel_resources.py            # rewrite tests/kernel_resources.json
    python tests/kernel_resources.py --table    # print it as the table of docs/kernels.md

Needs nvcc and cuobjdump (with nvdisasm beside it: ``pip install nvidia-cuda-cuobjdump
nvidia-cuda-nvdisasm``). The committed table is what ``test_ops_cuda.py`` compares with.
Registers, spills, stack and static shared memory are ptxas' own report; loads are counted in the
machine code; warps are what registers and block size allow, before dynamic shared memory.
"""

import argparse
import json
import os
import re
import shutil
import site
import subprocess
from pathlib import Path

from memo_dist.fusion.ops import build

ARCHITECTURES = ("80", "90a", "100")
TABLE = Path(__file__).with_suffix(".json")
THREADS, THREADS_OF = 128, {"values_kernel": 512}
"""The largest blocks that the launchers start; ``__launch_bounds__`` in ``kernels/cuda``."""

_REGISTERS, _MOST_WARPS, _MOST_BLOCKS = 65_536, 64, 32
"""Of a multiprocessor; the same for compute capability 8.0, 9.0 and 10.0 (CUDA C++ Programming
Guide, table of technical specifications)."""
_REGISTER_UNIT = 256
"""Registers are given to a warp in multiples of this many."""

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_FUNCTION = re.compile(r"Function : (\w+)")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([\w.]+)([^;]*);")
_WIDE = re.compile(r"LDG\.E\.(?:\w+\.)*128\b")
_REGISTER = re.compile(r"\bR(\d+)")


def measured():
    """{architecture: {kernel: resources}} of a build for all architectures."""
    library = build.build(build.cuda_target(ARCHITECTURES))
    table, current = {}, {}
    for line in library.with_suffix(".log").read_text(encoding="utf-8").splitlines():
        if entry := _ENTRY.search(line):
            name = readable(entry[1])
            current = table.setdefault(entry[2], {}).setdefault(name, {})
        elif stack := _STACK.search(line):
            current |= {"stack": int(stack[1]), "spills": int(stack[2]) + int(stack[3])}
        elif used := _USED.search(line):
            shared = _SHARED.search(line)
            current["registers"] = int(used[1])
            current["shared"] = int(shared[1]) if shared else 0
            current["warps"] = warps(int(used[1]), threads(name))
    return {name: dict(sorted(kernels.items())) for name, kernels in sorted(table.items())}


def threads(name):
    """Threads of a block of the kernel."""
    return THREADS_OF.get(name.split("<")[0], THREADS)


def warps(registers, block):
    """Warps of blocks of this many threads that fit on a multiprocessor by their registers."""
    of_warp = -(-registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    of_block = block // 32
    blocks = min(_REGISTERS // of_warp // of_block, _MOST_WARPS // of_block, _MOST_BLOCKS)
    return blocks * of_block


def readable(symbol):
    """``kernel<Argument>`` of a mangled name."""
    full = subprocess.run(
        [shutil.which("c++filt") or "c++filt", symbol], capture_output=True, text=True, check=True
    ).stdout
    name = full.strip().removeprefix("void ").replace("memo::cuda::", "")
    return name.split("(memo::")[0]


def disassembler():
    """cuobjdump and the PATH on which it finds nvdisasm; None where there is none."""
    folders = [str(Path(build.nvcc()).parent)] if build.nvcc() else []
    folders += [os.environ.get("PATH", "")]
    folders += [
        str(Path(base) / "nvidia" / f"cu{release}" / "bin")
        for base in site.getsitepackages()
        for release in (13, 12)
    ]
    path = os.pathsep.join(folders)
    found = shutil.which("cuobjdump", path=path)
    return (found, path) if found and shutil.which("nvdisasm", path=path) else None


def loads(architecture):
    """{kernel: {16-byte loads, most of them in flight}} of the machine code."""
    program, path = disassembler()
    library = build.build(build.cuda_target(ARCHITECTURES))
    code = subprocess.run(
        [program, "-sass", "-arch", f"sm_{architecture}", str(library)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    ).stdout
    parts = _FUNCTION.split(code)[1:]
    return {
        readable(symbol): loads_of(body)
        for symbol, body in zip(parts[::2], parts[1::2], strict=True)
    }


def loads_of(body):
    """How many 16-byte loads from global memory a kernel's code holds; the most in flight.

    In flight are loads one after the other before an instruction that reads what one has loaded.
    A jump ends the count, so that it is a lower bound.
    """
    count = most = 0
    waiting = []
    for operation, operands in _INSTRUCTION.findall(body):
        numbers = [int(number) for number in _REGISTER.findall(operands)]
        wide = _WIDE.match(operation) is not None
        read = numbers[1:] if wide else numbers
        if operation.startswith(("BRA", "EXIT", "WARPSYNC")) or any(
            first <= number < first + 4 for number in read for first in waiting
        ):
            waiting = []
        if wide:
            count += 1
            waiting.append(numbers[0])
            most = max(most, len(waiting))
    return {"loads16": count, "in_flight": most}


def complete():
    """:func:`measured` with :func:`loads` in it."""
    table = measured()
    for architecture, kernels in table.items():
        for name, found in loads(architecture).items():
            kernels[name] |= found
    return table


def compiler():
    """The release of nvcc: registers are its choice."""
    return re.search(r"release ([\d.]+)", build.run([build.nvcc(), "--version"]))[1]


def as_markdown(table):
    """The rows of docs/kernels.md: sm_90a / sm_100 in each cell."""
    keys = ("registers", "spills", "shared", "warps", "loads16", "in_flight")
    lines = [
        "| kernel | threads | registers | spilled bytes | static shared | warps of 64 |"
        " 16-byte loads | in flight |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, first in table["90a"].items():
        second = table["100"][name]
        cells = [f"{first[key]} / {second[key]}" for key in keys]
        lines.append(f"| `{name}` | {threads(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Rewrite the committed table, or print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="print the committed table")
    if parser.parse_args().table:
        committed = json.loads(TABLE.read_text(encoding="utf-8"))
        print(as_markdown(committed["kernels"]))
        return
    content = {"nvcc": compiler(), "kernels": complete()}
    TABLE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
