#!/usr/bin/env bash
# ci/install.sh SBINDIR HELPER...: links this checkout's mount helpers into SBINDIR.
#
# Nothing that belongs to a Debian package, and no file that is not such a link already, is
# overwritten: the first one met is named and nothing is installed. FORCE=1 replaces files that
# belong to no package.
set -euo pipefail
cd "$(dirname "$0")/.."

into=${1:?usage: ci/install.sh SBINDIR HELPER...}
shift
for helper in "$@"; do
    target=$into/$helper
    [ -x ".venv/bin/$helper" ] || { echo "install: .venv/bin/$helper was not built" >&2; exit 1; }
    [ -e "$target" ] || [ -L "$target" ] || continue
    if owner=$(dpkg-query -S "$target" 2>/dev/null || dpkg-query -S "/usr$target" 2>/dev/null); then
        echo "install: $target belongs to the Debian package ${owner%%:*}; left alone, nothing installed" >&2
        exit 1
    fi
    link=$(readlink "$target" || true)
    if [[ $link != */.venv/bin/$helper ]] && [ "${FORCE:-}" != 1 ]; then
        echo "install: $target is not ours; left alone, nothing installed (FORCE=1 replaces it)" >&2
        exit 1
    fi
done
mkdir -p "$into"
for helper in "$@"; do
    ln -sfn "$PWD/.venv/bin/$helper" "$into/$helper"
    echo "installed $into/$helper"
done
