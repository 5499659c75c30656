#!/usr/bin/env bash
# A verb as a process of this machine; the exit code is the verb's.
#   launchers/local.sh [--dry-run] -- VERB ARGS
set -euo pipefail
# shellcheck source=launchers/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/launch.sh"
launch local "$@"
