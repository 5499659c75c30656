# shellcheck shell=bash
# Shared by start.sh, stop.sh and node.sh; sourced.
proc_start() { # start time of a pid: with it a reused pid is never taken for ours
    local st
    { read -r st <"/proc/$1/stat"; } 2>/dev/null || return 1
    st=${st##*) }
    # shellcheck disable=SC2086
    set -- $st
    [ "$1" != Z ] || return 1
    echo "${20}"
}
record() { echo "$2 $(proc_start "$2")" >"$S/run/$1.pid"; } # record NAME PID
pid_of() {                                                  # pid of NAME if still ours and alive
    local pid start
    [ -s "$S/run/$1.pid" ] && read -r pid start <"$S/run/$1.pid" || return 1
    [ -n "$start" ] && [ "$(proc_start "$pid")" = "$start" ] && echo "$pid"
}
gone() { ! pid_of "$1" >/dev/null; }
end() { # end NAME SIGNAL [SECONDS before KILL]
    local pid
    if pid=$(pid_of "$1"); then
        kill -"$2" "$pid" 2>/dev/null || true
        wait_for "${3:-5}" "the end of $1" gone "$1" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
        wait_for 10 "the end of $1 (pid $pid)" gone "$1" || return 1
    fi
    rm -f "$S/run/$1.pid"
}
wait_for() { # wait_for SECONDS TEXT COMMAND...; a command that returns 99 says: no use waiting
    local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000)) what=$2 rc
    shift 2
    while
        rc=0
        "$@" >/dev/null 2>&1 || rc=$?
        [ $rc != 0 ]
    do
        if [ $rc = 99 ]; then
            echo "gave up waiting for $what: a process died" >&2
            return 1
        fi
        if [ "${EPOCHREALTIME/[.,]/}" -ge $end ]; then
            echo "timed out waiting for $what" >&2
            return 1
        fi
        sleep 0.05
    done
}
node_ip() { echo "$SLT_SUBNET.$((10 + $1))"; }
start_node() { # start_node INDEX
    local n=node$1 ctl pid
    pid_of "node-$n" >/dev/null && return 0
    rm -f "$S/run/node-$n.pid" "$S/run/node-$n.hostpid"
    mkdir -p "$S/nodes/$n"
    ctl=$(pid_of ctl)
    setsid unshare --net --uts --ipc --pid --mount --propagation slave --fork \
        bash "$here/ns-init.sh" node "$S" "$n" "$(node_ip "$1")" "$SLT_PRIVATE" \
        </dev/null >>"$S/log/$n.out" 2>&1 9>&- &
    wait_for 10 "$n's namespaces" test -s "$S/run/node-$n.hostpid"
    pid=$(cat "$S/run/node-$n.hostpid")
    record "node-$n" "$pid"
    # a dead node's cable may linger until its namespace is reaped; it goes with this del
    nsenter -t "$ctl" -n ip link del "ve$1" 2>/dev/null || true
    nsenter -t "$ctl" -n ip link add "ve$1" type veth peer name eth0 netns "$pid"
    nsenter -t "$ctl" -n ip link set "ve$1" master br0 up
}
