#!/usr/bin/env bash
# Prepares a Debian 12 machine for this project: its Debian packages and its .venv.
#
#   ci/bootstrap.sh debs PACKAGE...   install the Debian packages that are missing
#   ci/bootstrap.sh venv              make .venv with the pinned build and run-time packages
#   ci/bootstrap.sh dev               add the pinned packages for lint, tests and benchmarks
#
# Every step is quick when nothing is missing. Installing Debian packages needs root; without it
# the missing ones are named and the exit status is 1.
#
# Environment:
#   PYTHON   the interpreter that .venv is made of (default: the first of /usr/bin/python3,
#            python3.13, python3.12, python3.11, python3 that is 3.11 or newer with headers and venv)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "bootstrap: $*" >&2; }

missing_debs() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] \
            || printf '%s ' "$package"
    done
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

debs() {
    local missing
    command -v dpkg-query >/dev/null || { say "this is no Debian: install yourself: $*"; return 0; }
    missing=$(missing_debs "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        say "these Debian packages are missing: ${missing}(run as root, or apt-get install them)"
        return 1
    fi
    say "installing ${missing}"
    # The lists may be absent or stale, so a first failure is answered by an update.
    # shellcheck disable=SC2086
    if ! apt install -y --no-install-recommends $missing >&2; then
        apt update >&2
        apt install -y --no-install-recommends $missing >&2
    fi
}

fit() {
    "$1" - 2>/dev/null <<'PY'
import os, sys, sysconfig
import ensurepip, venv
assert sys.version_info >= (3, 11)
assert os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
PY
}

pick_python() {
    local candidate path
    for candidate in ${PYTHON:-/usr/bin/python3 python3.13 python3.12 python3.11 python3}; do
        path=$(command -v "$candidate") || continue
        if fit "$path"; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    say "no Python >= 3.11 with headers and venv found (tried: ${PYTHON:-/usr/bin/python3 python3.13 ...})"
    return 1
}

# install_into STAMP FILE...: pip install the pinned files, once per content of the files.
install_into() {
    local stamp=.venv/$1 file want args=()
    shift
    want=$(cat "$@" | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || return 0
    for file in "$@"; do args+=(-r "$file"); done
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-input "${args[@]}"
    printf '%s\n' "$want" >"$stamp"
}

venv() {
    local python
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        python=$(pick_python)
        say "making .venv with $python"
        "$python" -m venv --clear .venv
    fi
    install_into .requirements requirements.txt
}

command=${1:?usage: ci/bootstrap.sh debs PACKAGE... | venv | dev}
shift
case $command in
    debs) debs "$@" ;;
    venv) venv ;;
    dev) venv && install_into .requirements-dev requirements.txt requirements-dev.txt ;;
    *) say "unknown command $command"; exit 2 ;;
esac
