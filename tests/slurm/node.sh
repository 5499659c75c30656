#!/usr/bin/env bash
# node.sh STATE_DIR kill|start INDEX   a node loses power / is switched on again
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
S=$(cd "$1" && pwd -P)
# shellcheck source=tests/slurm/lib.sh
. "$here/lib.sh"
# shellcheck source=/dev/null
. "$S/settings"
export PATH=$PATH:/usr/sbin:/sbin
exec 9>"$S/run/lock"
flock -w 120 9
case $2 in kill) end "node-node$3" KILL ;; start) start_node "$3" ;; *) exit 2 ;; esac
