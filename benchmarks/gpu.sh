#!/usr/bin/env bash
# Every measurement and check that is owed on a GPU, in steps of less than ten minutes each.
#
#   bash benchmarks/gpu.sh            lists the steps
#   bash benchmarks/gpu.sh STEP...    runs them; results go to benchmarks/results/gpu/
#   bash benchmarks/gpu.sh all        runs all that this machine has GPUs for
#
# A step ends with exit code 0 when what it checks holds. Nothing is downloaded: models have random
# weights, the corpus is the demo's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python}
OUT=${OUT:-benchmarks/results/gpu}
STEP_SECONDS=570
export MEMO_TESTS_LONG=1 # all points of the tests
GPUS=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())' || echo 0)

# name | GPUs needed | what it shows
STEPS='
environment       1  versions, driver, GPUs: what the other results were measured on
tests             1  the training tests with a GPU visible: packing, loss, resume, adapters
smoke             1  encode of a small corpus in bf16, exported and asked
kernels           1  variable-length attention and fused loss against plain PyTorch, in bf16
speed             1  1.5B shape, random weights: ours against TRL published, and TRL packed; MFU
equal             1  stop and resume on one GPU, in fp32
ranks             2  one GPU = two GPUs = every ZeRO stage, changes of ranks and stage, on NCCL
ranks-bf16        2  the same in bf16, within 2 %
ops               1  fusion kernels against the formulas, all dtypes and shapes
memcheck          1  compute-sanitizer: memory errors in the fusion kernels
initcheck         1  compute-sanitizer: reads of what nothing has written
racecheck         1  compute-sanitizer: races in shared memory
bandwidth         1  mix_logits: bandwidth as a share of a copy, eager PyTorch, torch.compile
attention         1  memory_attention and its decoding form against their composition in PyTorch
decoding          1  time a token of fused decoding against the backbone alone, 7B shape
scaling           1  bits a parameter of invented people, to 8M parameters, 100 readings; again until it ends
scaling-long      1  the same to 2M parameters, 1,000 readings; again until it ends
launchers         2  torchrun and deepspeed start the same training
'

step_environment() {
    "$PYTHON" -m memo_dist doctor
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
}

step_tests() {
    "$PYTHON" -m pytest -q tests/test_training_data.py tests/test_training_checkpoint.py \
        tests/test_training_ledger.py
}

step_smoke() {
    local run="$OUT/smoke-run"
    rm -rf "$run"
    "$PYTHON" -m memo_dist encode memo_dist/demo/data/documents --run "$run" \
        --config configs/smoke/scratch.yaml train.precision=bf16 corpus.max_documents=6
    "$PYTHON" -m memo_dist ask "$run" "Who supervises the Quennarth Metering Company?" --json
}

step_kernels() { "$PYTHON" -m pytest -q -rs tests/test_training_gpu.py; }

step_speed() {
    "$PYTHON" benchmarks/training_speed.py --model qwen2.5-1.5b --rounds 1 --out "$OUT/speed.json"
}

step_equal() { "$PYTHON" benchmarks/training_equivalence.py --ranks 1 --out "$OUT/equal.json"; }

step_ranks() { "$PYTHON" benchmarks/training_equivalence.py --ranks 2 --out "$OUT/ranks.json"; }

step_ranks-bf16() {
    "$PYTHON" benchmarks/training_equivalence.py --ranks 2 --precision bf16 --limit 0.02 \
        --out "$OUT/ranks-bf16.json"
}

step_ops() {
    MEMO_DIST_REQUIRE_KERNELS=1 "$PYTHON" -m pytest -q tests/test_ops_mix_logits.py tests/test_ops_mix_gradients.py \
        tests/test_ops_attention.py tests/test_ops_cuda.py
}

sanitized() {
    MEMO_DIST_REQUIRE_KERNELS=1 compute-sanitizer --tool "$1" --error-exitcode 9 "$PYTHON" -m pytest -q -x \
        tests/test_ops_mix_logits.py tests/test_ops_attention.py \
        -k "cuda and (shape4 or shape6 or topk or target)"
}

step_memcheck() { sanitized memcheck; }

step_initcheck() { sanitized initcheck; }

step_racecheck() { sanitized racecheck; }

step_bandwidth() { "$PYTHON" benchmarks/gpu_kernels.py --out "$OUT/mix_logits.json"; }

step_attention() {
    "$PYTHON" benchmarks/memory_attention.py --device cuda --out "$OUT/memory_attention.json"
}

step_decoding() { "$PYTHON" benchmarks/gpu_decoding.py --out "$OUT/decoding.json"; }

# Stopped before the step's deadline, a study saves its cells and goes on the next time.
study() {
    timeout --signal=TERM $((STEP_SECONDS - 60)) "$PYTHON" -m memo_dist scale run \
        "configs/scale/$1.yaml" --run "$OUT/scale-$1" && return
    echo "the study is not at its end or failed (above): run this step again to go on" >&2
    return 4
}

step_scaling() { study gpu; }

step_scaling-long() { study gpu-long; }

step_launchers() {
    local run="$OUT/launchers-run" keys=(train.max_steps=20 train.precision=bf16)
    rm -rf "$run" "$run-2"
    "$PYTHON" -m memo_dist synthesize memo_dist/demo/data/documents --run "$run" \
        --config configs/smoke/scratch.yaml cluster.workers=0
    cp -r "$run" "$run-2"
    "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node 2 -m memo_dist train "$run" \
        "${keys[@]}"
    deepspeed --num_gpus 2 --module memo_dist train "$run-2" "${keys[@]}"
    test -f "$run/train/shard-0/final/COMPLETE" && test -f "$run-2/train/shard-0/final/COMPLETE"
}

names() { awk 'NF {print $1}' <<<"$STEPS"; }
needed() { awk -v name="$1" '$1 == name {print $2}' <<<"$STEPS"; }

run_step() {
    local name=$1 need
    need=$(needed "$name")
    [ -n "$need" ] || { echo "unknown step '$name'; steps are: $(names | xargs)" >&2; exit 2; }
    if [ "$GPUS" -lt "$need" ]; then
        echo "$name needs $need GPUs, this machine has $GPUS" >&2
        return 3
    fi
    echo "== $name"
    mkdir -p "$OUT"
    export -f "step_$name" sanitized study
    export PYTHON OUT STEP_SECONDS
    timeout "$STEP_SECONDS" bash -euo pipefail -c "step_$name" 2>&1 | tee "$OUT/$name.log"
}

[ $# -gt 0 ] || { echo "$STEPS"; exit 0; }
failed=()
[ "$1" != all ] || set -- $(names)
for name in "$@"; do
    run_step "$name" || failed+=("$name")
done
[ ${#failed[@]} -eq 0 ] || { echo "not passed: ${failed[*]}" >&2; exit 1; }
