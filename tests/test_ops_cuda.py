"""What can be held of the CUDA kernels without a GPU: they compile, and their logic is right.

Their results are checked with the other engines (``emulation`` in test_ops_*.py); here are other
orders of threads, the compiler's report, and the library under a CPU-only torch.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import kernel_resources
import ops_cases as cases
import pytest

from memo_dist.fusion.ops import build

HERE = Path(__file__).parent


@pytest.mark.parametrize("order", [1, 2], ids=["reversed", "shuffled"])
def test_results_do_not_depend_on_the_order_of_threads(order):
    """A missing barrier shows in some order; so does a dependence on which warp is last."""
    cases.emulated_kernels()
    files = [str(path) for path in sorted(HERE.glob("test_ops_*.py")) if path != Path(__file__)]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        [*command, "-k", "emulation and (shape4 or shape6 or topk) or same_tokens"],
        env={**os.environ, "MEMO_EMULATION_ORDER": str(order), "MEMO_TESTS_LONG": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20


@pytest.fixture(scope="module")
def nvcc():
    if build.nvcc() is None:
        pytest.skip("no nvcc: the CUDA kernels cannot be compiled")
    if build.cxx() is None:
        pytest.skip("no C++ compiler for the bindings")


@pytest.mark.usefixtures("nvcc")
def test_every_kernel_compiles_for_every_architecture_within_the_table():
    """Spills and stack frames are slow memory; more registers are fewer warps in flight."""
    committed = json.loads(kernel_resources.TABLE.read_text(encoding="utf-8"))
    measured = kernel_resources.measured()
    assert set(measured) == set(kernel_resources.ARCHITECTURES) == set(committed["kernels"])
    spare = 0 if committed["nvcc"] == kernel_resources.compiler() else 16
    for architecture, kernels in measured.items():
        table = committed["kernels"][architecture]
        assert set(kernels) == set(table)
        for name, found in kernels.items():
            assert found["spills"] == 0, (architecture, name)
            assert found["stack"] <= table[name]["stack"], (architecture, name)
            assert found["registers"] <= table[name]["registers"] + spare, (architecture, name)
            assert found["shared"] == table[name]["shared"], (architecture, name)


@pytest.mark.usefixtures("nvcc")
@pytest.mark.parametrize("architecture", kernel_resources.ARCHITECTURES)
def test_argmax_and_topk_leave_half_a_multiprocessor_s_warps(architecture):
    """Reading all logits is bound by the loads in flight, and they by the warps."""
    kernels = kernel_resources.measured()[architecture]
    for name in ("statistics_kernel<NothingMore>", "topk_kernel"):
        assert kernels[name]["warps"] >= 32, name


@pytest.mark.usefixtures("nvcc")
@pytest.mark.parametrize("architecture", kernel_resources.ARCHITECTURES)
def test_attention_reads_16_bytes_at_a_time_with_several_loads_in_flight(architecture):
    if kernel_resources.disassembler() is None:
        pytest.skip("no cuobjdump and nvdisasm: the machine code cannot be read")
    kernels = kernel_resources.loads(architecture)
    dense = {name: found for name, found in kernels.items() if "32Rows" in name or "16Rows" in name}
    assert len(dense) == 5 * 3, "five kernels, three dtypes"
    for name, found in dense.items():
        assert found["in_flight"] >= 4, (name, found)


@pytest.mark.usefixtures("nvcc")
def test_no_compiler_warns():
    """Warnings do not stop a user's build with another compiler; here they are errors."""
    cases.emulated_kernels()
    targets = [build.CPU, build.EMULATION, build.cuda_target(kernel_resources.ARCHITECTURES)]
    for target in targets:
        said = build.build(target).with_suffix(".log").read_text(encoding="utf-8")
        assert "warning" not in said, said


@pytest.mark.usefixtures("nvcc")
def test_the_cuda_library_loads_without_a_gpu_and_serves_every_op():
    library = build.build(build.cuda_target(kernel_resources.ARCHITECTURES))
    code = (
        "import sys, torch, memo_dist.fusion.ops;"
        "torch.ops.load_library(sys.argv[1]);"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key;"
        "print(all(has(f'memo::{name}', 'CUDA') for name in sys.argv[2:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library), *cases.OPS], capture_output=True, text=True
    )
    assert done.stdout.strip() == "True", done.stderr
