#!/usr/bin/env bash
# Starts a real Slurm cluster on this one machine: munged, slurmctld and N slurmd "nodes", each in
# network, pid, mount, uts and ipc namespaces of its own. Needs root; no systemd, no cgroups.
#   start.sh STATE_DIR            then:  . STATE_DIR/env.sh ;  stop.sh ends it
# Run again, it starts only what is not running. Parameters (environment; kept in STATE_DIR/settings):
#   SLT_NODES=2  SLT_CPUS=2  SLT_MEM=4000 (MB a node)
#   SLT_SUBNET=10.213.7 (first three numbers; exists only inside the namespaces)
#   SLT_PRIVATE="/dev/shm ..." (directories that each node has for itself)
#   SLT_REQUEUE_WAIT=5  SLT_KILL_WAIT=5  SLT_SLURMD_TIMEOUT=30  SLT_MAX_TIME=60 (minutes)  SLT_WAIT=60
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
S=$1
mkdir -p "$S"
S=$(cd "$S" && pwd -P)
case $S in *[[:space:]#\"\\]*)
    echo "slurm.conf cannot hold this path: $S" >&2
    exit 1
    ;;
esac
# shellcheck source=tests/slurm/lib.sh
. "$here/lib.sh"
export PATH=$PATH:/usr/sbin:/sbin
for c in munged slurmctld slurmd sinfo ip nsenter unshare flock setsid; do
    command -v $c >/dev/null || {
        echo "missing $c: apt-get install -y --no-install-recommends slurm-wlm munge iproute2" >&2
        exit 1
    }
done
mkdir -p "$S"/{run,log,ctld,munge,etc,nodes,bin}
exec 9>"$S/run/lock"
flock -w 120 9

configure() {
    local i v nodes= conf
    SLT_NODES=${SLT_NODES:-2} SLT_CPUS=${SLT_CPUS:-2} SLT_MEM=${SLT_MEM:-4000}
    SLT_SUBNET=${SLT_SUBNET:-10.213.7} SLT_PRIVATE=${SLT_PRIVATE-/dev/shm /tmp/memo-ray-0}
    SLT_REQUEUE_WAIT=${SLT_REQUEUE_WAIT:-5} SLT_KILL_WAIT=${SLT_KILL_WAIT:-5}
    SLT_SLURMD_TIMEOUT=${SLT_SLURMD_TIMEOUT:-30} SLT_MAX_TIME=${SLT_MAX_TIME:-60} SLT_WAIT=${SLT_WAIT:-60}
    for v in NODES CPUS MEM SUBNET PRIVATE REQUEUE_WAIT KILL_WAIT SLURMD_TIMEOUT MAX_TIME WAIT; do
        v=SLT_$v
        printf '%s=%q\n' "$v" "${!v}"
    done >"$S/settings"
    [ -s "$S/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$S/munge/key")
    chmod 755 "$S/munge"
    printf '127.0.0.1 localhost\n%s login\n' "$SLT_SUBNET.1" >"$S/etc/hosts"
    for ((i = 1; i <= SLT_NODES; i++)); do
        echo "$(node_ip $i) node$i" >>"$S/etc/hosts"
        nodes+="NodeName=node$i NodeAddr=$(node_ip $i) CPUs=$SLT_CPUS RealMemory=$SLT_MEM State=UNKNOWN"$'\n'
    done
    conf=$(<"$here/slurm.conf.in")
    put() { conf=${conf//"@$1@"/$2}; }
    put CTL_ADDR "$SLT_SUBNET.1"
    put USER "$(id -un)"
    put STATE "$S"
    put REQUEUE_WAIT "$SLT_REQUEUE_WAIT"
    put DEF_MEM_PER_CPU $((SLT_MEM / SLT_CPUS))
    put KILL_WAIT "$SLT_KILL_WAIT"
    put SLURMD_TIMEOUT "$SLT_SLURMD_TIMEOUT"
    put NODE_LINES "$nodes"
    put MAX_TIME "$SLT_MAX_TIME"
    echo "$conf" >"$S/etc/slurm.conf"
    install -m 755 "$here/epilog.sh" "$S/etc/epilog.sh"
    make_clients
}

make_clients() { # commands that enter the cluster's namespaces, and env.sh, which puts them on PATH
    local c
    rm -f "$S"/bin/*
    cat >"$S/bin/on-login" <<W
#!/bin/bash
# on-login COMMAND...: runs it on the "login" host; under a Slurm command's own name, that command
[ "\${0##*/}" = on-login ] || set -- "/usr/bin/\${0##*/}" "\$@"
PATH=\${PATH//"$S/bin:"/}      # a job inherits this environment: inside, the real commands are the right ones
[ "\$(cat /run/slt-host 2>/dev/null)" = "$S" ] && exec "\$@"
read -r pid _ < "$S/run/ctl.pid" || exit 1
exec nsenter -t "\$pid" -m -n -u -i --wdns="\$PWD" -- "\$@"
W
    cat >"$S/bin/on-node" <<W
#!/bin/bash
# on-node NODE COMMAND...: like ssh NODE COMMAND
read -r pid _ < "$S/run/node-\$1.pid" || exit 1; shift
PATH=\${PATH//"$S/bin:"/}
exec nsenter -t "\$pid" -m -n -u -i -p --wdns="\$PWD" -- "\$@"
W
    chmod +x "$S"/bin/*
    for c in sbatch srun squeue sinfo scontrol scancel sacct; do ln -s on-login "$S/bin/$c"; done
    printf 'export SLT_STATE=%q PATH=%q:$PATH\nunset SLURM_CONF\n' "$S" "$S/bin" >"$S/env.sh"
}

alive=
for f in "$S"/run/*.pid; do
    f=${f##*/}
    [ "$f" = "*.pid" ] || ! pid_of "${f%.pid}" >/dev/null || alive=1
done
if [ -n "$alive" ]; then
    # shellcheck source=/dev/null
    . "$S/settings"
else
    configure
fi

if ! pid_of ctl >/dev/null; then
    rm -f "$S/run/ctl.ready"
    setsid unshare --net --uts --ipc --mount --propagation slave \
        bash "$here/ns-init.sh" ctl "$S" login "$SLT_SUBNET.1" "" </dev/null >>"$S/log/ctl.out" 2>&1 9>&- &
    ctl=$!
    wait_for 10 "the controller's namespaces" test -e "$S/run/ctl.ready"
    record ctl $ctl
fi
in_ctl=(nsenter -t "$(pid_of ctl)" -m -n -u -i --)
if ! pid_of munged >/dev/null; then
    sock=/run/munge/munge.socket.2
    setsid "${in_ctl[@]}" munged --foreground --force --socket=$sock --key-file="$S/munge/key" \
        --pid-file="$S/munge/pid" --seed-file="$S/munge/seed" --num-threads=2 \
        </dev/null >>"$S/log/munged.out" 2>&1 9>&- &
    record munged $!
    wait_for 10 munged "${in_ctl[@]}" bash -c "munge -S $sock -n | unmunge -S $sock"
fi
if ! pid_of slurmctld >/dev/null; then
    setsid "${in_ctl[@]}" slurmctld -D -i </dev/null >>"$S/log/slurmctld.out" 2>&1 9>&- &
    record slurmctld $!
fi
for ((i = 1; i <= SLT_NODES; i++)); do start_node $i; done

# shellcheck source=/dev/null
. "$S/env.sh"
all_up() {
    local p
    for p in munged slurmctld $(seq -f 'node-node%g' "$SLT_NODES"); do
        pid_of "$p" >/dev/null || return 99 # died: no use waiting
    done
    [ "$(timeout 5 sinfo -h -N -r -o '%N %t' | grep -cE ' (idle|mix|alloc|comp)$')" = "$SLT_NODES" ]
}
if ! wait_for "$SLT_WAIT" "$SLT_NODES nodes" all_up; then
    grep -hE 'fatal|error' "$S"/log/slurm*.log | grep -vE 'pmi|MPI|NOTE:|Could not open' | tail -n 5 >&2
    echo "logs: $S/log ; end it with: $here/stop.sh $S" >&2
    exit 1
fi
