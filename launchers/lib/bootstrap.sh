# shellcheck shell=bash
# Shared by launchers/quickstart.sh and tests/run.sh: makes .venv in the repository's root and
# installs into it what is missing. Source it, then call: bootstrap [EXTRA]
#
# Environment:
#   MEMO_DIST_PYTHON       the Python to build .venv with (default: the first fit one found)
#   MEMO_DIST_TORCH_INDEX  package index for torch alone (a CPU-only or another CUDA build)

MEMO_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
MEMO_VENV=$MEMO_ROOT/.venv
MEMO_VENV_PYTHON=$MEMO_VENV/bin/python
MEMO_INSTALL_LOG=$MEMO_ROOT/.venv-install.log

# A waiting OpenMP thread must sleep: where ranks share cores, spinning costs a factor of 50.
export OMP_WAIT_POLICY=PASSIVE
export TOKENIZERS_PARALLELISM=false
export RAY_USAGE_STATS_ENABLED=0
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_ROOT_USER_ACTION=ignore
export PIP_NO_INPUT=1
# A user's own pip settings must not redirect the installation out of .venv.
export PIP_USER=0
unset PIP_TARGET PIP_PREFIX PYTHONHOME

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# 0: usable; 1: not a Python 3.11 or later; 2: no venv module; 3: no ensurepip.
_python_fitness() {
    "$1" - >/dev/null 2>&1 <<'EOF'
import sys

if sys.version_info < (3, 11):
    sys.exit(1)
try:
    import venv
except ImportError:
    sys.exit(2)
try:
    import ensurepip
except ImportError:
    sys.exit(3)
EOF
}

# Prints the Python to use; explains what to install where there is none.
find_python() {
    local candidate fitness without_venv=
    local candidates=(python3.11 python3.12 python3.13 python3 python) # what the tests ran on, first
    [ -z "${MEMO_DIST_PYTHON:-}" ] || candidates=("$MEMO_DIST_PYTHON")
    for candidate in "${candidates[@]}"; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        fitness=0
        _python_fitness "$candidate" || fitness=$?
        case $fitness in
        0)
            printf '%s\n' "$candidate"
            return 0
            ;;
        2 | 3) without_venv=${without_venv:-$candidate} ;;
        esac
    done
    if [ -n "$without_venv" ]; then
        say "$without_venv has no working venv module: install it (Debian and Ubuntu:" \
            "apt-get install python3-venv), or name another Python with MEMO_DIST_PYTHON=PATH"
    elif [ -n "${MEMO_DIST_PYTHON:-}" ]; then
        say "MEMO_DIST_PYTHON=$MEMO_DIST_PYTHON is no Python 3.11 or later"
    else
        say "no Python 3.11 or later found: install one, or name it with MEMO_DIST_PYTHON=PATH"
    fi
    return 1
}

# Prints what the installation in .venv is made from; another value means: install again.
_stamp_of() {
    (
        cd "$MEMO_ROOT" || exit 1
        printf 'root %s\nextra %s\nindex %s\n' "$MEMO_ROOT" "$1" "${MEMO_DIST_TORCH_INDEX:-}"
        "$MEMO_VENV_PYTHON" -c '
import hashlib, pathlib, sys

print("python", sys.version.split()[0])
for name in ("pyproject.toml", "constraints.txt"):
    print(name, hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest())
'
    )
}

# An installation that was interrupted (its marker is still there) starts from an empty .venv:
# half-copied packages can look installed. pip's download cache makes that quick.
_make_venv() {
    local python clear=()
    if "$MEMO_VENV_PYTHON" -c 'import pip' >/dev/null 2>&1 &&
        [ ! -e "$MEMO_VENV/.installing" ]; then
        return 0
    fi
    [ -w "$MEMO_ROOT" ] || die "$MEMO_ROOT cannot be written by $(id -un): .venv is made there"
    python=$(find_python) || exit 1
    [ ! -e "$MEMO_VENV" ] || clear=(--clear)
    say "making $MEMO_VENV with $python ($("$python" -V 2>&1))"
    "$python" -m venv ${clear[@]+"${clear[@]}"} "$MEMO_VENV" >"$MEMO_INSTALL_LOG" 2>&1 ||
        die "cannot make $MEMO_VENV: $(tail -n 1 "$MEMO_INSTALL_LOG")"
}

