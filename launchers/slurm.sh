#!/usr/bin/env bash
# A verb as a job of Slurm.
#   launchers/slurm.sh [--dry-run] [--wait] launch.nodes=2 -- VERB ARGS
set -euo pipefail
# shellcheck source=launchers/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/launch.sh"
launch slurm "$@"
