"""Discovers the compiled modules: every ext/PATH.pyx becomes the extension PATH with dots.

Environment:
  GFS2PY_EXT    only build modules whose path below ext/ matches one of these globs (space separated)
  GFS2PY_ASAN   1: build with AddressSanitizer and UBSan and with Cython's run-time checks
  GFS2PY_DEV    1: compiler warnings are errors
  GFS2PY_JOBS   how many processes translate .pyx files (default 1)

Safety directives live here and nowhere else: a directive in a .pyx header would silently win over
the checked build.
"""

import contextlib
import fcntl
import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
EXT = ROOT / "ext"
BUILD = ROOT / "build"
ASAN = os.environ.get("GFS2PY_ASAN") == "1"
JOBS = int(os.environ.get("GFS2PY_JOBS", "1"))

# Loops that Cython writes compare signed with unsigned; Python's own flags would warn of each.
CFLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wno-unused-function", "-Wno-unused-variable",
          "-Wno-sign-compare", "-fno-strict-aliasing", "-pthread", "-I" + str(EXT)]
LDFLAGS = ["-pthread", "-lz"]
if ASAN:
    CFLAGS += ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer",
               "-fno-sanitize=alignment"]
    LDFLAGS += ["-fsanitize=address,undefined"]
else:
    CFLAGS += ["-O2", "-g1"]
if os.environ.get("GFS2PY_DEV") == "1":
    CFLAGS += ["-Werror"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": ASAN,
    "wraparound": False,
    "cdivision": not ASAN,
    "initializedcheck": ASAN,
    "embedsignature": True,
    "legacy_implicit_noexcept": False,
    "show_performance_hints": False,
}


def wanted(path: str) -> bool:
    globs = os.environ.get("GFS2PY_EXT", "").split()
    return not globs or any(fnmatch.fnmatch(path, g) for g in globs)


def extensions() -> list[Extension]:
    out = []
    for pyx in sorted(EXT.rglob("*.pyx")):
        rel = pyx.relative_to(EXT)
        if wanted(str(rel.with_suffix(""))):
            name = ".".join(rel.with_suffix("").parts)
            out.append(Extension(name, [str(pyx.relative_to(ROOT))],
                                 extra_compile_args=CFLAGS, extra_link_args=LDFLAGS))
    return out


def c_modules() -> list[str]:
    """Modules that cffi builds from C."""
    return ["ext/cffi/iscsi.py:ffibuilder"] if wanted("gfs2py/block/_libiscsi") else []


def translated() -> list[Extension]:
    """The extensions after Cython, which runs in JOBS processes and only on what changed."""
    exts = extensions()
    if not exts:
        return []
    return cythonize(exts, include_path=[str(EXT)], build_dir="build/cython-asan" if ASAN else "build/cython",
                     compiler_directives=DIRECTIVES, annotate=False, quiet=True,
                     nthreads=JOBS if len(exts) > 1 else 0)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One build at a time: two that overlap may leave modules that disagree on the layout of the structs they share."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Cython's worker processes import this file again where they are not forked.
if __name__ == "__main__":
    with alone():
        setup(ext_modules=translated(), cffi_modules=c_modules())
