#!/usr/bin/env bash
# ci/asan.sh JOBS SEED [PYTEST-ARGUMENT...]: runs the tests on a sanitised build.
#
# The tree is copied to build/asan-tree and built there, so the normal build stays as it is.
# GFS2PY_ASAN_EXT: which extensions, as GFS2PY_EXT of setup.py; all without it.
# Left out: tests that start a foreign kernel or Debian's tools (they would inherit the preload).
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=$1 seed=$2
shift 2
top=$PWD tree=$PWD/build/asan-tree
mkdir -p "$tree"
# Modification times come along, so a second run compiles only what changed.
git ls-files -z --cached --others --exclude-standard \
    | while IFS= read -r -d '' name; do [ -e "$name" ] && printf '%s\0' "$name"; done \
    | tar --null -T - -cf - | tar -xf - -C "$tree"
cd "$tree"
GFS2PY_EXT=${GFS2PY_ASAN_EXT:-} GFS2PY_ASAN=1 GFS2PY_JOBS=$jobs "$top/.venv/bin/python" -W ignore setup.py -q build_ext --inplace -j "$jobs"

# Python's own allocator hides overruns inside its arenas, and its exit leaks by design.
export PYTHONPATH=$tree:$tree/tools PYTHONMALLOC=malloc GFS2PY_ASAN=1 GFS2PY_SEED=$seed
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    "$top/.venv/bin/python" -m pytest -p no:cacheprovider --hypothesis-seed="$seed" \
    -m "not interop and not kernel" "$@"
