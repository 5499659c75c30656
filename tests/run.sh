#!/usr/bin/env bash
# Installs memo-dist with its test extra into .venv (the first time), and as root Slurm's packages
# where apt has them, then runs ruff, mypy and pytest (twice: tests that must be alone, then the others two files at a time).
# With arguments only pytest runs, with these arguments: bash tests/run.sh -k corpus
# Exit code: pytest's; 1 if pytest passed and ruff or mypy did not.
set -euo pipefail

# shellcheck source=launchers/lib/bootstrap.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launchers/lib/bootstrap.sh"
bootstrap test
cd "$MEMO_ROOT"

# Packages of the system that some tests need; without them these are skipped and say so.
system_packages() {
    if command -v slurmctld >/dev/null && command -v munged >/dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "no Slurm here, and no way to install it: tests/slurm is skipped"
        return
    fi
    say "installing slurm-wlm and munge for tests/slurm (at most 3 minutes)"
    export DEBIAN_FRONTEND=noninteractive
    # The packages would start services; the tests start their own daemons.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
    fi
    timeout 180 sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends \
        slurm-wlm munge iproute2' >"$MEMO_ROOT/.venv-apt.log" 2>&1 ||
        say "that failed (see .venv-apt.log): tests/slurm is skipped"
    [ -z "$made" ] || rm -f $policy
}

failed=
check() {
    say "$*"
    "$MEMO_VENV_PYTHON" -m "$@" || failed="$failed${failed:+, }$*"
}

if [ $# -eq 0 ]; then
    check ruff check .
    check ruff format --check .
    check mypy
fi
if [ $# -eq 0 ] || [[ "$*" == *slurm* ]]; then system_packages; fi
code=0
run() { "$MEMO_VENV_PYTHON" -m pytest "$@" || code=$?; }
if [ $# -eq 0 ]; then
    # Half of the time is imports in new processes: two files at a time, but for those that count
    # seconds, or processes of the whole machine.
    # Of the first kind only the files that have some: importing the others takes half a minute.
    mapfile -t alone < <(grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)
    run -m alone --durations 10 "${alone[@]}"
    [ $code -ne 2 ] || exit 2 # Ctrl-C
    run -m "not alone" --durations 25 --numprocesses 2 --dist loadfile --no-loadscope-reorder
else
    run "$@"
fi
if [ -n "$failed" ]; then
    say "failed: $failed"
    [ $code -ne 0 ] || code=1
fi
exit $code
