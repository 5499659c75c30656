#!/usr/bin/env bash
# Everything owed on the kernels that needs a GPU, in one go (docs/gpu-checks.md):
#     bash benchmarks/gpu_kernels.sh [OUT_FOLDER]
# Correctness over the whole test list, compute-sanitizer, CUDA graphs, bandwidth and peers.
# Each part runs even if an earlier one failed; exit 1 if any did.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-benchmarks/results}
mkdir -p "$out"
python=${PYTHON:-python}
export MEMO_DIST_REQUIRE_KERNELS=1
failed=

part() {
    local name=$1
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$out/gpu_kernels-$name.log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed="$failed $name"
}

part tests "$python" -m pytest -q tests/test_ops_mix_logits.py tests/test_ops_mix_gradients.py \
    tests/test_ops_attention.py tests/test_ops_cuda.py
few="cuda and (shape4 or shape6 or topk or target)"
for tool in memcheck initcheck racecheck; do
    part "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$python" -m pytest -q -x tests/test_ops_mix_logits.py tests/test_ops_attention.py -k "$few"
done
part speed "$python" benchmarks/gpu_kernels.py --out "$out/gpu_kernels.json"
part attention "$python" benchmarks/memory_attention.py --device cuda --json "$out/gpu_attention.json"
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
