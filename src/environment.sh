#!/usr/bin/env bash
# Make the project's virtual environment once and set $PYTHON to its Python. To be sourced:
#   source src/environment.sh          what the project runs on
#   source src/environment.sh test     the same with the test extras
# The environment is .venv, or $UNIFASHION_VENV. It is made again when the requirements change.

fail() {
    echo "error: $*" >&2
    exit 2
}

find_python() {
    local candidate
    for candidate in ${UNIFASHION_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.10 or newer is needed and was not found; install it, or name it: UNIFASHION_PYTHON=/path/to/python3.11"
}

make_environment() {
    local root venv extras python stamp
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    venv="${UNIFASHION_VENV:-$root/.venv}"
    extras=""
    [ "${1:-}" = test ] && extras=test # a caller's own arguments arrive here too where it names none
    stamp="$venv/.installed${extras:+-$extras}-$(cat "$root/requirements.txt" "$root/pyproject.toml" | cksum | cut -d' ' -f1)"
    PYTHON="$venv/bin/python"
    [ -e "$stamp" ] && return
    python="$(find_python)" || exit 2
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module; on Debian or Ubuntu: apt-get install python3-venv"
    echo "== making the environment $venv"
    [ -x "$PYTHON" ] || "$python" -m venv "$venv"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$PYTHON" -m pip install --quiet -r "$root/requirements.txt" ||
        fail "pip could not install requirements.txt; is there a network connection? Run the same command again to continue"
    # The pins above satisfy [all]; this adds the project itself and, if asked for, the test tools.
    "$PYTHON" -m pip install --quiet --editable "$root[all${extras:+,$extras}]" ||
        fail "pip could not install the project; run the same command again to continue"
    touch "$stamp"
}

make_environment "$@"
export PYTHON TOKENIZERS_PARALLELISM=false
