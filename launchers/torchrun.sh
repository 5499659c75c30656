#!/usr/bin/env bash
# Training ranks under torchrun; the exit code is the ranks'.
#   launchers/torchrun.sh [--dry-run] launch.gpus_per_node=8 -- VERB ARGS
set -euo pipefail
# shellcheck source=launchers/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/launch.sh"
launch torchrun "$@"
