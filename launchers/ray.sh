#!/usr/bin/env bash
# A verb as a job of a running Ray cluster.
#   launchers/ray.sh [--dry-run] [--wait] launch.ray_address=http://HEAD:8265 -- VERB ARGS
set -euo pipefail
# shellcheck source=launchers/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/launch.sh"
launch ray "$@"
