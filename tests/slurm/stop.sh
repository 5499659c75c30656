#!/usr/bin/env bash
# stop.sh STATE_DIR   ends what start.sh started there, by recorded pid and start time only, and
# removes STATE_DIR. Running it twice does no harm.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
[ -d "$1/run" ] || exit 0
S=$(cd "$1" && pwd -P)
# shellcheck source=tests/slurm/lib.sh
. "$here/lib.sh"
exec 9>"$S/run/lock"
flock -w 120 9
left=0
end slurmctld TERM 10 || left=1
for f in "$S"/run/node-*.pid; do # PID 1 of a node's pid namespace: the kernel ends everything in it
    [ -e "$f" ] || continue
    f=${f##*/}
    end "${f%.pid}" KILL || left=1
done
end munged TERM || left=1
end ctl KILL || left=1
[ $left = 0 ] || exit 1
cd /
rm -rf -- "${S:?}"/{run,log,ctld,munge,etc,nodes,bin,settings,env.sh}
rmdir "$S"
