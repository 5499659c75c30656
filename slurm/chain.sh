#!/bin/bash
# The whole chain as dependent jobs: each starts once the one before has ended well (afterok).
#
#   bash slurm/chain.sh CORPUS RUN QUESTIONS [--config FILE] [key=value ...]
#
# QUESTIONS: a file, or - for no evaluation. The partitions of the synthesis are array tasks; a task
# that fails is started again alone. Prints the job ids; the last line is the last job's.
# A scaling study runs as a job array of its own: scale-array.sbatch.
set -euo pipefail
set -E # a refused submission in a function reaches the trap
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
[ $# -ge 3 ] || { echo "use: bash $0 CORPUS RUN QUESTIONS|- [--config FILE] [key=value ...]" >&2; exit 2; }
corpus=$1 run=$2 questions=$3
shift 3

jobs=()
cancel() {
    local code=$?
    [ "$BASHPID" = $$ ] || return 0 # not in the substitution too
    [ $code != 124 ] || echo "sbatch gave no answer within 60 s: is slurmctld up? (scontrol ping)" >&2
    [ ${#jobs[@]} -eq 0 ] || timeout 60 scancel "${jobs[@]}"
}
trap cancel ERR
submit() { # submit STAGE FILE VERB ARGS: after the job before, if there is one
    local stage=$1 script=$2 after=()
    shift 2
    [ ${#jobs[@]} -eq 0 ] || after=(--dependency="afterok:${jobs[-1]}" --kill-on-invalid-dep=yes)
    id=$(timeout 60 sbatch --parsable --job-name="memo-$stage" ${after[@]+"${after[@]}"} "$here/$script" "$@")
    jobs+=("${id%%;*}")
    echo "$stage ${jobs[-1]}"
}

submit synthesize synthesize-array.sbatch synthesize "$corpus" --run "$run" "$@"
submit merge single-node.sbatch synthesize "$corpus" --run "$run" "$@"
submit train multi-node.sbatch train "$run" "$@"
submit export single-node.sbatch export "$run" "$@"
[ "$questions" = - ] || submit evaluate single-node.sbatch evaluate "$run" --questions "$questions" "$@"
