#!/usr/bin/env bash
# Installs memo-dist with its test extra into .venv (the first time), then runs ruff, mypy and
# pytest (twice: tests that must be alone, then the others, two files at a time).
#
#   bash tests/run.sh [--long] [--system-packages] [PYTEST ARGUMENTS]
#
#   --long              also what is left out by default, every command in a new interpreter
#   --system-packages   as root: first install what tests/slurm needs, with apt (slurm-wlm, munge,
#                       iproute2); without it these tests are skipped where Slurm is not there
#
# With pytest's arguments only pytest runs, with these: bash tests/run.sh -k corpus
# Exit code: pytest's; 1 if pytest passed and ruff or mypy did not.
set -euo pipefail

# shellcheck source=launchers/lib/bootstrap.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launchers/lib/bootstrap.sh"

system=
while :; do
    case ${1:-} in
    --long) export MEMO_TESTS_LONG=1 ;;
    --system-packages) system=1 ;;
    *) break ;;
    esac
    shift
done

# Packages of the system that some tests need; without them these are skipped and say so.
system_packages() {
    if command -v slurmctld >/dev/null && command -v munged >/dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "--system-packages needs root and apt-get: tests/slurm is skipped"
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

# Beside pip, which waits for the network half of the time.
packages=
if [ -n "$system" ]; then
    system_packages &
    packages=$!
fi
bootstrap test
cd "$MEMO_ROOT"
# Hundreds of processes import the same modules.
unset PYTHONDONTWRITEBYTECODE
[ -z "$packages" ] || wait $packages

failed=
check() {
    say "$*"
    "$MEMO_VENV_PYTHON" -m "$@" || failed="$failed${failed:+, }$*"
}
code=0
run() { "$MEMO_VENV_PYTHON" -m pytest "$@" || code=$?; }

if [ $# -eq 0 ]; then
    check ruff check .
    check ruff format --check .
    # Published advisories; says so where there is no pip-audit or no database.
    say "$("$MEMO_VENV_PYTHON" launchers/supply_chain.py audit 2>&1)" || failed="advisories"
    # Of those that count seconds, or processes of the whole machine, only the files that have
    # some: importing the others takes half a minute.
    mapfile -t alone < <(grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)
    run -m alone --durations 10 "${alone[@]}"
    [ $code -ne 2 ] || exit 2 # Ctrl-C
    # mypy beside the tests: it keeps one core busy for a minute.
    types=$(mktemp)
    "$MEMO_VENV_PYTHON" -m mypy >"$types" 2>&1 &
    mypy=$!
    trap 'kill $mypy 2>/dev/null || true; rm -f "$types"' EXIT
    run -m "not alone" --durations 25 --numprocesses 2 --dist loadfile --no-loadscope-reorder
    wait $mypy || failed="$failed${failed:+, }mypy"
    say "mypy: $(cat "$types")"
else
    run "$@"
fi
if [ -n "$failed" ]; then
    say "failed: $failed"
    [ $code -ne 0 ] || code=1
fi
exit $code