# Without byte code: pip would make it of 19,000 modules on one core; see _compile.
_pip_install() {
    "$MEMO_VENV_PYTHON" -m pip install --quiet --no-compile --retries 2 --log "$MEMO_INSTALL_LOG" \
        --constraint "$MEMO_ROOT/constraints.txt" "$@" >/dev/null 2>&1 && return 0
    local unreachable='NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError'
    unreachable+='|Temporary failure in name resolution|Connection (refused|broken|timed out)'
    unreachable+='|Network is unreachable'
    if grep -qE "$unreachable" "$MEMO_INSTALL_LOG"; then
        die "the package index cannot be reached: check the network, a proxy (HTTPS_PROXY) and" \
            "the index that pip is configured for, and run this again. Log: $MEMO_INSTALL_LOG"
    fi
    die "pip install failed:" \
        "$(grep -oE 'ERROR: .*' "$MEMO_INSTALL_LOG" | head -n 1). Log: $MEMO_INSTALL_LOG"
}

# Byte code of all modules, on all cores. Where PYTHONDONTWRITEBYTECODE is set, every process would
# compile what it imports anew. Files that are not meant for this Python fail, which is no matter.
_compile() {
    local folder
    folder=$("$MEMO_VENV_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$MEMO_VENV_PYTHON" -m compileall -q -j 0 "$folder" >>"$MEMO_INSTALL_LOG" 2>&1 || true
}

_install() {
    local extra=$1 index=()
    [ -z "${MEMO_DIST_TORCH_INDEX:-}" ] || index=(--index-url "$MEMO_DIST_TORCH_INDEX")
    : 2>/dev/null >"$MEMO_VENV/.installing" || die "$MEMO_VENV cannot be written (made by another user?):" \
        "remove it, and run this again"
    say "installing torch (once; some minutes)"
    _pip_install ${index[@]+"${index[@]}"} "torch==2.13.0"
    say "installing memo-dist${extra:+[$extra]} and what it needs (once; some minutes)"
    # The build backend comes from the constraints too, not from an isolated environment.
    # https://github.com/pypa/pip/issues/8439
    _pip_install hatchling editables
    _pip_install --no-build-isolation --editable "$MEMO_ROOT${extra:+[$extra]}"
    _compile
}

# One installation at a time: a second one waits (where the system has flock).
_locked_bootstrap() {
    local extra=$1 stamp
    _make_venv
    stamp=$MEMO_VENV/.memo-dist${extra:+-$extra}.stamp
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(_stamp_of "$extra")" ]; then
        return 0
    fi
    : 2>/dev/null >"$MEMO_INSTALL_LOG" || die "$MEMO_ROOT cannot be written"
    _install "$extra"
    rm -f "$MEMO_VENV/.installing"
    _stamp_of "$extra" >"$stamp.new"
    mv -f "$stamp.new" "$stamp" # last: an interrupted installation has no stamp
}

# bootstrap [EXTRA]: .venv has memo-dist (with the extra) when it returns; exits 1 if it cannot.
bootstrap() {
    local extra=${1:-}
    # pip turns Ctrl-C into an ordinary failure; the shell's own trap runs once pip has ended.
    trap 'say "interrupted; run it again to continue"; exit 130' INT
    if command -v flock >/dev/null 2>&1; then
        exec 9<"$MEMO_ROOT"
        flock 9 || die "cannot lock $MEMO_ROOT"
        _locked_bootstrap "$extra"
        exec 9<&-
    else
        _locked_bootstrap "$extra"
    fi
    trap - INT
}
