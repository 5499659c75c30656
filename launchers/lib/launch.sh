# shellcheck shell=bash
# Shared by launchers/{local,torchrun,ray,slurm}.sh: the entry point, with the repository's .venv
# where there is one, else with the python3 on PATH.
launch() {
    local root python
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
    python=$root/.venv/bin/python
    [ -x "$python" ] || python=python3
    exec "$python" -m memo_dist launch "$@"
}
