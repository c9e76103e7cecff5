#!/usr/bin/env bash
# ci/install_units.sh UNITDIR UNIT...: puts the systemd units of tools/systemd into UNITDIR, with this checkout's
# commands in them.
#
# A unit that is there and was not put there by this script is named and nothing is installed. FORCE=1 replaces it
# unless it belongs to a Debian package.
set -euo pipefail
cd "$(dirname "$0")/.."

mark="# Installed by gfs2py."
into=${1:?usage: ci/install_units.sh UNITDIR UNIT...}
shift
for unit in "$@"; do
    target=$into/$unit
    [ -e "tools/systemd/$unit" ] || { echo "install: there is no unit $unit" >&2; exit 1; }
    [ -e "$target" ] || [ -L "$target" ] || continue
    if owner=$(dpkg-query -S "$target" 2>/dev/null || dpkg-query -S "/usr$target" 2>/dev/null); then
        echo "install: $target belongs to the Debian package ${owner%%:*}; left alone, nothing installed" >&2
        exit 1
    fi
    if [ "$(head -n 1 "$target" 2>/dev/null)" != "$mark" ] && [ "${FORCE:-}" != 1 ]; then
        echo "install: $target is not ours; left alone, nothing installed (FORCE=1 replaces it)" >&2
        exit 1
    fi
done
mkdir -p "$into"
for unit in "$@"; do
    { printf '%s\n' "$mark"; sed "s|@BINDIR@|$PWD/.venv/bin|g" "tools/systemd/$unit"; } >"$into/.$unit.new"
    chmod 644 "$into/.$unit.new"
    mv "$into/.$unit.new" "$into/$unit"
    echo "installed $into/$unit"
done
